"""Where the car is on its route, and which command the route gives it: plain geometry on `Route`.

A route is a polyline of equally spaced points, so arc length is an index.  Left of the route is positive (REP-103).
"""

from __future__ import annotations

import math

import numpy as np

from efficientgen.perception.types import Command, Route

COMMAND_RANGE_M = 40.0  # a turn is announced this far before its junction
HINT_WINDOW_M = 40.0  # `locate` with a hint looks this far to both sides of it
_COMMANDS = {"l": Command.GO_LEFT, "L": Command.GO_LEFT, "r": Command.GO_RIGHT, "R": Command.GO_RIGHT}


def locate(route: Route, x: float, y: float, hint_s: float | None = None) -> tuple[float, float]:
    """The place on the route nearest to (x, y): (s m along it, signed lateral offset m, left positive).

    `hint_s` (say, the last known s) limits the search to its surroundings: routes may cross themselves.  Beyond both
    ends the route continues straight, so s may be negative or larger than `route.length`.
    """
    first, last = 0, len(route.points)
    if hint_s is not None:
        first = min(max(0, int((hint_s - HINT_WINDOW_M) / route.spacing)), last - 2)
        last = max(first + 2, min(last, int((hint_s + HINT_WINDOW_M) / route.spacing) + 2))
    points = route.points[first:last]
    offset = np.array([x, y]) - points[:-1]  # (M, 2)
    along = np.diff(points, axis=0)
    squared = np.maximum((along**2).sum(1), 1e-12)
    share = (offset * along).sum(1) / squared
    clipped = np.clip(share, 0.0, 1.0)
    distance = ((offset - clipped[:, None] * along) ** 2).sum(1)
    k = int(distance.argmin())
    ends = first + k == 0 and share[k] < 0 or first + k == len(route.points) - 2 and share[k] > 1
    t = float(share[k] if ends else clipped[k])
    length = math.sqrt(squared[k])
    cross = along[k, 0] * offset[k, 1] - along[k, 1] * offset[k, 0]
    lateral = float(cross / length) if ends or 0.0 < share[k] < 1.0 else math.copysign(math.sqrt(distance[k]), cross)
    return (first + k + t) * route.spacing, lateral


def point_at(route: Route, s: float) -> tuple[float, float, float]:
    """(x, y, heading) on the route at arc length s; straight on beyond its ends."""
    last = len(route.points) - 1
    f = min(max(s / route.spacing, 0.0), float(last))
    k = min(int(f), last - 1)
    t = f - k
    x, y = (route.points[k] * (1 - t) + route.points[k + 1] * t).tolist()
    heading = float(route.headings[k] * (1 - t) + route.headings[k + 1] * t)
    beyond = s - f * route.spacing
    return x + beyond * math.cos(heading), y + beyond * math.sin(heading), heading


def command_at(route: Route, s: float) -> Command:
    """The turn at the next junction within `COMMAND_RANGE_M`, or at the one the car is inside; else straight on."""
    for stop in route.stops:
        if s < stop.s_exit and s >= stop.s - COMMAND_RANGE_M:
            return _COMMANDS.get(stop.direction, Command.GO_STRAIGHT)
    return Command.GO_STRAIGHT

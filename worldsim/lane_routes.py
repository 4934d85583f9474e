"""Lane-level routes through a town: which lanes, where to change, and the smooth line that a car would drive.

A dynamic programme over the edges finds the lanes with the fewest changes; their centrelines are joined through the
junctions' inner lanes, lane changes are blended in, corners rounded off, and the line is spaced evenly again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from efficientgen.perception.types import F64, Route, StopLine
from efficientgen.worldsim.roundabouts import merged
from efficientgen.worldsim.town import TownError, TownMap, drivable_lanes

_BLEND_M = 35.0  # length of a lane change
_SMOOTH_M = 2.5  # half width of the window that rounds off the polyline's corners


def plan_route(
    town: TownMap,
    edges: Sequence[str],
    start_lane: int | None = None,
    start_pos: float = 0.0,
    end_pos: float | None = None,
    spacing: float = 0.5,
) -> Route:
    """A lane-level route along `edges` with as few lane changes as possible.

    Args:
        edges: ids of consecutive SUMO edges.
        start_lane: drivable index on the first edge (0 = rightmost); None takes the lane with fewest changes.
        start_pos: m along the first lane where the route (and the ego's rear axle) starts.
        end_pos: m along the last lane where it ends; None is its middle.

    Raises:
        TownError: unknown edge, edges that do not connect, or positions off the lanes.
    """
    chain = _lane_chain(town, edges, start_lane)
    points: list[F64] = []
    limits: list[F64] = []
    widths: list[F64] = []
    total, marks = 0.0, []  # marks: (s of the stop line, connection, s where the next road begins)
    start_s = end_s = 0.0

    def append(shape: F64, speed: float, width: float) -> None:
        nonlocal total
        if points:
            shape = np.vstack([points[-1][-1:], shape])
        total += float(np.hypot(*np.diff(shape, axis=0).T).sum())
        points.append(shape if not points else shape[1:])
        limits.append(np.full(len(points[-1]), speed))
        widths.append(np.full(len(points[-1]), width / 2))

    for k, (lane, target, connection) in enumerate(chain):
        first, last = k == 0, k == len(chain) - 1
        begin = total if points else 0.0
        shape = _shape(lane)
        if target is not lane:
            earliest = start_pos + 12.0 if first else 6.0
            shape = _blend(shape, _shape(target), earliest, lane.getLength())
        append(shape, lane.getSpeed(), lane.getWidth())
        length = total - begin
        if first:
            start_s = start_pos
            if not 0 <= start_pos < length - 1:
                raise TownError(f"start_pos {start_pos} is not on lane {lane.getID()} ({length:.1f} m long)")
        if last:
            end_s = begin + (length / 2 if end_pos is None else end_pos)
            if not start_s + 10 < end_s <= total + 0.5:
                raise TownError(
                    f"end_pos {end_pos} is not on lane {lane.getID()} ({length:.1f} m long) after the start"
                )
            break
        stop_s, via = total, connection.getViaLaneID()
        while via:
            inner = town.net.getLane(via)
            append(_shape(inner), inner.getSpeed(), inner.getWidth())
            onward = [c for c in inner.getOutgoing() if c.getToLane().getID() == connection.getToLane().getID()]
            via = onward[0].getViaLaneID() if onward else ""
        marks.append((stop_s, connection, total))
    path = np.vstack(points)
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    path, s, limit, half = _distinct(path, s, np.concatenate(limits), np.concatenate(widths))
    fine = np.arange(-40.0, int(s[-1] / spacing) + 41.0) * spacing  # padded by straight continuations
    smooth = _smooth(_extrapolate(path, s, fine), _SMOOTH_M / spacing)
    count = int((end_s - start_s) / spacing) + 1
    wanted = start_s + np.arange(count) * spacing
    xy = np.stack([np.interp(wanted, fine, smooth[:, i]) for i in (0, 1)], 1)
    xy, shift = _respaced(xy, spacing)
    tangent = np.gradient(xy, axis=0)
    headings = np.round(np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0])), 6)
    where = np.minimum(np.searchsorted(s, wanted[: len(xy)]), len(s) - 1)
    stops = [
        StopLine(
            s=float(shift(at - start_s)),
            signal=connection.getTLSID(),
            link=connection.getTLLinkIndex(),
            direction=connection.getDirection(),
            must_yield=_must_yield(town, connection),
            s_exit=float(shift(out - start_s)),
        )
        for at, connection, out in marks
    ]
    passages = [(connection.getFrom().getID(), connection.getTo().getID()) for _, connection, _ in marks]
    return Route(
        points=np.round(xy, 6),
        headings=headings,
        speed_limits=limit[where],
        half_widths=half[where],
        stops=tuple(s for s in merged(stops, passages, town.rings, headings, spacing) if s.s > 0),
        crossings=_crossings(town, xy, spacing),
        spacing=spacing,
    )


def _lane_chain(town: TownMap, edges: Sequence[str], start_lane: int | None) -> list[tuple[Any, Any, Any]]:
    """Per edge (lane entered, lane left, connection to the next edge or None); backward pass, then forward."""
    per_edge = [drivable_lanes(town, edge) for edge in edges]
    if not per_edge or not all(per_edge):
        raise TownError(f"route {list(edges)} needs edges that cars may use")
    cost: list[dict[str, float]] = [{} for _ in edges]
    leave: list[dict[str, tuple[Any, Any]]] = [{} for _ in edges]
    cost[-1] = {lane.getID(): 0.0 for lane in per_edge[-1]}
    leave[-1] = {lane.getID(): (lane, None) for lane in per_edge[-1]}
    for k in range(len(edges) - 2, -1, -1):
        onward = {}
        for lane in per_edge[k]:
            links = [c for c in lane.getOutgoing() if c.getToLane().getID() in cost[k + 1]]
            if links:
                link = min(links, key=lambda c: cost[k + 1][c.getToLane().getID()])
                onward[lane.getID()] = (lane, link, cost[k + 1][link.getToLane().getID()])
        if not onward:
            raise TownError(f"no connection from edge {edges[k]!r} to {edges[k + 1]!r} in town {town.name!r}")
        for lane in per_edge[k]:
            changes = {key: abs(lane.getIndex() - to.getIndex()) + rest for key, (to, _, rest) in onward.items()}
            best = min(changes, key=lambda key: (changes[key], key != lane.getID()))
            cost[k][lane.getID()] = changes[best]
            leave[k][lane.getID()] = onward[best][:2]
    if start_lane is None:
        lane = min(per_edge[0], key=lambda lane: cost[0][lane.getID()])
    elif 0 <= start_lane < len(per_edge[0]):
        lane = per_edge[0][start_lane]
    else:
        raise TownError(f"edge {edges[0]!r} has {len(per_edge[0])} car lanes, start_lane {start_lane} is not one")
    chain = []
    for k in range(len(edges)):
        target, link = leave[k][lane.getID()]
        chain.append((lane, target, link))
        if link is not None:
            lane = link.getToLane()
    return chain


def _must_yield(town: TownMap, connection: Any) -> bool:
    """Minor road, right-before-left, or a green that still yields to crossing cars (left turns)."""
    if not connection.getTLSID():
        return connection.getState() in "m=wsZ"
    if connection.getDirection() not in "lL":
        return False
    programs = town.net.getTLS(connection.getTLSID()).getPrograms().values()
    return any(phase.state[connection.getTLLinkIndex()] == "g" for p in programs for phase in p.getPhases())


def _shape(lane: Any) -> F64:
    return np.array([p[:2] for p in lane.getShape()], np.float64)


def _blend(a: F64, b: F64, earliest: float, length: float) -> F64:
    """A smooth lane change from centreline `a` to `b` that starts `earliest` m along and ends before the junction."""
    latest = max(earliest + 8.0, length - 12.0)
    span = min(_BLEND_M, latest - earliest)
    s = np.append(np.arange(0.0, length - 0.2, 1.0), length)
    t = np.clip((s - earliest) / span, 0.0, 1.0)
    weight = (t**3 * (10 - 15 * t + 6 * t * t))[:, None]  # minimum-jerk
    return _by_share(a, s / length) * (1 - weight) + _by_share(b, s / length) * weight


def _by_share(shape: F64, share: F64) -> F64:
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(shape, axis=0).T))])
    return np.stack([np.interp(share * s[-1], s, shape[:, i]) for i in (0, 1)], 1)


def _distinct(path: F64, s: F64, *rest: F64) -> tuple[F64, ...]:
    keep = np.concatenate([[True], np.diff(s) > 1e-3])
    return (path[keep], s[keep], *(r[keep] for r in rest))


def _extrapolate(path: F64, s: F64, wanted: F64) -> F64:
    xy = np.stack([np.interp(wanted, s, path[:, i]) for i in (0, 1)], 1)
    for mask, anchor, step, origin in (
        (wanted < 0, path[0], path[1] - path[0], 0.0),
        (wanted > s[-1], path[-1], path[-1] - path[-2], s[-1]),
    ):
        xy[mask] = anchor + (wanted[mask] - origin)[:, None] * (step / np.hypot(*step))
    return xy


def _smooth(xy: F64, window: float) -> F64:
    """Hann-weighted moving average over `window` points to each side."""
    half = int(window)
    kernel = np.hanning(2 * half + 3)[1:-1]
    kernel /= kernel.sum()
    padded = np.pad(xy, ((half, half), (0, 0)), mode="edge")
    return np.stack([np.convolve(padded[:, i], kernel, "valid") for i in (0, 1)], 1)


def _respaced(xy: F64, spacing: float) -> tuple[F64, Any]:
    """Equally spaced points again (smoothing shortens curves), and the map from old to new arc length."""
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
    old = np.arange(len(xy)) * spacing
    even = np.arange(int(s[-1] / spacing) + 1) * spacing
    out = np.stack([np.interp(even, s, xy[:, i]) for i in (0, 1)], 1)
    return out, lambda at: np.interp(at, old, s) + min(0.0, at) + max(0.0, at - old[-1])


def _crossings(town: TownMap, xy: F64, spacing: float) -> tuple[tuple[float, float], ...]:
    """(s_begin, s_end) where pedestrian crossings lie across the route, in order."""
    found = []
    d = np.diff(xy, axis=0)
    for lane in town.lanes:
        if lane.kind != "crossing":
            continue
        for p, q in zip(lane.shape[:-1], lane.shape[1:], strict=True):
            e = q - p
            denominator = d[:, 0] * e[1] - d[:, 1] * e[0]
            safe = np.where(np.abs(denominator) < 1e-9, 1e-9, denominator)
            w = p - xy[:-1]
            t = (w[:, 0] * e[1] - w[:, 1] * e[0]) / safe
            u = (w[:, 0] * d[:, 1] - w[:, 1] * d[:, 0]) / safe
            for k in np.flatnonzero((t >= 0) & (t < 1) & (u >= 0) & (u <= 1)):
                sine = abs(denominator[k]) / (np.hypot(*d[k]) * np.hypot(*e))
                half = lane.width / 2 / max(sine, 0.5)
                at = (k + t[k]) * spacing
                found.append((float(at - half), float(at + half)))
    return tuple(sorted(found))

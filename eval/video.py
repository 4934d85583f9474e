"""A drive as video: the cameras with the followed path on the road, a bird's-eye view, and what the planner says.

One picture per oracle tick (10 fps), so video time is drive time.  VP8 in WebM plays in every current browser
without licensed codecs, and costs one core about 10 ms a picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from efficientgen.eval.bev import BirdsEye
from efficientgen.eval.canvas import INK, MUTED, NIGHT, PANEL, SOURCE_COLOUR, Colour, disc, fill, font, stroke, wrap
from efficientgen.eval.overlay import draw_path, remaining, to_map
from efficientgen.eval.step_log import Step, StepLog
from efficientgen.eval.words import SOURCE_WORDS, Words, words_of
from efficientgen.perception.types import F64, NS, CameraFrame, Command, OracleFrame, Plan, Source

FPS = 10
ZOOM = 2
WIDTH = 1344  # at least; cameras that are wider together than this are shrunk
GAP = 8
PANEL_WIDTH = 432
LOWER_HEIGHT = 448
STILL_BYTES = 250_000
ORDER = ("FRONT_LEFT", "FRONT", "FRONT_RIGHT")


@dataclass(frozen=True)
class Video:
    """An encoded drive and its still."""

    data: bytes
    mime: str
    width: int
    height: int
    seconds: float
    poster_jpeg: bytes


def render(log: StepLog, town: Any = None, states: Mapping[Source, str] = SOURCE_WORDS) -> Video:
    """Draw and encode a drive; cameras appear only if the log kept its frames.

    Args:
        log: the drive.
        town: its `TownMap`, loaded by the log's name unless given.
        states: what the panel says of each verdict source.

    Raises:
        ValueError: the drive has no ticks.
    """
    import av  # the encoder, needed here only

    scene = Scene(log, town, states)
    buffer = io.BytesIO()
    best = poster_tick(log)
    still = b""
    with av.open(buffer, "w", format="webm") as container:
        options = {"deadline": "realtime", "cpu-used": "14", "crf": "24", "qmax": "44", "threads": "1"}
        stream: Any = container.add_stream("libvpx", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = *scene.size, "yuv420p"
        stream.bit_rate = 1_500_000
        stream.gop_size = 2 * FPS  # seeking lands quickly
        for k, picture in enumerate(scene.pictures()):
            if k == best:
                still = jpeg(picture)
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return Video(buffer.getvalue(), "video/webm", *scene.size, len(scene.ticks) / FPS, still)


def still(log: StepLog, town: Any = None, at_s: float | None = None) -> bytes:
    """One picture of the video as JPEG of at most `STILL_BYTES`.

    Args:
        at_s: drive time, s; by default the moment that stands for the drive (`poster_tick`).

    Raises:
        ValueError: the drive has no ticks.
    """
    scene = Scene(log, town)
    k = poster_tick(log)
    if at_s is not None:
        k = min(range(len(scene.ticks)), key=lambda i: abs(scene.stamp_ns(i) - at_s * NS))
    return jpeg(scene.draw(k))


def jpeg(picture: Image.Image, limit: int = STILL_BYTES) -> bytes:
    """The picture as JPEG, in the best of a few qualities that keeps it below `limit` bytes."""
    data = b""
    for quality in (90, 85, 80, 70, 60, 45, 30):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        data = buffer.getvalue()
        if len(data) <= limit:
            break
    return data


def poster_tick(log: StepLog) -> int:
    """Index of the tick that stands for the drive: after the hand-over, where much is going on.

    That is where the followed path bends most (up to 8 m aside), the car moves, and others are near.
    """
    best, chosen, index = -math.inf, 0, 0
    for step in log.steps:
        bend = _bend(step.verdict.trajectory.points)
        for tick in step.ticks:
            near = sum(math.hypot(a.x - tick.ego.x, a.y - tick.ego.y) < 25.0 for a in tick.actors)
            worth = bend + 0.3 * min(tick.ego.speed, 8.0) + 0.5 * min(near, 6)
            worth -= 0.0 if tick.stamp_ns > log.handover_ns else 100.0
            if worth > best:
                best, chosen = worth, index
            index += 1
    return chosen


def _bend(points: F64) -> float:
    """How far aside of its first direction a path goes, m, at most 8."""
    along = points[1:] - points[0]
    far = np.flatnonzero(np.hypot(along[:, 0], along[:, 1]) > 1.0)
    if not len(far):
        return 0.0
    first = along[far[0]] / np.hypot(*along[far[0]])
    return float(np.abs(along[:, 0] * first[1] - along[:, 1] * first[0]).max().clip(0.0, 8.0))


class Scene:
    """The pictures of one drive, one per tick, all of one size with even sides.

    Args:
        log: the drive.
        town: its `TownMap`, loaded by the log's name unless given.

    Raises:
        ValueError: the drive has no ticks.
    """

    def __init__(self, log: StepLog, town: Any = None, states: Mapping[Source, str] = SOURCE_WORDS) -> None:
        if town is None:
            from efficientgen.worldsim.town import load_town  # reads map files

            town = load_town(log.town)
        self._log, self._states = log, states
        self.ticks = [(i, k) for i, step in enumerate(log.steps) for k in range(len(step.ticks))]
        if not self.ticks:
            raise ValueError("a drive without ticks has nothing to show")
        shown = next((step.frames for step in log.steps if step.frames is not None and step.frames.cameras), None)
        self._names = [] if shown is None else _ordered(list(shown.cameras))
        shapes = [shown.cameras[name][0].image.shape for name in self._names] if shown is not None else []
        zoom = min(ZOOM, WIDTH / max(sum(shape[1] for shape in shapes), 1))
        self._tiles = [(int(zoom * shape[1]), int(zoom * shape[0])) for shape in shapes]
        width = max(WIDTH, sum(w for w, _ in self._tiles) + GAP * max(len(self._tiles) - 1, 0))
        self._top = max((h for _, h in self._tiles), default=-GAP) + GAP
        self.size = (width - width % 2, (self._top + LOWER_HEIGHT) // 2 * 2)
        self._bev = BirdsEye(town, log.route, (self.size[0] - PANEL_WIDTH - GAP, LOWER_HEIGHT))
        self._plans: list[Plan | None] = []  # the last one said, per step
        for step in log.steps:
            self._plans.append(step.plan or (self._plans[-1] if self._plans else None))
        self._panel: tuple[int, Image.Image] | None = None  # of one step: all its ticks share it

    def stamp_ns(self, index: int) -> int:
        """The stamp of a tick."""
        i, k = self.ticks[index]
        return self._log.steps[i].ticks[k].stamp_ns

    def pictures(self) -> Iterator[Image.Image]:
        """All pictures in order."""
        return (self.draw(index) for index in range(len(self.ticks)))

    def draw(self, index: int) -> Image.Image:
        """The RGB picture of one tick."""
        i, k = self.ticks[index]
        step, tick = self._log.steps[i], self._log.steps[i].ticks[k]
        picture = Image.new("RGB", self.size, NIGHT)
        path = remaining(step.verdict.trajectory, tick.stamp_ns)
        path = np.vstack([[[tick.ego.x, tick.ego.y]], path[1:]])
        rollouts, colour = _rollouts(step), SOURCE_COLOUR[step.verdict.source]
        left = 0
        for name, (w, h) in zip(self._names, self._tiles, strict=True):
            shown = self._newest(i, k, name)
            if shown is not None:
                frame, seen = shown
                picture.paste(_camera(frame, (w, h), path, seen, colour, rollouts), (left, 0))
            left += w + GAP
        picture.paste(self._bev.draw(tick, path, colour, rollouts), (0, self._top))
        picture.paste(_live(self._panel_of(i), tick), (self.size[0] - PANEL_WIDTH, self._top))
        return picture

    def _newest(self, i: int, k: int, name: str) -> tuple[CameraFrame, OracleFrame] | None:
        """The camera's newest picture at tick `k` of step `i`, and the tick that it is of.

        Worlds that imagine plan stamps only have one picture per step.
        """
        now = self._log.steps[i].ticks[k].stamp_ns
        for step in (self._log.steps[i], *self._log.steps[max(0, i - 1) : i]):
            frames = step.frames.cameras.get(name, ()) if step.frames is not None else ()
            seen = [frame for frame in frames if frame.stamp_ns <= now]
            if seen:
                frame = max(seen, key=lambda each: each.stamp_ns)
                return frame, next((t for t in step.ticks if t.stamp_ns == frame.stamp_ns), step.ticks[-1])
        return None

    def _panel_of(self, i: int) -> Image.Image:
        if self._panel is None or self._panel[0] != i:
            step = self._log.steps[i]
            expert = step.stamp_ns < self._log.handover_ns and step.verdict.source is Source.EXPERT
            self._panel = (i, _panel(step, words_of(self._plans[i]), expert, self._states))
        return self._panel[1]


def _camera(
    frame: CameraFrame, size: tuple[int, int], path: F64, tick: OracleFrame, colour: Colour, rollouts: list[F64]
) -> Image.Image:
    image = Image.fromarray(frame.image).resize(size, Image.Resampling.BICUBIC)
    draw_path(image, frame, path, tick.ego, colour, rollouts)
    label = frame.name.replace("_", " ")
    draw = ImageDraw.Draw(image)
    draw.text((11, 9), label, (0, 0, 0), font(13))
    draw.text((10, 8), label, (255, 255, 255), font(13))
    return image


def _rollouts(step: Step) -> list[F64]:
    plan = step.plan
    if plan is None or plan.stamp_ns != step.stamp_ns or len(plan.rollouts) < 2:
        return []
    start = np.zeros((1, 2))
    return [to_map(np.vstack([start, rollout]), step.ego) for rollout in plan.rollouts]


def _ordered(names: list[str]) -> list[str]:
    return [n for n in ORDER if n in names] + sorted(set(names) - set(ORDER))


# --- the panel at the right ---


def _panel(step: Step, words: Words, expert: bool, states: Mapping[Source, str]) -> Image.Image:
    """What stays the same during one plan period."""
    image = Image.new("RGB", (PANEL_WIDTH, LOWER_HEIGHT), PANEL)
    draw = ImageDraw.Draw(image)
    source = step.verdict.source
    colour = SOURCE_COLOUR[source]
    fill(image, [(0, 0), (5, 0), (5, LOWER_HEIGHT), (0, LOWER_HEIGHT)], colour)
    _arrow(image, step.command, 368, 64)
    draw.text((368, 108), step.command.value.removeprefix("GO_").lower(), MUTED, font(15), anchor="mt")
    disc(image, 34, 152, 6, colour)
    draw.text((50, 152), states[source], colour, font(19), anchor="lm")
    y = 178
    if source.fallback and step.verdict.reason:
        for line in wrap(step.verdict.reason, 15, PANEL_WIDTH - 52, 1):
            draw.text((26, y), line, MUTED, font(15))
        y += 24
    stale = step.plan is None and not expert
    heading = "the expert says" if expert or source is Source.EXPERT else "last words" if stale else "the planner says"
    y += 10
    draw.line((26, y, PANEL_WIDTH - 22, y), (44, 54, 66))
    y += 12
    draw.text((26, y), heading.upper(), MUTED, font(13))
    y += 24
    ink = MUTED if stale else INK
    if words.objects:
        y = _chips(image, draw, words.objects, 26, y, stale)
    for line in wrap(words.explanation, 18, PANEL_WIDTH - 50, 4):
        draw.text((26, y), line, ink, font(18))
        y += 25
    if words.meta:
        draw.text((26, min(y + 6, LOWER_HEIGHT - 60)), words.meta, MUTED, font(16))
    if step.plan is not None and len(step.plan.rollouts) > 1:
        draw.text((26, LOWER_HEIGHT - 30), _spread_words(step.plan), MUTED, font(15))
    return image


def _spread_words(plan: Plan) -> str:
    words = f"{len(plan.rollouts)} rollouts"
    if len(plan.spread_m) and len(plan.spread_m) == len(plan.times_s):
        words += f", spread {plan.spread_m[-1]:.1f} m after {plan.times_s[-1]:.0f} s"
    return words


def _live(panel: Image.Image, tick: OracleFrame) -> Image.Image:
    """The panel with speed and time of one tick."""
    image = panel.copy()
    draw = ImageDraw.Draw(image)
    draw.text((26, 118), f"{3.6 * tick.ego.speed:.0f}", INK, font(88), anchor="ls")
    right = 26 + font(88).getlength(f"{3.6 * tick.ego.speed:.0f}")
    draw.text((right + 10, 118), "km/h", MUTED, font(22), anchor="ls")
    clock = f"{tick.stamp_ns / NS:.1f} s"
    draw.text((26, 26), clock, MUTED, font(17), anchor="lm")
    return image


def _chips(image: Image.Image, draw: ImageDraw.ImageDraw, names: tuple[str, ...], x0: int, y: int, stale: bool) -> int:
    """Rounded labels, wrapped; returns the y below them."""
    x, colour = x0, (96, 106, 118) if stale else (255, 196, 84)
    for name in names:
        width = round(font(16).getlength(name)) + 22
        if x + width > PANEL_WIDTH - 16 and x > x0:
            x, y = x0, y + 34
        draw.rounded_rectangle((x, y, x + width, y + 27), 13, fill=(48, 44, 34) if not stale else (36, 42, 50))
        draw.text((x + width / 2, y + 13), name, colour, font(16), anchor="mm")
        x += width + 8
    return y + 40


def _arrow(image: Image.Image, command: Command, x: float, y: float) -> None:
    """The route command as a road sign's arrow."""
    turn = {Command.GO_LEFT: -1, Command.GO_RIGHT: 1}.get(command, 0)
    if turn == 0:
        stroke(image, [(x, y + 34), (x, y - 16)], 8, INK)
        fill(image, [(x - 16, y - 14), (x + 16, y - 14), (x, y - 36)], INK)
        return
    bend = [(-14 * turn, 34), (-14 * turn, -2), (-8 * turn, -12), (8 * turn, -14)]
    stroke(image, [(x + dx, y + dy) for dx, dy in bend], 8, INK)
    fill(image, [(x + 6 * turn, y - 30), (x + 6 * turn, y + 2), (x + 28 * turn, y - 14)], INK)

"""A drive as video: the cameras with the followed path on the road, a bird's-eye view, and what the planner says.

One picture per oracle tick (10 fps), so video time is drive time.  VP8 in WebM plays in every current browser
without licensed codecs, and costs one core about 10 ms a picture.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
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
GAP = 8
PANEL_WIDTH = 432
LOWER_HEIGHT = 448
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


def render(log: StepLog, town: Any = None) -> Video:
    """Draw and encode a drive; cameras appear only if the log kept its frames.

    Args:
        log: the drive.
        town: its `TownMap`, loaded by the log's name unless given.

    Raises:
        ValueError: the drive has no ticks.
    """
    import av  # the encoder, needed here only

    total = sum(len(step.ticks) for step in log.steps)
    if not total:
        raise ValueError("a drive without ticks has nothing to show")
    buffer = io.BytesIO()
    poster: Image.Image | None = None
    best = poster_tick(log)
    with av.open(buffer, "w", format="webm") as container:
        stream: Any = None
        for k, picture in enumerate(pictures(log, town)):
            if stream is None:
                options = {"deadline": "realtime", "cpu-used": "14", "crf": "24", "qmax": "44", "threads": "1"}
                stream = container.add_stream("libvpx", rate=FPS, options=options)
                stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
                stream.bit_rate = 1_500_000
                stream.gop_size = 2 * FPS  # seeking lands quickly
            if k == best:
                poster = picture.copy()
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
        size = (stream.width, stream.height)
    still = io.BytesIO()
    assert poster is not None
    poster.save(still, "JPEG", quality=82)
    return Video(buffer.getvalue(), "video/webm", *size, total / FPS, still.getvalue())


def poster_tick(log: StepLog) -> int:
    """Index of the tick that stands for the drive: soon after the hand-over, among those the fastest."""
    ticks = [tick for step in log.steps for tick in step.ticks]
    first = next((k for k, tick in enumerate(ticks) if tick.stamp_ns >= log.handover_ns), 0)
    chosen = range(min(first + 5, len(ticks) - 1), min(first + 120, len(ticks)))
    return max(chosen, key=lambda k: (ticks[k].ego.speed + 0.3 * len(ticks[k].actors) ** 0.5, -k), default=0)


def pictures(log: StepLog, town: Any = None) -> Iterator[Image.Image]:
    """One RGB picture per tick, all of one size with even sides."""
    if town is None:
        from efficientgen.worldsim.town import load_town  # reads map files

        town = load_town(log.town)
    shown = next((step.frames for step in log.steps if step.frames is not None and step.frames.cameras), None)
    names = [] if shown is None else _ordered(list(shown.cameras))
    shapes = [shown.cameras[name][0].image.shape for name in names] if shown is not None else []
    tiles = [(ZOOM * shape[1], ZOOM * shape[0]) for shape in shapes]
    width = sum(w for w, _ in tiles) + GAP * max(len(tiles) - 1, 0) if tiles else 1344
    width -= width % 2
    top = max((h for _, h in tiles), default=-GAP) + GAP
    height = (top + LOWER_HEIGHT) // 2 * 2
    bev = BirdsEye(town, log.route, (width - PANEL_WIDTH - GAP, LOWER_HEIGHT))
    last_plan: Plan | None = None
    for step in log.steps:
        last_plan = step.plan or last_plan
        expert = step.stamp_ns < log.handover_ns
        panel = _panel(step, words_of(step.plan) if step.plan is not None else words_of(last_plan), expert)
        rollouts = _rollouts(step)
        colour = SOURCE_COLOUR[step.verdict.source]
        for k, tick in enumerate(step.ticks):
            picture = Image.new("RGB", (width, height), NIGHT)
            path = remaining(step.verdict.trajectory, tick.stamp_ns)
            path = np.vstack([[[tick.ego.x, tick.ego.y]], path[1:]])
            left = 0
            for name, (w, h) in zip(names, tiles, strict=True):
                frame = _frame_at(step, name, k)
                if frame is not None:
                    picture.paste(_camera(frame, (w, h), path, tick, colour, rollouts), (left, 0))
                left += w + GAP
            picture.paste(bev.draw(tick, path, colour, rollouts), (0, top))
            picture.paste(_live(panel, tick, log), (width - PANEL_WIDTH, top))
            yield picture


def _camera(
    frame: CameraFrame, size: tuple[int, int], path: F64, tick: OracleFrame, colour: Colour, rollouts: list[F64]
) -> Image.Image:
    image = Image.fromarray(frame.image).resize(size, Image.Resampling.BILINEAR)
    draw_path(image, frame, path, tick.ego, colour, rollouts)
    label = frame.name.replace("_", " ")
    draw = ImageDraw.Draw(image)
    draw.text((11, 9), label, (0, 0, 0), font(13))
    draw.text((10, 8), label, (255, 255, 255), font(13))
    return image


def _frame_at(step: Step, name: str, k: int) -> CameraFrame | None:
    if step.frames is None or name not in step.frames.cameras or k >= len(step.frames.cameras[name]):
        return None
    return step.frames.cameras[name][k]


def _rollouts(step: Step) -> list[F64]:
    plan = step.plan
    if plan is None or plan.stamp_ns != step.stamp_ns or len(plan.rollouts) < 2:
        return []
    start = np.zeros((1, 2))
    return [to_map(np.vstack([start, rollout]), step.ego) for rollout in plan.rollouts]


def _ordered(names: list[str]) -> list[str]:
    return [n for n in ORDER if n in names] + sorted(set(names) - set(ORDER))


# --- the panel at the right ---


def _panel(step: Step, words: Words, expert: bool) -> Image.Image:
    """What stays the same during one plan period."""
    image = Image.new("RGB", (PANEL_WIDTH, LOWER_HEIGHT), PANEL)
    draw = ImageDraw.Draw(image)
    source = step.verdict.source
    colour = SOURCE_COLOUR[source]
    fill(image, [(0, 0), (5, 0), (5, LOWER_HEIGHT), (0, LOWER_HEIGHT)], colour)
    _arrow(image, step.command, 368, 64)
    draw.text((368, 108), step.command.value.removeprefix("GO_").lower(), MUTED, font(15), anchor="mt")
    disc(image, 34, 152, 6, colour)
    draw.text((50, 152), SOURCE_WORDS[source], colour, font(19), anchor="lm")
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
        draw.text((26, min(y + 6, LOWER_HEIGHT - 30)), words.meta, MUTED, font(16))
    return image


def _live(panel: Image.Image, tick: OracleFrame, log: StepLog) -> Image.Image:
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

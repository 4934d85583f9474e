"""The page of a replay: the recording's cameras with the plans on the road, and how far they were from what was driven.

It has the look, the film and the words of a drive's report.  What a drive has and a recording has not (a score,
collisions, a verdict on each plan) is not on it: nobody followed these plans.
"""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from efficientgen.eval.axes import Line, Mark, Panel, stack_of_panels
from efficientgen.eval.bag_journal import Answer
from efficientgen.eval.bag_replay import Replay
from efficientgen.eval.canvas import SOURCE_COLOUR, font
from efficientgen.eval.charts import milliseconds
from efficientgen.eval.drive_charts import intended_speed
from efficientgen.eval.overlay import draw_path, to_map
from efficientgen.eval.report import PAGE, fill_page, write_text
from efficientgen.eval.report_drive import words_section
from efficientgen.eval.step_log import Step, StepLog
from efficientgen.eval.video import ORDER, WIDTH, render
from efficientgen.perception.types import (
    F64,
    NS,
    TICK_NS,
    CameraFrame,
    Command,
    EgoState,
    OracleFrame,
    Route,
    SensorFrames,
    Source,
    Trajectory,
    Verdict,
)

STATES = {
    Source.NOMINAL: "a plan nobody followed",
    Source.STOP: "no plan",
    **dict.fromkeys((Source.EXPERT, Source.SHIFTED, Source.BRAKE), ""),
}
BARE = SimpleNamespace(lanes=(), junctions=(), signals=())  # of a recording no map is known
STILL_ZOOM = 2


def write_replay_report(replay: Replay, progress: Callable[[str], None] | None = None) -> Path:
    """Write `index.html` beside the replay's results; returns its path."""
    summary = replay.summary
    title = f"{summary['planner']} on {summary['bag']}"
    parts = [_hero(title, summary), _tiles(summary)]
    if any(any(held.values()) for answer in replay.kept for held in answer.pictures.values()):
        if progress is not None:
            progress("drawing the film")
        parts.append(_film(replay))
    if len(replay.series) > 1 and not _filmed_whole(replay):
        parts.append(_whole(replay.series))
    parts.append(_errors(summary))
    if replay.worst:
        parts.append(_worst(replay.worst))
    parts += [_inputs(summary), _facts(summary), _definitions()]
    return write_text(replay.directory / PAGE, fill_page(title, "".join(parts), "page.js"))


def _hero(title: str, summary: dict[str, Any]) -> str:
    chips = [f"{summary['seconds']:.0f} s", f"{summary['metres']:.0f} m", "open loop", *(
        f"{name.replace('_', ' ').lower()}: {camera['lens']['model']} {camera['lens']['size'][0]}x"
        f"{camera['lens']['size'][1]}" for name, camera in summary["cameras"].items() if "lens" in camera)]  # fmt: skip
    chips += [
        f"{name.replace('_', ' ').lower()}: no picture in {camera['plans_without']} plans"
        for name, camera in summary["cameras"].items()
        if camera["plans_without"]
    ]
    if summary["command"]["source"].startswith("derived"):
        chips.append("route command from the driven path")
    return (
        f'<header class="hero"><p class="brand">efficientgen <span>replay report</span></p><h1>{escape(title)}</h1>'
        f'<p class="lead"><b>{escape(summary["planner"])}</b> looked at a recording and said every 0.4 s where it '
        "would go. The car went where its driver went; the distance between the two is the error.</p>"
        f'<p class="chips">{"".join(f"<span>{escape(chip)}</span>" for chip in chips)}</p></header>'
    )


def _tiles(summary: dict[str, Any]) -> str:
    error, wall = summary["error"], summary["plan_wall_s"]
    skipped = sum(summary["skipped"].values())
    horizon = f"to {error['times_s'][-1]:g} s" if error["times_s"] else ""
    tiles = [
        (_metres(error["ade_m"]), "m", f"ADE {horizon}, {error['plans']} plans"),
        (_metres(error["constant_velocity_ade_m"]), "m", "ADE of constant velocity there"),
        (_metres(error["fde_m"]), "m", "FDE, at the end of the plan"),
        (f"{summary['planned']}", f"of {summary['stamps'] - summary['before_history']}", "plan stamps answered"),
        (f"{skipped}", "", "skipped, with a finding"),
    ]
    if wall:
        value, unit = milliseconds(wall["p50"]).split(" ")
        tiles.append((value, unit, "for one plan, median"))
    cells = "".join(f'<div class="tile"><p><b>{v}</b> {u}</p><span>{escape(w)}</span></div>' for v, u, w in tiles)
    return f'<section class="tiles">{cells}</section>'


# --- the film ---


def _film(replay: Replay) -> str:
    log = film_log(replay)
    video = render(log, BARE, STATES)
    stamps = np.array([answer.asked.stamp_ns / NS for answer in replay.kept])
    start, end = float(stamps[0]), float(stamps[-1]) + 0.4
    nan = math.nan
    ade = np.array([answer.ade_m for answer in replay.kept])
    base = np.array([nan if a.baseline_m is None else float(np.mean(a.baseline_m)) for a in replay.kept])
    fde = np.array([nan if a.errors_m is None else float(a.errors_m[-1]) for a in replay.kept])
    speeds = np.array([nan if a.asked.ego is None else 3.6 * a.asked.ego.speed for a in replay.kept])
    wanted = np.array([nan if (v := intended_speed(a.plan)) is None else 3.6 * v for a in replay.kept])
    panels = [
        Panel("Distance from the driven path", "m", (
            Line("car", "ADE", stamps, ade), Line("target", "FDE", stamps, fde),
            Line("expert", "ADE of constant velocity", stamps, base))),
        Panel("Speed", "km/h", (Line("car", "car", stamps, speeds), Line("target", "plan intends", stamps, wanted))),
    ]  # fmt: skip
    marks = [Mark(a.asked.stamp_ns / NS, "", "bad") for a in replay.kept if a.plan is None][:24]
    source = f"data:{video.mime};base64,{b64encode(video.data).decode()}"
    poster = f"data:image/jpeg;base64,{b64encode(video.poster_jpeg).decode()}"
    caption = (
        "Green: the plan. Blue: the path that was driven. Click or drag in the plots to move the film. "
        "Cameras are shown as the planner sees them, rectified; black is where the recording has no view."
    )
    heading = "The recording" if _filmed_whole(replay) else "The first stretch of the recording"
    return (
        f'<section id="drives"><h2>{heading}</h2>'
        f'<article class="drive" data-t0="{log.steps[0].ticks[0].stamp_ns / NS}"><div class="head"><div>'
        f"<h3>{escape(replay.summary['bag'])}</h3>"
        f'<p class="muted">{start:.1f} to {end:.1f} s of the recording</p></div></div>'
        f'<video controls muted playsinline preload="auto" width="{video.width}" height="{video.height}" '
        f'poster="{poster}" src="{source}"></video>{words_section(log, STATES)}<h4>Over time</h4>'
        f'{stack_of_panels(panels, start, end, marks)}<p class="caption">{caption}</p></article></section>'
    )


def _filmed_whole(replay: Replay) -> bool:
    """Whether the film shows every plan that was compared."""
    return bool(replay.kept) and bool(replay.series) and replay.kept[-1].asked.stamp_ns / NS >= replay.series[-1][0]


def film_log(replay: Replay) -> StepLog:
    """The kept stretch as a log that the drives' film can show: the plan as the path, the driven path as the route."""
    kept = [answer for answer in replay.kept if answer.asked.ego is not None]
    motion = _Motion(replay, kept)
    shape = {n: (r.pinhole.height, r.pinhole.width, 3) for n, r in replay.rectifiers.items()}
    steps = []
    for answer in kept:
        ego, tick = answer.asked.ego, answer.asked.stamp_ns
        assert ego is not None
        ticks = tuple(OracleFrame(t, "", motion.at(t), (), {}, "") for t in sorted(answer.pictures))
        points, times = np.array([[ego.x, ego.y]]), np.zeros(1)
        if answer.plan is not None:
            points = np.vstack([points, to_map(answer.plan.waypoints, ego)])
            times = np.concatenate([times, answer.plan.times_s])
        source = Source.NOMINAL if answer.plan is not None else Source.STOP
        why = "; ".join(f"{kind}: {words}" for kind, words in answer.skipped)
        cameras = {
            name: tuple(
                answer.pictures[t].get(name)
                or CameraFrame(name, t, np.zeros(shape[name], np.uint8), np.eye(3), np.eye(4))
                for t in sorted(answer.pictures)
            )
            for name in shape
        }
        steps.append(
            Step(
                stamp_ns=tick,
                command=answer.asked.command or Command.GO_STRAIGHT,
                ego=ego,
                plan=answer.plan,
                verdict=Verdict(tick, Trajectory(tick, points, times), source, why),
                ticks=ticks,
                plan_wall_s=answer.wall_s,
                frames=SensorFrames(tuple(sorted(answer.pictures)), cameras),
            )
        )
    first = OracleFrame(steps[0].stamp_ns, "", steps[0].ego, (), {}, "")
    name = replay.summary["planner"]
    return StepLog(replay.summary["bag"], "", 0, name, "recording", "replay", "recording", 0, motion.route(), first,
                   tuple(steps), "interrupted")  # fmt: skip


class _Motion:
    """The car between plan stamps, from the recorded path."""

    def __init__(self, replay: Replay, kept: Sequence[Answer]) -> None:
        self._path, self._origin = replay.found.path, replay.summary["origin_ns"]
        egos = [answer.asked.ego for answer in kept if answer.asked.ego is not None]
        self._t = np.array([ego.stamp_ns for ego in egos], np.float64)
        self._speed = np.array([ego.speed for ego in egos])
        self._last = egos[-1]
        self._span = egos[0].stamp_ns, egos[-1].stamp_ns + 6 * NS

    def at(self, tick: int) -> EgoState:
        stamp = self._origin + tick
        (x, y), yaw = self._path.at([stamp])[0], float(np.interp(stamp, self._path.stamps, self._path.yaws))
        speed = float(np.interp(tick, self._t, self._speed))
        if not math.isfinite(x):
            x, y = self._last.x, self._last.y
        return EgoState(tick, float(x), float(y), yaw, speed, 0.0, 0.0, 0.0)

    def route(self) -> Route:
        """The driven path of the film and a few seconds more, as a route every 0.5 m."""
        stamps = np.arange(self._span[0], self._span[1], TICK_NS) + self._origin
        points = self._path.at(stamps.tolist())
        points = points[np.isfinite(points).all(1)]
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        ahead = points[-1] + np.array([math.cos(self._last.yaw), math.sin(self._last.yaw)])  # at least a metre of it
        points, along = np.vstack([points, ahead]), np.append(along, along[-1] + 1.0)
        at = np.arange(0.0, along[-1], 0.5)
        line: F64 = np.stack([np.interp(at, along, points[:, k]) for k in (0, 1)], 1)
        headings = np.unwrap(np.arctan2(*np.gradient(line, axis=0).T[::-1]))
        return Route(line, headings, np.full(len(line), 14.0), np.full(len(line), 1.75), (), ())


# --- figures ---


def _whole(series: Sequence[tuple[float, float, float, float]]) -> str:
    t, speed, ade, base = np.array(series, np.float64).T
    gaps = np.flatnonzero(np.diff(t) > 1.0) + 1  # where plans were skipped, lines break
    t, speed, ade, base = (np.insert(v, gaps, t[gaps] - 0.2 if v is t else np.nan) for v in (t, speed, ade, base))
    panels = [
        Panel("ADE", "m", (Line("car", "plan", t, ade), Line("expert", "constant velocity", t, base))),
        Panel("Speed", "km/h", (Line("car", "car", t, 3.6 * speed),)),
    ]
    chart = stack_of_panels(panels, float(t[0]), float(t[-1]), []).replace('<i class="playhead"></i>', "")
    return f'<section id="whole"><h2>All of it</h2><div class="tile">{chart}</div></section>'


def _errors(summary: dict[str, Any]) -> str:
    error = summary["error"]
    lines = "".join(
        f"<tr><th>after {escape(at)}</th><td class='mine'>{held['plan_m']:.2f} m</td>"
        f"<td>{held['constant_velocity_m']:.2f} m</td><td>{held['plans']}</td></tr>"
        for at, held in error["at"].items()
    )
    for label, key in (("ADE", "ade_m"), ("FDE", "fde_m")):
        lines += (
            f"<tr><th>{label}</th><td class='mine'>{_metres(error[key])} m</td>"
            f"<td>{_metres(error['constant_velocity_' + key])} m</td><td>{error['plans']}</td></tr>"
        )
    note = (
        "Mean displacement from the driven path at the plan's own times. ADE and FDE count plans whose whole horizon "
        "was recorded. Constant velocity goes straight on at the present speed; it sees nothing. Numbers of planners "
        "with other horizons are not comparable."
    )
    head = f"<th></th><th class='mine'>{escape(summary['planner'])}</th><th>constant velocity</th><th>plans</th>"
    return (
        f'<section id="compare"><h2>Distance from the driven path</h2><p class="muted">{note}</p><div class="scroll">'
        f'<table class="compare"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div></section>'
    )


def _worst(worst: Sequence[Answer]) -> str:
    cells = ""
    for answer in worst:
        held = next(iter(answer.pictures.values()), {})
        picture = still(answer, held)
        if picture is None or answer.errors_m is None:
            continue
        command = answer.asked.command.value.removeprefix("GO_").lower() if answer.asked.command else ""
        cells += (
            f'<figure class="still"><img alt="the cameras, with plan and driven path" '
            f'src="data:image/jpeg;base64,{b64encode(picture).decode()}"><figcaption class="caption">'
            f"{answer.asked.stamp_ns / NS:.1f} s: ADE {answer.ade_m:.2f} m, FDE {answer.errors_m[-1]:.2f} m; "
            f"told to go {escape(command)}</figcaption></figure>"
        )
    note = "The plans furthest from the driven path. Green: the plan. Blue: where the car went."
    return f'<section id="worst"><h2>Worst moments</h2><p class="muted">{note}</p>{cells}</section>' if cells else ""


def still(answer: Answer, pictures: dict[str, CameraFrame]) -> bytes | None:
    """The cameras at one plan stamp, plan and driven path on the road, as JPEG; None without pictures."""
    ego, plan = answer.asked.ego, answer.plan
    names = [n for n in ORDER if n in pictures] + sorted(set(pictures) - set(ORDER))
    if not names or ego is None or plan is None or answer.driven is None:
        return None
    here = np.zeros((1, 2))
    tiles = []
    for name in names:
        frame = pictures[name]
        zoom = min(STILL_ZOOM, WIDTH / sum(pictures[n].image.shape[1] for n in names))
        size = (round(zoom * frame.image.shape[1]), round(zoom * frame.image.shape[0]))
        image = Image.fromarray(frame.image).resize(size, Image.Resampling.BICUBIC)
        for points, colour in (
            (answer.driven, SOURCE_COLOUR[Source.EXPERT]),
            (plan.waypoints, SOURCE_COLOUR[Source.NOMINAL]),
        ):
            line = np.vstack([here, points[np.isfinite(points).all(1)]])
            draw_path(image, frame, to_map(line, ego), ego, colour)
        ImageDraw.Draw(image).text((10, 8), name.replace("_", " "), (255, 255, 255), font(13))
        tiles.append(image)
    sheet = Image.new("RGB", (sum(t.width for t in tiles) + 8 * (len(tiles) - 1), max(t.height for t in tiles)))
    left = 0
    for tile in tiles:
        sheet.paste(tile, (left, 0))
        left += tile.width + 8
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _inputs(summary: dict[str, Any]) -> str:
    rows = ""
    for name, held in summary["cameras"].items():
        lens, pinhole, offset = held.get("lens"), held.get("pinhole"), held["offset_ms"]
        seen = f"{lens['model']}, {lens['size'][0]}x{lens['size'][1]}" if lens else "not in the recording"
        turned = f"{pinhole['size'][0]}x{pinhole['size'][1]}, {100 * held['coverage']:.0f} % seen" if pinhole else ""
        late = f"{offset['median']:.1f} / {offset['largest']:.1f} ms" if offset else "–"
        cells = (f"{held['messages']}", seen, turned, late, f"{held['plans_without']}")
        who = f"{escape(name)}<br><small>{escape(held['topic'] or 'not in rig.yaml')}</small>"
        rows += f"<tr><th>{who}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    heads = ("pictures", "lens", "rectified to", "off the stamp", "plans without")
    head = "<th></th>" + "".join(f"<th>{h}</th>" for h in heads)
    skipped = "".join(
        f"<tr><th>{escape(kind)}</th><td>{n}</td><td>{escape(summary['examples'][kind])}</td></tr>"
        for kind, n in summary["skipped"].items()
    )
    table = '<div class="scroll"><table class="compare"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    none = '<p class="muted">No plan stamp was skipped.</p>'
    odd = "<th>finding</th><th>stamps</th><th>for example</th>"
    cameras = table.format(head, rows) if rows else '<p class="muted">The planner looks at no pictures.</p>'
    return (
        f'<section id="inputs"><h2>What the recording gave</h2>{cameras}<h3 class="sub">Skipped plan stamps</h3>'
        f"{table.format(odd, skipped) if skipped else none}</section>"
    )


def _facts(summary: dict[str, Any]) -> str:
    dark = {"skip": "its plan stamps are skipped", "black": "the planner is shown black", "absent": "it is left out"}
    rows = {
        "Route command": f"{summary['command']['source']} "
        f"({', '.join(f'{n} {name}' for name, n in summary['command']['heard'].items())})",
        "Odometry": f"{summary['odometry']['topic']}, {summary['odometry']['type']}, "
        f"{summary['odometry']['messages']} messages",
        "Derived from it": "; ".join(summary["odometry"]["derived"]),
        "A camera without a picture": dark[summary["missing"]],
        "Stamps before there was history": str(summary["before_history"]),
        "Answers taken from an interrupted replay": str(summary["resumed"] or ""),
        "The planner notes": "; ".join(summary["notes"]),
        "Code": summary["code_sha256"][:16],
    }
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows.items() if v)
    return (
        '<section id="facts"><h2>How this was made</h2><div class="scroll"><table class="facts">'
        f"{cells}</table></div></section>"
    )


def _definitions() -> str:
    return (
        "<footer><h4>What the words mean</h4><dl>"
        "<dt>ADE, FDE</dt><dd>Mean and final distance between the plan's points and the places where the car was at "
        "those times.</dd>"
        "<dt>Open loop</dt><dd>The car does not follow the plan, so a plan never meets its own consequences. A small "
        "error is not good driving, and a large one may be another good way.</dd>"
        "<dt>Off the stamp</dt><dd>Cameras are not synchronised: so far was the picture's own time from the time that "
        "the planner took it for, median and most.</dd></dl></footer>"
    )


def _metres(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

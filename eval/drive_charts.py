"""One drive over time: how it moved beside the expert, who was being followed, and what each plan cost."""

from __future__ import annotations

from dataclasses import replace
from html import escape

import numpy as np

from efficientgen.eval.axes import Line, Mark, Panel, Rule, Stack, stack_of_panels
from efficientgen.eval.canvas import SOURCE_COLOUR, css
from efficientgen.eval.happenings import events, rulings
from efficientgen.eval.route_score import route_progress
from efficientgen.eval.step_log import Step, StepLog, all_ticks, chunk_seconds
from efficientgen.eval.words import SOURCE_WORDS, planner_death
from efficientgen.perception.route import locate
from efficientgen.perception.types import NS, Plan, Source, VehicleParams

MAX_MARKS = 24  # vertical lines of events; more would hide the plots


def over_time(log: StepLog, expert: StepLog | None = None) -> str:
    """All panels of a drive; those without anything to show are left out.

    Args:
        expert: the expert's drive of the same scenario and seed, drawn beside it.
    """
    ticks = all_ticks(log)
    start, end = log.steps[0].stamp_ns / NS, ticks[-1].stamp_ns / NS
    panels = [_speed(log, expert), _acceleration(log, expert), _lateral(log, expert)]
    costs = [step for step in log.steps if step.stamp_ns >= log.handover_ns and step.plan is not None]
    panels += [panel for panel in (_latency(log, costs), *_tokens(costs), _spread(costs)) if panel is not None]
    marks = [Mark(log.handover_ns / NS, "handed over")] if start < log.handover_ns / NS < end else []
    died = planner_death(log)
    if died is not None:
        marks.append(Mark(died / NS, "no plan from here on", "bad"))
    happened = [event for event in events(log) if start <= event.start_s <= end]
    marks += [Mark(event.start_s, "", "bad") for event in happened[:MAX_MARKS]]
    return stack_of_panels([_clipped(panel, end) for panel in panels], start, end, marks, _strip(log, start, end))


def intended_speed(plan: Plan | None, horizon_s: float = 2.0) -> float | None:
    """Mean speed over the plan's first `horizon_s`, m/s: what it wants; None without a plan."""
    if plan is None or not len(plan.waypoints) or not np.isfinite(plan.waypoints).all():
        return None
    k = max(1, int(np.searchsorted(plan.times_s, horizon_s + 1e-9)))
    steps = np.diff(np.vstack([np.zeros((1, 2)), plan.waypoints[:k]]), axis=0)
    return float(np.hypot(steps[:, 0], steps[:, 1]).sum() / plan.times_s[k - 1])


# --- panels ---


def _speed(log: StepLog, expert: StepLog | None) -> Panel:
    lines = [_ego_line("car", "car", log, "speed", 3.6)]
    if expert is not None:
        lines.append(_ego_line("expert", "expert", expert, "speed", 3.6))
    stamps = np.array([step.stamp_ns / NS for step in log.steps])
    intended = np.array([np.nan if (v := intended_speed(step.plan)) is None else 3.6 * v for step in log.steps])
    lines.append(Line("target", "plan intends", stamps, intended))
    lines.append(Line("limit", "limit", stamps, 3.6 * _limits(log)))
    return Panel("Speed", "km/h", tuple(lines), high=20.0, height=128, digits=0, area=True)


def _acceleration(log: StepLog, expert: StepLog | None) -> Panel:
    lines = [_ego_line("car", "car", log, "acceleration", 1.0)]
    if expert is not None:
        lines.append(_ego_line("expert", "expert", expert, "acceleration", 1.0))
    return Panel("Acceleration", "m/s²", tuple(lines), low=-2.0, high=2.0)


def _lateral(log: StepLog, expert: StepLog | None) -> Panel:
    """Left is up, as on the road; the dashed lines are where the car's side reaches the lane's."""
    lines = []
    for name, held in (("car", log), ("expert", expert)):
        if held is not None:
            ticks = all_ticks(held)
            offset = route_progress(held, [tick.ego for tick in ticks])
            lines.append(Line(name, name, np.array([tick.stamp_ns / NS for tick in ticks]), offset[:, 1]))
            if held is log:
                at = np.arange(len(log.route.half_widths)) * log.route.spacing
                room = np.interp(offset[:, 0], at, log.route.half_widths) - VehicleParams().width / 2
                edges = [Line("limit", label, lines[0].t, side * room)
                         for side, label in ((1, "at the lane's edge"), (-1, ""))]  # fmt: skip
    return Panel("Left of the route", "m", (*lines, edges[0]), low=-1.0, high=1.0, digits=2)


def _latency(log: StepLog, steps: list[Step]) -> Panel | None:
    """Wall time of each plan, cut into stages; what no stage claims is waiting and transport.

    A few plans that a busy machine held up would flatten all others, so the scale ends at three medians; the title says
    what was cut.
    """
    if not any(step.plan is not None and step.plan.stats.seconds for step in steps):
        return None
    t = np.array([step.stamp_ns / NS for step in steps])
    names = dict.fromkeys(n for s in steps if s.plan for n in s.plan.stats.seconds if n != "total")
    width = chunk_seconds(log)
    layers = [np.array([s.plan.stats.seconds.get(name, 0.0) if s.plan else 0.0 for s in steps]) for name in names]
    staged = np.sum(layers, axis=0)
    whole = np.maximum(np.array([step.plan_wall_s for step in steps]), staged)
    labels = [(f"s{k % 6}", name) for k, name in enumerate(names)]
    if (whole - staged).max() > 0.02 * whole.max():
        labels, layers = [*labels, ("rest", "waiting and transport")], [*layers, whole - staged]
    top = max(1.4 * width, 3.0 * float(np.median(whole)))
    edges = np.vstack([np.zeros(len(steps)), np.cumsum(layers, axis=0)]).clip(max=top)
    stacks = [Stack(name, label, t, edges[k], edges[k + 1], width) for k, (name, label) in enumerate(labels)]
    rules = [Rule(width, f"deadline: plan period, {width:g} s")]
    if "latency" in log.notes:  # latency mode: when a plan took effect, whatever it cost here
        delay = float(log.notes["latency"]["delay_s"])
        rules.append(Rule(delay, f"taken as {delay:g} s"))
    cut = int((whole > top).sum())
    title = "Time for a plan" + (f" ({cut} cut at the top, the longest took {whole.max():.1f} s)" if cut else "")
    lines = (Line("total", "plan", t, whole),)
    return Panel(title, "s", lines, tuple(stacks), tuple(rules), height=104, digits=2, ceiling=top)


def _tokens(steps: list[Step]) -> list[Panel]:
    drafted = [(s.stamp_ns / NS, s.plan.stats) for s in steps if s.plan is not None and s.plan.stats.drafted]
    if not drafted:
        return []
    t = np.array([stamp for stamp, _ in drafted])
    accepted = np.array([100.0 * stats.accepted / stats.drafted for _, stats in drafted])
    speed = np.array([stats.value_tokens / max(stats.cycles, 1) for _, stats in drafted])
    kept, written = Line("accepted", "accepted", t, accepted), Line("accepted", "tokens", t, speed)
    return [
        Panel("Draft tokens accepted", "%", (kept,), high=100.0, height=64, digits=0),
        Panel("Value tokens per cycle", "", (written,), height=64),
    ]


def _spread(steps: list[Step]) -> Panel | None:
    held = [(s.stamp_ns / NS, s.plan) for s in steps if s.plan is not None and len(s.plan.spread_m)]
    if not held:
        return None
    t, last = np.array([stamp for stamp, _ in held]), np.array([float(plan.spread_m[-1]) for _, plan in held])
    horizon = held[0][1].times_s[-1]
    title = f"Spread of rollouts after {horizon:.0f} s"
    return Panel(title, "m", (Line("accepted", f"{len(held[0][1].rollouts)} rollouts", t, last),), height=64, digits=2)


# --- parts ---


def _ego_line(name: str, label: str, log: StepLog, quantity: str, factor: float) -> Line:
    ticks = all_ticks(log)
    values = factor * np.array([float(getattr(tick.ego, quantity)) for tick in ticks])
    return Line(name, label, np.array([tick.stamp_ns / NS for tick in ticks]), values)


def _limits(log: StepLog) -> np.ndarray:
    """The speed limit where the car is at each step, m/s."""
    out, hint = [], None
    for step in log.steps:
        hint = locate(log.route, step.ego.x, step.ego.y, hint)[0]
        k = int(np.clip(round(hint / log.route.spacing), 0, len(log.route.speed_limits) - 1))
        out.append(float(log.route.speed_limits[k]))
    return np.array(out)


def _clipped(panel: Panel, end: float) -> Panel:
    """Without what another drive did after this one's end."""
    lines = tuple(Line(ln.name, ln.label, ln.t[ln.t <= end + 1e-6], ln.v[ln.t <= end + 1e-6]) for ln in panel.lines)
    return replace(panel, lines=lines)


def _strip(log: StepLog, start: float, end: float) -> str:
    """Who was being followed, with a diamond for each event."""
    span = max(end - start, 1e-9)
    cells, seen = [], set()
    for ruling in rulings(log):
        assert ruling.source is not None
        seen.add(ruling.source)
        why = f": {ruling.words}" if ruling.words else ""
        title = escape(f"{ruling.start_s:.1f} s, {ruling.what}{why}", quote=True)
        left, width = 100 * (ruling.start_s - start) / span, 100 * (ruling.end_s - ruling.start_s) / span
        style = f"left:{left:.2f}%;width:{width:.2f}%"
        cells.append(f'<i style="{style};background:{css(SOURCE_COLOUR[ruling.source])}" title="{title}"></i>')
    diamonds = "".join(
        f'<i class="event" style="left:{100 * min(max((event.start_s - start) / span, 0), 1):.2f}%" '
        f'title="{escape(f"{event.start_s:.1f} s, {event.what}: {event.words}", quote=True)}"></i>'
        for event in events(log)
    )
    keys = "".join(
        f'<b class="k box" style="--c:{css(SOURCE_COLOUR[s])}">{SOURCE_WORDS[s]}</b>' for s in Source if s in seen
    )
    keys += '<b class="k diamond">event</b>' if diamonds else ""
    return (
        f'<div class="panel"><div class="panel-head"><span class="title">Who drives</span>{keys}</div>'
        f'<div class="strip">{"".join(cells)}</div><div class="diamonds">{diamonds}</div></div>'
    )

"""How should the car brake when its planner is gone?  Measured by letting it die at every stamp of real drives.

From a drive's step log, each stamp where the planner's plan was taken at more than `MOVING_MPS` is a death: no plan
comes any more, `judge` and `follow` alone bring the car to rest, and the stop is located on the route.  Nothing else of
the world is needed, so a thousand deaths take seconds.  A design is the ladder's parameters plus what is done to the
last trajectory before the ladder follows it; "on the route itself" shows what braking and tracking alone would cost.
The ladder in `planning/safety.py` is the design that the table supports (`docs/results/braking.json`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from efficientgen.eval.runner import follow
from efficientgen.eval.step_log import Step, StepLog
from efficientgen.perception.route import locate, point_at
from efficientgen.perception.types import F64, NS, EgoState, Source, Trajectory, VehicleParams, Verdict
from efficientgen.planning.safety import SafetyParams, SafetyState, judge

MOVING_MPS = 1.0
LONGEST_STOP_S = 15.0

Reshape = Callable[[StepLog, int], Trajectory]  # log, index of the death's step -> the trajectory that the ladder gets


@dataclass(frozen=True)
class Stop:
    """One death: rear-axle offsets from the route, m, unsigned."""

    scenario: str
    seed: int
    stamp_ns: int
    speed: float  # m/s at the death
    offset: float  # at the death
    final: float  # at standstill
    widest: float  # on the way
    alive: float  # widest of the undisturbed drive on the same stretch of time


@dataclass(frozen=True)
class Design:
    """One way to brake: the ladder's parameters and a change of the last trajectory."""

    name: str
    params: SafetyParams = SafetyParams()
    reshape: Reshape = field(default=lambda log, i: log.steps[i].verdict.trajectory)


def stops(log: StepLog, design: Design) -> Iterator[Stop]:
    """A planner's death at every stamp of `log` where its plan was taken and the car moves."""
    for i, step in enumerate(log.steps):
        taken = step.stamp_ns >= log.handover_ns and step.verdict.source is Source.NOMINAL
        if taken and step.ego.speed > MOVING_MPS:
            yield _stop(log, i, design)


def summary(held: Sequence[Stop], vehicle: VehicleParams | None = None, half_lane: float = 1.75) -> dict[str, float]:
    """The figures of one design: shares of stops outside the lane and offsets gained since the death, m.

    `outside`: offset + half the car's width > half the lane's, of the deaths inside the lane; `outside_alive`: the same
    for the undisturbed drive anywhere on that stretch of time, that is, what the planner itself would have done.
    """
    room = half_lane - (vehicle or VehicleParams()).width / 2
    inside = [s for s in held if s.offset <= room]
    gained = np.array([s.final - s.offset for s in held])
    return {
        "deaths": len(held),
        "outside": float(np.mean([s.final > room for s in inside])),
        "outside_alive": float(np.mean([s.alive > room for s in inside])),
        "gained_p50_m": float(np.percentile(gained, 50)),
        "gained_p95_m": float(np.percentile(gained, 95)),
        "gained_p99_m": float(np.percentile(gained, 99)),
        "gained_max_m": float(gained.max()),
    }


def _stop(log: StepLog, i: int, design: Design) -> Stop:
    step = log.steps[i]
    last = design.reshape(log, i)
    state = SafetyState(last, step.stamp_ns, (step.ego,), step.stamp_ns)
    states = list(follow(Verdict(step.stamp_ns, last, Source.NOMINAL), step.ego))
    while states[-1].speed > 0.05 and states[-1].stamp_ns < step.stamp_ns + LONGEST_STOP_S * NS:
        state, verdict = judge(state, None, states[-1], states[-1].stamp_ns, design.params)
        states += follow(verdict, states[-1])
    dead = _offsets(log, [step.ego, *states])
    alive = [tick.ego for later in log.steps[i:] for tick in later.ticks if tick.stamp_ns <= states[-1].stamp_ns]
    return Stop(
        log.scenario,
        log.seed,
        step.stamp_ns,
        step.ego.speed,
        float(dead[0]),
        float(dead[-1]),
        float(dead.max()),
        float(_offsets(log, [step.ego, *alive]).max()),
    )


def _offsets(log: StepLog, egos: Sequence[EgoState]) -> F64:
    hint, out = None, []
    for ego in egos:
        hint, lateral = locate(log.route, ego.x, ego.y, hint)
        out.append(abs(lateral))
    return np.array(out)


# --- designs ---


def damped(share: float, trust_s: float = 1.2) -> Reshape:
    """The bends of the last plan beyond its first `trust_s` count by `share` only."""

    def reshape(log: StepLog, i: int) -> Trajectory:
        last = log.steps[i].verdict.trajectory
        seg = np.diff(last.points, axis=0)
        lengths = np.hypot(seg[:, 0], seg[:, 1])
        headings = np.unwrap(np.arctan2(seg[:, 1], seg[:, 0]))
        first = min(max(int((last.times_s <= trust_s).sum()) - 2, 0), len(seg) - 1)
        headings[first:] = headings[first] + share * (headings[first:] - headings[first])
        steps = lengths[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=1)
        return Trajectory(
            last.stamp_ns, np.vstack([last.points[:1], last.points[0] + np.cumsum(steps, axis=0)]), last.times_s
        )

    return reshape


def averaged(count: int) -> Reshape:
    """The path is the mean of the last `count` plans' where they cover it; the timing is the newest one's."""

    def reshape(log: StepLog, i: int) -> Trajectory:
        last = log.steps[i].verdict.trajectory
        older = [step.verdict.trajectory for step in log.steps[max(0, i - count + 1) : i] if _own(step)]
        seg = np.gradient(last.points, axis=0)
        size = np.hypot(seg[:, 0], seg[:, 1])[:, None]
        if (size < 1e-3).any():  # standing somewhere: no direction to average across
            return last
        normal = np.stack([-seg[:, 1], seg[:, 0]], axis=1) / size
        total, weight = np.zeros(len(last.points)), np.ones(len(last.points))
        for trajectory in older:
            keep = np.concatenate([[True], np.hypot(*np.diff(trajectory.points, axis=0).T) > 1e-3])
            path = trajectory.points[keep]
            if len(path) < 2:
                continue
            legs = np.diff(path, axis=0)
            share = ((last.points[:, None] - path[None, :-1]) * legs).sum(2) / (legs * legs).sum(1)
            foot = path[:-1] + np.clip(share, 0.0, 1.0)[..., None] * legs  # (M, legs, 2)
            k = ((last.points[:, None] - foot) ** 2).sum(2).argmin(1)
            rows = np.arange(len(k))
            arc = np.concatenate([[0.0], np.cumsum(np.hypot(legs[:, 0], legs[:, 1]))])
            s = arc[k] + np.clip(share[rows, k], 0.0, 1.0) * (arc[k + 1] - arc[k])
            covered = np.clip((arc[-1] - s) / 4.0, 0.0, 1.0)  # an older plan's end fades out over 4 m
            total += covered * ((foot[rows, k] - last.points) * normal).sum(1)
            weight += covered
        shift = total / weight
        shift -= shift[0] * np.linspace(1.0, 0.0, len(shift))  # it starts at the car
        return Trajectory(last.stamp_ns, last.points + shift[:, None] * normal, last.times_s)

    return reshape


def on_route(log: StepLog, i: int) -> Trajectory:
    """The route itself, driven with the last plan's timing: no planner's geometry in it, the floor of any design."""
    last = log.steps[i].verdict.trajectory
    s0, lateral = locate(log.route, float(last.points[0, 0]), float(last.points[0, 1]))
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(last.points, axis=0).T))])
    rows = []
    for s in arc:
        x, y, heading = point_at(log.route, s0 + float(s))
        side = lateral * max(0.0, 1.0 - s / 12.0)
        rows.append((x - side * np.sin(heading), y + side * np.cos(heading)))
    return Trajectory(last.stamp_ns, np.array(rows), last.times_s)


def _own(step: Step) -> bool:
    return step.verdict.source is Source.NOMINAL


FORMER = SafetyParams(bridge_s=1.2, braking=3.2)  # two missing plans bridged, then 3.2 m/s^2

DESIGNS: tuple[Design, ...] = (
    *(Design(f"former, far bends x {share:g}", FORMER, damped(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
    *(Design(f"former, mean of {n} plans", FORMER, averaged(n)) for n in (2, 3, 4)),
    *(Design(f"bridge 1.2 s, {b:g} m/s^2", SafetyParams(bridge_s=1.2, braking=b)) for b in (2.5, 4.0, 5.0)),
    *(Design(f"bridge 0.8 s, {b:g} m/s^2", SafetyParams(bridge_s=0.8, braking=b)) for b in (3.2, 4.0, 5.0)),
    *(Design(f"bridge 0.4 s, {b:g} m/s^2", SafetyParams(bridge_s=0.4, braking=b)) for b in (3.2, 4.0, 5.0)),
    Design("as shipped", SafetyParams()),
    Design("as shipped, far bends x 0.5", SafetyParams(), damped(0.5)),
    Design("as shipped, mean of 3 plans", SafetyParams(), averaged(3)),
    Design("as shipped, on the route itself", SafetyParams(), on_route),
)


def table(logs: Sequence[StepLog], designs: Sequence[Design] = DESIGNS) -> dict[str, dict[str, float]]:
    """The summary of every design over all deaths in `logs`."""
    return {design.name: summary([stop for log in logs for stop in stops(log, design)]) for design in designs}

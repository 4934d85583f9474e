"""The same plans under four nuScenes conventions, on drives of our own towns: the numbers of docs/offline.md.

Expert drives stand in for the recorded data: every plan stamp is a key frame with the path that was driven after it and
the road users around it.  Two planners are scored on it, constant velocity and the expert's own plan, which knows where
it will go.  So every difference between two columns is the convention's and not the planner's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientgen.eval.nuscenes_planning import CONVENTIONS, HORIZONS, MASK_RULES, STEPS, planning_metrics_batch
from efficientgen.eval.offline_nuscenes import TIMES_S, in_lidar
from efficientgen.eval.resample import resample
from efficientgen.eval.step_log import StepLog, all_ticks
from efficientgen.perception.types import F64, NS, TICK_NS, ActorKind, OracleFrame

MOUNT = np.array([0.94, 0.0])  # of a LIDAR_TOP on the car's roof
PLANNERS = ("constant-velocity", "expert's plan")
PEOPLE = ("stp3", "vad")  # conventions that count pedestrians


@dataclass(frozen=True)
class Scene:
    """One key frame; everything in LIDAR_TOP."""

    drive: str
    stamp_ns: int
    plans: dict[str, F64]  # planner -> (6, 2) m
    truth: F64  # (6, 2) m; the last point repeated where the drive is over
    mask: F64  # (6,)
    vehicles: list[F64]  # six arrays (A, 5)
    everybody: list[F64]

    def agents(self, convention: str) -> list[F64]:
        """The road users that the convention counts."""
        return self.everybody if convention in PEOPLE else self.vehicles


def scenes_of(log: StepLog, every_ns: int = NS) -> list[Scene]:
    """Key frames of an expert drive, one at the first plan stamp in each `every_ns`."""
    ticks = {tick.stamp_ns: tick for tick in all_ticks(log)}
    plans = {step.stamp_ns: step.plan for step in log.steps if step.plan is not None}
    out: list[Scene] = []
    for stamp, plan in sorted(plans.items()):
        if out and stamp // every_ns == out[-1].stamp_ns // every_ns or stamp not in ticks:
            continue
        now = ticks[stamp]
        later = [ticks.get(stamp + round(t * NS) // TICK_NS * TICK_NS) for t in TIMES_S]
        speed = now.ego.speed
        paths = {
            PLANNERS[0]: ahead_at(speed),
            PLANNERS[1]: resample(plan.times_s, plan.waypoints, TIMES_S, extrapolate=True)[0],
        }
        out.append(
            Scene(
                f"{log.scenario}.{log.seed}",
                stamp,
                {name: in_lidar(path, MOUNT) for name, path in paths.items()},
                _truth(now, later),
                np.array([tick is not None for tick in later], np.float64),
                [_boxes(now, tick, people=False) for tick in later],
                [_boxes(now, tick, people=True) for tick in later],
            )
        )
    return out


def ahead_at(speed: float) -> F64:
    """(6, 2) m of the constant-velocity planner."""
    from efficientgen.eval.offline import straight_on

    times, path = straight_on(speed)
    return resample(times, path, TIMES_S)[0]


def measure(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Per planner and convention the summary, and the mean error at each step over whole key frames."""
    plans = {name: np.array([scene.plans[name] for scene in scenes]) for name in PLANNERS}
    truths, masks = np.array([s.truth for s in scenes]), np.array([s.mask for s in scenes])
    whole = masks.all(1)
    out: dict[str, Any] = {"key_frames": len(scenes), "whole": int(whole.sum()), "mask_rules": MASK_RULES, "scores": {},
                           "error_at_step": {}, "collision_at_step": {}}  # fmt: skip
    for name in PLANNERS:
        error = np.hypot(*np.moveaxis(plans[name] - truths, -1, 0))[whole].mean(0)
        out["error_at_step"][name] = error.tolist()
        out["scores"][name], out["collision_at_step"][name] = {}, {}
        for convention in CONVENTIONS:
            boxes = [scene.agents(convention) for scene in scenes]
            got = planning_metrics_batch(plans[name], truths, masks, boxes, convention)
            out["scores"][name][convention] = dict(got.summary)
            out["collision_at_step"][name][convention] = np.nanmean(got.obj_box_col, 0).tolist()
    return out


@dataclass(frozen=True)
class Disagreement:
    """A step at which one convention sees a collision and another does not."""

    scene: Scene
    planner: str
    step: int
    hits: dict[str, bool]  # convention -> collides


def disagreements(scenes: Sequence[Scene]) -> list[Disagreement]:
    """Steps of whole key frames on which the four conventions do not agree, given the same road users (vehicles)."""
    whole = [scene for scene in scenes if scene.mask.all()]
    out = []
    for name in PLANNERS:
        plans, truths = np.array([s.plans[name] for s in whole]), np.array([s.truth for s in whole])
        boxes = [scene.vehicles for scene in whole]
        ones = np.ones((len(whole), STEPS))
        hits = {c: planning_metrics_batch(plans, truths, ones, boxes, c).obj_box_col > 0.5 for c in CONVENTIONS}
        together = np.stack(list(hits.values()))  # (4, B, 6)
        for b, t in np.argwhere(together.any(0) & ~together.all(0)):
            out.append(Disagreement(whole[b], name, int(t), {c: bool(hits[c][b, t]) for c in CONVENTIONS}))
    return out


def table_of(result: dict[str, Any]) -> str:
    """The Markdown table of the page."""
    lines = ["| planner | convention | L2 1 s | 2 s | 3 s | avg | collision 1 s | 2 s | 3 s | avg |",
             "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, conventions in result["scores"].items():
        for convention, scores in conventions.items():
            keys = [*HORIZONS, "avg"]
            l2 = [f"{scores[f'L2_{k}']:.2f}" for k in keys]
            collision = [f"{100 * scores[f'obj_box_col_{k}']:.2f} %" for k in keys]
            lines.append("| " + " | ".join([name, convention, *l2, *collision]) + " |")
    return "\n".join(lines)


def collect(names: Sequence[str], seeds: int, on_done: Callable[[], None] = lambda: None) -> list[Scene]:
    """Key frames of the expert's drives of scenarios, seeds counted from 0.

    Raises:
        ScenarioError: no such scenario.
    """
    from efficientgen.eval.runner import drive
    from efficientgen.worldsim.scenario import load_scenario

    scenes = []
    for scenario in [load_scenario(name) for name in names]:
        for seed in range(seeds):
            scenes += scenes_of(drive(scenario, seed, "expert"))
            on_done()
    return scenes


def _truth(now: OracleFrame, later: Sequence[OracleFrame | None]) -> F64:
    """Where the lidar went, (6, 2) m in LIDAR_TOP."""
    out: list[F64] = []
    for tick in later:
        if tick is None:
            out.append(out[-1] if out else np.zeros(2))
            continue
        ahead = _inside(now, np.array([[tick.ego.x, tick.ego.y]]))[0]
        turn = tick.ego.yaw - now.ego.yaw
        moved = ahead + np.array([np.cos(turn), np.sin(turn)]) * MOUNT[0] - MOUNT
        out.append(np.array([-moved[1], moved[0]]))
    return np.array(out)


def _boxes(now: OracleFrame, tick: OracleFrame | None, people: bool) -> F64:
    """Road users of a tick as (A, 5) in LIDAR_TOP of now."""
    actors = [a for a in (tick.actors if tick else ()) if people or a.kind is not ActorKind.PEDESTRIAN]
    if not actors:
        return np.zeros((0, 5))
    place = _inside(now, np.array([[a.x, a.y] for a in actors])) - MOUNT
    rest = np.array([(a.yaw - now.ego.yaw + np.pi / 2, a.length, a.width) for a in actors])
    return np.column_stack([-place[:, 1], place[:, 0], rest])


def _inside(now: OracleFrame, points: F64) -> F64:
    """World points (N, 2) in the ego frame of now."""
    c, s = np.cos(now.ego.yaw), np.sin(now.ego.yaw)
    return np.asarray((points - [now.ego.x, now.ego.y]) @ np.array([[c, -s], [s, c]]))

"""Oracle logs to a training set: perturb, let the expert relabel, render.

From every plan stamp of an expert drive come one plain sample and some perturbed ones.  A perturbation moves the ego
beside and across its lane (so that the planner learns to come back), or rescales its motion, down to standing still (so
that it learns to move off because of what it sees).  The expert plans anew from the perturbed pose: the label is always
its plan, never what happened to follow.  The frame before is moved along, so pictures and history stay consistent.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.oracle_log import OracleLog, load_oracle_log
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import CHUNK_NS, TICK_NS, Command, EgoState, OracleFrame, Plan
from efficientgen.planning.annotate import describe
from efficientgen.planning.expert import expert_plan
from efficientgen.planning.nano import nano_tokenizer
from efficientgen.planning.prompt import EgoNumbers, prompt_ids
from efficientgen.planning.schema import NANO, compile_template, encode_answer
from efficientgen.planning.train.data import save_shard
from efficientgen.planning.train.look import token_labels

FIRST_NS = 4_000_000_000  # a planner drives only with 4 s of history behind it
PAST_NS = (1_500_000_000, 1_000_000_000, 500_000_000)


@dataclass(frozen=True)
class DatasetConfig:
    """How many samples a plan stamp gives and how far they stray; m, degrees."""

    perturbed: float = 1.0  # perturbed samples per plan stamp, on average
    lateral_std: float = 0.55
    lateral_max: float = 1.3
    heading_std: float = 4.5
    heading_max: float = 13.0
    rescaled: float = 0.35  # share of the perturbed samples with another speed
    standing: float = 0.5  # share of those that stand still
    heldout: float = 0.05  # share of the drives kept for validation
    scenes: int = 7  # sets of houses and trees per town
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """One training example before it is rendered."""

    now: OracleFrame
    before: OracleFrame
    plain: bool  # unperturbed: its frames are shared with its neighbours in time
    ego: EgoNumbers
    command: Command
    plan: Plan
    weight: float


def samples_of(log: OracleLog, config: DatasetConfig) -> Iterator[Sample]:
    """All samples of one drive, in time order, each plain one before its perturbed ones."""
    rng = np.random.default_rng([config.seed, *log.name.encode()])
    states = {s.stamp_ns: s for s in log.states}
    for before, now in zip(log.frames, log.frames[1:], strict=False):
        if now.stamp_ns < FIRST_NS:
            continue
        past = [_state_at(states, now.stamp_ns - d) for d in PAST_NS]
        yield _sample(log, now, before, past, plain=True)
        for _ in range(rng.poisson(config.perturbed)):
            moved = _perturb(now.ego, before.ego, past, config, rng)
            yield _sample(log, replace(now, ego=moved[0]), replace(before, ego=moved[1]), moved[2], plain=False)


def _sample(log: OracleLog, now: OracleFrame, before: OracleFrame, past: Sequence[EgoState], plain: bool) -> Sample:
    plan = expert_plan(log.route, now)
    command = Command(plan.sections["command"])
    numbers = EgoNumbers(
        tuple(_relative(now.ego, p) for p in past), now.ego.speed, now.ego.acceleration, now.ego.yaw_rate
    )
    return Sample(now, before, plain, numbers, command, plan, _weight(now, plan, command))


def _weight(now: OracleFrame, plan: Plan, command: Command) -> float:
    """Sampling weight: rare and decisive moments count more than cruising and waiting."""
    goes = float(np.linalg.norm(plan.waypoints[-1])) > 2.0
    if now.ego.speed < 0.5 and goes:
        return 3.0
    if now.ego.speed < 0.2:
        return 0.5  # waiting
    if plan.sections["cause"] in ("pedestrian", "yield"):
        return 2.0
    return 1.6 if command is not Command.GO_STRAIGHT else 1.3 if plan.sections["cause"] != "free_road" else 1.0


def _perturb(
    now: EgoState, before: EgoState, past: Sequence[EgoState], config: DatasetConfig, rng: np.random.Generator
) -> tuple[EgoState, EgoState, list[EgoState]]:
    """(now, before, past) under one random rigid motion and, sometimes, one random time scale."""
    scale = 1.0
    if rng.random() < config.rescaled:
        scale = 0.0 if rng.random() < config.standing else float(rng.uniform(0.3, 1.4))
    lateral = float(np.clip(rng.normal(0, config.lateral_std), -config.lateral_max, config.lateral_max))
    heading = math.radians(float(np.clip(rng.normal(0, config.heading_std), -config.heading_max, config.heading_max)))
    if scale == 0.0 and rng.random() < 0.7:
        lateral, heading = 0.15 * lateral, 0.15 * heading
    x = now.x - lateral * math.sin(now.yaw)
    y = now.y + lateral * math.cos(now.yaw)
    yaw = now.yaw + heading
    cos, sin = math.cos(heading), math.sin(heading)

    def moved(state: EgoState) -> EgoState:
        dx, dy = scale * (state.x - now.x), scale * (state.y - now.y)
        return replace(
            state, x=x + cos * dx - sin * dy, y=y + sin * dx + cos * dy, yaw=yaw + scale * (state.yaw - now.yaw),
            speed=scale * state.speed, acceleration=scale * state.acceleration, yaw_rate=scale * state.yaw_rate,
        )  # fmt: skip

    return moved(now), moved(before), [moved(p) for p in past]


def _relative(now: EgoState, then: EgoState) -> tuple[float, float]:
    dx, dy = then.x - now.x, then.y - now.y
    return math.cos(now.yaw) * dx + math.sin(now.yaw) * dy, -math.sin(now.yaw) * dx + math.cos(now.yaw) * dy


def _state_at(states: dict[int, EgoState], stamp_ns: int) -> EgoState:
    return states[stamp_ns // TICK_NS * TICK_NS]


def render_set(
    logs: Sequence[Path],
    directory: Path,
    config: DatasetConfig,
    workers: int,
    on_done: Callable[[str], None] | None = None,
) -> int:
    """Render every log into one shard each under `directory`; returns the number of samples.

    Shards that are there already are kept, so an interrupted rendering goes on.
    """
    heldout = set(
        np.random.default_rng(config.seed).permutation(len(logs))[: round(config.heldout * len(logs))].tolist()
    )
    jobs = [
        (str(path), str(directory), config, i in heldout)
        for i, path in enumerate(logs)
        if not (directory / f"{path.stem}.now.npy").exists()
    ]
    jobs.sort(key=lambda job: _scene(Path(job[0]), config))  # a worker builds few scenes and keeps them
    total = 0
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for count, line in pool.imap_unordered(_render_one, jobs, chunksize=max(1, len(jobs) // (workers * 6))):
            total += count
            if on_done is not None:
                on_done(line)
    return total


_worlds: dict[str, Any] = {}  # one renderer per worker process


def _render_one(job: tuple[str, str, DatasetConfig, bool]) -> tuple[int, str]:
    from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D; workers only

    path, directory, config, heldout = Path(job[0]), Path(job[1]), job[2], job[3]
    log = load_oracle_log(path)
    world = _worlds.setdefault("world", ReferenceWorld())
    world.reset(log.frames[0].town, log.frames[0].weather, _scene(path, config)[1])
    tokenizer = nano_tokenizer()
    template = compile_template(NANO, tokenizer, 32)
    images: list[np.ndarray] = []
    shared: dict[int, int] = {}  # stamp of a plain frame -> its row
    columns: dict[str, list[Any]] = {k: [] for k in ("now", "before", "prompt", "answer", "weight", "kinds", "metres")}

    def row_of(frame: OracleFrame, plain: bool) -> int:
        if plain and frame.stamp_ns in shared:
            return shared[frame.stamp_ns]
        images.append(world.render(frame))
        if plain:
            shared[frame.stamp_ns] = len(images) - 1
        return len(images) - 1

    for sample in samples_of(log, config):
        assert sample.now.stamp_ns - sample.before.stamp_ns == CHUNK_NS
        columns["before"].append(row_of(sample.before, sample.plain))
        columns["now"].append(row_of(sample.now, sample.plain))
        columns["prompt"].append(prompt_ids(tokenizer, 3, _tokens_per_image(images[0]), sample.command, sample.ego))
        sections = describe(sample.now, sample.plan, sample.command) | {"trajectory": sample.plan.waypoints}
        columns["answer"].append(encode_answer(template, tokenizer, sections))
        columns["weight"].append(sample.weight)
        kinds, metres = token_labels(sample.now, NANO_RIG)
        columns["kinds"].append(kinds)
        columns["metres"].append(metres)
    count = len(columns["now"])
    if count == 0:
        return 0, f"{path.stem}: too short"
    arrays = {
        "images": np.stack(images),
        "now": np.array(columns["now"], np.int64),
        "before": np.array(columns["before"], np.int64),
        "prompt": np.array(columns["prompt"], np.int16),
        "answer": np.array(columns["answer"], np.int16),
        "weight": np.array(columns["weight"], np.float32),
        "heldout": np.full(count, heldout),
        "kinds": np.stack(columns["kinds"]),
        "metres": np.stack(columns["metres"]),
    }
    save_shard(directory, path.stem, arrays)
    return count, f"{path.stem}: {count} samples, {len(images)} pictures"


def _scene(path: Path, config: DatasetConfig) -> tuple[str, int]:
    """Town and scene seed of a log named `<town>-<...>.<seed>.npz`: one of `config.scenes` sets of houses and trees."""
    return path.stem.partition("-")[0], int(path.stem.rpartition(".")[2]) % config.scenes


def _tokens_per_image(triplet: np.ndarray) -> int:
    return triplet.shape[1] // 28 * (triplet.shape[2] // 28)

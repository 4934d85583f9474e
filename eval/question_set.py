"""Oracle logs to a set of pictures, questions and true answers: what `train questions` learns from and is scored on.

Every drive is shown in one weather, drawn anew, and some moments from beside the lane.  Moments are then chosen so that
rare answers (a yellow light, someone crossing) are about as frequent as common ones, and rendered with the frame 0.4 s
before; some are stills, as a single photograph is.  The scoring half comes from the held-out scenarios, in towns that
neither the planner nor the questions were trained in.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.oracle_log import OracleLog, from_step_log, load_oracle_log, save_oracle_log
from efficientgen.eval.questions import BY_NAME, QUESTIONS, answers_of
from efficientgen.eval.runner import drive
from efficientgen.perception.route import command_at
from efficientgen.perception.types import NS, Command, EgoState, OracleFrame
from efficientgen.planning.expert import where
from efficientgen.worldsim.scenario import WEATHERS, load_scenario, scenario_names

TRAIN, HELDOUT = "train", "heldout"
PART = 200  # moments of a shard: what one process renders at a time
FIRST_NS = 4 * NS
FRESH_NS = 2 * NS  # a moment with the same answers as the last one kept is new again after so long
WEATHER_SHARES = (0.44, 0.14, 0.14, 0.14, 0.14)


class NoDrivesError(ValueError):
    """A directory without oracle logs."""


@dataclass(frozen=True)
class QuestionSetConfig:
    """How many moments, and how they vary."""

    train: int = 5500
    heldout: int = 1500
    beside: float = 0.4  # share of the moments seen from beside the lane
    stills: float = 0.15  # share without a frame before
    scenes: int = 3  # sets of houses and trees per town by day; other weathers have one
    seed: int = 0


@dataclass(frozen=True)
class Moment:
    """One picture triplet to be rendered, with the true answers by question type."""

    drive: str
    now: OracleFrame
    before: OracleFrame | None  # None: a still
    command: Command
    answers: dict[str, str]


def record_heldout(directory: Path, seeds: int, on_done: Callable[[str], None] | None = None) -> int:
    """The expert's drives of the held-out scenarios as oracle logs, seeds 0 .. `seeds` - 1; those there are kept."""
    names = scenario_names(HELDOUT)
    for name in names:
        for seed in range(seeds):
            if not (directory / f"{name}.{seed}.npz").exists():
                save_oracle_log(from_step_log(drive(load_scenario(name), seed, "expert")), directory)
            if on_done is not None:
                on_done(f"{name}.{seed}")
    return len(names) * seeds


def moments_of(log: OracleLog, config: QuestionSetConfig) -> Iterator[Moment]:
    """The moments of one drive that differ from the one before; a pure function of its arguments."""
    rng = np.random.default_rng([config.seed, *log.name.encode()])
    weather = str(rng.choice(WEATHERS, p=WEATHER_SHARES))
    last: tuple[dict[str, str], int] = ({}, -FRESH_NS)
    for before, now in zip(log.frames, log.frames[1:], strict=False):
        if now.stamp_ns < FIRST_NS:
            continue
        before, now = replace(before, weather=weather), replace(now, weather=weather)
        if rng.random() < config.beside:
            before, now = _beside(before, now, rng)
        answers = answers_of(log.route, now)
        still = bool(rng.random() < config.stills)
        if answers == last[0] and now.stamp_ns < last[1] + FRESH_NS:
            continue
        last = answers, now.stamp_ns
        if still:
            answers = {name: answer for name, answer in answers.items() if not BY_NAME[name].motion}
        command = command_at(log.route, where(log.route, now.ego))
        yield Moment(log.name, now, None if still else before, command, answers)


def choose(moments: Sequence[Moment], count: int, seed: int) -> list[Moment]:
    """`count` of the moments, drawn without replacement; rare answers weigh more (Efraimidis, Spirakis 2006)."""
    frequency = Counter(pair for moment in moments for pair in moment.answers.items())
    weight = np.array([sum(1.0 / frequency[pair] for pair in moment.answers.items()) for moment in moments])
    keys = np.random.default_rng([seed, *b"choose"]).random(len(moments)) ** (1.0 / weight)
    return [moments[i] for i in sorted(np.argsort(-keys)[:count].tolist())]


def make_set(
    logs: Sequence[Path],
    directory: Path,
    split: str,
    config: QuestionSetConfig,
    workers: int,
    on_done: Callable[[str], None] | None = None,
) -> int:
    """Label, choose and render into shards of `PART` moments of a scene, under `directory`/`split`; how many moments.

    Shards that are there already are kept, so an interrupted rendering goes on.

    Raises:
        NoDrivesError: `logs` is empty.
    """
    if not logs:
        raise NoDrivesError(f"no oracle logs for the {split} half: make some with `efficientgen data record`")
    out = directory / split
    out.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        found = pool.imap(partial(_label, config=config), logs, chunksize=4)
        moments = [moment for of_one in found for moment in of_one]
        chosen = choose(moments, config.train if split == TRAIN else config.heldout, config.seed)
        scenes: dict[tuple[str, str, int], list[Moment]] = {}
        for moment in chosen:
            scenes.setdefault(_scene(moment, config), []).append(moment)
        jobs = [
            (str(out), scene, part, held[i : i + PART])
            for scene, held in sorted(scenes.items())
            for part, i in enumerate(range(0, len(held), PART))
        ]
        for line in pool.imap_unordered(_render_scene, jobs):
            if on_done is not None:
                on_done(line)
    text = json.dumps({"questions": [asdict(q) for q in QUESTIONS], "config": asdict(config)}, indent=1)
    (directory / ".questions.json.new").write_text(text + "\n")
    os.replace(directory / ".questions.json.new", directory / "questions.json")
    return len(chosen)


def _beside(before: OracleFrame, now: OracleFrame, rng: np.random.Generator) -> tuple[OracleFrame, OracleFrame]:
    """Both frames seen from a car up to 1.6 m beside its path and turned a little."""
    shift = float(rng.choice((-1, 1)) * rng.uniform(0.3, 1.6))
    turn = math.radians(float(np.clip(rng.normal(0, 3.0), -8, 8)))

    def moved(ego: EgoState) -> EgoState:
        x, y = ego.x - shift * math.sin(ego.yaw), ego.y + shift * math.cos(ego.yaw)
        return replace(ego, x=x, y=y, yaw=ego.yaw + turn)

    return replace(before, ego=moved(before.ego)), replace(now, ego=moved(now.ego))


def _scene(moment: Moment, config: QuestionSetConfig) -> tuple[str, str, int]:
    """Town, weather and scene seed to render a moment in."""
    weather = moment.now.weather
    number = sum(moment.drive.encode()) % config.scenes if weather == "day" else 0
    return moment.now.town, weather, number


_worlds: dict[str, Any] = {}  # one renderer per worker process


def _label(path: Path, config: QuestionSetConfig) -> list[Moment]:
    return list(moments_of(load_oracle_log(path), config))


def _render_scene(job: tuple[str, tuple[str, str, int], int, list[Moment]]) -> str:
    from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D; workers only

    directory, scene, moments = Path(job[0]), job[1], job[3]
    name = "-".join(map(str, (*scene, job[2])))
    if (directory / f"{name}.answers.npy").exists():
        return f"{name}: there already"
    world = _worlds.setdefault("world", ReferenceWorld())
    world.reset(*scene)
    pictures = []  # (2, 3, H, W, 3) each: before and now
    for moment in moments:
        now = world.render(moment.now)
        pictures.append(np.stack([now if moment.before is None else world.render(moment.before), now]))
    arrays = {
        "pictures": np.stack(pictures),
        "command": np.array([list(Command).index(m.command) for m in moments], np.int8),
        "drive": np.array([m.drive for m in moments]),
        "answers": np.array([[_index(m, q.name) for q in QUESTIONS] for m in moments], np.int8),
    }
    for key, array in arrays.items():  # the answers go last and mark the shard complete
        np.save(directory / f".{name}.{key}.npy", array)
        os.replace(directory / f".{name}.{key}.npy", directory / f"{name}.{key}.npy")
    return f"{name}: {len(moments)} moments"


def _index(moment: Moment, name: str) -> int:
    """Which of the question's answers is true; -1 where it is not asked."""
    return BY_NAME[name].answers.index(moment.answers[name]) if name in moment.answers else -1

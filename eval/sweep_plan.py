"""A sweep as a YAML file: planners x worlds x scenarios x seeds, and nothing that a machine could decide better.

    planners: [expert, constant-velocity, {name: nano-ddrive, rollouts: 4, label: four rollouts}]
    worlds: [reference]          # default
    scenarios: [maple_right]     # or  split: heldout;  neither: all
    seeds: 5                     # counted from 0, or a list; default: those that each scenario names
    latency: 0.2                 # s, plans take effect that much later; default: sync mode
    benchmarks: false            # default true: also drive the expert, which PDMS, EPDMS and nuPlan's score need

Wrong names are told before the first drive.  Drives are ordered by planner, so that a worker seldom changes its model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import yaml

from efficientgen.eval.latency import Latency
from efficientgen.eval.provenance import checkpoint_sha256
from efficientgen.eval.sweep import WORLDS, Images, Job
from efficientgen.planning.load import BASELINES
from efficientgen.worldsim.scenario import load_scenario, scenario_names


class SweepPlanError(ValueError):
    """A sweep plan that cannot be driven; the message says which line to change, and to what."""


@dataclass(frozen=True)
class Entrant:
    """One planner of a sweep, with what makes it this one; `label` is what results call it."""

    name: str
    label: str = ""
    checkpoint: str = ""
    decoder: str = ""
    rollouts: int = 1
    device: str = "cpu"
    dtype: str = ""
    schema: str = ""
    history: bool = True
    images: Images = "own"


@dataclass(frozen=True)
class SweepPlan:
    """What is to be driven: every entrant in every world, scenario and seed."""

    entrants: tuple[Entrant, ...]
    worlds: tuple[str, ...]
    scenarios: tuple[str, ...]
    seeds: tuple[int, ...] | None  # None: those that each scenario names
    latency: Latency | None
    benchmarks: bool = True


@dataclass(frozen=True)
class Entry:
    """One drive of a sweep: the job, and what results call its planner."""

    label: str
    job: Job


def read_plan(path: Path) -> SweepPlan:
    """Read and check a sweep plan.

    Raises:
        SweepPlanError: not YAML, an unknown key, a wrong kind of value, two entrants of one label.
        ScenarioError, UnknownPlannerError, CheckpointError: a name that does not exist.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SweepPlanError(f"cannot read the sweep plan {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SweepPlanError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from error
    return parse_plan(data, path.name, path.parent)


def parse_plan(data: Any, name: str = "plan", folder: Path | None = None) -> SweepPlan:
    """A checked `SweepPlan` from plain data; raises as `read_plan` does.  Scenario files are looked for in `folder`."""
    if not isinstance(data, Mapping):
        raise SweepPlanError(f"{name} must hold keys and values, first of all `planners: [...]`")
    known = ("planners", "worlds", "scenarios", "split", "seeds", "latency", "benchmarks")
    if unknown := sorted(str(key) for key in data if key not in known):
        raise SweepPlanError(f"{name}: unknown key {unknown[0]!r}; known are: {', '.join(known)}")
    if not data.get("planners"):
        raise SweepPlanError(f"{name}: key 'planners' is missing; write, say, `planners: [expert, constant-velocity]`")
    if data.get("scenarios") and data.get("split"):
        raise SweepPlanError(f"{name}: give 'scenarios' or 'split', not both")
    entrants = tuple(_entrant(each, name) for each in _list(data["planners"], "planners", name))
    labels = [entrant.label for entrant in entrants]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise SweepPlanError(f"{name}: two planners are called {twice!r}; give each its own `label:`")
    worlds = tuple(str(world) for world in _list(data.get("worlds") or ["reference"], "worlds", name))
    for world in worlds:
        if world not in WORLDS:
            raise SweepPlanError(f"{name}: no world {world!r}; there are: {', '.join(WORLDS)}")
    split = data.get("split")
    named = _list(data.get("scenarios") or scenario_names(None if split is None else str(split)), "scenarios", name)
    scenarios = tuple(dict.fromkeys(_scenario(str(each), folder) for each in named))
    for each in scenarios:
        load_scenario(each)
    benchmarks = data.get("benchmarks", True)
    if not isinstance(benchmarks, bool):
        raise SweepPlanError(f"{name}: 'benchmarks' is true or false, got {benchmarks!r}")
    seeds, latency = _seeds(data.get("seeds"), name), _latency(data.get("latency"), name)
    return SweepPlan(entrants, worlds, scenarios, seeds, latency, benchmarks)


def entries(plan: SweepPlan) -> tuple[Entry, ...]:
    """Every drive of a plan, in the order of its results: entrants, worlds, scenarios, seeds as they are written."""
    out = []
    everything = scenario_names()
    for entrant in plan.entrants:
        for world in plan.worlds:
            for scenario in plan.scenarios:
                for seed in load_scenario(scenario).seeds if plan.seeds is None else plan.seeds:
                    job = Job(
                        scenario=scenario,
                        seed=seed,
                        planner=entrant.name,
                        checkpoint=entrant.checkpoint,
                        decoder=entrant.decoder,
                        rollouts=entrant.rollouts,
                        device=entrant.device,
                        dtype=entrant.dtype,
                        schema=entrant.schema,
                        images=entrant.images,
                        donor=donor_of(scenario, everything) if entrant.images == "swapped" else "",
                        world=world,
                        use_history=entrant.history,
                        latency=plan.latency,
                        benchmarks=plan.benchmarks,
                    )
                    out.append(Entry(entrant.label if len(plan.worlds) == 1 else f"{entrant.label} in {world}", job))
    return tuple(out)


def donor_of(name: str, everything: Sequence[str]) -> str:
    """The scenario whose pictures stand in for those of `name`: half the list away, so another place and situation."""
    if name not in everything:
        return everything[0]
    return everything[(everything.index(name) + len(everything) // 2) % len(everything)]


def _entrant(data: Any, name: str) -> Entrant:
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, Mapping) or not data.get("name"):
        raise SweepPlanError(f"{name}: a planner is a name, or `{{name: ..., rollouts: ...}}`; got {data!r}")
    known = [field.name for field in fields(Entrant)]
    if unknown := sorted(str(key) for key in data if key not in known):
        raise SweepPlanError(f"{name}: unknown key {unknown[0]!r} of a planner; known are: {', '.join(known)}")
    entrant = Entrant(**{"label": str(data["name"]), **data})
    for key, value, kind in (("rollouts", entrant.rollouts, int), ("history", entrant.history, bool)):
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise SweepPlanError(f"{name}: {key} of {entrant.name!r} must be {kind.__name__}, got {value!r}")
    if entrant.rollouts < 1:
        raise SweepPlanError(f"{name}: rollouts of {entrant.name!r} must be at least 1")
    if entrant.images not in get_args(Images):
        allowed = ", ".join(get_args(Images))
        raise SweepPlanError(f"{name}: images {entrant.images!r} of {entrant.name!r} is not one of {allowed}")
    special = set(data) - {"name", "label"}
    if entrant.name in BASELINES and special:
        raise SweepPlanError(f"{name}: {entrant.name!r} is a baseline without a model; leave {min(special)!r} out")
    checkpoint_sha256(entrant.name, entrant.checkpoint)  # a wrong name is told before the first drive
    return entrant


def _scenario(name: str, folder: Path | None) -> str:
    """A scenario's name, or the whole path of its file: workers may run elsewhere."""
    is_file = name.endswith((".yaml", ".yml"))
    return str((folder / name).resolve()) if is_file and folder is not None else name


def _list(value: Any, key: str, name: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise SweepPlanError(f"{name}: {key!r} must be a list, got {value!r}; write `{key}: [{value}]`")
    return value


def _seeds(value: Any, name: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    seeds = tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, list | tuple) or not seeds:
        raise SweepPlanError(f"{name}: 'seeds' is a number above 0, counted from 0, or a list of seeds; got {value!r}")
    if any(not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 for seed in seeds):
        raise SweepPlanError(f"{name}: seeds are whole numbers from 0 on; got {value!r}")
    return tuple(dict.fromkeys(seeds))


def _latency(value: Any, name: str) -> Latency | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SweepPlanError(f"{name}: 'latency' is a number of seconds, got {value!r}; leave it out for sync mode")
    return Latency(float(value))

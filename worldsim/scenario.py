"""Scenarios: a town, a route, a start, the traffic around it and how long the drive may take; read from YAML.

`scenarios/*.yaml` are the evaluation scenarios (some on the held-out town); `training_scenario` draws as many more as
training needs, on the training towns only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from efficientgen.perception.route import point_at
from efficientgen.perception.types import ActorKind, Route
from efficientgen.worldsim.lane_routes import plan_route
from efficientgen.worldsim.script import SIDES, CutIn, Lead, SpeedChange, cut_in_from, lead_from
from efficientgen.worldsim.town import SCENARIO_DIR, TownError, TownMap, drivable_lanes, load_town, town_names
from efficientgen.worldsim.traffic import Stream, Walkers, successors

FAMILIES = (
    "free_road",
    "lead_vehicle",
    "braking_lead",
    "stop_and_go",
    "cut_in",
    "red_light",
    "left_turn",
    "right_turn",
    "roundabout",
    "yield",
    "pedestrian",
    "dense_traffic",
)
WEATHERS = ("day", "dusk", "night", "rain", "fog")
SPLITS = ("train", "heldout")
HELDOUT_TOWNS = ("maple", "oak")
SEEDS = (0, 1, 2, 3, 4)
EARLIEST_CLOCK_S = 18.0  # leaves time for the warm-up
_TRAINING_WEATHER = {"day": 0.76, "dusk": 0.08, "night": 0.05, "rain": 0.06, "fog": 0.05}

CUTTING = (ActorKind.CAR, ActorKind.CAR, ActorKind.TRUCK)


class ScenarioError(ValueError):
    """A scenario that does not exist or cannot be driven; the message says what to change."""


@dataclass(frozen=True)
class Scenario:
    """One drive to be made.  Positions in m along lanes, times in s, speeds in m/s."""

    name: str
    family: str
    description: str
    town: str
    split: str  # train | heldout: whether planners may have been trained in this town
    edges: tuple[str, ...]  # the ego's route
    start_pos: float  # of the rear axle, along the first edge's lane
    duration_s: float
    start_lane: int | None = None  # among the car lanes, 0 = rightmost; None: whichever needs fewest lane changes
    end_pos: float | None = None  # along the last lane; None: its middle
    start_speed: float = 0.0
    vehicles: int = 25
    pedestrians: int = 20
    clear_ahead: float = 40.0  # m of the ego's lane ahead of it that are empty at the start
    weather: str = "day"
    seeds: tuple[int, ...] = SEEDS
    handover_s: float = 4.0
    clock_s: float | None = None  # SUMO's clock at the start, which sets the signals' phase; None: by seed
    lead: Lead | None = None
    cut_in: CutIn | None = None
    walkers: tuple[Walkers, ...] = ()
    streams: tuple[Stream, ...] = ()


def scenario_names(split: str | None = None) -> tuple[str, ...]:
    """Names of the evaluation scenarios, sorted; of one split ("train" or "heldout") if asked."""
    if split is not None and split not in SPLITS:
        raise ScenarioError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
    names = sorted(path.stem for path in SCENARIO_DIR.glob("*.yaml"))
    return tuple(name for name in names if split is None or load_scenario(name).split == split)


def load_scenario(name_or_path: str | Path) -> Scenario:
    """Read and check one scenario: by name from the scenarios folder, or any YAML file by path.

    Raises:
        ScenarioError: no such scenario, a key that is unknown, missing or of the wrong kind, or an impossible route.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = SCENARIO_DIR / f"{name_or_path}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in SCENARIO_DIR.glob("*.yaml")))
        raise ScenarioError(f"no scenario {str(name_or_path)!r}; there are: {names}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(data, Mapping):
        raise ScenarioError(f"{path.name} must hold keys and values")
    return parse_scenario({"name": path.stem, **data})


def with_weather(scenario: Scenario, weather: str) -> Scenario:
    """The same drive under another sky; "" leaves it as it is.

    Raises:
        ScenarioError: no such weather.
    """
    if weather and weather not in WEATHERS:
        raise ScenarioError(f"weather {weather!r} is not one of {', '.join(WEATHERS)}")
    return replace(scenario, weather=weather or scenario.weather)


def parse_scenario(data: Mapping[str, Any]) -> Scenario:
    """A checked `Scenario` from plain data.

    Raises:
        ScenarioError: see `load_scenario`.
    """
    name = str(data.get("name", "?"))
    known = {f.name: f for f in fields(Scenario)}
    if unknown := sorted(set(data) - set(known)):
        raise ScenarioError(f"scenario {name!r}: unknown key {unknown[0]!r}; known are: {', '.join(known)}")
    needed = ("name", "family", "description", "town", "split", "edges", "start_pos", "duration_s")
    if missing := [key for key in needed if key not in data]:
        raise ScenarioError(f"scenario {name!r}: key {missing[0]!r} is missing")
    values = dict(data)
    try:
        values["edges"] = tuple(str(e) for e in data["edges"])
        values["seeds"] = tuple(int(s) for s in data.get("seeds", SEEDS))
        for key in ("start_pos", "duration_s", "end_pos", "start_speed", "handover_s", "clock_s", "clear_ahead"):
            if values.get(key) is not None:
                values[key] = float(values[key])
        for key in ("vehicles", "pedestrians", "start_lane"):
            if values.get(key) is not None:
                values[key] = int(values[key])
        if data.get("lead") is not None:
            values["lead"] = lead_from(data["lead"])
        if data.get("cut_in") is not None:
            values["cut_in"] = cut_in_from(data["cut_in"])
        flows = [Stream(**flow) for flow in data.get("streams", ())]
        values["streams"] = tuple(replace(flow, edges=tuple(flow.edges), every_s=float(flow.every_s)) for flow in flows)
        values["walkers"] = tuple(Walkers(**walker) for walker in data.get("walkers", ()))
        scenario = Scenario(**values)
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"scenario {name!r}: {error}") from error
    _check(scenario)
    return scenario


def _check(s: Scenario) -> None:
    def require(good: bool, what: str) -> None:
        if not good:
            raise ScenarioError(f"scenario {s.name!r}: {what}")

    for key, value, allowed in (
        ("family", s.family, FAMILIES),
        ("town", s.town, town_names()),
        ("split", s.split, SPLITS),
        ("weather", s.weather, WEATHERS),
    ):
        require(value in allowed, f"{key} {value!r} is not one of {', '.join(allowed)}")
    require((s.split == "heldout") == (s.town in HELDOUT_TOWNS), f"town {s.town!r} is not in split {s.split!r}")
    require(
        4 <= s.handover_s < s.duration_s, "handover_s must be at least 4 (the ego history) and end before duration_s"
    )
    require(0 <= s.start_speed <= 16, "start_speed must be within 0 and 16 m/s")
    require(
        0 <= s.vehicles <= 120 and 0 <= s.pedestrians <= 200, "at most 120 vehicles and 200 pedestrians, none below 0"
    )
    require(s.clock_s is None or s.clock_s >= EARLIEST_CLOCK_S, f"clock_s must be at least {EARLIEST_CLOCK_S:.0f} s")
    require(len(s.seeds) > 0, "needs at least one seed")
    town = load_town(s.town)
    try:
        route = plan_route(town, s.edges, s.start_lane, s.start_pos, s.end_pos)
        if s.cut_in:
            require(
                has_lane_beside(town, route, s.cut_in, 0.0) and has_lane_beside(town, route, s.cut_in, s.cut_in.at_m),
                f"there is no lane on the {s.cut_in.side} for cut_in at the start and {s.cut_in.at_m:.0f} m on",
            )
        for walker in s.walkers:
            require(town.net.hasEdge(walker.edge), f"walkers on unknown edge {walker.edge!r}")
        for stream in s.streams:
            require(stream.every_s >= 2, "a stream's every_s must be at least 2 s")
            plan_route(town, stream.edges)
    except TownError as error:
        raise ScenarioError(f"scenario {s.name!r}: {error}") from error


def has_lane_beside(town: TownMap, route: Route, cut_in: CutIn, s: float) -> bool:
    """Whether a car lane of the ego's direction runs beside the route, `s` m along it and where `cut_in` drives."""
    for ahead in (0.0, cut_in.ahead + 10.0):
        x, y, yaw = point_at(route, s + ahead)
        x, y = x - cut_in.sideways * 3.5 * math.sin(yaw), y + cut_in.sideways * 3.5 * math.cos(yaw)
        hit = town.lane_at(x, y, yaw)
        if hit is None or hit.lane.kind != "driving" or math.cos(hit.heading - yaw) < 0.9:
            return False
    return True


def training_scenario(town: str, seed: int, traffic: Literal["plain", "scripted"] = "plain") -> Scenario:
    """A random drive through a training town, balanced over turns; a pure function of its arguments.

    "scripted" adds a lead that brakes or stops and goes, or a vehicle that cuts in (then on a road of two lanes).

    Raises:
        ScenarioError: an unknown or held-out town.
    """
    if town in HELDOUT_TOWNS or town not in town_names():
        choices = ", ".join(name for name in town_names() if name not in HELDOUT_TOWNS)
        raise ScenarioError(f"town {town!r} is not for training; choose one of {choices}")
    here = load_town(town)
    rng = random.Random(f"{seed}/{town}/training")
    streets = sorted({lane.edge for lane in here.lanes if lane.kind == "driving"})
    wanted = rng.choice(("lL", "rR", "s", "lL", "rR"))
    start = rng.choice([e for e in streets if _long(here, e) and any(d in wanted for _, d in successors(here, e))])
    length = here.net.getEdge(start).getLength()
    start_pos = max(8.0, length - rng.uniform(25.0, 95.0))
    edges = [start, rng.choice([e for e, d in successors(here, start) if d in wanted])]
    _extend(here, edges, length - start_pos, rng)
    lead = None
    if rng.random() < 0.3:
        lead = Lead(rng.uniform(8.0, 30.0), rng.uniform(3.0, 8.0), rng.choice((ActorKind.CAR, ActorKind.TRUCK)))
    walkers: tuple[Walkers, ...] = ()
    if rng.random() < 0.35:
        walkers = (Walkers(rng.choice(edges[:2]), rng.uniform(4.0, 9.0)),)
    speed = rng.choice((0.0, rng.uniform(3.0, 0.9 * drivable_speed(here, start))))
    plain = Scenario(
        name=f"{town}-{seed}",
        family="dense_traffic",
        description=f"Random training drive {seed} in {town}",
        town=town,
        split="train",
        edges=tuple(edges),
        start_pos=start_pos,
        duration_s=40.0,
        end_pos=12.0,
        start_speed=min(speed, lead.speed) if lead else speed,
        vehicles=rng.randint(18, 55),
        pedestrians=rng.randint(10, 40),
        clear_ahead=rng.choice((14.0, 25.0, 60.0)),
        weather=rng.choices(list(_TRAINING_WEATHER), list(_TRAINING_WEATHER.values()))[0],
        seeds=(seed,),
        lead=lead,
        walkers=walkers,
    )
    return plain if traffic == "plain" else _with_script(here, plain, random.Random(f"{seed}/{town}/scripted"))


def _extend(town: TownMap, edges: list[str], total: float, rng: random.Random) -> None:
    """Random edges added to a route of `total` m until it is long enough for any drive."""
    while total < 380.0:
        total += town.net.getEdge(edges[-1]).getLength()
        options = successors(town, edges[-1])
        options = [(e, d) for e, d in options if e not in edges] or options  # a route that passes nowhere twice
        kind = rng.choice(sorted({d.lower() for _, d in options}))
        edges.append(rng.choice([e for e, d in options if d.lower() == kind]))


def _with_script(town: TownMap, plain: Scenario, rng: random.Random) -> Scenario:
    """A training drive with scripted traffic on top."""
    name = f"{plain.name}-scripted"
    if rng.random() < 0.4 and (drive := _cut_in_drive(town, plain, rng)) is not None:
        return replace(drive, name=name)
    kind, speed = rng.choice((ActorKind.CAR, ActorKind.CAR, ActorKind.TRUCK)), rng.uniform(5.0, 10.0)
    at_s, profile = rng.uniform(6.0, 10.0), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        stay, goes = rng.uniform(2.0, 5.0), rng.uniform(4.0, 9.0)
        profile += [SpeedChange(at_s, rng.choice((0.0, 0.0, 1.5))), SpeedChange(at_s + stay, goes)]
        at_s += stay + rng.uniform(5.0, 9.0)
    lead = Lead(rng.uniform(7.0, 18.0), speed, kind, tuple(profile), rng.uniform(2.5, 6.0))
    return replace(plain, name=name, lead=lead, start_speed=min(plain.start_speed, speed))


def _cut_in_drive(town: TownMap, plain: Scenario, rng: random.Random) -> Scenario | None:
    """`plain` moved to a road of two lanes where somebody cuts in; None where the town has no room for that."""
    wide = [e for e in sorted({lane.edge for lane in town.lanes if lane.kind == "driving"})
            if len(drivable_lanes(town, e)) > 1 and town.net.getEdge(e).getLength() > 90.0]  # fmt: skip
    for _ in range(8):
        start = rng.choice(wide)
        edges, start_pos = [start, rng.choice(successors(town, start))[0]], rng.uniform(5.0, 20.0)
        length = town.net.getEdge(start).getLength()
        _extend(town, edges, length - start_pos, rng)
        at_m = rng.uniform(20.0, max(25.0, length - start_pos - 55.0))
        side = rng.choice(SIDES)
        cut_in = CutIn(at_m, rng.uniform(4.0, 12.0), rng.uniform(4.0, 9.0), side, rng.choice(CUTTING))
        route = plan_route(town, edges, None, start_pos, 12.0)
        if has_lane_beside(town, route, cut_in, 0.0) and has_lane_beside(town, route, cut_in, at_m):
            return replace(plain, edges=tuple(edges), start_pos=start_pos, start_speed=rng.uniform(0.0, 9.0), lead=None,
                           walkers=(), clear_ahead=60.0, cut_in=cut_in)  # fmt: skip
    return None


def _long(town: TownMap, edge: str) -> bool:
    return bool(town.net.getEdge(edge).getLength() > 40.0)


def drivable_speed(town: TownMap, edge: str) -> float:
    """Speed limit of an edge, m/s."""
    return float(town.net.getEdge(edge).getSpeed())

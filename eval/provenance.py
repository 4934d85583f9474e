"""Where a result comes from: sha256 of the code that drove, of a model directory, of a scenario with its town."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import efficientgen
from efficientgen.eval.runner import host_facts
from efficientgen.planning.load import BASELINES, model_directory
from efficientgen.worldsim.scenario import load_scenario
from efficientgen.worldsim.town import SCENARIO_DIR
from efficientgen.worldsim.worlds import NANO, nano_directory

ROOMS = ("kernels", "perception", "planning", "worldsim", "eval")
PACKAGES = ("numpy", "torch", "libsumo", "panda3d")  # others decide no number of a drive


@cache
def code_sha256() -> str:
    """Of all Python files of the rooms that a drive runs through, names included."""
    root = Path(efficientgen.__file__).parent
    return _digest(root, (path for room in ROOMS for path in (root / room).rglob("*.py")))


@cache
def checkpoint_sha256(planner: str, checkpoint: str = "") -> str:
    """Of all files of the planner's model directory, names included; "" for planners without one.

    Raises:
        UnknownPlannerError: no such planner.
    """
    if planner in BASELINES and not checkpoint:
        return ""
    directory = model_directory(planner, checkpoint)
    return _digest(directory, (path for path in directory.rglob("*") if path.is_file()))


@cache
def world_sha256(world: str) -> str:
    """Of the files of the shipped nano world; "" for other worlds.

    Raises:
        WorldOptionsError: there is none.
    """
    if world != NANO:
        return ""
    directory = nano_directory()
    return _digest(directory, (path for path in directory.rglob("*") if path.is_file()))


@cache
def scenario_sha256(name: str) -> str:
    """Of what a scenario file says and the map of its town.

    Raises:
        ScenarioError: no such scenario.
    """
    scenario = load_scenario(name)
    town = (SCENARIO_DIR / "towns" / f"{scenario.town}.net.xml.gz").read_bytes()
    return hashlib.sha256(repr(scenario).encode() + town).hexdigest()


@cache
def package_versions() -> dict[str, str]:
    """Of the packages whose arithmetic, traffic or pictures decide how a drive goes; "" where one is not installed."""
    out = {}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = ""
    return out


def provenance() -> dict[str, object]:
    """What every result says of its origin, beside its own settings."""
    return {
        "package": efficientgen.__version__,
        "code_sha256": code_sha256(),
        "packages": package_versions(),
        "host": host_facts(),
    }


def _digest(root: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()

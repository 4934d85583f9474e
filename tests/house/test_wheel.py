"""The wheel carries all that a drive needs, under our two names only, and works where it is unpacked."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("efficientgen", "efficientgen_ros", "kernels", "perception", "planning", "worldsim", "eval")
SHARED = ("launch", "scenarios", "checkpoints")
DATA = "efficientgen-0.1.0.data/data/share/efficientgen"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """A wheel built from a copy of the sources, so that no build artefact is left in, or taken from, the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*SOURCES, *SHARED, "resource"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--wheel-dir", str(out), str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def test_wheel_has_our_two_names_only(unpacked):
    names = {p.name for p in unpacked.iterdir()}
    packages = {name for name in names if not name.endswith((".data", ".dist-info"))}
    assert packages == {"efficientgen", "efficientgen_ros"}
    assert len(names - packages) == 2


@pytest.mark.parametrize("source", SOURCES)
def test_wheel_holds_every_file_of_a_package(unpacked, source):
    """Modules, the report page's files and the type marker alike; a room lies below `efficientgen`."""
    packed = unpacked / source if source.startswith("efficientgen") else unpacked / "efficientgen" / source
    wanted = {p for p in files(ROOT / source) if not p.endswith((".md", ".pyc"))}
    assert wanted <= files(packed)


def test_wheel_holds_page_and_type_marker(unpacked):
    page = unpacked / "efficientgen" / "eval" / "page"
    assert {p.suffix for p in page.iterdir()} == {".css", ".html", ".js"}
    assert all(p.stat().st_size for p in page.iterdir())
    assert (unpacked / "efficientgen" / "py.typed").exists()


@pytest.mark.parametrize("name", SHARED)
def test_wheel_shares_every_file_of(unpacked, name):
    assert files(ROOT / name) == files(unpacked / DATA / name)


def test_towns_scenarios_and_launch_files_are_among_the_shared(unpacked):
    shared = files(unpacked / DATA)
    assert {
        "package.xml",
        "launch/drive.launch.py",
        "scenarios/maple_left.yaml",
        "scenarios/towns/maple.net.xml.gz",
    } <= shared


def test_unpacked_wheel_finds_its_scenarios(unpacked):
    code = (
        "import efficientgen; from efficientgen.worldsim.scenario import load_scenario, scenario_names; "
        "print(efficientgen.__file__, load_scenario('maple_left').town, len(scenario_names()))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "EFFICIENTGEN_SCENARIOS"}
    environment |= {"PYTHONPATH": str(unpacked), "EFFICIENTGEN_SHARE": str(unpacked / DATA)}
    done = subprocess.run([sys.executable, "-c", code], cwd=unpacked, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count = len(list((ROOT / "scenarios").glob("*.yaml")))
    assert done.stdout.split() == [str(unpacked / "efficientgen" / "__init__.py"), "maple", str(count)]

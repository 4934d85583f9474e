"""The package builds with colcon, with and without --symlink-install, and what it installs runs from there.

Slow, and skipped where colcon is missing: `pip install 'setuptools<80' colcon-common-extensions` brings it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.test_wheel import ROOT, SHARED, SOURCES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("colcon") is None, reason="needs colcon: pip install colcon-common-extensions"),
]
NODES = ("world", "planner", "vehicle", "safety", "recorder")


@pytest.fixture(scope="module", params=[False, True], ids=["copied", "symlinked"])
def installed(request, tmp_path_factory) -> Path:
    """The install prefix of the package, built from a copy of the sources."""
    workspace = tmp_path_factory.mktemp("workspace")
    source = workspace / "src" / "efficientgen"
    source.mkdir(parents=True)
    for name in (*SOURCES, *SHARED, "resource"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, source)
    command = ["colcon", "build", *(["--symlink-install"] if request.param else [])]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace / "install" / "efficientgen"


def run(installed: Path, executable: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an installed script by this Python, knowing of the package only what a sourced workspace would tell it."""
    (site,) = {*installed.glob("lib/python*/site-packages")}
    paths = [site, *site.parents[4].glob("build/efficientgen")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EFFICIENTGEN")}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "AMENT_PREFIX_PATH": str(installed)}
    script = installed / "lib" / "efficientgen" / executable
    return subprocess.run([sys.executable, str(script), *arguments], cwd=installed, env=environment,
                          capture_output=True, text=True, timeout=120)  # fmt: skip


def test_everything_is_where_ros_looks_for_it(installed):
    share = installed / "share"
    assert (share / "ament_index/resource_index/packages/efficientgen").exists()
    assert (share / "efficientgen/package.xml").exists()
    for name in SHARED:
        wanted = {p.relative_to(ROOT) for p in (ROOT / name).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        assert all((share / "efficientgen" / path).exists() for path in wanted), f"some of {name} is missing"
    scripts = {p.name for p in (installed / "lib/efficientgen").iterdir()}
    assert {"efficientgen", *(f"{node}_node" for node in NODES)} <= scripts


def test_the_command_runs_from_there_and_finds_its_data(installed):
    assert "drive" in run(installed, "efficientgen", "--help").stdout
    done = run(installed, "efficientgen", "models", "--json")
    assert done.returncode == 0, done.stderr
    assert "nano-ddrive" in done.stdout and str(installed.parents[1]) in done.stdout, "the installed checkpoint"

"""A closed loop in the imagined world: the runner with a planner that looks, and the command with its report."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from efficientgen.eval.runner import drive
from efficientgen.perception.types import CHUNK_NS, Source
from efficientgen.planning.views import VIEWS
from tests.eval.synthetic import FakeOracle, FakePlanner, scenario
from tests.worldsim.sana_files import write_release
from tests.worldsim.test_sana_world import CAMERA, Scene

pytest.importorskip("diffusers")
from efficientgen.worldsim.sana.checkpoint import MissingWorldError, WrongVariantError  # noqa: E402
from efficientgen.worldsim.sana.world import SanaWorld  # noqa: E402
from efficientgen.worldsim.worlds import (  # noqa: E402
    CamerasMissingError,
    WorldOptionsError,
    cameras_of,
    check_world,
    load_world,
    require_cameras,
)
from efficientgen_ros.cli import app  # noqa: E402


class Looking(FakePlanner):
    """Wants the front camera twice."""

    frames_per_camera = 2


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("release")
    write_release(path)
    return path


@pytest.fixture(scope="module")
def world(directory: Path) -> SanaWorld:
    return SanaWorld.from_pretrained(directory, camera=CAMERA, opening=Scene())


def test_a_planner_that_takes_one_front_camera_drives(world: SanaWorld):
    oracle = FakeOracle()
    planner = Looking(oracle.route)
    log = drive(scenario(6.0), 0, planner, world, oracle=oracle, keep_frames=True)
    assert log.world == "sana-wm" and "sana-wm 4x48, 4 steps" in log.notes["renderer"]
    driven = [step for step in log.steps if step.stamp_ns >= log.handover_ns]
    assert driven and all(step.verdict.source is Source.NOMINAL for step in driven), log.notes["events"]
    for seen in planner.seen:
        assert list(seen.cameras) == ["FRONT"]
        assert [f.stamp_ns for f in seen.cameras["FRONT"]] == [seen.stamp_ns - CHUNK_NS, seen.stamp_ns]
    assert all(len(step.frames.cameras["FRONT"]) == 4 for step in log.steps)
    assert world.diagnostics()["chunks"] == len(log.steps) - 1


def test_planners_with_more_cameras_are_told(world: SanaWorld):
    planner = FakePlanner(FakeOracle().route)
    drawn = cameras_of("sana-wm")
    assert drawn == tuple(camera.name for camera in world.rig)
    require_cameras(planner, drawn)
    planner.view = VIEWS["nuscenes"]
    require_cameras(planner, drawn)
    planner.view = VIEWS["wod-e2e"]
    with pytest.raises(CamerasMissingError, match="FRONT_LEFT, FRONT_RIGHT too, this world draws FRONT only"):
        require_cameras(planner, drawn)
    require_cameras(planner, cameras_of("reference"))


SHORT = (
    "family: free_road\ndescription: A few seconds of road\ntown: cedar\nsplit: train\n"
    "edges: [n0-n13, n13-n5]\nstart_pos: 10.0\nduration_s: 4.8\nstart_speed: 4.0\nvehicles: 4\npedestrians: 4\n"
)


def test_the_command_drives_in_it_and_notes_what_it_cost(directory: Path, tmp_path: Path):
    pytest.importorskip("libsumo")
    pytest.importorskip("panda3d")
    (tmp_path / "short.yaml").write_text(SHORT)
    where = ["--world", "sana-wm", "--world-dir", str(directory), "--world-device", "cpu", "--in-process"]
    what = ["drive", str(tmp_path / "short.yaml"), "--planner", "constant-velocity", "--no-baselines", "--json"]
    done = CliRunner().invoke(app, [*what, *where, "--runs", str(tmp_path / "runs")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "<video" in Path(json.loads(done.stdout)["report"]).read_text()
    (notes,) = (tmp_path / "runs").rglob("log*.json")
    text = notes.read_text()
    assert '"chunk_p50_s"' in text and '"chunk_p99_s"' in text and '"state_bytes"' in text


@pytest.mark.parametrize(
    ("name", "folder", "remedy"), [("sana-wm", None, "give --world-dir"), ("reference", Path("x"), "imagined world's")]
)
def test_options_that_do_not_go_together_are_told_with_the_remedy(name, folder, remedy):
    with pytest.raises(WorldOptionsError, match=remedy):
        check_world(name, folder)


def test_a_missing_directory_another_release_and_a_device_that_is_none_are_told(directory: Path, tmp_path: Path):
    check_world("reference", None)
    check_world("sana-wm", directory)
    with pytest.raises(MissingWorldError, match="is no directory"):
        check_world("sana-wm", tmp_path / "nowhere")
    (tmp_path / "dit").mkdir()
    (tmp_path / "dit" / "sana_wm_1600m_720p.safetensors").touch()
    with pytest.raises(WrongVariantError, match="bidirectional SANA-WM; streaming weights are needed"):
        check_world("sana-wm", tmp_path)
    with pytest.raises(WorldOptionsError, match="abacus cannot be used here"):
        load_world("sana-wm", directory, "abacus")

"""Imagined beside reference pictures, and videos of drives whose world has pictures at plan stamps only."""

from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval.beside import beside, compared
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.video import Scene
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import CameraFrame, OracleFrame, SensorFrames
from efficientgen.worldsim.reference import world as reference
from tests.eval.synthetic import FakeOracle


def picture(stamp_ns: int) -> np.ndarray:
    """What a made-up town looks like at one moment."""
    rng = np.random.default_rng(stamp_ns)
    return np.repeat(np.repeat(rng.integers(60, 200, (3, 14, 28, 3), np.uint8), 8, 1), 8, 2)


class Town:
    """In place of the reference world: counts its pictures, shows `picture`."""

    drawn = 0

    def __init__(self, rig) -> None: ...

    def reset(self, town: str, weather: str, seed: int) -> None: ...

    def render(self, frame: OracleFrame) -> np.ndarray:
        Town.drawn += 1
        return picture(frame.stamp_ns)

    def close(self) -> None: ...


def imagined(log: StepLog, off: int = 0) -> StepLog:
    """The drive with one picture per step and camera, `off` brighter than the town."""

    def frames(tick: OracleFrame) -> SensorFrames:
        seen = picture(tick.stamp_ns) + np.uint8(off)
        cameras = {c.name: (CameraFrame(c.name, tick.stamp_ns, seen[k], c.intrinsics, c.camera_to_ego),)
                   for k, c in enumerate(NANO_RIG)}  # fmt: skip
        return SensorFrames((tick.stamp_ns,), cameras)

    return replace(log, steps=tuple(replace(step, frames=frames(step.ticks[-1])) for step in log.steps))


@pytest.fixture
def town(monkeypatch):
    monkeypatch.setattr(reference, "ReferenceWorld", Town)
    Town.drawn = 0


def test_a_dream_of_the_very_pictures_is_perfect_and_a_brighter_one_is_measured(log, town):
    same, brighter = beside(imagined(log)), beside(imagined(log, off=10))
    assert same is not None and brighter is not None
    assert (same.psnr_db == 60.0).all() and same.figures["ssim"] == 1.0
    assert brighter.psnr_db == pytest.approx(20 * np.log10(255 / 10), abs=0.01)
    assert same.times_s[0] == pytest.approx(0.4) and len(same.times_s) == len(log.steps) // 2
    assert same.strip[:3] == b"\xff\xd8\xff"


def test_the_report_gets_a_section_and_the_notes_the_figures(log, town):
    told, html = compared(imagined(log, off=10), "nano")
    assert told.notes["beside_reference"]["psnr_db"] == pytest.approx(28.13, abs=0.01)
    assert "28.1 dB" in html and "data:image/jpeg;base64," in html


def test_the_reference_world_is_not_compared_with_itself_nor_other_cameras_with_ours(log, town):
    drive = imagined(log)
    assert compared(drive, "reference") == (drive, "")
    bare = replace(log, steps=tuple(replace(step, frames=None) for step in log.steps))
    assert compared(bare, "nano") == (bare, "")
    assert Town.drawn == 0


def test_a_video_shows_the_newest_picture_and_draws_its_path_from_where_it_was_taken(log, oracle: FakeOracle):
    scene = Scene(imagined(log), oracle.town)
    first, second = log.steps[0], log.steps[1]
    assert scene._newest(0, 0, "FRONT") is None, "nothing has been seen yet"
    frame, seen = scene._newest(1, 1, "FRONT")
    assert frame.stamp_ns == seen.stamp_ns == first.ticks[-1].stamp_ns
    frame, seen = scene._newest(1, len(second.ticks) - 1, "FRONT")
    assert frame.stamp_ns == seen.stamp_ns == second.ticks[-1].stamp_ns
    whole = Scene(log, oracle.town)
    for k, tick in enumerate(second.ticks):
        frame, seen = whole._newest(1, k, next(iter(second.frames.cameras)))
        assert frame.stamp_ns == seen.stamp_ns == tick.stamp_ns

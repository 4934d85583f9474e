"""The shipped nano world: the file of its card, within its size; a dream that is more than a memory of the start."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from efficientgen import share
from efficientgen.eval.step_log import Step
from efficientgen.perception.rig import NANO_RIG
from efficientgen.worldsim.nano.checkpoint import WEIGHTS
from efficientgen.worldsim.worlds import load_world, nano_directory

SECONDS = 4.0  # of driving: ten pictures, nine of them dreamed


def test_its_card_names_the_file_and_all_that_ships_stays_small():
    weights = nano_directory() / WEIGHTS
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (weights.parent / "README.md").read_text()
    assert weights.stat().st_size <= 15 * 2**20
    assert sum(path.stat().st_size for path in share("checkpoints").rglob("*.safetensors")) <= 32 * 2**20


def test_its_dream_of_a_held_out_scenario_is_nearer_to_the_reference_than_the_last_real_picture():
    pytest.importorskip("panda3d")
    pytest.importorskip("libsumo")
    from efficientgen.eval.runner import drive
    from efficientgen.worldsim.reference.world import ReferenceWorld
    from efficientgen.worldsim.scenario import load_scenario

    scenario = replace(load_scenario("maple_right"), duration_s=SECONDS)
    world, truth = load_world("nano", device="cpu"), ReferenceWorld(NANO_RIG)
    try:
        log = drive(scenario, 0, "expert", world, keep_frames=True)
        truth.reset(scenario.town, scenario.weather, 0)
        dreamed = [pictures(step) for step in log.steps]
        real = [truth.render(step.ticks[-1]) / 255.0 for step in log.steps]
    finally:
        world.close()
        truth.close()
    assert len(dreamed) >= 8
    assert error(dreamed[0], real[0]) == 0.0, "the first picture is the recording"
    for seen, shown in zip(dreamed[4:], real[4:], strict=True):
        assert error(seen, shown) < 0.7 * error(real[0], shown)
        assert seen.std() > 0.5 * shown.std(), "grey would be near to everything"


def pictures(step: Step) -> np.ndarray:
    """(3, H, W, 3) in [0, 1] at the step's plan stamp."""
    return np.stack([step.frames.cameras[camera.name][-1].image for camera in NANO_RIG]) / 255.0


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a - b).mean())

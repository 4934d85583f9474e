"""A checkpoint in a released layout drives in closed loop: a few plans of random weights, under the safety ladder."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("libsumo")
pytest.importorskip("panda3d")

from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import scored_steps
from efficientgen.perception.types import Source
from efficientgen.planning.load import load_planner
from efficientgen.worldsim.reference.world import ReferenceWorld
from efficientgen.worldsim.scenario import load_scenario
from tests.planning.tiny_release import write_release


def test_a_released_layout_drives(tmp_path):
    """The nuScenes form, which looks back furthest: its first plan needs frames from before the hand-over."""
    planner = load_planner("fast-ddrive", write_release(tmp_path, "fast-ddrive"), schema="nuscenes")
    world = ReferenceWorld()
    log = drive(replace(load_scenario("maple_red"), duration_s=5.6), 0, planner, world)
    world.close()
    steps = scored_steps(log)
    assert len(steps) >= 3 and not log.notes["events"]
    for step in steps:
        assert step.plan is not None and step.plan.waypoints.shape == (6, 2)
        assert step.plan.stats.engine == "torch-cpu-float32" and step.verdict.source is not Source.EXPERT
        assert np.isfinite([step.ego.x, step.ego.y, step.ego.speed]).all()
    assert "3 frames over 0.8 s, trained on 1.0 s" in steps[0].plan.stats.note

"""Broken sensors are found, dark and standing ones are not."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from efficientgen.perception.health import (
    Expected,
    Finding,
    UnfitObservationError,
    findings,
    require_fit,
    require_readable,
)
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import (
    CHUNK_NS,
    HISTORY_PERIOD_NS,
    HISTORY_STATES,
    CameraFrame,
    Command,
    EgoHistory,
    EgoState,
    Observation,
)

NAMES = tuple(camera.name for camera in NANO_RIG)
EXPECTED = Expected(NAMES, 2)
NOW = 8_000_000_000


def observation(speed: float = 8.0, contrast: float = 30.0, mean: float = 90.0) -> Observation:
    """A textured picture per camera and stamp, and a car that drives a gentle bend at `speed`."""
    rate = 0.02 * speed
    states = []
    for k in range(1 - HISTORY_STATES, 1):
        t = k * HISTORY_PERIOD_NS / 1e9
        x, y = (speed * t, 0.0) if rate == 0 else (math.sin(rate * t) / 0.02, (1 - math.cos(rate * t)) / 0.02)
        states.append(EgoState(NOW + k * HISTORY_PERIOD_NS, x, y, rate * t, speed, 0.0, rate, 0.05))
    cameras = {}
    for i, camera in enumerate(NANO_RIG):
        frames = []
        for k in (1, 0):
            rng = np.random.default_rng([i, k])
            image = np.clip(rng.normal(mean, contrast, (camera.height, camera.width, 3)), 0, 255).astype(np.uint8)
            frames.append(CameraFrame(camera.name, NOW - k * CHUNK_NS, image, camera.intrinsics, camera.camera_to_ego))
        cameras[camera.name] = tuple(frames)
    return Observation(NOW, cameras, EgoHistory(tuple(states)), Command.GO_STRAIGHT)


def with_frames(seen: Observation, name: str, change) -> Observation:
    frames = tuple(change(k, frame) for k, frame in enumerate(seen.cameras[name]))
    return replace(seen, cameras={**seen.cameras, name: frames})


def with_states(seen: Observation, change) -> Observation:
    states = tuple(change(k, state) for k, state in enumerate(seen.history.states))
    return replace(seen, history=EgoHistory(states))


def found(seen: Observation, expected: Expected = EXPECTED) -> set[Finding]:
    return {finding for finding, _ in findings(seen, expected)}


def frozen(speed: float) -> Observation:
    held = observation(speed)
    return with_frames(held, "FRONT", lambda k, f: replace(f, image=held.cameras["FRONT"][0].image))


@pytest.mark.parametrize(
    ("seen", "finding"),
    [
        (replace(observation(), cameras={n: observation().cameras[n] for n in NAMES[:2]}), Finding.MISSING),
        (with_frames(observation(), "FRONT", lambda k, f: replace(f, image=np.zeros_like(f.image))), Finding.BLANK),
        (with_frames(observation(), "FRONT", lambda k, f: replace(f, image=0 * f.image + 255)), Finding.BLANK),
        (with_frames(observation(), "FRONT", lambda k, f: replace(f, stamp_ns=f.stamp_ns - CHUNK_NS)), Finding.STALE),
        (with_frames(observation(), "FRONT", lambda k, f: replace(f, stamp_ns=f.stamp_ns + CHUNK_NS)), Finding.STALE),
        (frozen(8.0), Finding.FROZEN),
        (
            with_states(observation(), lambda k, s: replace(s, stamp_ns=s.stamp_ns - (10**9 if k < 8 else 0))),
            Finding.HISTORY_STAMPS,
        ),
        (with_states(observation(), lambda k, s: replace(s, stamp_ns=s.stamp_ns + 10**9)), Finding.HISTORY_STAMPS),
        (with_states(observation(), lambda k, s: replace(s, x=s.x + (3.0 if k > 9 else 0.0))), Finding.HISTORY_POSES),
        (with_states(observation(), lambda k, s: replace(s, speed=math.nan if k == 3 else 8.0)), Finding.NOT_FINITE),
    ],
)
def test_what_is_broken_is_found_and_named(seen: Observation, finding: Finding):
    assert found(seen) == {finding}
    with pytest.raises(UnfitObservationError, match=finding.value) as error:
        require_fit(seen, EXPECTED)
    assert error.value.findings == (finding,)


@pytest.mark.parametrize(
    "seen",
    [
        observation(),
        observation(speed=0.0),
        observation(contrast=5.0, mean=12.0),  # far darker and flatter than any night or fog that is drawn
        frozen(0.0),  # nothing moves: the same picture is the truth
        frozen(0.5),
        with_states(observation(12.0), lambda k, s: replace(s, speed=12.0 - 0.1 * k)),  # speeds a little off
    ],
)
def test_what_is_healthy_passes(seen: Observation):
    require_fit(seen, EXPECTED)
    assert findings(seen, EXPECTED) == ()


def test_a_planner_without_eyes_needs_no_cameras():
    require_fit(replace(observation(), cameras={}), Expected(NAMES, 0))


def test_the_checks_cost_less_than_a_millisecond():
    seen = observation()
    costs = []
    for _ in range(40):
        began = time.process_time()
        require_fit(seen, EXPECTED)
        costs.append(time.process_time() - began)
    assert float(np.percentile(costs, 25)) < 1e-3


def test_night_and_fog_of_the_rendered_world_are_no_faults():
    """The flattest pictures that the world draws, of every weather; the fault campaigns count false alarms on all."""
    pytest.importorskip("libsumo")
    pytest.importorskip("panda3d")
    from efficientgen.eval.metrics import all_ticks
    from efficientgen.eval.runner import drive
    from efficientgen.worldsim.reference.world import ReferenceWorld
    from efficientgen.worldsim.scenario import WEATHERS, load_scenario

    ticks = all_ticks(drive(replace(load_scenario("birch_dense"), duration_s=16.4), 0, "expert"))
    seen, world = observation(), ReferenceWorld()
    for weather in WEATHERS:
        world.reset(ticks[0].town, weather, 0)
        for k in (80, 160):
            cameras = world.step((ticks[k - 4], ticks[k])).cameras
            states = tuple(replace(s, stamp_ns=s.stamp_ns + ticks[k].stamp_ns - NOW) for s in seen.history.states)
            history = EgoHistory(states)
            require_fit(Observation(ticks[k].stamp_ns, cameras, history, Command.GO_STRAIGHT), EXPECTED)
    world.close()


def picture(image) -> Observation:
    return with_frames(observation(), "FRONT", lambda k, f: replace(f, image=image if k else f.image))


def calibrated(**change) -> Observation:
    return with_frames(observation(), "FRONT", lambda k, f: replace(f, **change))


@pytest.mark.parametrize(
    ("seen", "finding", "words"),
    [
        (picture(np.zeros((0, 224, 3), np.uint8)), Finding.NOT_A_PICTURE, "empty picture of 224x0"),
        (picture(np.zeros((112, 224), np.uint8)), Finding.NOT_A_PICTURE, r"uint8 \(112, 224\)"),
        (picture(np.zeros((112, 224, 4), np.uint8)), Finding.NOT_A_PICTURE, r"\(H, W, 3\) RGB is wanted"),
        (picture(np.zeros((112, 224, 3))), Finding.NOT_A_PICTURE, "float64"),
        (picture(None), Finding.NOT_A_PICTURE, "NoneType"),
        (picture(np.zeros((56, 224, 3), np.uint8)), Finding.NOT_A_PICTURE, "changes its size"),
        (calibrated(intrinsics=np.zeros((3, 3))), Finding.CALIBRATION, "cannot be inverted"),
        (calibrated(intrinsics=np.full((3, 3), np.inf)), Finding.CALIBRATION, "finite"),
        (calibrated(camera_to_ego=np.eye(3)), Finding.CALIBRATION, r"\(4, 4\)"),
        (
            replace(observation(), cameras={**observation().cameras, "REAR": observation().cameras["FRONT"]}),
            Finding.SURPLUS,
            "REAR; the rig has",
        ),
        (
            replace(observation(), history=EgoHistory(observation().history.states[3:])),
            Finding.HISTORY_SHORT,
            "13 of 16",
        ),
        (replace(observation(), history=EgoHistory(())), Finding.HISTORY_SHORT, "0 of 16"),
        (with_states(observation(), lambda k, s: replace(s, x=1e9)), Finding.ABSURD, r"x 1e\+09"),
        (with_states(observation(), lambda k, s: replace(s, speed=-400.0)), Finding.ABSURD, "speed -400"),
    ],
)
def test_what_no_model_can_read_is_found_before_all_else(seen, finding, words):
    assert found(seen) == {finding}
    with pytest.raises(UnfitObservationError, match=words):
        require_fit(seen, EXPECTED)
    if finding is not Finding.SURPLUS:  # which cameras there are beside is the rig's business, not the planner's
        with pytest.raises(UnfitObservationError, match=words):
            require_readable(seen, EXPECTED)


def test_old_frozen_and_leaping_observations_are_readable():
    require_readable(frozen(8.0), EXPECTED)
    require_readable(replace(observation(), stamp_ns=NOW + 10**9), EXPECTED)
    require_readable(replace(observation(), cameras={}), Expected(NAMES, 0))

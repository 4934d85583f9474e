"""What crosses the wire comes back exactly: every float64 of a drive, through CDR bytes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import deserialize_message, serialize_message

from efficientgen.perception.rig import NANO_RIG, Camera
from efficientgen.perception.types import (
    NS,
    TICK_NS,
    Actor,
    ActorKind,
    CameraFrame,
    DecodeStats,
    EgoState,
    OracleFrame,
    Plan,
    Source,
    Trajectory,
    Verdict,
)
from efficientgen_ros import codec, messages


def wire(message):
    """The message as another process gets it."""
    return deserialize_message(serialize_message(message), type(message))


def random_ego(rng: np.random.Generator, stamp: int) -> EgoState:
    values = [round(float(v), 9) + 0.0 for v in rng.normal(0.0, 200.0, 6)]
    yaw = round(float(rng.uniform(-math.pi, math.pi)), 9) + 0.0
    return EgoState(stamp, values[0], values[1], yaw, *values[2:])


def test_ego_states_come_back_bit_for_bit():
    rng = np.random.default_rng(0)
    states = [random_ego(rng, k * TICK_NS) for k in range(2000)]
    states += [replace(states[0], yaw=yaw) for yaw in (3.141592653, -3.141592653, 0.0, 1e-9, -1e-9)]
    for state in states:
        join = messages.EgoJoin()
        odometry, acceleration, steering = map(wire, messages.ego_messages(state))
        assert join.add(steering) is None and join.add(odometry) is None
        assert join.add(acceleration) == state


def test_states_of_different_ticks_never_mix():
    rng = np.random.default_rng(1)
    states = [random_ego(rng, k * TICK_NS) for k in range(4)]
    by_topic = list(zip(*(messages.ego_messages(state) for state in states), strict=True))
    join = messages.EgoJoin()
    joined = [state for topic in by_topic for message in topic if (state := join.add(message)) is not None]
    assert joined == states


def test_a_plan_keeps_its_waypoints_words_and_cost():
    rng = np.random.default_rng(2)
    plan = Plan(
        stamp_ns=7 * NS // 5,
        waypoints=rng.normal(0.0, 10.0, (20, 2)),
        times_s=np.arange(1, 21) * 0.25,
        sections={"critical_objects": [1, 0], "explanation": 'a "red" light', "distance": 0.1 + 0.2},
        text="{...}",
        rollouts=rng.normal(size=(3, 20, 2)),
        spread_m=rng.normal(size=20),
        stats=DecodeStats("scaffold-spec", "torch", 5, 3, 30, 12, 40, {"decode": 0.1234567}),
    )
    bare = messages.plan_from(wire(messages.plan_message(plan)))
    back = messages.with_scaffold(bare, wire(messages.text(messages.scaffold_json(plan))).data)
    for name in ("waypoints", "times_s", "rollouts", "spread_m"):
        np.testing.assert_array_equal(getattr(back, name), getattr(plan, name), strict=True)
    assert (back.stamp_ns, back.sections, back.text, back.stats) == (
        plan.stamp_ns,
        plan.sections,
        plan.text,
        plan.stats,
    )


@pytest.mark.parametrize("times", [np.linspace(0.1, 5.0, 50), np.arange(1, 31) * 0.1, np.array([0.5, 1.0])])
def test_snapped_times_survive_messages(times):
    plan = messages.snap_times(Plan(0, np.zeros((len(times), 2)), times))
    np.testing.assert_allclose(plan.times_s, times, rtol=0.0, atol=1e-9)
    back = messages.plan_from(wire(messages.plan_message(plan)))
    np.testing.assert_array_equal(back.times_s, plan.times_s, strict=True)


def test_a_verdict_keeps_times_that_are_no_whole_nanoseconds():
    rng = np.random.default_rng(3)
    trajectory = Trajectory(4 * NS // 5, rng.normal(size=(9, 2)), np.cumsum(rng.uniform(0.05, 0.2, 9)))
    verdict = Verdict(6 * NS // 5, trajectory, Source.BRAKE, "no plan", 0.1 + 0.3)
    told = messages.ruling(verdict, plan_ns=-1, timed_out=True)
    ruled = codec.load(wire(messages.text(codec.dump(told))).data, messages.Ruling)
    back = messages.verdict_from(wire(messages.trajectory_message(trajectory)), ruled)
    np.testing.assert_array_equal(back.trajectory.points, trajectory.points, strict=True)
    np.testing.assert_array_equal(back.trajectory.times_s, trajectory.times_s, strict=True)
    assert replace(back, trajectory=trajectory) == verdict and ruled.timed_out


def test_an_oracle_frame_survives_json():
    rng = np.random.default_rng(4)
    actors = tuple(Actor(f"a{k}", kind, *rng.normal(size=7).tolist()) for k, kind in enumerate(ActorKind))
    frame = OracleFrame(5 * TICK_NS, "elm", random_ego(rng, 5 * TICK_NS), actors, {"n1": "GrYu"}, "rain")
    assert codec.load(wire(messages.text(codec.dump(frame))).data, OracleFrame) == frame


def test_cameras_and_pictures_come_back():
    rng = np.random.default_rng(5)
    for camera in (*NANO_RIG, Camera("ROOF", 32, 16, 20.5, (0.1, -0.2, 1.9), yaw_deg=-172.25, pitch_deg=7.5)):
        told = wire(messages.info_message(camera, 0)), wire(messages.mount_message(camera))
        known = messages.camera_from(camera.name, *told)
        assert known == camera
        image = rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        frame = CameraFrame(camera.name, 3 * TICK_NS, image, camera.intrinsics, camera.camera_to_ego)
        back = messages.frame_from(wire(messages.image_message(frame)), known)
        np.testing.assert_array_equal(back.image, image, strict=True)
        np.testing.assert_array_equal(back.camera_to_ego, frame.camera_to_ego)
        assert (back.name, back.stamp_ns) == (frame.name, frame.stamp_ns)


def test_a_picture_of_another_size_is_refused():
    camera = NANO_RIG[0]
    frame = CameraFrame(camera.name, 0, np.zeros((8, 8, 3), np.uint8), camera.intrinsics, camera.camera_to_ego)
    with pytest.raises(ValueError, match="expected rgb8 224x112, got rgb8 8x8"):
        messages.frame_from(messages.image_message(frame), camera)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("not json", "expected a JSON payload 'EgoState'"),
        (codec.dump({}, "Plan"), "got 'Plan' version 1"),
        (json.dumps({"schema": "EgoState", "version": 99, "data": {}}), "version 99; run all nodes from one"),
        (codec.dump({"stamp_ns": 0}, "EgoState"), "does not decode: KeyError: 'x'"),
    ],
)
def test_foreign_payloads_are_refused_with_the_reason(payload, words):
    with pytest.raises(codec.PayloadError, match=words):
        codec.load(payload, EgoState)

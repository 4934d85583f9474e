"""An observation holds exactly what happened, at the instants it claims, or is refused with the reason."""

from __future__ import annotations

import math

import numpy as np
import pytest

from efficientgen.perception.observation import (
    HISTORY_NS,
    NotEnoughHistoryError,
    ObservationBuilder,
    StampOrderError,
)
from efficientgen.perception.types import (
    CHUNK_NS,
    HISTORY_PERIOD_NS,
    HISTORY_STATES,
    NS,
    TICK_NS,
    CameraFrame,
    Command,
    EgoState,
    SensorFrames,
)


def state(stamp_ns: int) -> EgoState:
    """Motion that is linear in time, so that linear interpolation is exact; the yaw wraps at pi."""
    t = stamp_ns / NS
    yaw = math.remainder(3.0 + 0.2 * t, 2 * math.pi)
    return EgoState(stamp_ns, 3.0 * t, -t, yaw, 5.0 + t, 1.0, 0.2, 0.01 * t)


def frames(*stamps: int, cameras: tuple[str, ...] = ("FRONT", "FRONT_LEFT")) -> SensorFrames:
    def frame(name: str, stamp: int) -> CameraFrame:
        return CameraFrame(name, stamp, np.full((4, 8, 3), stamp // TICK_NS % 256, np.uint8), np.eye(3), np.eye(4))

    return SensorFrames(stamps, {name: tuple(frame(name, s) for s in stamps) for name in cameras})


def filled(until_ns: int, **options: int) -> ObservationBuilder:
    builder = ObservationBuilder(**options)
    for stamp in range(0, until_ns + 1, TICK_NS):
        builder.add_state(state(stamp))
        if stamp:
            builder.add_frames(frames(stamp))
    return builder


def test_history_ends_at_the_stamp_and_lies_on_the_motion_every_quarter_second():
    now = 10 * CHUNK_NS
    history = filled(now).build(now, Command.GO_LEFT).history.states
    assert len(history) == HISTORY_STATES
    assert [s.stamp_ns for s in history] == [now - k * HISTORY_PERIOD_NS for k in reversed(range(HISTORY_STATES))]
    for got in history:
        want = state(got.stamp_ns)
        assert got.x == pytest.approx(want.x, abs=1e-12)
        assert got.speed == pytest.approx(want.speed, abs=1e-12)
        assert math.remainder(got.yaw - want.yaw, 2 * math.pi) == pytest.approx(0.0, abs=1e-12)
    assert history[-1] == state(now), "a tick's own state is passed on untouched"


def test_history_yaw_is_continuous_where_the_state_wraps():
    now = 12 * CHUNK_NS
    yaws = [s.yaw for s in filled(now).build(now, Command.GO_STRAIGHT).history.states]
    assert {state(t).yaw > 0 for t in range(0, now, TICK_NS)} == {True, False}, "the motion crosses pi"
    assert np.abs(np.diff(yaws)).max() < 0.1


def test_frames_are_the_newest_and_one_gap_earlier():
    now = 10 * CHUNK_NS
    observation = filled(now).build(now, Command.GO_STRAIGHT)
    assert set(observation.cameras) == {"FRONT", "FRONT_LEFT"}
    for held in observation.cameras.values():
        assert [f.stamp_ns for f in held] == [now - CHUNK_NS, now]


def test_nothing_is_invented_before_enough_has_happened():
    builder = filled(9 * CHUNK_NS)
    assert 9 * CHUNK_NS < HISTORY_NS and not builder.ready(9 * CHUNK_NS)
    with pytest.raises(NotEnoughHistoryError, match="before the drive began"):
        builder.build(9 * CHUNK_NS, Command.GO_STRAIGHT)


def test_a_missing_tick_or_frame_is_named():
    now = 10 * CHUNK_NS
    builder = ObservationBuilder()
    for stamp in range(0, now + 1, TICK_NS):
        if stamp != 20 * TICK_NS:
            builder.add_state(state(stamp))
    builder.add_frames(frames(now))
    with pytest.raises(NotEnoughHistoryError, match=r"ego state at 2\.0 s"):
        builder.build(now, Command.GO_STRAIGHT)
    builder = ObservationBuilder()
    for stamp in range(0, now + 1, TICK_NS):
        builder.add_state(state(stamp))
    assert "none were ever added" in builder.missing(now)
    builder.add_frames(frames(now))
    assert builder.missing(now) == "FRONT frame at 3.6 s"


def test_an_expected_camera_is_waited_for():
    now = 10 * CHUNK_NS
    builder = ObservationBuilder(cameras=("FRONT", "FRONT_RIGHT"))
    for stamp in range(0, now + 1, TICK_NS):
        builder.add_state(state(stamp))
        if stamp:
            builder.add_frames(frames(stamp, cameras=("FRONT",)))
    assert builder.missing(now) == "FRONT_RIGHT frame at 3.6 s"


def test_a_planner_without_pixels_needs_no_frames():
    now = 10 * CHUNK_NS
    builder = ObservationBuilder(frames_per_camera=0)
    for stamp in range(0, now + 1, TICK_NS):
        builder.add_state(state(stamp))
    assert builder.build(now, Command.GO_STRAIGHT).cameras == {}


def test_buffers_stay_bounded_and_late_stamps_still_work():
    builder = filled(500 * TICK_NS)
    assert len(builder._states) < 80 and all(len(held) < 40 for held in builder._frames.values())
    assert builder.ready(500 * TICK_NS) and builder.ready(496 * TICK_NS) and not builder.ready(400 * TICK_NS)


def test_order_is_enforced():
    builder = filled(10 * TICK_NS)
    with pytest.raises(StampOrderError):
        builder.add_state(state(10 * TICK_NS))
    with pytest.raises(StampOrderError):
        builder.add_frames(frames(3 * TICK_NS))

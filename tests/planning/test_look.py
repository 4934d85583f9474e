"""Token labels lie where the projection puts road users, and the auxiliary loss falls only for right readings."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import Actor, ActorKind, EgoState, OracleFrame
from efficientgen.planning.train.look import KINDS, look_loss, token_labels

EGO = EgoState(0, 10.0, -4.0, math.radians(30), 5.0, 0.0, 0.0, 0.0)


def frame_with(*actors: Actor) -> OracleFrame:
    return OracleFrame(0, "elm", EGO, actors, {})


def actor(kind: ActorKind, forward: float, left: float) -> Actor:
    cos, sin = math.cos(EGO.yaw), math.sin(EGO.yaw)
    x, y = EGO.x + cos * forward - sin * left, EGO.y + sin * forward + cos * left
    size = (0.5, 0.5, 1.7) if kind is ActorKind.PEDESTRIAN else (4.5, 1.8, 1.5)
    return Actor("a", kind, x, y, EGO.yaw, 0.0, *size)


def test_a_person_straight_ahead_marks_the_front_cameras_middle():
    kinds, metres = token_labels(frame_with(actor(ActorKind.PEDESTRIAN, 1.7 + 20.0, 1.0)), NANO_RIG)
    marked = np.argwhere(kinds.reshape(3, 4, 8) == 1)
    # 20 m ahead, 1 m left: column (112 - 160 / 20) / 28 = 3.7; from 0.15 m above to 1.55 m below the axis: rows 1 and 2
    assert marked.tolist() == [[1, 1, 3], [1, 2, 3]]
    assert set(metres[kinds > 0].tolist()) == {20}


@pytest.mark.parametrize(("left", "camera"), [(15.0, 0), (-15.0, 2)])
def test_cars_beside_are_seen_by_their_camera(left, camera):
    kinds, _ = token_labels(frame_with(actor(ActorKind.CAR, 12.0, left)), NANO_RIG)
    assert {c for c, _, _ in np.argwhere(kinds.reshape(3, 4, 8)).tolist()} == {camera}
    assert set(kinds.tolist()) == {0, 1 << 2}


def test_behind_far_or_nobody_marks_nothing():
    behind, far = actor(ActorKind.CAR, -8.0, 0.0), actor(ActorKind.PEDESTRIAN, 60.0, 0.0)
    kinds, metres = token_labels(frame_with(behind, far), NANO_RIG)
    assert not kinds.any() and not metres.any()


def test_the_nearest_gives_the_distance_and_kinds_add_up():
    near, far = actor(ActorKind.PEDESTRIAN, 11.7, 0.5), actor(ActorKind.CAR, 31.7, 0.5)
    kinds, metres = token_labels(frame_with(far, near), NANO_RIG)
    both = kinds == 0b101
    assert both.any() and set(metres[both].tolist()) == {10}
    turned = replace(frame_with(far, near), actors=(near, far))
    assert np.array_equal(kinds, token_labels(turned, NANO_RIG)[0])


def test_right_readings_cost_less():
    kinds = torch.tensor([[1, 0, 4]], dtype=torch.uint8)
    metres = torch.tensor([[10, 0, 30]], dtype=torch.uint8)
    right = torch.full((1, 3, len(KINDS) + 1), -9.0)
    right[0, 0, 0], right[0, 2, 2] = 9.0, 9.0
    right[0, :, -1] = torch.tensor([math.log(10), 0.0, math.log(30)])
    wrong, far = right.clone(), right.clone()
    wrong[0, 0, 0] = -9.0
    far[0, 2, -1] += 1.0
    best = float(look_loss(right, kinds, metres))
    assert best < 0.01 and float(look_loss(wrong, kinds, metres)) > 1
    assert float(look_loss(far, kinds, metres)) - best == pytest.approx(0.05, abs=1e-5)

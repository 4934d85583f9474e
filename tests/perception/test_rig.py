"""Rigs as data: what the cameras cover, and that scaling changes the pixels, not the view."""

import numpy as np
import pytest

from efficientgen.perception.rig import LIDAR_TOP, NUSCENES_RIG, RIGS, WOD_RIG, project, scaled


def seen_around(rig) -> np.ndarray:
    """Whether each degree of azimuth, at the horizon 40 m away, is in some picture."""
    azimuth = np.radians(np.arange(360))
    ring = 40.0 * np.stack([np.cos(azimuth), np.sin(azimuth), np.full(360, 1.5 / 40)], 1)
    out = np.zeros(360, bool)
    for camera in rig:
        pixels, depth = project(ring, camera.intrinsics, camera.camera_to_ego)
        out |= (depth > 0) & (pixels[:, 0] >= 0) & (pixels[:, 0] < camera.width)
    return out


@pytest.mark.parametrize(("rig", "count"), [(NUSCENES_RIG, 6), (WOD_RIG, 8)])
def test_surround_rigs_leave_no_gap(rig, count):
    assert len({camera.name for camera in rig}) == count
    assert seen_around(rig).all()


def test_scaling_keeps_every_direction_at_its_share_of_the_picture():
    points = np.array([[12.0, 3.0, 0.2], [20.0, -5.0, 2.0]])
    for name, rig in RIGS.items():
        for camera, small in zip(rig, scaled(rig, rig[0].width // 2), strict=True):
            full, depth = project(points, camera.intrinsics, camera.camera_to_ego)
            half, same = project(points, small.intrinsics, small.camera_to_ego)
            assert np.allclose(half, full / 2) and np.allclose(depth, same), name
            assert small.height * 2 == camera.height


def test_a_width_without_a_whole_height_is_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        scaled(NUSCENES_RIG, 401)


def test_the_lidars_frame_is_x_right_y_forward():
    turn = LIDAR_TOP.lidar_to_ego[:3, :3]
    assert np.allclose(turn @ [0, 1, 0], [1, 0, 0]) and np.allclose(turn @ [1, 0, 0], [0, -1, 0])

"""What a planner is shown of a data set: its own rig, or the pictures as they are, and from when."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from efficientgen.eval.camera_fit import PictureError, SourceCamera, as_frame, covered, fit, read_picture
from efficientgen.eval.sight import sight_of
from efficientgen.perception.rig import NANO_RIG, Camera, project
from efficientgen.planning.constant_velocity import ConstantVelocity


def test_planners_say_what_they_look_at():
    assert sight_of(ConstantVelocity()).cameras == () and sight_of(ConstantVelocity()).ages_ns == ()
    nano = sight_of(SimpleNamespace(frames_per_camera=2))
    assert nano.ages_ns == (400_000_000, 0) and nano.rig == NANO_RIG and nano.target("FRONT") == NANO_RIG[1]
    view = SimpleNamespace(cameras=("FRONT",), frames=3, span_s=1.0, pixels=(100, 200))
    released = sight_of(SimpleNamespace(frames_per_camera=3, view=view))
    assert released.ages_ns == (1_000_000_000, 500_000_000, 0) and released.rig is None
    assert released.target("FRONT") is None and released.cameras == ("FRONT",)


def source(camera: Camera, distortion=(0.0,) * 5) -> SourceCamera:
    k = camera.intrinsics
    rows = tuple(tuple(map(float, row)) for row in camera.camera_to_ego)
    return SourceCamera(camera.width, camera.height, (k[0, 0], k[1, 1], k[0, 2], k[1, 2]), distortion, rows)


def test_a_picture_that_fits_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (112, 224, 3), np.uint8)
    frame = fit(7, image, source(NANO_RIG[0]), NANO_RIG[0])
    assert frame.image is image and (frame.name, frame.stamp_ns) == ("FRONT_LEFT", 7)
    assert as_frame("FRONT", 7, image, source(NANO_RIG[1])).image is image


@pytest.mark.parametrize("distortion", [(0.0,) * 5, (-0.3, 0.1, 0.002, -0.001, 0.0)])
def test_things_appear_where_the_target_would_see_them(distortion):
    """Bright dots in directions far away, drawn through the source's lens, are found by the target's pinhole."""
    wide = Camera("WIDE", 960, 640, 420.0, NANO_RIG[1].mount, yaw_deg=12.0, pitch_deg=2.0)
    target = NANO_RIG[1]
    rng = np.random.default_rng(1)
    for _ in range(12):
        far = np.array([[1000.0, rng.uniform(-300, 300), rng.uniform(-150, 150)]]) + target.mount
        image = np.zeros((640, 960, 3), np.uint8)
        (u, v), _ = (part[0] for part in project(far, wide.intrinsics, wide.camera_to_ego))
        k1, k2, p1, p2, k3 = distortion
        a, b = (u - 480) / 420, (v - 320) / 420
        r = a * a + b * b
        radial = 1 + k1 * r + k2 * r**2 + k3 * r**3
        x = 420 * (a * radial + 2 * p1 * a * b + p2 * (r + 2 * a * a)) + 480
        y = 420 * (b * radial + p1 * (r + 2 * b * b) + 2 * p2 * a * b) + 320
        rows, columns = np.mgrid[:640, :960] + 0.5
        image[np.hypot(columns - x, rows - y) < 5] = 255
        seen = fit(0, image, source(wide, distortion), target).image[..., 0].astype(float)
        rows, columns = np.mgrid[:112, :224] + 0.5
        found = np.array([(columns * seen).sum(), (rows * seen).sum()]) / seen.sum()
        wanted, _ = project(far, target.intrinsics, target.camera_to_ego)
        np.testing.assert_allclose(found, wanted[0], atol=0.5)


def test_what_the_source_does_not_see():
    narrow = Camera("NARROW", 320, 160, 400.0, NANO_RIG[1].mount, 0.0)
    assert covered(source(narrow), NANO_RIG[1]) < 0.5 < 0.99 < covered(source(NANO_RIG[1]), NANO_RIG[1])
    strong = source(narrow, (-0.4, 0.0, 0.0, 0.0, 0.0))  # would fold back into the picture far outside
    assert covered(strong, Camera("WIDE", 320, 160, 40.0, NANO_RIG[1].mount, 0.0)) < 0.1
    back = Camera("BACK", 320, 160, 200.0, NANO_RIG[1].mount, 180.0)
    assert covered(source(back), NANO_RIG[1]) == 0.0


def test_pictures_that_are_none(tmp_path):
    with pytest.raises(PictureError, match="fetch it again"):
        read_picture(tmp_path / "no.jpg", "no.jpg")
    with pytest.raises(PictureError):
        read_picture(b"\xff\xd8 no", "of a frame")
    Image.new("L", (8, 4), 9).save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png", "grey").shape == (4, 8, 3)

"""Rectified pictures show what the planner's own pinhole would have seen; lens models are OpenCV's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from efficientgen.perception.rectify import OPTICAL_FROM_CAMERA, Lens, LensError, PictureSizeError, Rectifier
from efficientgen.perception.rig import NANO_RIG, Camera
from efficientgen.perception.rig_file import mount_of

PLUMB = (-0.28, 0.09, 0.0011, -0.0007, -0.012)
RATIONAL = (0.12, 0.03, 0.0003, 0.0005, 0.004, 0.30, 0.05, 0.006)
FISHEYE = (0.02, -0.008, 0.003, -0.0005)
LENSES = {
    "pinhole": Lens(640, 360, 420.0, 424.0, 321.4, 176.8),
    "plumb_bob": Lens(640, 360, 420.0, 424.0, 321.4, 176.8, "plumb_bob", PLUMB),
    "rational_polynomial": Lens(640, 360, 420.0, 424.0, 321.4, 176.8, "rational_polynomial", RATIONAL),
    "equidistant": Lens(640, 360, 420.0, 424.0, 321.4, 176.8, "equidistant", FISHEYE),
}


def sky(rays: np.ndarray) -> np.ndarray:
    """A world at infinity: a smooth colour (N, 3) per direction of the ego frame."""
    x, y, z = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).T
    waves = [np.sin(9 * y + 2 * x), np.cos(11 * z - 3 * y), np.sin(7 * x + 8 * z)]
    return np.stack([127.5 + 110 * wave for wave in waves], 1)


def looked_at(lens: Lens, camera_to_ego: np.ndarray) -> np.ndarray:
    """What `lens` sees of that world, by OpenCV's inverse and not ours."""
    cv2 = pytest.importorskip("cv2")
    v, u = np.mgrid[: lens.height, : lens.width].astype(np.float64)
    pixels = np.stack([u.ravel(), v.ravel()], 1)[:, None]
    k = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    d = np.array(lens.coefficients or (0.0,) * 4)
    if lens.model == "equidistant":
        flat = cv2.fisheye.undistortPoints(pixels, k, d)[:, 0]
    else:
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
        flat = cv2.undistortPointsIter(pixels, k, d, np.eye(3), np.eye(3), criteria)[:, 0] if hasattr(
            cv2, "undistortPointsIter") else cv2.undistortPoints(pixels, k, d, criteria=criteria)[:, 0]  # fmt: skip
    optical = np.concatenate([flat, np.ones((len(flat), 1))], 1)
    seen = sky(optical @ OPTICAL_FROM_CAMERA @ camera_to_ego[:3, :3].T)
    return np.rint(seen).clip(0, 255).astype(np.uint8).reshape(lens.height, lens.width, 3)


@pytest.mark.parametrize("model", LENSES)
@pytest.mark.parametrize(("camera", "yaw"), [(NANO_RIG[1], 1.3), (NANO_RIG[0], 50.0)])
def test_the_planner_sees_the_same_directions_through_any_lens(model: str, camera: Camera, yaw: float):
    lens, mount = LENSES[model], mount_of((1.2, 0.3, 1.4), yaw, -2.0, 0.8)
    rectifier = Rectifier(lens, mount, camera)
    frame = rectifier.frame(looked_at(lens, mount), 7)
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    rays = np.stack([np.ones_like(u), (112 - u) / camera.focal, (56 - v) / camera.focal], -1).reshape(-1, 3)
    wanted = sky(rays @ camera.camera_to_ego[:3, :3].T).reshape(frame.image.shape)
    seen = frame.image.any(-1)
    assert 0.85 < rectifier.coverage <= 1.0 and abs(seen.mean() - rectifier.coverage) < 0.01
    assert np.abs(frame.image.astype(float) - wanted)[seen].max() < 6.0
    assert np.abs(frame.image.astype(float) - wanted)[seen].mean() < 0.6
    assert frame.stamp_ns == 7 and (frame.intrinsics == camera.intrinsics).all()
    assert frame.camera_to_ego[:3, 3] == pytest.approx((1.2, 0.3, 1.4)), "it stands where the foreign camera stands"
    assert (frame.camera_to_ego[:3, :3] == camera.camera_to_ego[:3, :3]).all(), "and looks where the planner's looks"


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial"])
def test_remapping_is_opencvs_undistort(model: str):
    cv2 = pytest.importorskip("cv2")
    lens = LENSES[model]
    image = np.random.default_rng(3).integers(0, 256, (36, 64, 3), np.uint8)
    image = cv2.resize(image, (640, 360), interpolation=cv2.INTER_CUBIC)
    pinhole = Camera("A", 640, 360, 420.0, (0, 0, 0), 0.0)
    ours = Rectifier(lens, np.eye(4), pinhole).picture(image)
    k = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    new = np.array([[420.0, 0, 319.5], [0, 420.0, 179.5], [0, 0, 1]])  # OpenCV's pixel centres are whole numbers
    x, y = cv2.initUndistortRectifyMap(k, np.array(lens.coefficients), np.eye(3), new, (640, 360), cv2.CV_32FC1)
    theirs = cv2.remap(image, x, y, cv2.INTER_LINEAR)
    inside = (x > 0) & (x < 639) & (y > 0) & (y < 359)
    assert inside.mean() > 0.8
    apart = np.abs(ours.astype(int) - theirs)[inside]
    assert apart.max() <= 6 and apart.mean() < 0.5, "OpenCV's weights have five bits"


@pytest.mark.parametrize("model", LENSES)
def test_unproject_is_the_inverse_of_project(model: str):
    lens = LENSES[model]
    pixels = np.random.default_rng(0).uniform((0, 0), (lens.width, lens.height), (500, 2))
    rays = lens.unproject(pixels)
    assert np.linalg.norm(rays, axis=1) == pytest.approx(1.0)
    back, seen = lens.project(rays)
    assert np.abs(back - pixels)[seen].max() < 1e-6 and seen.mean() > 0.98


def test_rays_beyond_the_fold_of_a_polynomial_are_not_seen():
    lens = Lens(640, 360, 420.0, 420.0, 320.0, 180.0, "plumb_bob", (-0.4, 0.0, 0.0, 0.0))
    angle = math.atan(math.sqrt(1 / 1.2))  # r (1 - 0.4 r^2) is largest where 1.2 r^2 = 1
    assert lens.field == pytest.approx(angle, abs=1e-3)
    _, seen = lens.project(np.array([[1.4, 0.0, 1.0], [0.3, 0.0, 1.0], [0.0, 0.0, -1.0]]))
    assert seen.tolist() == [False, True, False], "the first would land inside the picture again"


def test_the_planners_own_picture_passes_unchanged():
    camera = NANO_RIG[1]
    image = np.random.default_rng(1).integers(0, 256, (112, 224, 3), np.uint8)
    lens = Lens(224, 112, 160.0, 160.0, 111.5, 55.5)
    assert (Rectifier(lens, camera.camera_to_ego, camera).picture(image) == image).all()


def test_fine_pictures_are_averaged_not_sampled():
    camera = NANO_RIG[1]
    lens = Lens(1280, 720, 800.0, 800.0, 639.5, 359.5)
    stripes = np.zeros((720, 1280, 3), np.uint8)
    stripes[:, ::2] = 254  # finer than the planner's pixels
    picture = Rectifier(lens, camera.camera_to_ego, camera).picture(stripes)
    assert np.ptp(picture[4:-4, 4:-4].astype(int)) < 60 and abs(picture.mean() - 127) < 6


def test_refused_lenses_and_pictures():
    for model, coefficients in (("plumb_bob", (1.0,)), ("fancy", ()), ("equidistant", (1.0,) * 5)):
        with pytest.raises(LensError, match=r"coefficients|choose one of"):
            Lens(640, 360, 400.0, 400.0, 320.0, 180.0, model, coefficients)
    with pytest.raises(LensError, match="uncalibrated"):
        Lens(640, 360, 0.0, 0.0, 0.0, 0.0)
    with pytest.raises(PictureSizeError, match="320x240"):
        Rectifier(LENSES["pinhole"], np.eye(4), NANO_RIG[1]).picture(np.zeros((240, 320, 3), np.uint8))

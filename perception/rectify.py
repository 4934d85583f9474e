"""Foreign cameras to the planner's pinhole: lens models, their inverses, and a picture remapped with a cached map.

A planner is trained on pinholes of one focal length and direction; a car's cameras are larger, distorted and look
elsewhere.  A turn about the optical centre and a lens change nothing that depends on depth, so both are undone exactly:
every pixel of the planner's picture is a ray, and the ray is looked up in the foreign picture.  Models are those that
`sensor_msgs/CameraInfo` names `plumb_bob`, `rational_polynomial` (OpenCV, calib3d) and `equidistant` (its fisheye
module; Kannala and Brandt 2006).  Where the camera stands stays as it is: no picture can be moved.  Rays that the
foreign camera does not see come out black, and their share is told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientgen.perception.rig import Camera
from efficientgen.perception.types import F64, U8, CameraFrame

MODELS: dict[str, tuple[int, ...]] = {
    "pinhole": (0,),
    "plumb_bob": (4, 5),  # k1 k2 p1 p2 (k3)
    "rational_polynomial": (8,),  # k1 k2 p1 p2 k3 k4 k5 k6
    "equidistant": (4,),  # k1 .. k4 on the angle
}
"""Lens model -> how many coefficients it takes."""

OPTICAL_FROM_CAMERA: F64 = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
"""x forward, y left, z up to x right, y down, z forward."""

_STEPS = 4000  # of the field, when its edge is looked for
_NEWTON = 25


class LensError(ValueError):
    """Intrinsics or distortion that describe no lens known here."""


class PictureSizeError(ValueError):
    """A picture of another size than its camera's calibration."""


@dataclass(frozen=True)
class Lens:
    """A camera's projection.  Focal lengths and principal point in px, the top left pixel's centre at (0, 0).

    Raises:
        LensError: an unknown model, a wrong number of coefficients, a size or focal length that is none.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: str = "pinhole"
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise LensError(f"no lens model '{self.model}'; choose one of {', '.join(MODELS)}")
        if len(self.coefficients) not in MODELS[self.model]:
            wanted = " or ".join(map(str, MODELS[self.model]))
            raise LensError(f"{self.model} takes {wanted} coefficients, got {len(self.coefficients)}")
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.coefficients)
        if not all(map(math.isfinite, numbers)) or min(self.fx, self.fy, self.width, self.height) <= 0:
            raise LensError(
                f"a lens of {self.width}x{self.height} px with focal lengths {self.fx:g} and {self.fy:g} px: sizes and "
                "focal lengths are positive, all numbers finite; an uncalibrated camera publishes zeros"
            )

    @cached_property
    def field(self) -> float:
        """The angle from the axis (rad) up to which the model grows outwards; beyond it, it folds back."""
        edge = math.pi if self.model == "equidistant" else 0.5 * math.pi
        angles = np.linspace(0.0, edge, _STEPS + 1)[1:-1]
        folded = np.flatnonzero(np.diff(self._radius(angles)) <= 0.0)
        return float(angles[folded[0]]) if len(folded) else float(angles[-1])

    def _radius(self, angles: F64) -> F64:
        """Distance from the principal point, in focal lengths, of rays at these angles; without tangential terms."""
        if self.model == "equidistant":
            k1, k2, k3, k4 = self.coefficients
            s = angles**2
            return angles * (1 + s * (k1 + s * (k2 + s * (k3 + s * k4))))
        r = np.tan(angles)
        return r if self.model == "pinhole" else r * _radial(r * r, self.coefficients)

    def distort(self, rays: F64) -> F64:
        """Optical rays (N, 3) to (N, 2) points of the plane at focal length 1, as the lens bends them.

        Only rays within `field` make sense.
        """
        if self.model == "equidistant":
            across = np.hypot(rays[:, 0], rays[:, 1])
            share = self._radius(np.arctan2(across, rays[:, 2])) / np.maximum(across, 1e-12)
            return rays[:, :2] * share[:, None]
        x, y = rays[:, 0] / rays[:, 2], rays[:, 1] / rays[:, 2]
        if self.model == "pinhole":
            return np.stack([x, y], 1)
        p1, p2 = self.coefficients[2:4]
        s = x * x + y * y
        radial = _radial(s, self.coefficients)
        return np.stack(
            [x * radial + 2 * p1 * x * y + p2 * (s + 2 * x * x), y * radial + p1 * (s + 2 * y * y) + 2 * p2 * x * y], 1
        )

    def project(self, rays: F64) -> tuple[F64, NDArray[np.bool_]]:
        """Optical rays (N, 3) to pixels (N, 2), and which of them the lens sees (within its field and picture)."""
        angles = np.arctan2(np.hypot(rays[:, 0], rays[:, 1]), rays[:, 2])
        inside = angles < self.field
        safe = np.where(inside[:, None], rays, (0.0, 0.0, 1.0))
        pixels = self.distort(safe) * (self.fx, self.fy) + (self.cx, self.cy)
        seen = inside & (pixels > -0.5).all(1) & (pixels < (self.width - 0.5, self.height - 0.5)).all(1)
        return pixels, seen

    def unproject(self, pixels: F64) -> F64:
        """Pixels (N, 2) to optical rays (N, 3) of length 1: the inverse of `project`, by Newton's method."""
        wanted = (np.asarray(pixels, np.float64) - (self.cx, self.cy)) / (self.fx, self.fy)
        if self.model == "equidistant":
            return self._unproject_equidistant(wanted)
        at = wanted.copy()
        step = 1e-6
        for _ in range(_NEWTON if self.model != "pinhole" else 0):
            here = self._bent(at)
            gx = (self._bent(at + (step, 0.0)) - here) / step  # (N, 2): columns of the Jacobian
            gy = (self._bent(at + (0.0, step)) - here) / step
            miss = here - wanted
            area = gx[:, 0] * gy[:, 1] - gx[:, 1] * gy[:, 0]
            area = np.where(np.abs(area) < 1e-9, 1e-9, area)
            move = np.stack([miss[:, 0] * gy[:, 1] - miss[:, 1] * gy[:, 0],
                             miss[:, 1] * gx[:, 0] - miss[:, 0] * gx[:, 1]], 1) / area[:, None]  # fmt: skip
            at -= np.clip(move, -0.5, 0.5)
            if np.abs(move).max(initial=0.0) < 1e-12:
                break
        rays = np.concatenate([at, np.ones((len(at), 1))], 1)
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def _bent(self, at: F64) -> F64:
        return self.distort(np.concatenate([at, np.ones((len(at), 1))], 1))

    def _unproject_equidistant(self, wanted: F64) -> F64:
        radius = np.hypot(wanted[:, 0], wanted[:, 1])
        angles = np.minimum(radius, self.field)
        for _ in range(_NEWTON):
            slope = (self._radius(angles + 1e-6) - self._radius(angles)) / 1e-6
            angles = np.clip(angles - (self._radius(angles) - radius) / np.maximum(slope, 1e-3), 0.0, self.field)
        across = wanted / np.maximum(radius, 1e-12)[:, None]
        return np.concatenate([across * np.sin(angles)[:, None], np.cos(angles)[:, None]], 1)


def _radial(s: F64, coefficients: tuple[float, ...]) -> F64:
    """The radial factor at squared radius `s`: a polynomial, over another for the rational model."""
    k1, k2, k3 = coefficients[0], coefficients[1], coefficients[4] if len(coefficients) > 4 else 0.0
    factor = 1 + s * (k1 + s * (k2 + s * k3))
    if len(coefficients) == 8:
        k4, k5, k6 = coefficients[5:]
        factor = factor / (1 + s * (k4 + s * (k5 + s * k6)))
    return factor


class Remap:
    """A picture sampled at fixed places, blended from four neighbours; the weights are computed once.

    Args:
        at: (N, 2) px in a picture of `width` x `height` px, its top left pixel's centre at (0, 0).
        seen: (N,) where False the result is black.
    """

    def __init__(self, at: F64, seen: NDArray[np.bool_], width: int, height: int) -> None:
        at = np.clip(at, 0.0, (width - 1.0, height - 1.0))
        base = np.minimum(at.astype(np.int64), (max(width - 2, 0), max(height - 2, 0)))
        fx, fy = (at - base).T
        right, below = int(width > 1), width * int(height > 1)
        corner = base[:, 1] * width + base[:, 0]
        self._taps = [corner, corner + right, corner + below, corner + right + below]
        weights = [(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy]
        self._weights = [(w * seen).astype(np.float32)[:, None] for w in weights]

    def __call__(self, image: U8) -> U8:
        """uint8 (height, width, 3) to (N, 3)."""
        flat = image.reshape(-1, 3)
        total = sum(flat[tap] * weight for tap, weight in zip(self._taps, self._weights, strict=True))
        return np.rint(total).astype(np.uint8)


class Rectifier:
    """Turns one foreign camera's pictures into those of the planner's pinhole, at the foreign camera's place.

    Pictures that are much finer than the pinhole's are averaged in whole blocks first, so that nothing aliases; then
    four neighbours are blended.  The map is computed once.

    Args:
        lens: of the foreign camera.
        camera_to_ego: (4, 4) its pose, x forward, y left, z up.
        pinhole: the planner's camera: size, focal length, direction.  Its place is not used.
    """

    def __init__(self, lens: Lens, camera_to_ego: F64, pinhole: Camera) -> None:
        self.lens, self.pinhole = lens, pinhole
        self.camera_to_ego: F64 = np.array(camera_to_ego, np.float64)
        turn = OPTICAL_FROM_CAMERA @ self.camera_to_ego[:3, :3].T @ pinhole.camera_to_ego[:3, :3]
        self.camera_to_ego[:3, :3] = pinhole.camera_to_ego[:3, :3]
        v, u = np.mgrid[: pinhole.height, : pinhole.width].astype(np.float64) + 0.5
        rays = np.stack([np.ones_like(u), (pinhole.width / 2 - u) / pinhole.focal,
                         (pinhole.height / 2 - v) / pinhole.focal], -1).reshape(-1, 3)  # fmt: skip
        pixels, seen = lens.project(rays @ turn.T)
        self.coverage = float(seen.mean())
        self.blocks = max(1, int(min(lens.fx, lens.fy) / pinhole.focal + 1e-6))
        at = (pixels + 0.5) / self.blocks - 0.5
        self._remap = Remap(at, seen, -(-lens.width // self.blocks), -(-lens.height // self.blocks))

    def picture(self, image: U8) -> U8:
        """uint8 (lens height, lens width, 3) to (pinhole height, pinhole width, 3); black where the lens is blind.

        Raises:
            PictureSizeError: the picture has another size than the calibration.
        """
        lens = self.lens
        if image.shape != (lens.height, lens.width, 3):
            raise PictureSizeError(
                f"a picture of {image.shape[1]}x{image.shape[0]} px, its calibration is for "
                f"{lens.width}x{lens.height}: give the intrinsics of the pictures as they are recorded"
            )
        if self.blocks > 1:
            image = np.asarray(Image.fromarray(image).reduce(self.blocks))
        return self._remap(image).reshape(self.pinhole.height, self.pinhole.width, 3)

    def frame(self, image: U8, stamp_ns: int) -> CameraFrame:
        """The picture as the planner's camera frame.

        Raises:
            PictureSizeError: as `picture`.
        """
        return self.made(self.picture(image), stamp_ns)

    def black(self, stamp_ns: int) -> CameraFrame:
        """A frame that shows nothing, in place of a picture that is not there."""
        return self.made(np.zeros((self.pinhole.height, self.pinhole.width, 3), np.uint8), stamp_ns)

    def made(self, picture: U8, stamp_ns: int) -> CameraFrame:
        """A rectified picture with its calibration."""
        return CameraFrame(self.pinhole.name, stamp_ns, picture, self.pinhole.intrinsics, self.camera_to_ego)

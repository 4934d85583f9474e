"""Pictures of any pinhole camera, with or without distortion, as a camera of the planner's own rig would see them.

A planner that was trained on one rig is shown that rig.  The picture is turned from the source camera's direction to
the target's and resampled (averaged down first, then bilinear); what differs in position, a few decimetres, is ignored,
and where the source does not see far enough its rim is repeated.  A picture that already fits is passed on untouched.

Camera frames look along x (y left, z up), as everywhere in this package and in the Waymo Open Dataset.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from efficientgen.perception.rig import Camera
from efficientgen.perception.types import F64, U8, CameraFrame


class PictureError(ValueError):
    """A picture that is missing or cannot be read."""


@dataclass(frozen=True)
class SourceCamera:
    """Where a picture comes from: `intrinsics` fu, fv, cu, cv px; `distortion` k1, k2, p1, p2, k3 (OpenCV)."""

    width: int
    height: int
    intrinsics: tuple[float, float, float, float]
    distortion: tuple[float, float, float, float, float]
    camera_to_ego: tuple[tuple[float, ...], ...]  # (4, 4)

    @property
    def matrix(self) -> F64:
        """(4, 4)."""
        return np.array(self.camera_to_ego, np.float64)


def read_picture(source: Path | bytes, what: str) -> U8:
    """uint8 (H, W, 3) RGB of a file or of encoded bytes.

    Raises:
        PictureError: missing or damaged.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise PictureError(f"the picture {what} cannot be read ({error}); fetch it again") from error


def as_frame(name: str, stamp_ns: int, image: U8, source: SourceCamera) -> CameraFrame:
    """The picture as it is."""
    fu, fv, cu, cv = source.intrinsics
    return CameraFrame(name, stamp_ns, image, np.array([[fu, 0, cu], [0, fv, cv], [0, 0, 1.0]]), source.matrix)


def fit(stamp_ns: int, image: U8, source: SourceCamera, target: Camera) -> CameraFrame:
    """The picture as `target` sees it, under its name, intrinsics and mount."""
    if not _fits(source, target):
        factor = max(1, int(source.intrinsics[0] / target.focal))
        small = np.asarray(Image.fromarray(image).reduce(factor)) if factor > 1 else image
        image = _sample(small, _rays(source, target) / factor)
    return CameraFrame(target.name, stamp_ns, image, target.intrinsics, target.camera_to_ego)


def covered(source: SourceCamera, target: Camera) -> float:
    """Share of the target's picture that the source sees."""
    u, v = np.moveaxis(_rays(source, target), -1, 0)
    return float(((u >= 0) & (u <= source.width) & (v >= 0) & (v <= source.height)).mean())


def _fits(source: SourceCamera, target: Camera) -> bool:
    k = target.intrinsics
    wanted = (k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    return (
        (source.width, source.height) == (target.width, target.height)
        and np.allclose(source.intrinsics, wanted, atol=1e-3)
        and not any(source.distortion)
        and np.allclose(source.matrix[:3, :3], target.camera_to_ego[:3, :3], atol=1e-5)
    )


@lru_cache(maxsize=64)
def _rays(source: SourceCamera, target: Camera) -> F64:
    """(H, W, 2) source pixels (corner origin, centres at +0.5) of the target's; far outside: behind the source."""
    k = target.intrinsics
    v, u = np.mgrid[: target.height, : target.width] + 0.5
    rays = np.stack([np.ones_like(u), (k[0, 2] - u) / k[0, 0], (k[1, 2] - v) / k[1, 1]], -1)
    turn = source.matrix[:3, :3].T @ target.camera_to_ego[:3, :3]
    x, y, z = np.moveaxis(rays @ turn.T, -1, 0)
    ahead = np.maximum(x, 1e-3)
    a, b = -y / ahead, -z / ahead  # right and down
    k1, k2, p1, p2, k3 = source.distortion
    shrink = np.minimum(1.0, _widest(k1, k2, k3) / np.maximum(np.hypot(a, b), 1e-9))
    a, b = a * shrink, b * shrink
    r2 = a * a + b * b
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    fu, fv, cu, cv = source.intrinsics
    out = np.stack([
        fu * (a * radial + 2 * p1 * a * b + p2 * (r2 + 2 * a * a)) + cu,
        fv * (b * radial + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b) + cv,
    ], -1)  # fmt: skip
    out[x <= 0.05] = -1e6
    out.flags.writeable = False
    return out


def _widest(k1: float, k2: float, k3: float) -> float:
    """Up to which distance from the axis (at unit depth) the lens model grows; beyond, it would fold back."""
    r = np.linspace(0.0, 4.0, 801)
    bent = r * (1 + r**2 * (k1 + r**2 * (k2 + r**2 * k3)))
    falls = np.flatnonzero(np.diff(bent) <= 0)
    return float(r[falls[0]]) if len(falls) else np.inf


def _sample(image: U8, at: F64) -> U8:
    """Bilinear; beyond the rim the rim is repeated."""
    height, width = image.shape[:2]
    u = np.clip(at[..., 0] - 0.5, 0, width - 1)
    v = np.clip(at[..., 1] - 0.5, 0, height - 1)
    u0, v0 = np.minimum(u.astype(int), max(width - 2, 0)), np.minimum(v.astype(int), max(height - 2, 0))
    u1, v1 = np.minimum(u0 + 1, width - 1), np.minimum(v0 + 1, height - 1)
    du, dv = (u - u0)[..., None], (v - v0)[..., None]
    upper = image[v0, u0] * (1 - du) + image[v0, u1] * du
    lower = image[v1, u0] * (1 - du) + image[v1, u1] * du
    return np.round(upper * (1 - dv) + lower * dv).astype(np.uint8)

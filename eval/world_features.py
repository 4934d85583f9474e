"""How far imagined pictures are from real ones in the eyes of a planner: Fréchet distance of its vision features.

What a planner does with a picture is decided by what its vision tower makes of it, so distances there say more of a
world's use than pixels do (FD-pi of DreamStream, arXiv 2609.26792).  Beside it stand the distance between two halves
of the real pictures, which is what chance gives, and the mean distance of a picture's features to those of its own
moment, as a share of the distance between different moments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efficientgen.perception.patches import grid_of, patchify
from efficientgen.planning.checkpoint import load_model


@torch.no_grad()
def features(directory: Path, before: Tensor, now: Tensor, batch: int = 8) -> Tensor:
    """Vision features (N * cameras, width) fp64, averaged over each picture's tokens, of pairs of moments.

    Args:
        directory: a planner's model directory.
        before, now: pictures (N, cameras, H, W, 3) uint8, 0.4 s apart.
    """
    model = load_model(directory, torch.float32, str(now.device))
    cameras = now.shape[1]
    grids = (grid_of(*now.shape[2:4]),) * cameras
    out = []
    for a, b in zip(before.split(batch), now.split(batch), strict=True):
        pairs = torch.stack([a, b], 2).flatten(0, 1)  # (B cameras, 2, H, W, 3)
        patches = patchify(pairs).unflatten(0, (-1, cameras)).flatten(1, 2)
        seen = model.see(patches, grids)  # (B, tokens, width)
        out.append(seen.unflatten(1, (cameras, -1)).mean(2).flatten(0, 1).double())
    return torch.cat(out)


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to features (N, D): |m - m'|^2 + tr(C + C' - 2 (C C')^1/2)."""
    (ma, ca), (mb, cb) = (_moments(x) for x in (a, b))
    root = _root(ca)
    cross = torch.linalg.eigvalsh(root @ cb @ root).clamp_min(0).sqrt().sum()
    return float((ma - mb).square().sum() + ca.trace() + cb.trace() - 2 * cross)


def distances(real: Tensor, imagined: Tensor) -> dict[str, Any]:
    """Of features (N, D) of the same N pictures, real and imagined."""
    half = torch.arange(len(real)) % 2 == 0
    own = (real - imagined).norm(dim=1)
    other = (real - real.roll(len(real) // 2, 0)).norm(dim=1)
    return {
        "frechet": round(frechet(real, imagined), 4),
        "frechet_between_halves_of_real": round(frechet(real[half], real[~half]), 4),
        "own_moment_over_other_moment": round(float(own.mean() / other.mean()), 4),
        "pictures": len(real),
    }


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / max(1, len(x) - 1)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T

"""Dense answers to "what is where?" as an auxiliary loss on the vision tokens; ours, in none of the papers.

A yes or no per picture says little about where a person stands that is eleven pixels high.  The oracle knows: each road
user's box, projected into each camera, marks the vision tokens that it covers with its kind and its distance.  A linear
head reads both back from the tokens while the planner trains and is thrown away afterwards, so the shipped model, its
prompt and its speed do not change.  Occlusion is not tested, as in `planning.annotate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from efficientgen.perception.rig import Camera, project
from efficientgen.perception.types import Actor, ActorKind, OracleFrame

TOKEN_PX = 28  # a vision token covers a square of so many pixels
KINDS = ((ActorKind.PEDESTRIAN,), (ActorKind.BICYCLE,), (ActorKind.CAR, ActorKind.TRUCK, ActorKind.BUS))
REACH_M = (40.0, 40.0, 60.0)  # of each kind: farther ones are not asked for
RARITY = (8.0, 12.0, 2.0)  # weight of a token that shows the kind


def token_labels(frame: OracleFrame, rig: Sequence[Camera]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What each vision token of `rig`'s pictures shows.

    Returns:
        kinds: (T,) bit k is set where a road user of `KINDS[k]` is; T counts camera by camera, row by row.
        metres: (T,) distance along the optical axis of the nearest of them; 0 where there is none.
    """
    kinds, metres = [], []
    for camera in rig:
        rows, columns = camera.height // TOKEN_PX, camera.width // TOKEN_PX
        seen, near = np.zeros((rows, columns), np.uint8), np.zeros((rows, columns), np.uint8)
        for actor in frame.actors:
            kind = next(k for k, members in enumerate(KINDS) if actor.kind in members)
            pixels, depth = project(_corners(frame, actor), camera.intrinsics, camera.camera_to_ego)
            if depth.min() < 0.3 or depth.mean() > REACH_M[kind]:
                continue
            low, high = pixels.min(0), pixels.max(0)
            if (high <= 0).any() or low[0] >= camera.width or low[1] >= camera.height:
                continue
            (u0, v0), (u1, v1) = (
                np.floor(np.maximum(low, 0) / TOKEN_PX).astype(int),
                np.ceil(high / TOKEN_PX).astype(int),
            )
            seen[v0:v1, u0:u1] |= 1 << kind
            cells = near[v0:v1, u0:u1]
            distance = max(1, round(float(depth.mean())))
            near[v0:v1, u0:u1] = np.where(cells == 0, distance, np.minimum(cells, distance))
        kinds.append(seen.ravel())
        metres.append(near.ravel())
    return np.concatenate(kinds), np.concatenate(metres)


def _corners(frame: OracleFrame, actor: Actor) -> NDArray[np.float64]:
    """The eight corners of an actor's box in the ego frame, (8, 3) m."""
    cos, sin = math.cos(actor.yaw), math.sin(actor.yaw)
    x = actor.length / 2 * np.array([1.0, 1, -1, -1] * 2)
    y = actor.width / 2 * np.array([1.0, -1, -1, 1] * 2)
    z = actor.height * np.repeat([0.0, 1.0], 4)
    dx = actor.x + cos * x - sin * y - frame.ego.x
    dy = actor.y + sin * x + cos * y - frame.ego.y
    cos, sin = math.cos(frame.ego.yaw), math.sin(frame.ego.yaw)
    return np.stack([cos * dx + sin * dy, -sin * dx + cos * dy, z], 1)


class LookHead(nn.Module):
    """Kinds (as logits) and log distance of what each vision token shows."""

    def __init__(self, hidden: int):
        super().__init__()
        self.read = nn.Linear(hidden, len(KINDS) + 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, hidden) -> (B, T, kinds + 1)."""
        out: Tensor = self.read(F.layer_norm(tokens, tokens.shape[-1:]))
        return out


def look_loss(read: Tensor, kinds: Tensor, metres: Tensor) -> Tensor:
    """Cross-entropy of the kinds plus, where something is, the absolute error of the log distance.

    `read` (B, T, kinds + 1) of `LookHead`, `kinds` and `metres` (B, T) uint8 of `token_labels`.
    """
    bits = torch.arange(len(KINDS), device=kinds.device)
    truth = (kinds[..., None].int() >> bits & 1).float()
    rarity = torch.tensor(RARITY, device=kinds.device)
    naming = F.binary_cross_entropy_with_logits(read[..., :-1].float(), truth, pos_weight=rarity)
    there = metres > 0
    error = (read[..., -1].float() - metres.clamp(min=1).float().log()).abs()
    return naming + 0.1 * (error * there).sum() / there.sum().clamp(min=1)

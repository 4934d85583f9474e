"""The nano world model: SANA-WM's transformer (arXiv 2605.15178) at nano size, told what is where.

The three front cameras share one token grid of 4 x 24; a token's ray comes from `token_rays`, so nothing in the
transformer knows of cameras.  The condition raster, as the autoencoder reads it, stands in channels beside the noisy
latents (so OmniDreams feeds map and boxes, arXiv 2606.03159), and the weather takes the prompt's place.  One latent
frame is one time step of 0.4 s, and a chunk is one frame: passes are causal over frames, which may stand at different
noise levels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientgen.perception.rig import NANO_RIG, Camera
from efficientgen.perception.types import F64
from efficientgen.worldsim.nano.autoencoder import TOKEN, TOKEN_PX, WEATHER_NAMES, to_grid
from efficientgen.worldsim.sana.camera import Rays, rigid_inverse, token_rays
from efficientgen.worldsim.sana.config import SanaConfig
from efficientgen.worldsim.sana.model import SanaTransformer, Text
from efficientgen.worldsim.sana.poses import camera_to_map
from efficientgen.worldsim.sana.state import StreamState

AT_REST: F64 = np.zeros((1, 3))
CAPTION = 32  # channels of the weather that stands for a prompt


def _transformer() -> SanaConfig:
    return SanaConfig(
        in_channels=0,  # set by `WorldConfig.sana`
        num_layers=6,
        hidden_size=192,
        linear_head_dim=48,
        num_attention_heads=4,
        softmax_every_n=2,
        mlp_ratio=1.5,
        caption_channels=CAPTION,
        chunk_plucker_channels=6,
        picture_height=112,
        picture_width=3 * 224,
        chunk_size=1,
        num_cached_blocks=4,
        sink_token=True,
    )


@dataclass(frozen=True)
class WorldConfig:
    """Sizes and habits of the shipped model; frames are time steps of 0.4 s."""

    latent: int = 160
    features: int = 64  # channels of the raster as the autoencoder reads it, at quarter resolution
    condition: int = 96  # ... and on the token grid
    transformer: SanaConfig = field(default_factory=_transformer)
    levels: tuple[int, ...] = (1000, 500)  # noise levels of the passes
    session: int = 12  # frames after which a stream is begun anew ...
    primed: int = 3  # ... from so many of its last frames
    metre: float = 0.1  # what the transformer takes a metre for

    @property
    def sana(self) -> SanaConfig:
        return replace(self.transformer, in_channels=self.latent + self.condition)


class NanoModel(nn.Module):
    """Velocity of latents (B, C, T, R, W), given conditions (B, K, T, R, W) that `condition` read."""

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.config = config
        self.gather = nn.Conv2d(config.features, config.condition, TOKEN, TOKEN)
        self.weathers = nn.Embedding(len(WEATHER_NAMES), CAPTION)
        self.transformer = SanaTransformer(config.sana)

    def condition(self, features: Tensor) -> Tensor:
        """(N, K, R, W) of the autoencoder's reading (N, cameras, features, H / 4, W / 4) of rasters."""
        gathered = self.gather(F.silu(features.flatten(0, 1).to(self.gather.weight.dtype)))
        return to_grid(gathered, features.shape[1])

    def text(self, weather: Tensor) -> Text:
        """The weathers (B,) as prompts of one word."""
        return Text(self.weathers(weather)[:, None], torch.ones(len(weather), 1, device=weather.device))

    def forward(self, x: Tensor, t: Tensor, text: Text, rays: Rays, condition: Tensor) -> Tensor:
        """One pass over whole clips, causal over frames."""
        both = torch.cat([x, condition.to(x)], 1)
        return self.transformer(both, t, text, rays, (1,) * x.shape[2])[:, : x.shape[1]]

    def bound(self, condition: Tensor) -> Bound:
        """The model with the condition of the next frames, for samplers that know of none."""
        return Bound(self, condition)


@dataclass(frozen=True)
class Bound:
    """`SanaTransformer.forward_chunk` for one condition (B, K, T, R, W)."""

    model: NanoModel
    condition: Tensor

    def forward_chunk(
        self, x: Tensor, t: Tensor, text: Text, rays: Rays, state: StreamState | None, save: bool
    ) -> tuple[Tensor, StreamState | None]:
        both = torch.cat([x, self.condition.to(x)], 1)
        out, after = self.model.transformer.forward_chunk(both, t, text, rays, state, save)
        return out[:, : x.shape[1]], after


class RigRays:
    """Rays of every token of a rig whose cameras share one place, for any way of the rig, on any device.

    A ray frame under a motion G of the rig is the frame at rest taken through G^-1; so the rays at rest, which come
    from `token_rays`, are computed once.

    Raises:
        ValueError: the cameras stand apart or differ in size.
    """

    def __init__(self, rig: tuple[Camera, ...] = NANO_RIG, device: torch.device | str = "cpu") -> None:
        if len({(c.mount, c.width, c.height) for c in rig}) != 1:
            raise ValueError("the cameras of the nano world share one place and one size")
        self.rig, self.middle = rig, rig[len(rig) // 2]
        self.grid = (self.middle.height // TOKEN_PX, self.middle.width // TOKEN_PX)
        still = [camera_to_map(AT_REST, camera) for camera in rig]
        front = rigid_inverse(camera_to_map(AT_REST, self.middle))
        c2w = torch.stack([front @ pose for pose in still])  # (N, 1, 4, 4)
        k = torch.from_numpy(self.middle.intrinsics)[None].expand(len(rig), 3, 3)
        rest = token_rays(c2w, k, (self.middle.height, self.middle.width), self.grid, 1, opening=False)
        self._rest = rest.ray_from_world[0, 0].to(device)  # (S, 4, 4)
        self._directions = rest.plucker[0, 0, :, :3].to(device)

    def poses(self, ego: F64) -> Tensor:
        """Middle camera to map, (F, 4, 4) fp64, of ego poses (F, 3)."""
        return camera_to_map(ego, self.middle)

    def __call__(self, to_map: Tensor, first: Tensor, metre: float) -> Rays:
        """Rays (B, T, S, ...) of poses (B, T, 4, 4) relative to (B, 4, 4), lengths times `metre`."""
        with torch.autocast(to_map.device.type, enabled=False):  # metres want fp32
            return self._moved(to_map, first, metre)

    def _moved(self, to_map: Tensor, first: Tensor, metre: float) -> Rays:
        way = rigid_inverse(first)[:, None] @ to_map
        way[..., :3, 3] *= metre
        way = way.float()
        rays = self._rest @ rigid_inverse(way)[:, :, None]  # (B, T, S, 4, 4)
        directions = torch.einsum("btij,sj->btsi", way[..., :3, :3], self._directions)
        moment = torch.linalg.cross(way[:, :, None, :3, 3].expand_as(directions), directions)
        return Rays(rays, torch.cat([directions, moment], -1))

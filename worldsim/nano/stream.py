"""A dreamed drive, or many side by side: one time step after the other, with a state that does not grow.

Every `session` frames the recurrent state is begun anew from the last `primed` frames, with poses relative to the first
of them: positions, rays and states then never leave the range that training clips have, however long the drive.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from efficientgen.worldsim.nano.model import NanoModel, RigRays
from efficientgen.worldsim.sana.model import SanaTransformer, Text
from efficientgen.worldsim.sana.sampler import sample_chunk
from efficientgen.worldsim.sana.state import StreamState


class Stream:
    """B drives in step.

    Args:
        latent: (B, C, R, W) of the first pictures, normalised.
        condition: (B, K, R, W) at them.
        pose: (B, 4, 4) middle camera to map, fp64.
    """

    def __init__(self, model: NanoModel, rays: RigRays, text: Text, latent: Tensor, condition: Tensor, pose: Tensor):
        self._model, self._rays, self._text = model, rays, text
        self._past = [(latent, condition, pose)]  # the last frames, for the next session
        self._state: StreamState | None = None
        self._first = pose

    @property
    def bytes(self) -> int:
        """Memory that is carried from step to step."""
        held = sum(t.numel() * t.element_size() for frame in self._past for t in frame)
        return held + (self._state.bytes if self._state else 0)

    @torch.no_grad()
    def step(self, condition: Tensor, pose: Tensor, noise: Tensor) -> Tensor:
        """The next latents (B, C, R, W), from noise of that shape.

        Raises:
            DivergedError: they are not finite; the stream is as it was.
        """
        config = self._model.config
        if self._state is None or self._state.frames >= config.session:
            self._begin()
        rays = self._rays(pose[:, None], self._first, config.metre)
        bound = cast(SanaTransformer, self._model.bound(condition[:, :, None]))
        x, self._state = sample_chunk(bound, noise[:, :, None], self._text, rays, self._state, levels=config.levels)
        self.accept(x[:, :, 0], condition, pose)
        return x[:, :, 0]

    def accept(self, latent: Tensor, condition: Tensor, pose: Tensor) -> None:
        """Remember a frame for the session to come."""
        self._past = [*self._past, (latent, condition, pose)][-self._model.config.primed :]

    def anchor(self, latent: Tensor, condition: Tensor, pose: Tensor) -> None:
        """Go on from a given frame alone: what was dreamed before is forgotten."""
        self._past, self._state = [(latent, condition, pose)], None

    def _begin(self) -> None:
        """A new session from the frames at hand."""
        self._state, self._first = None, self._past[0][2]
        for latent, condition, pose in self._past:
            rays = self._rays(pose[:, None], self._first, self._model.config.metre)
            level = torch.zeros(len(latent), 1, device=latent.device)
            bound = self._model.bound(condition[:, :, None])
            _, self._state = bound.forward_chunk(latent[:, :, None], level, self._text, rays, self._state, True)

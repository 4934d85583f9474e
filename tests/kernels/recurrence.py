"""The frame-wise rule token by token in numpy fp64, and inputs to try it on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from efficientgen.kernels.frame_gdn import EPS, GDNState

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor], GDNState]


def inputs(t: int, s: int, d: int, seed: int, h: int = 2, b: int = 1, dtype: torch.dtype = torch.float32) -> Inputs:
    """q, k, v, beta, decay, (q0, k0) and a state as a model in operation has them: keys non-negative and scaled."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype)

    q0, k0 = normal(b, t, s, h, d).relu(), normal(b, t, s, h, d).relu() * (d * s) ** -0.5
    q, k = q0.roll(1, -1) * -1.0, k0.roll(1, -1)  # what a rotation does: same length, signs of its own
    beta, decay = normal(b, t, s, h).sigmoid(), normal(b, t, h).sigmoid()
    state = GDNState(normal(b, h, d, d) * 0.1, normal(b, h, d).abs())
    return q, k, normal(b, t, s, h, d), beta, decay, (q0, k0), state


def token_by_token(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, mass: tuple[Tensor, Tensor] | None,
    state: GDNState | None, chunks: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The delta rule as it is told: each token writes what is wrong with the state's answer to its key."""
    b, t, s, h, d = q.shape
    arrays = [np.asarray(x, np.float64) for x in (q, k, v, beta, decay, *(mass or (q, k)))]
    q_, k_, v_, beta_, decay_, q0, k0 = arrays
    out, last, last_mass = np.zeros(q.shape), np.zeros((b, h, d, d)), np.zeros((b, h, d))
    starts = np.cumsum((0, *chunks))

    def frame(n: np.ndarray, z: np.ndarray, i: int, f: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        n, z = decay_[i, f, j] * n, decay_[i, f, j] * z
        new_n, new_z = n.copy(), z.copy()
        for p in range(s):
            key, plain, weight = k_[i, f, p, j], k0[i, f, p, j], beta_[i, f, p, j]
            new_n += weight * np.outer(v_[i, f, p, j] - n @ key, key)
            new_z += weight * (1.0 - z @ plain) * plain
        return new_n, new_z

    for i in range(b):
        for j in range(h):
            n, z = np.zeros((d, d)), np.zeros(d)
            if state is not None:
                n = np.asarray(state.numerator[i, j], np.float64)
                z = np.asarray(state.denominator[i, j], np.float64) if state.denominator is not None else z
            for begin, end in zip(starts, starts[1:], strict=False):
                for f in range(begin, end):
                    n, z = frame(n, z, i, f, j)
                    m, y = np.zeros((d, d)), np.zeros(d)
                    for later in reversed(range(f + 1, end)):
                        m, y = frame(m, y, i, later, j)
                    for p in range(s):
                        numerator = (n + m) @ q_[i, f, p, j]
                        out[i, f, p, j] = numerator / ((z + y) @ q0[i, f, p, j] + EPS) if mass else numerator
            last[i, j], last_mass[i, j] = n, z
    return out, last, last_mass

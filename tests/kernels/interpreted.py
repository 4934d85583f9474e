"""Runs the kernels under Triton's interpreter (TRITON_INTERPRET=1) and prints their errors, one JSON object a line."""

import json

import torch
from torch import Tensor

from efficientgen.kernels.frame_gdn import frame_gdn_reference, frame_gdn_triton
from tests.kernels.recurrence import inputs


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


CASES = {64: ((1, ()), (4, (1, 3))), 112: ((2, (1, 1)), (3, ()))}
for d, cases in CASES.items():
    for t, chunks in cases:
        q, k, v, beta, decay, mass, state = inputs(t, 37, d, seed=torch.seed() % 2**31, h=1)
        if d == 112 and t == 2:  # as at released size: its products are taken in parts
            q, k, v, beta, *mass = (x.bfloat16() for x in (q, k, v, beta, *mass))
        worst = {"out": 0.0, "numerator": 0.0, "denominator": 0.0}
        for pair, carried in ((mass, state), (None, state), (mass, None)) if t == 3 else ((mass, state),):
            ours, mine = frame_gdn_triton(q, k, v, beta, decay, mass=pair, state=carried, chunks=chunks)
            theirs, other = frame_gdn_reference(q, k, v, beta, decay, mass=pair, state=carried, chunks=chunks)
            worst["out"] = max(worst["out"], error(ours, theirs))
            worst["numerator"] = max(worst["numerator"], error(mine.numerator, other.numerator))
            if mine.denominator is not None and other.denominator is not None:
                worst["denominator"] = max(worst["denominator"], error(mine.denominator, other.denominator))
        print(json.dumps({"d": d, "t": t, **worst}))

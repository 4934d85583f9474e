"""Runs the decoding kernels under Triton's interpreter (TRITON_INTERPRET=1) and prints their errors, one line each."""

import json

import torch

from efficientgen.kernels.skinny import Tile
from tests.kernels.decoding import Made, Sizes, attention_error, product_errors, row_errors

CASES = {
    "narrow": (Sizes(), Tile(16, 32, 1)),
    "split": (Sizes(rows=17, head_norm=True), Tile(16, 16, 3)),
    "half heads": (Sizes(rows=3, queries=8, shared=2, width=64), Tile(16, 32, 2)),
    "qwen3": (Sizes(hidden=96, rows=3, queries=4, shared=1, width=64, head_norm=True), Tile(32, 32, 3)),
    "uneven": (Sizes(hidden=80, wide=40, width=16, queries=6, shared=2, rows=1), Tile(16, 32, 2)),
}
for name, (sizes, tile) in CASES.items():
    made = Made("cpu", torch.float32, torch.seed() % 2**31)
    errors = dict(product_errors(sizes, tile, made)) | dict(row_errors(sizes, made))
    errors["attention"] = attention_error(sizes, 60, 17, made)
    errors["attention without prefix"] = attention_error(sizes, 0, 19, made)
    print(json.dumps({"case": name, "errors": errors}))

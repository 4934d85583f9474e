"""Runs the decoding kernels under Triton's interpreter (TRITON_INTERPRET=1) and prints their errors, one line each."""

import json
from dataclasses import replace

import torch
from triton.runtime import interpreter

from efficientgen.kernels.skinny import Tile
from tests.kernels.decoding import Made, Sizes, attention_error, product_errors, row_errors

patch = interpreter._patch_lang_tensor


def patch_with_index(tensor, scope) -> None:
    """Numbers that are made at run time may bound a loop; numpy 2.4 refuses what triton 3.6 does for that."""
    patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


interpreter._patch_lang_tensor = patch_with_index
CASES = {
    "narrow": (Sizes(), Tile(16, 32, 1)),
    "split": (Sizes(rows=17, head_norm=True), Tile(16, 16, 3)),
    "padded": (Sizes(rows=9), Tile(16, 32, 2, held=64)),
    "half heads": (Sizes(rows=3, queries=8, shared=2, width=64), Tile(16, 32, 2)),
    "qwen3": (Sizes(hidden=96, rows=3, queries=4, shared=1, width=64, head_norm=True), Tile(32, 32, 3)),
    "uneven": (Sizes(hidden=80, wide=40, width=16, queries=6, shared=2, rows=1), Tile(16, 32, 2)),
}
for name, (sizes, tile) in CASES.items():
    made = Made("cpu", torch.float32, torch.seed() % 2**31)
    errors = dict(product_errors(sizes, tile, made)) | dict(row_errors(sizes, made))
    errors["attention"] = attention_error(sizes, 60, 17, made)
    errors["attention of whole tiles"] = attention_error(replace(sizes, slots=230), 203, 9, made)
    errors["attention of rollouts"] = attention_error(replace(sizes, rows=32, slots=230), 70, 130, made, apart=2)
    errors["attention without prefix"] = attention_error(sizes, 0, 19, made)
    print(json.dumps({"case": name, "errors": errors}))

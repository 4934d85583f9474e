"""Compiles the decoding kernels at the 3B shape for a real chip, without one, and prints what each asks of it."""

import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from efficientgen.kernels import prefix_attention, rows, skinny
from efficientgen.kernels.skinny import RESIDUAL, ROPE, SWIGLU, Tile, ceil_div
from efficientgen.planning.engine_tune import PADDED, WHOLE_HEADS, candidates
from tests.kernels.assembler import resources

HIDDEN, WIDE, QUERIES, SHARED, WIDTH, QKV, VOCABULARY = 2048, 11008, 16, 2, 128, 2560, 151936
FP32 = {"squares_ptr", "squares_out_ptr", "cos_ptr", "sin_ptr", "parts_ptr", "sums_ptr"}
INT32 = {"place_ptr", "slot_ptr", "done_ptr", "ids_ptr", "start_ptr"}
PLAIN_INTS = {"M", "R", "CHUNK", "head_stride", "splits", "rows"}


def product(kind: int, n: int, k: int, tile: Tile, held: int) -> dict:
    per = ceil_div(ceil_div(k, tile.inner), tile.split) * tile.inner
    return {
        "N": n, "K": k, "BM": held, "BN": tile.columns, "BK": tile.inner, "SPLIT": ceil_div(k, per),
        "PER": per,
        "HALF": WIDTH // 2 if kind == ROPE else n // 2 if kind == SWIGLU else 0, "KIND": kind, "NORM": kind != RESIDUAL,
        "EPS": 1e-6, "BIAS": kind == ROPE, "HQ": QUERIES, "HKV": SHARED, "HEAD_NORM": False, "HEAD_EPS": 1e-6,
        "AHEAD": tile.ahead, "OVERLAP": True,
    }  # fmt: skip


def build(function, constants: dict, capability: int, warps: int, stages: int) -> dict:
    signature = {}
    for name in function.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in PLAIN_INTS or name == "T":
            signature[name] = "i32"
        else:
            kind = "fp32" if name in FP32 else "i32" if name in INT32 else "u8" if name == "mask_ptr" else "bf16"
            signature[name] = f"*{kind}"
    aligned = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(function.arg_names)
               if signature[a].startswith("*") or a == "head_stride"}  # fmt: skip
    built = triton.compile(
        ASTSource(function, signature, constants, aligned), target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages},
    )  # fmt: skip
    spilled, registers = resources(built.asm["ptx"])
    return {"shared": built.metadata.shared, "registers": registers, "spilled": spilled}


PRODUCTS = {
    "qkv": (ROPE, QKV, HIDDEN),
    "out": (RESIDUAL, HIDDEN, HIDDEN),
    "gate_up": (SWIGLU, 2 * WIDE, HIDDEN),
    "down": (RESIDUAL, HIDDEN, WIDE),
}

if __name__ == "__main__":
    for capability in map(int, sys.argv[1:]):
        for name, (kind, n, k) in PRODUCTS.items():
            tiles = (32, candidates(name, 32)[0]), (64, candidates(name, 64)[-1]), (64, PADDED[name][-1])
            for held, tile in tiles:
                told = {"kernel": name, "sm": capability, "rows": held, "tile": str(tile)}
                made = build(skinny._skinny, product(kind, n, k, tile, held), capability, tile.warps, tile.stages)
                print(json.dumps(told | made), flush=True)
        for held, tile in ((16, WHOLE_HEADS[0]), *((64, tile) for tile in WHOLE_HEADS)):  # Qwen3-4B: 2,560 to 6,144
            shape = product(ROPE, 48 * WIDTH, 2560, tile, held) | {"HQ": 32, "HKV": 8, "HEAD_NORM": True, "BIAS": False}
            made = build(skinny._skinny, shape, capability, tile.warps, tile.stages)
            told = {"kernel": "normed qkv", "sm": capability, "rows": held, "tile": str(tile)}
            print(json.dumps(told | made), flush=True)
        at = {"H": QUERIES, "G": QUERIES // SHARED, "D": WIDTH, "BD": WIDTH, "OVERLAP": True}
        for held, warps in ((16, 4), (64, 4), (64, 8), (128, 8)):
            shape = at | {"BM": held, "BN": 64, "BT": 32, "SCALE": 0.1}
            made = build(prefix_attention._attend_split, shape, capability, warps, 2)
            print(json.dumps({"kernel": "attend", "sm": capability, "rows": held} | made), flush=True)
        made = build(prefix_attention._merge, {"D": WIDTH, "BD": WIDTH, "BS": 32, "OVERLAP": True}, capability, 2, 1)
        print(json.dumps({"kernel": "merge", "sm": capability} | made), flush=True)
        each = {
            "embed": (rows._embed, {"K": HIDDEN, "BK": HIDDEN}),
            "squares": (rows._squares, {"K": HIDDEN, "BK": HIDDEN}),
            "normed": (rows._normed, {"K": HIDDEN, "BK": HIDDEN, "EPS": 1e-6, "WEIGHT": True}),
            "swiglu": (rows._swiglu, {"F": WIDE, "BF": 1024}),
            "place": (
                rows._place,
                {"HQ": QUERIES, "HKV": SHARED, "HALF": 64, "BH": 64, "HEAD_NORM": True, "EPS": 1e-6},
            ),
        }
        for name, (function, constants) in each.items():
            made = build(function, constants | {"OVERLAP": True}, capability, 4, 1)
            print(json.dumps({"kernel": name, "sm": capability} | made), flush=True)

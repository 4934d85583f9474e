"""Compiles the token kernels at the released shape for real chips, without one, and prints what each asks of it."""

import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from efficientgen.kernels import token_heads as heads
from efficientgen.kernels import token_rows as rows
from tests.kernels.assembler import resources

HALF = {"x_ptr", "weight_ptr", "out_ptr", "plain_ptr", "before_ptr", "b_ptr", "gate_ptr", "add_ptr", "more_ptr"}
HALF |= {"shift_ptr", "scale_ptr", "normed_ptr", "bias_ptr"}
KERNELS = {
    "rotated": (heads._rotated_kernel, 8, {"C": 2240, "D": 112, "BP": 2048, "EPSILON": 1e-5, "NORM": True, "RELU": True,
                                           "PLAIN": True}),
    "rays": (heads._rays_kernel, 4, {"H": 20, "D": 112, "BH": 32, "BG": 16, "EPSILON": 1e-5, "FLOOR": 1e-6,
                                     "LEAST": 1e-6, "NORM": True, "RELU": True, "TURNED": True, "CAPPED": True,
                                     "BACK": False, "MEASURED": True}),
    "conv": (heads._conv_kernel, 4, {"S": 880, "C": 2240, "T": 3, "K": 4, "BC": 1024, "BEFORE": True}),
    "gated": (heads._gated_kernel, 8, {"C": 2240, "BC": 4096}),
    "row": (rows._row_kernel, 8, {"C": 2240, "BC": 4096, "EPSILON": 1e-6, "ADD": True, "GATE": True, "MORE": True,
                                  "NORM": True}),
    "depthwise": (rows._depthwise_kernel, 4, {"F": 6720, "H": 22, "W": 40, "BC": rows.CHANNELS}),
}  # fmt: skip

for capability in map(int, sys.argv[1:]):
    for name, (kernel, warps, constants) in KERNELS.items():
        signature = {}
        for arg in kernel.arg_names:
            if arg in constants:
                signature[arg] = "constexpr"
            elif arg.endswith("_ptr"):
                signature[arg] = "*bf16" if arg in HALF else "*fp32"
            else:
                signature[arg] = "fp32" if arg == "scale" else "i32"
        built = triton.compile(
            ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32),
            options={"num_warps": warps},
        )  # fmt: skip
        spilled, registers = resources(built.asm["ptx"])
        print(json.dumps({"kernel": name, "sm": capability, "registers": registers, "spilled": spilled}))

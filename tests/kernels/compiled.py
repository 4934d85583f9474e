"""Compiles the kernels at the released shape for real chips, without one, and prints what each asks of it."""

import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from efficientgen.kernels import frame_gdn as gdn
from tests.kernels.assembler import resources

SHAPE = {"T": 3, "S": 880, "H": 20, "D": 112, "BD": 128}
KERNELS = {
    "transitions": (gdn._transitions, gdn.TRANSITIONS, {"VALUES": True}, ("T", "S", "H", "D", "BD"), "kvb"),
    "scan_rows": (gdn._scan_rows, gdn.SCAN, {}, ("T", "H", "D", "BD"), ""),
    "scan_mass": (gdn._scan_mass, [({}, 4, 1)], {}, ("T", "H", "D", "BD"), ""),
    "read_out": (gdn._read_out, gdn.READ_OUT, {"EPSILON": gdn.EPS, "MASS": True}, ("T", "S", "H", "D", "BD"), "q"),
}

for capability in map(int, sys.argv[1:]):
    for name, (kernel, tiles, more, sizes, halves) in KERNELS.items():
        function = kernel.fn if isinstance(kernel, triton.runtime.Autotuner) else kernel
        for tile, warps, stages in tiles[:1]:
            constants = {key: SHAPE[key] for key in sizes} | more | tile
            half = {"k_ptr", "v_ptr", "beta_ptr", "q_ptr", "q0_ptr"} if halves else set()
            signature = {
                arg: "constexpr" if arg in constants else "*bf16" if arg in half else "*fp32"
                for arg in function.arg_names
            }
            built = triton.compile(
                ASTSource(function, signature, constants), target=GPUTarget("cuda", capability, 32),
                options={"num_warps": warps, "num_stages": stages},
            )  # fmt: skip
            spilled, registers = resources(built.asm["ptx"])
            told = {"kernel": name, "sm": capability, "tile": tile, "warps": warps, "stages": stages}
            told |= {"shared": built.metadata.shared, "registers": registers, "spilled": spilled}
            print(json.dumps(told))

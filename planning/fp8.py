"""W8A8 FP8 Linears: weights E4M3 with one static scale per output channel, activations E4M3 with one scale per token.

The layout of the quantised Fast-dVLM (`quant_method: w8a8_fp8`; SmoothQuant is already folded into weights and norms):
a quantised Linear stores `weight` (out, in) F8_E4M3 and `weight_scale` (out, 1).  This module is the definition:

    s_x = max |x| / 448 per token,   y = (E4M3(x / s_x) @ W^T) * s_x * s_w^T + b

with the product of the 8-bit values summed in float32 (float64 for float64 inputs).  It widens the weights for every
product, on any device, and so saves memory but no time.  On a GPU of compute capability 8.9 or more the same formula is
one row-wise scaled FP8 product (`torch._scaled_mm`, scales (L, 1) and (1, out)); that path is not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientgen.kernels.shards import CheckpointError

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # the largest E4M3 number
SMALLEST_SCALE = 1e-12  # of an all-zero row, which would divide by zero
METHOD = "w8a8_fp8"
SCALE = "weight_scale"
BUFFERS = ("weight", SCALE)


class FP8Linear(nn.Module):
    """A Linear of the module's formula; `weight` and `weight_scale` are buffers, for they are not trained."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=E4M3))
        self.register_buffer(SCALE, torch.empty(out_features, 1, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) in the dtype of `x`."""
        wide = torch.promote_types(x.dtype, torch.float32)
        q, scale = quantise_rows(x.to(wide))
        y = F.linear(q.to(wide), self.weight.to(wide)) * scale * self.weight_scale.to(wide).T
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., D) to E4M3 (..., D) and the scale (..., 1) of each row: x is about q * scale."""
    scale = (x.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=SMALLEST_SCALE)
    return (x / scale).clamp(-LARGEST, LARGEST).to(E4M3), scale


def quantise(linear: nn.Linear) -> FP8Linear:
    """The W8A8 twin of a Linear, scales from its own weights."""
    out = FP8Linear(linear.in_features, linear.out_features, linear.bias is not None)
    weight, scale = quantise_rows(linear.weight.detach().float())
    out.weight, out.weight_scale, out.bias = weight, scale, linear.bias
    return out


def quantise_model(model: nn.Module) -> None:
    """Replace every Linear of the language tower in place, as the release does; vision, embedding and head stay."""
    for name in quantisable(model, ["re:visual.*"]):
        parent, leaf = _parent(model, name)
        setattr(parent, leaf, quantise(model.get_submodule(name)))  # type: ignore[arg-type]


def prepare(model: nn.Module, section: Any, stored_as: dict[str, str]) -> None:
    """Put `FP8Linear`s where the checkpoint stores 8-bit weights; `stored_as`: our names to dtypes on disk.

    Raises:
        CheckpointError: another quantisation, or 8-bit tensors that `quantization_config` does not cover.
    """
    if section is None:
        if eight_bit := [name for name, dtype in stored_as.items() if dtype == "F8_E4M3"]:
            raise CheckpointError(
                f"{eight_bit[0]} is stored as F8_E4M3, but config.json has no quantization_config; fetch the "
                "config.json that belongs to these weights"
            )
        return
    if not isinstance(section, dict) or section.get("quant_method") != METHOD:
        told = section.get("quant_method") if isinstance(section, dict) else section
        raise CheckpointError(
            f"config.json: quantisation {str(told)[:60]!r} is not read here; only {METHOD} is, or use the bf16 release"
        )
    ignore = section.get("ignore", [])
    if not isinstance(ignore, list) or not all(isinstance(rule, str) for rule in ignore):
        raise CheckpointError("config.json: quantization_config.ignore must be a list of module names or re: patterns")
    for name in quantisable(model, ignore):
        if stored_as.get(f"{name}.weight") == "F8_E4M3":
            parent, leaf = _parent(model, name)
            old: Any = getattr(parent, leaf)
            with torch.device("meta"):
                setattr(parent, leaf, FP8Linear(old.in_features, old.out_features, old.bias is not None))


def quantisable(model: nn.Module, ignore: Iterable[str]) -> list[str]:
    """Names of the Linears that no rule of `ignore` covers; a rule is a module name, or `re:` and a pattern with `.*`.

    Rules are written against the released names, where the tower is `visual` with or without `model.` before it.
    """
    rules = [_rule(rule) for rule in ignore]
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    return [n for n in linears if not any(r.match(n) or r.match(n.removeprefix("model.")) for r in rules)]


def _rule(rule: str) -> re.Pattern[str]:
    """Only `.*` of the regular expressions: a pattern from a file must not be able to run for ever."""
    if not rule.startswith("re:"):
        return re.compile(re.escape(rule) + "$")
    literal = rule[3:].replace("\\.", ".").split(".*")
    if len(literal) > 4 or not all(re.fullmatch(r"[\w.]*", part) for part in literal):
        raise CheckpointError(
            f"config.json: quantization_config.ignore {rule[:60]!r}: only names and .* are understood"
        )
    return re.compile(".*".join(re.escape(part) for part in literal))


def has_nan(weight: Tensor) -> bool:
    """E4M3 (fn) has no infinity; NaN is all ones below the sign."""
    return bool(((weight.view(torch.uint8) & 0x7F) == 0x7F).any())


def _parent(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    before, _, leaf = name.rpartition(".")
    return model.get_submodule(before), leaf

"""The decoders by name.  Each takes (model, cache, form, prompt logits, next text position) and gives an `Answer`.

| name | what | lossless against |
|---|---|---|
| ar | one token per forward | itself, the definition |
| ar-jump | the scaffold rides along: one value token per forward | ar |
| self-spec | linear self-speculation (2604.06832) | ar |
| scaffold-spec | drafts keep to section blocks and see the scaffold (2605.23163) | ar |
| fused-self-spec, fused-scaffold-spec | verify and draft in one forward ("quadratic") | ar |
| section-diffusion | whole section blocks by confidence (2605.23163) | not ar; its own uncached definition |
| diffusion | blocks in sub-blocks by confidence (2509.26328, 2512.14067) | not ar; see `decode_diffusion` |

In exact arithmetic, with the same weights, allow-lists and scaffold.  All write one answer at batch 1; `rollouts.py`
samples several over one prefix, `decode_text.py` completes and infills text.
"""

from __future__ import annotations

from collections.abc import Callable

from efficientgen.planning.decode_ar import decode_ar, decode_ar_jump
from efficientgen.planning.decode_diffusion import decode_diffusion, decode_section_diffusion
from efficientgen.planning.decode_form import Answer, Counts, Form, NotAutoregressiveError, TemplateOnDevice, TextForm
from efficientgen.planning.decode_speculative import (
    decode_fused_scaffold_spec,
    decode_fused_self_spec,
    decode_scaffold_spec,
    decode_self_spec,
)

DECODERS: dict[str, Callable[..., Answer]] = {
    "ar": decode_ar,
    "ar-jump": decode_ar_jump,
    "self-spec": decode_self_spec,
    "scaffold-spec": decode_scaffold_spec,
    "fused-self-spec": decode_fused_self_spec,
    "fused-scaffold-spec": decode_fused_scaffold_spec,
    "section-diffusion": decode_section_diffusion,
    "diffusion": decode_diffusion,
}
NOT_AUTOREGRESSIVE = frozenset({"section-diffusion", "diffusion"})  # read the prompt as the config's clean context

__all__ = [
    "DECODERS",
    "NOT_AUTOREGRESSIVE",
    "Answer",
    "Counts",
    "Form",
    "NotAutoregressiveError",
    "TemplateOnDevice",
    "TextForm",
    "decode_ar",
    "decode_ar_jump",
    "decode_diffusion",
    "decode_fused_scaffold_spec",
    "decode_fused_self_spec",
    "decode_scaffold_spec",
    "decode_section_diffusion",
    "decode_self_spec",
]

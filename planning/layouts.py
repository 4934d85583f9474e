"""Tensor names of the released checkpoints, and ours.

Our modules carry the names that transformers 5 gives Qwen2.5-VL ("nested"): `model.language_model.*`, `model.visual.*`,
`lm_head.weight`; Fast-dVLM is released that way.  The "flat" layout has the text model directly under `model` and the
tower at the top: the Fast-dDrive release, and every text-only model (Fast-dLLM v2, Efficient-DLM, their parents).
"""

from __future__ import annotations

import re
from typing import Literal

from efficientgen.planning.config import ModelConfig

Layout = Literal["nested", "flat"]
HEAD = "lm_head.weight"
EMBEDDING = "model.language_model.embed_tokens.weight"


def our_name(stored: str) -> str | None:
    """The parameter that a stored tensor fills, whichever layout it comes in; None for what is computed instead."""
    if stored.endswith("rotary_emb.inv_freq"):
        return None
    stored = re.sub(r"^visual\.", "model.visual.", stored)
    return re.sub(r"^model\.(?!language_model\.|visual\.)", "model.language_model.", stored)


def stored_name(ours: str, layout: Layout) -> str:
    """The inverse of `our_name` for one layout."""
    if layout == "nested":
        return ours
    return re.sub(r"^model\.visual\.", "visual.", re.sub(r"^model\.language_model\.", "model.", ours))


def layout_of(config: ModelConfig) -> Layout:
    """What `save_model` writes unless told otherwise: the names that stock transformers gives this kind of model."""
    return "flat" if config.vision is None else "nested"

"""The planners that a user can bring: what they are, what belongs into their directory, whose licence they are under.

None of their files is shipped or fetched by this package, and nothing in them is ever executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FILES = (
    "config.json; model.safetensors, or model-*.safetensors with model.safetensors.index.json; tokenizer.json, or "
    "vocab.json with merges.txt, or neither and `pip install tiktoken && pip install --no-deps dashscope`"
)
OPTIONAL_FILES = (
    "preprocessor_config.json (picture sizes), prompt.txt and history.txt (the words it was trained with; "
    "efficientgen.planning.drive_prompt tells their form)"
)
LICENCE = "see its model card; derived from Qwen2.5-VL-3B, whose Qwen Research License excludes commercial use"


@dataclass(frozen=True)
class Release:
    """One released planner."""

    hub: str  # id on the Hugging Face hub
    architectures: tuple[str, ...]  # as its config.json names them
    what: str
    gib: float  # of weights, as released
    licence: str = LICENCE


RELEASES = {
    "fast-ddrive": Release(
        "Efficient-Large-Model/Fast-dDrive",
        ("Fast_dDriveForConditionalGeneration",),
        "3B driver, arXiv 2605.23163; schema wod-e2e (3 cameras, 5 s) or nuscenes (past fronts, 3 s)",
        15.0,  # float32
    ),
    "fast-dvlm": Release(
        "Efficient-Large-Model/Fast_dVLM_3B",
        ("Fast_dVLMForConditionalGeneration",),
        "3B vision-language model, arXiv 2604.06832; never trained to drive, fills in the same answer unprepared",
        7.0,
    ),
}


def family_of(config: Mapping[str, Any]) -> str:
    """Which release a `config.json` is of, by its own word or its architecture; "" when it does not say."""
    if isinstance(family := config.get("family"), str):
        return family
    names = set(config.get("architectures") or ())
    return next((name for name, release in RELEASES.items() if names & set(release.architectures)), "")

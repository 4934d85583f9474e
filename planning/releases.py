"""The planners that a user can bring: what they are, what belongs into their directory, whose licence they are under.

None of their files is shipped or fetched by this package, and nothing in them is ever executed.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    hub: str  # id of its publisher's repository on the model hub
    what: str
    gib: float  # of weights, as released
    licence: str = LICENCE


RELEASES = {
    "fast-ddrive": Release(
        "Efficient-Large-Model/Fast-dDrive",
        "3B driver, arXiv 2605.23163; schema wod-e2e (3 cameras, 5 s) or nuscenes (past fronts, 3 s)",
        15.0,  # float32
    ),
    "fast-dvlm": Release(
        "Efficient-Large-Model/Fast_dVLM_3B",
        "3B vision-language model, arXiv 2604.06832; never trained to drive, fills in the same answer unprepared",
        7.0,
    ),
}

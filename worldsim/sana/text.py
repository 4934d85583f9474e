"""What the world model is told in words: one prompt per weather, through the release's own text encoder (Gemma 2 2B).

diffusers' pipeline knows how the release was trained to read prompts (its instruction prefix, 300 tokens, padding), so
the hidden states are computed there, once, and the encoder is let go.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from efficientgen.kernels.shards import CheckpointError
from efficientgen.worldsim.sana.model import Text

PROMPT = "View from the front camera of a car that drives along the streets of a small town in {}, in traffic."
WORDS: Mapping[str, str] = {
    "day": "bright daylight",
    "dusk": "the low light of dusk",
    "night": "the dark of night, lit by street lamps",
    "rain": "rain, on wet roads",
    "fog": "dense fog",
}


def prompt_for(weather: str) -> str:
    """The prompt of a weather; one without words of its own is named as it is."""
    return PROMPT.format(WORDS.get(weather, weather))


@torch.inference_mode()
def encode_prompts(
    directory: Path, prompts: tuple[str, ...], dtype: torch.dtype, device: str | torch.device
) -> dict[str, Text]:
    """Each prompt's hidden states, by prompt, from `text_encoder/` and `tokenizer/` of `directory`.

    Raises:
        CheckpointError: one of them is missing or damaged.
        ImportError: diffusers or transformers is not installed.
    """
    from diffusers import SanaWMPipeline
    from diffusers.pipelines.sana_wm.pipeline_sana_wm import DEFAULT_CHI_PROMPT
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for folder in ("text_encoder", "tokenizer"):
        if not (directory / folder).is_dir():
            raise CheckpointError(f"{directory} has no {folder}/; put that of gemma-2-2b-it there")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
        encoder = AutoModelForCausalLM.from_pretrained(directory / "text_encoder", dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{directory}'s text encoder cannot be loaded: {str(error)[:300]}") from error
    encoder = nn.Module.to(encoder, device).eval()
    parts: dict[str, Any] = {"tokenizer": tokenizer, "text_encoder": encoder}
    pipeline: Any = SanaWMPipeline(**parts, vae=None, transformer=None, scheduler=None)
    out = {}
    for prompt in dict.fromkeys(prompts):
        hidden, mask, _, _ = pipeline.encode_prompt(prompt, device=torch.device(device), chi_prompt=DEFAULT_CHI_PROMPT)
        out[prompt] = Text(hidden[:, 0].to(dtype), mask)
    return out

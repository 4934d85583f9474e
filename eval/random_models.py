"""The four model families with random weights, tiny or at released shape, and prompts for them and for shipped models.

Decoders do not need a trained model to be right or wrong.  The weights are drawn so that answers do not fall into one
repeated token and confidences spread over (0, 1): small embeddings, sharp attention, a large final norm.  What random
weights cannot show is how many drafted tokens are accepted; a shipped model does.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efficientgen.perception.types import (
    HISTORY_PERIOD_NS,
    HISTORY_STATES,
    CameraFrame,
    Command,
    EgoHistory,
    EgoState,
    Observation,
)
from efficientgen.perception.vision import Grid, VisionConfig
from efficientgen.planning.config import ModelConfig, TextConfig, efficient_dlm, fast_ddrive, fast_dllm_v2, fast_dvlm
from efficientgen.planning.ddrive import CAMERAS, DDrive
from efficientgen.planning.load import model_directory
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.nano import nano_config, nano_tokenizer
from efficientgen.planning.schema import NANO, Template, compile_template, driving_schema
from efficientgen.planning.tokenizer import Vocabulary

TINY_GRID: Grid = (1, 4, 8)
RELEASED_GRID: Grid = (1, 32, 30)
TINY_VISION = VisionConfig(2, 32, 48, 2, 64, 112, (1,))
WORDS = 40  # vocabulary of the tiny text models; small, so that drafts are right by chance now and then
TOKENS: dict[str, Any] = {"mask_token_id": 1, "im_end_token_id": 2, "image_token_id": 3, "vision_start_token_id": 4}
SPECIAL = 5  # ids below are never drawn


@dataclass(frozen=True)
class Subject:
    """A model and what it is asked to write: a structured answer (`template`) or free text."""

    name: str
    model: VisionLanguageModel
    template: Template | None
    tokenizer: Vocabulary | None  # reads structured answers
    grids: tuple[Grid, ...]
    draw: Callable[[np.random.Generator], tuple[list[int], Tensor | None]]

    def prompt(self, seed: int) -> tuple[list[int], Tensor | None]:
        """Token ids of prompt `seed` and the patches (1, N, 1176) of its images, if any."""
        ids, patches = self.draw(np.random.default_rng([seed, zlib.crc32(self.name.encode())]))
        parameter = next(self.model.parameters())
        return ids, None if patches is None else patches.to(parameter.device, parameter.dtype)


def shipped_subject(name: str, checkpoint: str = "") -> Subject:
    """A driving model directory in float64, asked about noise pictures and random ego histories.

    Raises:
        UnknownPlannerError: no such model.
        CheckpointError: its directory is incomplete or damaged.
    """
    planner = DDrive.from_pretrained(model_directory(name, checkpoint), dtype=torch.float64)

    def draw(rng: np.random.Generator) -> tuple[list[int], Tensor]:
        patches, _, ids = planner.inputs(random_observation(rng))
        return ids, patches

    grids = planner.inputs(random_observation(np.random.default_rng(0)))[1]
    return Subject(name, planner.model, planner.template, planner.tokenizer, grids, draw)


def random_observation(rng: np.random.Generator) -> Observation:
    """Coarse noise pictures, a straight history at some speed, any command."""

    def frame(name: str, stamp_ns: int) -> CameraFrame:
        coarse = rng.integers(0, 255, (7, 14, 3), dtype=np.uint8)
        return CameraFrame(name, stamp_ns, coarse.repeat(16, 0).repeat(16, 1), np.eye(3), np.eye(4))

    speed, rate = rng.uniform(0, 12), rng.uniform(-0.1, 0.1)
    states = tuple(
        EgoState(i * HISTORY_PERIOD_NS, i * speed / 4, 0.01 * i, 0.02, speed, 0.1, rate, 0.0)
        for i in range(HISTORY_STATES)
    )
    cameras = {name: tuple(frame(name, s.stamp_ns) for s in states[-2:]) for name in CAMERAS}
    command = list(Command)[int(rng.integers(len(Command)))]
    return Observation(states[-1].stamp_ns, cameras, EgoHistory(states), command)


def tiny_subjects() -> Mapping[str, Callable[[], Subject]]:
    """By name: two layers, a few dozen words, one row of images; fp64."""
    text = TextConfig(64, 96, 2, 4, 2, WORDS, mrope_section=None)
    sizes: dict[str, Any] = {"bd_size": 16, "decode_block_size": 16, "sub_block_size": 4}
    return {
        "tiny-ddrive": lambda: _ddrive_tiny(sizes),
        "tiny-dvlm": lambda: _subject(
            "tiny-dvlm",
            replace(fast_dvlm(), text=replace(text, mrope_section=(2, 3, 3)), vision=TINY_VISION, **sizes, **TOKENS),
            (TINY_GRID,),
            21,
        ),
        "tiny-dllm-v2": lambda: _subject(
            "tiny-dllm-v2", replace(fast_dllm_v2(), text=text, **sizes, **TOKENS), (), 39
        ),
        "tiny-efficient-dlm": lambda: _subject(
            "tiny-efficient-dlm",
            replace(
                efficient_dlm(), text=replace(text, qkv_bias=False, qk_norm=True, explicit_head_dim=32),
                **sizes, **TOKENS,
            ),
            (),
            37,
        ),
    }  # fmt: skip


def released_subjects(dtype: torch.dtype, device: str) -> Mapping[str, Callable[[], Subject]]:
    """By name: the released shapes nearest to 3 B parameters, then the larger ones, drawn on `device`.

    The structured answer has the release's slots; the nano vocabulary spells its scaffold, one token a literal.
    """
    draw: dict[str, Any] = {"dtype": dtype, "device": device}
    return {
        "fast-dvlm": lambda: _subject("fast-dvlm", fast_dvlm(), (RELEASED_GRID,), 256, **draw),
        "fast-dllm-v2": lambda: _subject("fast-dllm-v2", fast_dllm_v2("1.5b"), (), 512, **draw),
        "efficient-dlm": lambda: _subject("efficient-dlm", efficient_dlm("4b"), (), 512, **draw),
        "fast-ddrive": lambda: _ddrive_released(dtype, device),
        "fast-dllm-v2-7b": lambda: _subject("fast-dllm-v2-7b", fast_dllm_v2("7b"), (), 512, **draw),
        "efficient-dlm-8b": lambda: _subject("efficient-dlm-8b", efficient_dlm("8b"), (), 512, **draw),
    }


def random_model(config: ModelConfig, seed: int, dtype: torch.dtype, device: str) -> VisionLanguageModel:
    """A model of `config` with weights drawn on `device`."""
    with torch.device("meta"):
        model = VisionLanguageModel(config).to(dtype)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(10.0 if name.endswith("language_model.norm.weight") else 1.0)
            if name.endswith("bias"):
                parameter.data.normal_(0, 0.1, generator=generator)
        elif "embed_tokens" in name or "lm_head" in name:
            parameter.data.normal_(0, 8 / config.text.hidden_size, generator=generator)
        else:
            fan_in = parameter[0].numel()
            sharp = 2.0 if name.endswith(("q_proj.weight", "k_proj.weight")) else 1.0
            parameter.data.normal_(0, sharp * fan_in**-0.5, generator=generator)
    return model.eval().requires_grad_(False)


def _subject(
    name: str,
    config: ModelConfig,
    grids: tuple[Grid, ...],
    prompt_tokens: int,
    template: Template | None = None,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Subject:
    model = random_model(config, zlib.crc32(name.encode()), dtype, device)

    def draw(rng: np.random.Generator) -> tuple[list[int], Tensor | None]:
        words = rng.integers(SPECIAL, config.text.vocab_size, prompt_tokens)
        text = [int(i) for i in words if i not in _special(config)]
        if not grids:
            return text, None
        pictures = [t for grid in grids for t in _picture(config, grid)]
        patches = rng.standard_normal((1, sum(t * h * w for t, h, w in grids), 1176))
        return text[:3] + pictures + text[3:], torch.from_numpy(patches)

    tokenizer = nano_tokenizer() if template is not None else None
    return Subject(name, model, template, tokenizer, grids, draw)


def _ddrive_tiny(sizes: dict[str, Any]) -> Subject:
    tokenizer = nano_tokenizer()
    text = TextConfig(64, 96, 2, 4, 2, tokenizer.vocab_size, mrope_section=(2, 3, 3))
    config = replace(nano_config(tokenizer), text=text, vision=TINY_VISION, **sizes)
    template = compile_template(NANO, tokenizer, config.bd_size)
    return _subject("tiny-ddrive", config, (TINY_GRID,) * 3, 30, template)


def _ddrive_released(dtype: torch.dtype, device: str) -> Subject:
    tokenizer = nano_tokenizer()
    schema = driving_schema("released-slots", [1.0, 2.0, 3.0, 4.0, 5.0], explanation=192, integers=3)
    template = compile_template(schema, tokenizer, fast_ddrive().bd_size)
    more = fast_ddrive().text.vocab_size - tokenizer.vocab_size
    template = replace(template, allow_lists=np.pad(template.allow_lists, ((0, 0), (0, more))))
    return _subject("fast-ddrive", fast_ddrive(), (RELEASED_GRID,) * 3, 730, template, dtype, device)


def _special(config: ModelConfig) -> set[int]:
    return {config.mask_token_id, config.im_end_token_id, config.image_token_id, config.vision_start_token_id}


def _picture(config: ModelConfig, grid: Grid) -> list[int]:
    t, h, w = grid
    return [config.vision_start_token_id, *[config.image_token_id] * (t * h * w // 4)]

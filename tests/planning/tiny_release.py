"""Checkpoint directories as the releases write them, at toy size: real config fields, key layouts, shards, tokenizer.

The vocabulary is a byte-level BPE trained here on our prompt and on answers, with Qwen's split and special tokens, so
signs, digits, yes and no are single tokens as in the real one.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

from efficientgen.perception.vision import VisionConfig
from efficientgen.planning.checkpoint import save_model
from efficientgen.planning.config import ModelConfig, TextConfig
from efficientgen.planning.drive_prompt import default_prompt
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.qwen_tokenizer import SPECIALS, SPLIT, QwenTokenizer, load_qwen
from efficientgen.planning.schema import CRITICAL_OBJECTS, NUSCENES, WOD_E2E, format_number
from efficientgen.planning.tokenizer import IM_END, IMAGE_PAD, MASK, NULL, VISION_START

PADDING = 13  # logits beyond the vocabulary, as the releases have
PIXELS = 4 * 28 * 28  # a picture of four tokens: the arithmetic of the real size, quickly


def answer_text(rng: np.random.Generator) -> str:
    """One WOD-E2E answer in the form that the models write."""
    numbers = [format_number(float(v), 3, 2) for v in rng.uniform(-90, 90, 10)]
    path = "], [".join(f" {x}, {y}" for x, y in zip(numbers[::2], numbers[1::2], strict=True))
    answer = {
        "critical_objects": {key: ("yes", "no")[rng.integers(2)] for key in CRITICAL_OBJECTS},
        "explanation": "The road ahead is clear, so the car keeps its speed and stays in its lane.",
        "future_meta_behavior": {"longitudinal": "keep speed", "lateral": "go straight"},
        "trajectory": f"[[{path}]]",
    }
    return json.dumps(answer)


@cache
def tiny_backend() -> HFTokenizer:
    backend = HFTokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), byte_level])
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1200, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    rng = np.random.default_rng(0)
    prompts = [default_prompt(schema).text for schema in (WOD_E2E, NUSCENES)]
    meta = ['"slow down" "speed up" "come to stop" "lane follow" "keep lane" "turn left" "turn right"'] * 8
    backend.train_from_iterator(prompts * 4 + meta + [answer_text(rng) for _ in range(20)], trainer)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return backend


def tiny_tokenizer(directory: Path) -> QwenTokenizer:
    """The toy vocabulary, written as `tokenizer.json` and read back."""
    directory.mkdir(parents=True, exist_ok=True)
    tiny_backend().save(str(directory / "tokenizer.json"))
    return load_qwen(directory)


@cache
def tiny_model(family: str) -> VisionLanguageModel:
    """Random weights of two layers of everything, as `family` configures them."""
    backend = tiny_backend()
    ids = {"mask_token_id": MASK, "null_token_id": NULL, "image_token_id": IMAGE_PAD,
           "vision_start_token_id": VISION_START, "im_end_token_id": IM_END}  # fmt: skip
    width = backend.get_vocab_size() + PADDING
    config = ModelConfig(
        text=TextConfig(64, 96, 2, 4, 2, width, mrope_section=(2, 3, 3)),
        vision=VisionConfig(2, 32, 48, 2, 64, 112, (1,)),
        family=family,  # type: ignore[arg-type]
        schema=WOD_E2E.name if family == "fast-ddrive" else None,
        **{key: backend.token_to_id(token) for key, token in ids.items()},
    )
    torch.manual_seed(0)
    return VisionLanguageModel(config).eval().requires_grad_(False)


def flat_config(model: VisionLanguageModel, family: str) -> dict:
    """`config.json` as transformers 4 wrote it for the releases: text keys at the top, no word of ours but theirs."""
    text, vision, config = model.config.text, model.config.vision, model.config
    assert vision is not None and text.mrope_section is not None
    name = {"fast-ddrive": "Fast_dDriveForConditionalGeneration", "fast-dvlm": "Fast_dVLMForConditionalGeneration"}
    scaffold = (
        {"deep_json_scaffold": True, "section_loss_weights": {"trajectory": 3.0}} if family == "fast-ddrive" else {}
    )
    return {
        "architectures": [name[family]],
        "auto_map": {"AutoModelForCausalLM": "modeling.Fast_dVLMForConditionalGeneration"},
        "model_type": "qwen2_5_vl",
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "vocab_size": text.vocab_size,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": text.rope_theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(text.mrope_section)},
        "use_sliding_window": False,
        "max_position_embeddings": 128000,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "vision_config": {
            "depth": vision.depth, "hidden_size": vision.hidden_size, "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_heads, "out_hidden_size": vision.out_hidden_size, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": vision.window_size, "in_chans": 3,
            "fullatt_block_indexes": list(vision.fullatt_block_indexes), "hidden_act": "silu",
        },
        "bd_size": 32,
        "complementary_mask": True,
        "always_mask_im_end": True,
        **scaffold,
        **{key: getattr(config, key) for key in ("mask_token_id", "null_token_id", "image_token_id",
                                                 "vision_start_token_id", "im_end_token_id")},
    }  # fmt: skip


def write_release(directory: Path, family: str, pixels: int = PIXELS) -> Path:
    """Fast-dDrive: flat names, float32, head stored twice, shards; Fast-dVLM: nested names, bf16, shards."""
    model = tiny_model(family)
    flat = family == "fast-ddrive"
    save_model(model, directory, layout="flat" if flat else "nested", head_copy=True, shard_bytes=200_000,
               dtype=torch.float32 if flat else torch.bfloat16)  # fmt: skip
    (directory / "config.json").write_text(json.dumps(flat_config(model, family)))
    (directory / "preprocessor_config.json").write_text(json.dumps({"min_pixels": pixels, "max_pixels": pixels}))
    tiny_tokenizer(directory)
    return directory

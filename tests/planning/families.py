"""Every family at a size that a test can hold, and the stock transformers model of the same shape beside it."""

from __future__ import annotations

from dataclasses import replace

import torch

from efficientgen.perception.vision import VisionConfig
from efficientgen.planning.config import (
    ModelConfig,
    TextConfig,
    efficient_dlm,
    fast_ddrive,
    fast_dllm_v2,
    fast_dvlm,
)
from efficientgen.planning.model import VisionLanguageModel

VOCABULARY = 96
TOKENS = {"mask_token_id": 2, "null_token_id": 1, "im_end_token_id": 4, "image_token_id": 7, "vision_start_token_id": 5}
VISION = VisionConfig(2, 32, 48, 2, 64, 112, (1,))
SEEING = TextConfig(64, 96, 2, 4, 2, VOCABULARY, mrope_section=(2, 3, 3))
QWEN2 = replace(SEEING, mrope_section=None, tie_word_embeddings=False)
QWEN3 = replace(QWEN2, qkv_bias=False, qk_norm=True, explicit_head_dim=24, tie_word_embeddings=True)

SMALL: dict[str, ModelConfig] = {
    "fast-ddrive": replace(fast_ddrive(), text=SEEING, vision=VISION, **TOKENS),
    "fast-dvlm": replace(fast_dvlm(), text=SEEING, vision=VISION, **TOKENS),
    "fast-dllm-v2": replace(fast_dllm_v2(), text=QWEN2, **TOKENS),
    "efficient-dlm": replace(efficient_dlm(), text=QWEN3, **TOKENS),
    "efficient-dlm-1.5b": replace(efficient_dlm("1.5b"), text=QWEN2, **TOKENS),
}


def random_model(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> VisionLanguageModel:
    """Random weights, norms and biases included: with their initial ones and zeros a swap would go unnoticed."""
    torch.manual_seed(seed)
    model = VisionLanguageModel(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, float("norm" in name or "ln_q" in name), 0.1)
    return model.to(dtype).eval().requires_grad_(False)


def stock_model(config: ModelConfig, seed: int = 0, std: float = 0.1):
    """Stock Qwen2.5-VL, Qwen3 or Qwen2 of the same shape, fp32, written down from numbers and not from our JSON."""
    import transformers

    torch.manual_seed(seed)
    text, vision = config.text, config.vision
    shape = {
        "hidden_size": text.hidden_size, "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers, "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads, "vocab_size": text.vocab_size,
        "rms_norm_eps": text.rms_norm_eps, "tie_word_embeddings": text.tie_word_embeddings,
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    ids = {k: getattr(config, k) for k in TOKENS}
    rope = {"rope_type": "default", "rope_theta": text.rope_theta}
    if vision is not None:
        tower = {
            "depth": vision.depth, "hidden_size": vision.hidden_size, "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_heads, "out_hidden_size": vision.out_hidden_size,
            "fullatt_block_indexes": list(vision.fullatt_block_indexes),
        }  # fmt: skip
        stock_config = transformers.Qwen2_5_VLConfig(
            text_config=shape | {"rope_parameters": rope | {"mrope_section": list(text.mrope_section)}},
            vision_config=tower,
            tie_word_embeddings=text.tie_word_embeddings,
            **ids,
        )
        kind = transformers.Qwen2_5_VLForConditionalGeneration
    elif text.qk_norm:
        stock_config = transformers.Qwen3Config(**shape, head_dim=text.head_dim, rope_parameters=rope, **ids)
        kind = transformers.Qwen3ForCausalLM
    else:
        stock_config = transformers.Qwen2Config(**shape, rope_parameters=rope, **ids)
        kind = transformers.Qwen2ForCausalLM
    stock_config._attn_implementation = "eager"
    stock = kind(stock_config).eval().requires_grad_(False)
    for name, parameter in stock.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, float("norm" in name or "ln_q" in name), 0.1)
        else:
            torch.nn.init.normal_(parameter, std=std)
    return stock

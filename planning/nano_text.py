"""The nano text model: Qwen3's shape (qk-norm, no q/k/v bias) at a million parameters, over the words of scene texts.

It is Efficient-DLM (2512.14067) at a size that trains and runs on one CPU core: an AR parent first, block diffusion by
the repo's own conversion after.
"""

from __future__ import annotations

from efficientgen.planning.config import ModelConfig, NoiseSchedule, TextConfig
from efficientgen.planning.scene_text import vocabulary
from efficientgen.planning.tokenizer import IM_END, IMAGE_PAD, MASK, NULL, VISION_START, Tokenizer, build_tokenizer


def nano_text_tokenizer() -> Tokenizer:
    """The closed vocabulary of the scene descriptions."""
    return build_tokenizer(*vocabulary())


def nano_text_config(tokenizer: Tokenizer, hidden: int = 128, layers: int = 6) -> ModelConfig:
    """The shipped size by default; blocks of 32."""
    return ModelConfig(
        text=TextConfig(
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=tokenizer.vocab_size,
            rope_theta=1e4,
            mrope_section=None,
            qkv_bias=False,
            qk_norm=True,
            explicit_head_dim=hidden // 4,
        ),
        vision=None,
        family="efficient-dlm",
        bd_size=32,
        decode_block_size=32,
        sub_block_size=32,
        token_shift=0,
        clean_context="block",
        noise=NoiseSchedule("position-dependent", half_life=0.1),
        mask_token_id=tokenizer.id_of(MASK),
        null_token_id=tokenizer.id_of(NULL),
        image_token_id=tokenizer.id_of(IMAGE_PAD),
        vision_start_token_id=tokenizer.id_of(VISION_START),
        im_end_token_id=tokenizer.id_of(IM_END),
        schema=None,
    )

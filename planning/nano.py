"""The nano size: a Fast-dDrive of 7 M parameters that runs on a laptop CPU.  Same classes and keys as the release."""

from __future__ import annotations

from efficientgen.perception.vision import VisionConfig
from efficientgen.planning.annotate import SENTENCES
from efficientgen.planning.model import ModelConfig, TextConfig
from efficientgen.planning.prompt import COMMANDS, LITERALS
from efficientgen.planning.schema import LATERAL, LONGITUDINAL, NANO, Literal
from efficientgen.planning.tokenizer import IM_END, IMAGE_PAD, MASK, NULL, VISION_START, Tokenizer, build_tokenizer


def nano_tokenizer() -> Tokenizer:
    """The closed vocabulary of the nano schema, prompt and sentences."""
    literals = [part.text for parts in NANO.sections.values() for part in parts if isinstance(part, Literal)]
    return build_tokenizer([*literals, *LITERALS], [*SENTENCES, *LONGITUDINAL, *LATERAL, *COMMANDS.values()])


def nano_config(tokenizer: Tokenizer) -> ModelConfig:
    """7.3 M parameters, 14 MiB as bf16: 4 vision blocks of 192, 6 text layers of 256."""
    return ModelConfig(
        text=TextConfig(
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=tokenizer.vocab_size,
            mrope_section=(8, 12, 12),
        ),
        vision=VisionConfig(
            depth=4,
            hidden_size=192,
            intermediate_size=512,
            num_heads=4,
            out_hidden_size=256,
            fullatt_block_indexes=(1, 3),
        ),
        mask_token_id=tokenizer.id_of(MASK),
        null_token_id=tokenizer.id_of(NULL),
        image_token_id=tokenizer.id_of(IMAGE_PAD),
        vision_start_token_id=tokenizer.id_of(VISION_START),
        im_end_token_id=tokenizer.id_of(IM_END),
        schema=NANO.name,
    )

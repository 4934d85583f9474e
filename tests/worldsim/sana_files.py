"""A tiny SANA-WM release on disk, in the layout of the streaming one, with random weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from efficientgen.worldsim.sana.model import SanaTransformer
from tests.worldsim.sana_models import tiny


def tiny_autoencoder(seed: int = 0) -> Any:
    """diffusers' LTX-2 autoencoder: 8 latent channels, 32 x 32 px and 8 pictures per latent, a few thousand weights."""
    from diffusers import AutoencoderKLLTX2Video

    torch.manual_seed(seed)
    vae = AutoencoderKLLTX2Video(
        latent_channels=8, block_out_channels=(8, 8, 16, 16), decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1), decoder_causal=True,
    )  # fmt: skip
    vae.latents_mean.copy_(0.1 * torch.randn(8))
    vae.latents_std.copy_(0.5 + torch.rand(8))
    return vae.eval()


def write_transformer(model: SanaTransformer, directory: Path, **more: Any) -> None:
    """sana_dit/: a training checkpoint as the release has it, and the sizes that the release leaves out."""
    folder = directory / "sana_dit"
    folder.mkdir(parents=True)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state["model.pos_embed"] = torch.zeros(1, 4, 8)
    torch.save({"generator": state, "critic": {"x": torch.zeros(1)}, "step": 3000, **more}, folder / "model.pt")
    (folder / "config.json").write_text(json.dumps(asdict(model.config)))


def write_text_encoder(directory: Path, width: int) -> None:
    """text_encoder/ and tokenizer/: a Gemma 2 of two layers that knows words by their spelling."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

    letters = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *map(chr, range(33, 127))])}
    core = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokens = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **tokens).save_pretrained(directory / "tokenizer")
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(letters), hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=64, max_position_embeddings=4096,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(directory / "text_encoder")


def tiny_refiner(seed: int = 0) -> Any:
    """diffusers' LTX-2 refiner of two layers for 8 latent channels."""
    from diffusers import SanaWMLTX2RefinerTransformer3DModel

    torch.manual_seed(seed)
    return SanaWMLTX2RefinerTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        audio_in_channels=8, audio_out_channels=8, audio_num_attention_heads=2, audio_attention_head_dim=8,
        audio_cross_attention_dim=16, num_layers=2, caption_channels=16,
    ).eval()  # fmt: skip


def tiny_connectors(seed: int = 0) -> Any:
    """Between a Gemma 3 of two layers and that refiner."""
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    torch.manual_seed(seed)
    half = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": 4}
    both = {f"{kind}_connector_{key}": value for kind in ("video", "audio") for key, value in half.items()}
    return LTX2TextConnectors(caption_channels=16, text_proj_in_factor=3, **both).eval()


def write_refiner(directory: Path) -> None:
    """refiner_diffusers/ and gemma3_12b/; the tokenizer is the one of `write_text_encoder`."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    tiny_refiner().save_pretrained(directory / "refiner_diffusers" / "transformer")
    tiny_connectors().save_pretrained(directory / "refiner_diffusers" / "connectors")
    torch.manual_seed(0)
    text = {"vocab_size": 97, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8,
            "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 64,
            "max_position_embeddings": 2048}  # fmt: skip
    seen = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=seen, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(directory / "gemma3_12b")
    for path in (directory / "tokenizer").iterdir():
        (directory / "gemma3_12b" / path.name).write_bytes(path.read_bytes())


def write_release(directory: Path, seed: int = 0, **changes: Any) -> SanaTransformer:
    """Everything a `SanaWorld` reads."""
    model = tiny(seed, **changes)
    write_transformer(model, directory)
    tiny_autoencoder(seed).save_pretrained(directory / "ltx2_causal_vae")
    write_text_encoder(directory, model.config.caption_channels)
    return model

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


def write_release(directory: Path, seed: int = 0, **changes: Any) -> SanaTransformer:
    """Everything a `SanaWorld` reads."""
    model = tiny(seed, **changes)
    write_transformer(model, directory)
    tiny_autoencoder(seed).save_pretrained(directory / "ltx2_causal_vae")
    write_text_encoder(directory, model.config.caption_channels)
    return model

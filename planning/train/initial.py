"""Random weights to start a nano model from."""

from __future__ import annotations

import math

import torch

from efficientgen.planning.model import VisionLanguageModel


def initialise(model: VisionLanguageModel) -> None:
    """Normal(0, 0.02) everywhere, residual outputs scaled down with depth."""
    text, vision = model.config.text, model.config.vision
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        std = 0.02
        if name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight")):
            depth = vision.depth if vision and "visual" in name else text.num_hidden_layers
            std /= math.sqrt(2 * depth)
        torch.nn.init.normal_(parameter, std=std)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)

"""A small random nano-shaped model and observations, shared by the planner tests."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from efficientgen.perception.types import (
    HISTORY_PERIOD_NS,
    HISTORY_STATES,
    CameraFrame,
    Command,
    EgoHistory,
    EgoState,
    Observation,
)
from efficientgen.perception.vision import VisionConfig
from efficientgen.planning.annotate import SENTENCES
from efficientgen.planning.ddrive import CAMERAS
from efficientgen.planning.model import TextConfig, VisionLanguageModel
from efficientgen.planning.nano import nano_config, nano_tokenizer


def random_observation(seed: int) -> Observation:
    """Noise images and a plausible history; enough for a model to look at."""
    rng = np.random.default_rng(seed)

    def frames(name: str) -> tuple[CameraFrame, ...]:
        images = rng.integers(0, 255, (2, 112, 224, 3), dtype=np.uint8)
        return tuple(CameraFrame(name, i, image, np.eye(3), np.eye(4)) for i, image in enumerate(images))

    speed = float(rng.uniform(0, 12))
    states = tuple(
        EgoState(i * HISTORY_PERIOD_NS, i * speed / 4, 0.01 * i, 0.02, speed, 0.1, 0.0, 0.0)
        for i in range(HISTORY_STATES)
    )
    command = list(Command)[seed % 3]
    return Observation(states[-1].stamp_ns, {n: frames(n) for n in CAMERAS}, EgoHistory(states), command)


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Small tensors gain nothing from more, and on a busy machine torch's threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer():
    assert SENTENCES
    return nano_tokenizer()


@pytest.fixture(scope="session")
def small_config(tokenizer):
    """Nano's tokens and schema on two layers of everything."""
    return replace(
        nano_config(tokenizer),
        text=TextConfig(64, 96, 2, 4, 2, tokenizer.vocab_size, mrope_section=(2, 3, 3)),
        vision=VisionConfig(2, 32, 48, 2, 64, 112, (1,)),
    )


@pytest.fixture(scope="session")
def small_model(small_config):
    """Random weights, fp64."""
    torch.manual_seed(0)
    return VisionLanguageModel(small_config).double().eval().requires_grad_(False)

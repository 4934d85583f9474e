"""The planner that is measured: the shipped one, a user's checkpoint, or the released 3B shape with random weights.

Random weights take as long as trained ones per forward.  How many drafted tokens they accept means nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from efficientgen.eval.random_models import random_model
from efficientgen.planning.config import ModelConfig, fast_ddrive
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.load import DEFAULT, model_directory, resolve_dtype
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.qwen_tokenizer import REMEDY, from_ranks, installed_ranks
from efficientgen.planning.tokenizer import TokenizerError

HEADROOM = 1.25  # weights, and room for activations, caches and the rest of the process
RANDOM = "random weights: times are those of a trained model, acceptance and all that follows from it mean nothing"


WOD_PICTURE = (1079, 972)  # height and width, px, of a camera that the released processor gives 32 x 30 patches


class TooLargeError(ValueError):
    """A model that does not fit into this machine's memory."""


def nano_subject(checkpoint: str, device: str, dtype: str, threads: int) -> DDrive:
    """The shipped planner, or the one in directory `checkpoint`."""
    torch.set_num_threads(threads)
    number_format = resolve_dtype(device, dtype)
    directory = model_directory(DEFAULT, checkpoint)
    return DDrive.from_pretrained(directory, dtype=number_format, device=device, engine=False)


def random_subject(device: str, dtype: str, threads: int, copies: int = 1, config: ModelConfig | None = None) -> DDrive:
    """Fast-dDrive's shape (or `config`) with random weights and Qwen's vocabulary, asked for its 404-token answer.

    Args:
        copies: of the weights that the run will hold; stock transformers beside it makes two.

    Raises:
        DeviceError: no such device here.
        TokenizerError: Qwen's vocabulary is not installed.
        TooLargeError: not enough memory is free.
    """
    config, number_format = config or fast_ddrive(), resolve_dtype(device, dtype)
    ranks = installed_ranks()
    if ranks is None:
        raise TokenizerError(f"the released answer is spelled with Qwen's vocabulary; {REMEDY}")
    require_memory(config, number_format, torch.device(device), copies)
    torch.set_num_threads(threads)
    model = random_model(config, 0, number_format, device)
    return DDrive(model, from_ranks(ranks), name="random-3b")


def require_memory(config: ModelConfig, dtype: torch.dtype, device: torch.device, copies: int) -> None:
    """
    Raises:
        TooLargeError: `copies` of the weights of `config` with some headroom exceed what is free on `device`.
    """
    with torch.device("meta"):
        parameters = sum(p.numel() for p in VisionLanguageModel(config).parameters())
    need, free = copies * parameters * dtype.itemsize * HEADROOM, free_bytes(device)
    if need > free:
        raise TooLargeError(
            f"{copies} x {parameters / 1e9:.2f} B parameters as {str(dtype).removeprefix('torch.')} need "
            f"{need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free on {device}: give --device cuda where there is "
            "a GPU of 24 GB, "
            "--stock 0 for one copy, or --shape nano"
        )


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    path = Path("/proc/meminfo")
    if path.exists():
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

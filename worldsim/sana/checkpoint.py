"""SANA-WM's released directories: which of the three variants they hold, and the transformer in them.

    bidirectional   dit/*.safetensors, or transformer/ in diffusers' layout
    chunk-causal    dit/*chunk_causal*.safetensors (the teacher), or transformer/ whose config says `streaming`
    streaming       sana_dit/model.pt, or model.safetensors beside it: the few-step student

All have the same parameters.  The streaming release is a training checkpoint, a pickle: its `generator` is read with
torch's restricted unpickler, which builds tensors and containers only, and nothing else of it is kept.  A `config.json`
beside the weights gives the sizes; the original releases have none and are of the default size.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from efficientgen.kernels.shards import CheckpointError, reader, some, stored_tensors
from efficientgen.worldsim.sana.config import SanaConfig, read_config, read_json
from efficientgen.worldsim.sana.model import SanaTransformer

Variant = Literal["bidirectional", "chunk-causal", "streaming"]
STUDENT = "sana_dit"
PICKLE, SAFE = "model.pt", "model.safetensors"
DIFFUSERS = "diffusion_pytorch_model.safetensors"
UNREAD = re.compile(r"(.*\.)?(pos_embed|recall_gate)|raymap_embedder\..*")
SOFTMAX_UNREAD = re.compile(r"blocks\.(\d+)\.attn\.(A_log|dt_bias|beta_proj\..*|gate_proj\..*)")


class MissingWorldError(FileNotFoundError):
    """The directory of a world model is not there."""


class WrongVariantError(ValueError):
    """The directory holds another variant of the model than was asked for, or none."""


@dataclass(frozen=True)
class Release:
    """The transformer's weights in a directory: file `weights`, or its shards, in `directory`."""

    variant: Variant
    directory: Path
    weights: str


def find_release(directory: str | Path) -> Release:
    """Which variant a directory holds; the student where it holds several.

    Raises:
        MissingWorldError: no such directory.
        WrongVariantError: no layout that we know.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise MissingWorldError(f"{directory} is no directory; give one that holds a SANA-WM release")
    for name in (SAFE, PICKLE):
        if (directory / STUDENT / name).exists():
            return Release("streaming", directory / STUDENT, name)
    for path in sorted((directory / "dit").glob("*.safetensors")):
        return Release("chunk-causal" if "chunk_causal" in path.name else "bidirectional", path.parent, path.name)
    transformer = directory / "transformer"
    if (transformer / "config.json").exists():
        streams = read_json(transformer / "config.json").get("streaming")
        return Release("streaming" if streams is True else "bidirectional", transformer, DIFFUSERS)
    there = sorted(p.name for p in directory.iterdir())
    raise WrongVariantError(
        f"{directory} holds no SANA-WM transformer ({STUDENT}/{PICKLE}, dit/*.safetensors or transformer/), only "
        f"{some(there) or 'nothing'}"
    )


def require(release: Release, variant: Variant) -> None:
    """Raises:
    WrongVariantError: the release is another variant.
    """
    if release.variant != variant:
        raise WrongVariantError(
            f"{release.directory / release.weights} is the {release.variant} SANA-WM; {variant} weights are needed "
            f"here: fetch Efficient-Large-Model/SANA-WM_{variant.replace('-', '_')}"
        )


def load_transformer(
    release: Release, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> SanaTransformer:
    """The transformer, frozen, in eval mode.

    Raises:
        CheckpointError: config or weights are missing, damaged, of other sizes, or not finite.
    """
    config = read_config(release.directory)
    with torch.device("meta"):
        model = SanaTransformer(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    where = release.directory / release.weights
    for name, value in _tensors(release, config, expected):
        out = value.to(device).to(dtype, copy=True)
        if not bool(torch.isfinite(out).all()):
            raise CheckpointError(f"{where}: {name} holds NaN or infinite weights; a damaged file: fetch it again")
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, nn.Parameter(out, requires_grad=False))
    return model.eval().requires_grad_(False)


def our_name(stored: str, config: SanaConfig) -> str | None:
    """The parameter that a stored tensor fills; None for what the releases store and never read."""
    name = stored.removeprefix("model.")
    unread = SOFTMAX_UNREAD.fullmatch(name)
    if UNREAD.fullmatch(name) or (unread and not config.recurs(int(unread[1]))):
        return None
    return name


def _tensors(
    release: Release, config: SanaConfig, expected: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """Every wanted tensor by our name, after all names and shapes were checked."""
    rename = partial(our_name, config=config)
    if release.weights == PICKLE:
        held = _generator(release.directory / PICKLE, rename)
        _check(release, expected, {name: tuple(value.shape) for name, value in held.items()})
        yield from held.items()
        return
    stored = stored_tensors(release.directory, release.weights, rename)
    _check(release, expected, {name: tensor.shape for name, tensor in stored.items()})
    for path, tensors in groupby(sorted(stored.items(), key=lambda x: (x[1].path, x[0])), key=lambda x: x[1].path):
        with reader(path) as read:
            for name, tensor in tensors:
                yield name, read(tensor.name)


def _generator(path: Path, rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    """The student's tensors in the training checkpoint at `path`, mapped from the file as they are read."""
    try:
        data = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of plain tensors ({str(error)[:200]}); fetch it again"
        ) from error
    for key in ("generator", "state_dict"):
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
            break
    if not isinstance(data, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in data.items()):
        raise CheckpointError(f"{path} holds no `generator` of named tensors; fetch the streaming release again")
    named = {name: value for stored, value in data.items() if (name := rename(stored)) is not None}
    return named


def _check(release: Release, expected: dict[str, tuple[int, ...]], held: dict[str, tuple[int, ...]]) -> None:
    where = release.directory / release.weights
    if missing := sorted(expected.keys() - held.keys()):
        raise CheckpointError(f"{where} lacks {len(missing)} tensors: {some(missing)}; fetch it again")
    if surplus := sorted(held.keys() - expected.keys()):
        raise CheckpointError(f"{where} has {len(surplus)} tensors that are no SANA-WM's: {some(surplus)}")
    if wrong := sorted(name for name, shape in expected.items() if held[name] != shape):
        name = wrong[0]
        raise CheckpointError(
            f"{where}: {name} is {held[name]}, the config says {expected[name]}; put the config.json of these weights "
            f"into {release.directory}"
        )

"""The tensors of a model directory by name, shape and dtype, read from headers before anything is allocated.

One safetensors file, or shards that `<file>.index.json` lists.  The index is untrusted: it may name plain files of its
own directory only, and what it says must be what the shards hold.  Pickled weights are never opened here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PLAIN = re.compile(r"[\w.+-]{1,200}\.safetensors", re.ASCII)  # a file name: no separator, no drive, no root
TOLD = 3  # names that a message lists


class CheckpointError(ValueError):
    """A model directory that cannot be loaded; the message says which file and what to do."""


@dataclass(frozen=True)
class Stored:
    """One tensor on disk."""

    path: Path
    name: str  # in the file
    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it: F32, BF16, F8_E4M3, ...


def index_of(weights: str) -> str:
    """The file that lists the shards of `weights`."""
    return f"{weights}.index.json"


def stored_tensors(directory: Path, weights: str, our_name: Callable[[str], str | None]) -> dict[str, Stored]:
    """Every tensor of a model directory under our name.

    Args:
        weights: the file's name where there is a single one, as `model.safetensors`.
        our_name: what a stored tensor is called here; None for one that is not wanted.

    Raises:
        CheckpointError: weights are missing, pickled or damaged, the index lies or leaves the directory, or two tensors
            have one name.
    """
    single, index = directory / weights, directory / index_of(weights)
    if single.exists():
        return _merged([_header(single)], our_name)
    if not index.exists():
        raise CheckpointError(_what_is_there_instead(directory, weights))
    listed = _read_index(index)
    headers = [_header(directory / name) for name in sorted(set(listed.values()))]
    tensors = _merged(headers, our_name)
    held = {tensor.name: tensor.path.name for header in headers for tensor in header}
    if wrong := sorted(name for name in listed.keys() | held.keys() if listed.get(name) != held.get(name)):
        raise CheckpointError(f"{index} does not say what the shards hold: {some(wrong)}; fetch index and shards again")
    return tensors


@contextmanager
def reader(path: Path) -> Iterator[Callable[[str], Tensor]]:
    """A function from a name in the file at `path` to its tensor, which is read when it is asked for.

    Raises:
        CheckpointError: the file is not (or no longer) what its header says.
    """
    try:
        with safe_open(path, "pt") as file:
            yield file.get_tensor
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def some(names: list[str]) -> str:
    """The first few of many names and how many there are."""
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(name[:120] for name in names[:TOLD]) + more


def _merged(headers: list[list[Stored]], our_name: Callable[[str], str | None]) -> dict[str, Stored]:
    out: dict[str, Stored] = {}
    for header in headers:
        for tensor in header:
            name = our_name(tensor.name)
            if name is None:
                continue
            if name in out:
                first = out[name]
                raise CheckpointError(
                    f"{tensor.name} of {tensor.path.name} and {first.name} of {first.path.name} are one parameter; "
                    f"remove one of them or fetch {tensor.path.parent} again"
                )
            out[name] = tensor
    return out


def _header(path: Path) -> list[Stored]:
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return [Stored(path, n, tuple(s.get_shape()), str(s.get_dtype())) for n, s in slices.items()]
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing, though the index beside it names it; fetch that shard") from error
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({str(error)[:200]}); fetch or train it again")


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name to shard file, each a plain file of the index's own directory."""
    try:
        data: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}; fetch it again") from error
    listed = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(listed, dict) or not listed or not all(isinstance(v, str) for v in listed.values()):
        raise CheckpointError(f"{path} holds no weight_map of tensor names to files; fetch it again")
    for name in sorted(set(listed.values())):
        shard = path.parent / name
        if not PLAIN.fullmatch(name):
            raise CheckpointError(
                f"{path} names {name[:120]!r}, which is no safetensors file of its directory; do not load it, and "
                "fetch the model from a source that you trust"
            )
        if shard.is_symlink() and not _inside(shard, path.parent):
            raise CheckpointError(
                f"{shard} links to a file outside its directory; put the file itself there (cp -L) if you trust it"
            )
    return listed


def _inside(shard: Path, directory: Path) -> bool:
    """Does a link stay in the directory, or in the blob store of the hub cache that the directory belongs to?"""
    target, home = shard.resolve(), directory.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    return target.parent in (home, blobs)


def _what_is_there_instead(directory: Path, weights: str) -> str:
    names = sorted(p.name for p in directory.iterdir()) if directory.is_dir() else []
    if shards := [n for n in names if n.endswith(".safetensors")]:
        return f"{directory} has {len(shards)} shards ({some(shards)}) but no {index_of(weights)}; fetch that file too"
    if pickles := [n for n in names if n.endswith(PICKLES)]:
        return (
            f"{directory} has no {weights}, only pickled weights ({some(pickles)}), which can run code and are not "
            "opened; convert them to safetensors where you trust them, or fetch that revision"
        )
    return f"{directory} has no {weights}: is it a model directory? `efficientgen models` lists some"

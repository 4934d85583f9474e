"""What tuning found, kept in the user's cache directory, so that it is measured once on each machine.

The file is named by a hash of all that the choice depends on: the GPU, the versions of torch and triton, the model's
shape, and the kernels' own source.  Another of these is another file; one that cannot be read is measured anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efficientgen.kernels.skinny import Tile
from efficientgen.planning.engine_layers import Choices

if TYPE_CHECKING:
    from efficientgen.planning.engine import Engine

Ways = dict[tuple[int, int, int], tuple[int, int, int]]  # (rows, tail, context) -> (chunk, held, warps) of attention
SOURCES = ("kernels.skinny", "kernels.prefix_attention", "kernels.rows", "planning.engine_layers",
           "planning.engine_tune")  # fmt: skip


@dataclass
class Tuning:
    """Choices of products and ways of attention, and the file that holds them; None: nowhere."""

    choices: Choices
    ways: Ways = field(default_factory=dict)
    path: Path | None = None
    key: Mapping[str, Any] = field(default_factory=dict)
    found: bool = False  # in the file, not measured now

    def keep(self) -> None:
        """Write the file, whole or not at all; where it cannot be written, the next load measures again."""
        if self.path is None:
            return
        tiles = [[name, rows, tile and list(asdict(tile).values())] for (name, rows), tile in self.choices.items()]
        ways = [[*step, *way] for step, way in self.ways.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as draft:
                json.dump({"key": self.key, "tiles": tiles, "ways": ways}, draft)
            os.replace(draft.name, self.path)
        except OSError as error:
            warnings.warn(f"tuning is not kept: {error}; set XDG_CACHE_HOME to a directory of yours", stacklevel=2)
            self.path = None


def tuned(key: Mapping[str, Any], measure: Callable[[], Choices]) -> Tuning:
    """The tuning of `key` from its file, or else what `measure` finds, which is then kept."""
    path = directory() / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.json"
    try:
        held = json.loads(path.read_text("utf-8"))
        choices = {(str(name), int(rows)): Tile(*tile) if tile else None for name, rows, tile in held["tiles"]}
        ways = {(r, t, c): (chunk, many, warps) for r, t, c, chunk, many, warps in held["ways"]}
        if held["key"] == key:
            return Tuning(choices, ways, path, key, True)
    except (OSError, ValueError, KeyError, TypeError):  # not there, of another version, or damaged: it is made anew
        pass
    out = Tuning(measure(), {}, path, key)
    out.keep()
    return out


def key_of(engine: Engine, ours: bool) -> dict[str, Any]:
    """All that the tuning of `engine` depends on; `ours`: our kernels were tried."""
    import triton

    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update(Path(str(import_module(f"efficientgen.{name}").__file__)).read_bytes())
    text = engine.weights.config
    return {
        "gpu": torch.cuda.get_device_name(engine.device),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "shape": [text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.num_attention_heads,
                  text.num_key_value_heads, text.head_dim, text.qkv_bias, text.qk_norm],
        "dtype": str(engine.dtype),
        "rows": list(engine.rows),
        "slots": engine.store.shape[3],
        "ours": ours,
        "source": digest.hexdigest(),
    }  # fmt: skip


def directory() -> Path:
    """`efficientgen/tuning` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "efficientgen" / "tuning"

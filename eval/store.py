"""Step logs on disk: one directory per drive, written atomically, read back exactly.

`log.json` holds names, decisions and words; `log.npz` holds every number of which there are many, as columns
(`store_columns.py`); `frames.npz` holds the pictures as JPEG, only when the drive kept them (`store_pictures.py`).
Floats come back bit for bit, pictures come back as JPEG leaves them.  `metrics.json` lets sweeps and tables be read
without touching the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.metrics import Metrics, MetricsFormatError, metrics_from
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.store_columns import pack, unpack
from efficientgen.eval.store_pictures import pack_frames, unpack_frames
from efficientgen.perception.types import SensorFrames

FORMAT = "efficientgen-steplog"
VERSION = 1


class LogFormatError(ValueError):
    """A directory is no step log, or one that this version cannot read."""


def run_directory(root: Path | str, stamp: str, log: StepLog) -> Path:
    """Where a drive of run `stamp` belongs: `<root>/<stamp>/<scenario>-<planner>-<seed>`."""
    return Path(root) / stamp / f"{log.scenario}-{log.planner}-{log.seed}"


def save(log: StepLog, directory: Path | str, metrics: Metrics | None = None) -> Path:
    """Write `log` (and its metrics) to `directory`, replacing a log that is there; returns the directory."""
    target = Path(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        words, columns = pack(log)
        header = {"format": FORMAT, "version": VERSION, **words}
        (draft / "log.json").write_text(json.dumps(header, indent=1, default=_plain), encoding="utf-8")
        np.savez_compressed(draft / "log.npz", **columns)  # type: ignore[arg-type]
        if any(step.frames is not None for step in log.steps):
            np.savez(draft / "frames.npz", **pack_frames(log.steps))  # type: ignore[arg-type]
        if metrics is not None:
            (draft / "metrics.json").write_text(json.dumps(asdict(metrics), indent=1), encoding="utf-8")
        draft.chmod(0o755)
        _swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def load(directory: Path | str) -> StepLog:
    """Read a drive back.

    Raises:
        LogFormatError: no step log there, or one of another version.
    """
    directory = Path(directory)
    header = _header(directory)
    with np.load(directory / "log.npz") as held:
        columns = {name: held[name] for name in held.files}
    frames_file = directory / "frames.npz"
    frames: list[SensorFrames | None] = [None] * len(header["steps"])
    if frames_file.exists():
        frames = unpack_frames(frames_file, len(frames))
    return unpack(header, columns, frames)


def load_metrics(directory: Path | str) -> Metrics:
    """Only the metrics of a stored drive.

    Raises:
        LogFormatError: the drive was stored without metrics, or by another version.
    """
    path = Path(directory) / "metrics.json"
    if not path.exists():
        raise LogFormatError(f"{path} does not exist: score the log and save it again with its metrics")
    try:
        return metrics_from(json.loads(path.read_text(encoding="utf-8")))
    except MetricsFormatError as error:
        raise LogFormatError(f"{path}: {error}; score the log again") from error


def _swap(draft: Path, target: Path) -> None:
    """Put `draft` at `target`; a reader sees the old directory or the new one, never half of one."""
    if not target.exists():
        os.rename(draft, target)
        return
    if not (target / "log.json").exists():
        raise LogFormatError(f"{target} exists and is no step log; choose another directory")
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, old / "old")
    os.rename(draft, target)
    shutil.rmtree(old)


def _header(directory: Path) -> dict[str, Any]:
    path = directory / "log.json"
    if not path.exists():
        raise LogFormatError(f"{directory} holds no log.json; give the directory of one drive")
    header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise LogFormatError(
            f"{path} is {header.get('format')} version {header.get('version')}, this reads {FORMAT} {VERSION}; "
            "drive again with this version"
        )
    return header


def _plain(value: Any) -> Any:
    """JSON for what a planner may put into its sections."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a step log cannot hold {type(value).__name__}; put plain numbers, words, lists and dicts into it")

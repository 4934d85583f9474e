"""Oracle logs to text: one description per plan stamp and line, split by drive into training and held-out files.

The text is a pure function of the logs: sorted by name, no randomness.  A drive is held out as a whole, by its seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from efficientgen.eval.dataset import FIRST_NS
from efficientgen.eval.oracle_log import OracleLog, load_oracle_log
from efficientgen.planning.expert import expert_plan
from efficientgen.planning.scene_text import LATER_NS, scene_text
from efficientgen.planning.train.text import CorpusError

TRAIN, HELDOUT = "train.txt", "heldout.txt"


def descriptions(log: OracleLog) -> Iterator[str]:
    """The description of each plan stamp from the hand-over on, with what came of it where the drive lasted."""
    frames = [f for f in log.frames if f.stamp_ns >= FIRST_NS]
    plans = {f.stamp_ns: expert_plan(log.route, f) for f in frames}
    by_stamp = {f.stamp_ns: f for f in frames}
    for frame in frames:
        then = by_stamp.get(frame.stamp_ns + LATER_NS)
        later = None if then is None else (then, plans[then.stamp_ns])
        yield scene_text(frame, plans[frame.stamp_ns], later)


def read_texts(path: Path) -> list[str]:
    """The lines of a corpus file.

    Raises:
        CorpusError: there is no such file, or no line in it.
    """
    if not path.exists() or not (lines := path.read_text().splitlines()):
        raise CorpusError(f"{path} is missing or empty; write it with `efficientgen data text`")
    return lines


def write_corpus(logs: Sequence[Path], directory: Path, heldout_every: int = 10) -> dict[str, int]:
    """Write `train.txt` and `heldout.txt`; every `heldout_every`th drive of the sorted logs is held out.

    Returns the number of lines of each file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {TRAIN: [], HELDOUT: []}
    for i, path in enumerate(sorted(logs)):
        name = HELDOUT if i % heldout_every == heldout_every - 1 else TRAIN
        lines[name] += descriptions(load_oracle_log(path))
    for name, texts in lines.items():
        (directory / f".{name}").write_text("".join(t + "\n" for t in texts))
        os.replace(directory / f".{name}", directory / name)
    return {name: len(texts) for name, texts in lines.items()}

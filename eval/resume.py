"""Long sweeps survive an interruption: finished drives go to a file at once, one JSON line each, and are not driven
again.

A drive counts as the same only if its whole job and everything that decides how it goes are: the code, the packages
that count, the scenario and its town, the model directory.  So a stale file costs time, never truth.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientgen.eval.metrics import Metrics, MetricsFormatError, metrics_from
from efficientgen.eval.provenance import (
    checkpoint_sha256,
    code_sha256,
    package_versions,
    scenario_sha256,
    world_sha256,
)

if TYPE_CHECKING:
    from efficientgen.eval.sweep import Job


def job_key(job: Job) -> str:
    """sha256 of the job and all that decides how it goes."""
    depends = {
        "job": asdict(job),
        "code": code_sha256(),
        "packages": package_versions(),
        "scenario": scenario_sha256(job.scenario),
        "donor": scenario_sha256(job.donor) if job.donor and job.images == "swapped" else "",
        "checkpoint": checkpoint_sha256(job.planner, job.checkpoint),
        "world": world_sha256(job.world),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


class Finished:
    """The finished drives of a sweep in `<out>.partial.jsonl`; without a path, nothing is kept."""

    def __init__(self, out: Path | None = None) -> None:
        self.path = None if out is None else out.with_name(f"{out.name}.partial.jsonl")
        self._held: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._held[entry["key"]] = entry["value"]
                except (ValueError, KeyError, TypeError):
                    continue  # cut short by the interruption: that drive is made again

    def get(self, job: Job) -> Metrics | None:
        """The metrics of this very job, if it was driven before."""
        try:
            return metrics_from(self._held[job_key(job)])
        except (KeyError, MetricsFormatError):
            return None

    def add(self, job: Job, metrics: Metrics) -> None:
        """Keep a finished drive."""
        self._write(job_key(job), asdict(metrics))

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """A JSON value that is made once and then kept over interruptions, such as a measured latency."""
        key = f"{name}/{code_sha256()}"
        if key not in self._held:
            self._write(key, make())
        return self._held[key]

    def discard(self) -> None:
        """The sweep is whole and its results are written: the file has done its work."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, key: str, value: Any) -> None:
        self._held[key] = json.loads(json.dumps(value))
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")  # after a line that was cut short
            file.write(json.dumps({"key": key, "value": value}).encode() + b"\n")

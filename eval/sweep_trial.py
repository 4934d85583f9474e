"""Does a sweep survive `kill -9`?  Many short drives, once undisturbed and once with a worker and the driver killed.

The sweeps are real ones, started as a user starts them.  The disturbed one loses a worker process after a fifth of its
drives and its driver after half of them; then the same command is given again.  Both tables must be equal in
everything but measured wall time, with no drive missing and none twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from efficientgen.eval.provenance import provenance
from efficientgen.eval.sweep_store import Store, digest, read_rows

SHORT = {  # a few seconds of road; nobody sees anything
    "family": "free_road",
    "description": "A few seconds of road",
    "town": "cedar",
    "split": "train",
    "edges": ["n0-n13", "n13-n5"],
    "start_pos": 10.0,
    "duration_s": 6.0,
    "start_speed": 4.0,
    "vehicles": 4,
    "pedestrians": 4,
}
KILL_WORKER_AT, KILL_DRIVER_AT = 0.2, 0.5  # shares of the drives
PATIENCE_S = 600.0  # without a new drive


class TrialError(RuntimeError):
    """A sweep of the trial did not go on; its output says why."""


def trial(
    drives: int, directory: Path, workers: int = 2, say: Callable[[str], None] = lambda words: None
) -> dict[str, Any]:
    """Run both sweeps in `directory`, an empty one, and say what came of them.

    Raises:
        TrialError: a sweep ended or stood still where it should not.
    """
    scenario, plan = directory / "short.yaml", directory / "plan.yaml"
    scenario.write_text(yaml.safe_dump(SHORT), encoding="utf-8")
    plan.write_text(
        yaml.safe_dump(
            {
                "planners": ["constant-velocity"],
                "scenarios": [str(scenario)],
                "seeds": drives,
                "benchmarks": False,
            }
        ),
        "utf-8",
    )
    began = time.monotonic()
    say("undisturbed")
    quiet = _Sweep(plan, directory / "undisturbed", workers)
    quiet.wait_for_end()
    first_s = time.monotonic() - began
    say("disturbed")
    store = Store(str(directory / "disturbed"))
    killed = _Sweep(plan, directory / "disturbed", workers)
    killed.wait_for(store, round(KILL_WORKER_AT * drives))
    worker, at_worker = killed.kill_worker(), len(store.finished())
    say(f"killed worker {worker} after {at_worker} drives")
    killed.wait_for(store, round(KILL_DRIVER_AT * drives))
    orphans = killed.kill_driver()
    at_driver = len(store.finished())
    say(f"killed the driver after {at_driver} drives")
    again = _Sweep(plan, directory / "disturbed", workers)
    told = again.wait_for_end()
    left = len(still_there(orphans))
    one, two = (read_rows(str(directory / name)) for name in ("undisturbed", "disturbed"))
    return {
        "result": "sweep-trial",
        **provenance(),
        "planner": "constant-velocity",
        "drives": drives,
        "workers": workers,
        "undisturbed_s": round(first_s, 1),
        "killed_worker_after": at_worker,
        "killed_driver_after": at_driver,
        "processes_left_by_the_driver": left,
        "kept_by_the_rerun": told["kept"],
        "made_by_the_rerun": told["made"],
        "rows": len(two),
        "distinct_keys": len({row["key"] for row in two}),
        "sha256_undisturbed": digest(one),
        "sha256_disturbed": digest(two),
        "equal": digest(one) == digest(two) and [r["key"] for r in one] == [r["key"] for r in two],
    }


def workers_of(driver: int) -> list[int]:
    """Process ids of the Ray actors below a driver's process."""
    return [pid for pid in descendants(driver) if _command(pid).startswith("ray::Worker")]


def descendants(root: int) -> list[int]:
    """Process ids below `root`."""
    parents = {pid: _parent(pid) for pid in (int(name) for name in os.listdir("/proc") if name.isdigit())}
    out, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in out} - out
        out |= more
        grown = bool(more)
    return sorted(out - {root})


def still_there(processes: Mapping[int, str], patience_s: float = 120.0) -> list[int]:
    """Which of these processes have not ended after a while (some of Ray's take a minute to notice)."""
    until = time.monotonic() + patience_s
    while (left := [pid for pid, command in processes.items() if command and _command(pid) == command]) and (
        time.monotonic() < until
    ):
        time.sleep(1.0)
    return left


class _Sweep:
    """`efficientgen sweep` in a process of its own."""

    def __init__(self, plan: Path, out: Path, workers: int) -> None:
        command = [sys.executable, "-m", "efficientgen_ros.cli", "sweep", str(plan), "--out", str(out), "--json"]
        self._process = subprocess.Popen(
            [*command, "--workers", str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_for(self, store: Store, drives: int) -> None:
        since, seen = time.monotonic(), -1
        while (there := len(store.finished())) < drives:
            if there > seen:
                since, seen = time.monotonic(), there
            if self._process.poll() is not None or time.monotonic() - since > PATIENCE_S:
                raise TrialError(f"the sweep stopped at {there} of {drives} drives: {self._words()}")
            time.sleep(0.2)

    def wait_for_end(self) -> dict[str, Any]:
        out, err = self._process.communicate()
        if self._process.returncode:
            raise TrialError(f"the sweep ended with {self._process.returncode}: {err[-500:]}")
        told: dict[str, Any] = json.loads(out)
        return told

    def kill_worker(self) -> int:
        pids: Sequence[int] = ()
        while not pids:
            pids = workers_of(self._process.pid)
        os.kill(pids[0], signal.SIGKILL)
        return pids[0]

    def kill_driver(self) -> dict[int, str]:
        """Kill -9; returns the processes that were below it, by id, with their commands."""
        below = {pid: _command(pid) for pid in descendants(self._process.pid)}
        self._process.kill()
        self._process.communicate()
        return below

    def _words(self) -> str:
        self._process.kill()
        return self._process.communicate()[1][-500:]


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rsplit(")", 1)[1].split()[1])
    except OSError:  # it has ended meanwhile
        return -1


def _command(pid: int) -> str:
    """The command line of a process; "" when it has ended (or is about to)."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", " ").strip()
    except OSError:
        return ""

"""Sweeps past one machine: the drives of a plan on Ray actors, on this machine's cores or on a cluster.

An actor is one process with one SUMO, one renderer and the planners it has loaded; it takes one drive after the other
and runs the very function that a serial sweep runs (`sweep.run_job`), so both give the same numbers.  The driver owns
the results: a drive counts once its file is in the store.  A worker that is killed costs the drive it was on, which
another makes again; a driver that is killed costs those in flight, and the same command goes on.  A drive that has
killed its worker three times is given up and named.

ray is imported only here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from efficientgen.eval.metrics import Metrics
from efficientgen.eval.provenance import code_sha256
from efficientgen.eval.sweep import Job, model_of, run_job, start_worker

OBJECT_STORE_BYTES = 200 * 2**20  # results are a few kB
MAX_DEATHS = 3  # of workers on one drive
REACH_S = 5.0  # for an answer from the cluster's address


class ClusterError(RuntimeError):
    """The cluster cannot be used: none at the address, or nodes that run other code."""


class DrivesFailedError(RuntimeError):
    """Some drives could not be made; all others are kept."""


@dataclass(frozen=True)
class Cluster:
    """Where a sweep runs: `address` "" starts Ray in this machine's processes, else `host:port` or "auto"."""

    workers: int
    address: str = ""
    gpus: float = 0.0  # of each worker
    threads: int = 1  # of a learned planner, per worker


class Worker:
    """A process that drives; an actor."""

    def __init__(self, threads: int) -> None:
        start_worker(threads)

    def code(self) -> str:
        """sha256 of the code that this process drives with."""
        return code_sha256()

    def drive(self, job: Job) -> Metrics:
        """Make one drive."""
        return run_job(job)


def drive_on(
    cluster: Cluster,
    jobs: Sequence[Job],
    on_done: Callable[[int, Metrics], None],
    on_event: Callable[[str], None] = lambda words: None,
) -> None:
    """Make all drives, in any order; `on_done(i, metrics)` is called as drive i ends, here, in the driver.

    Raises:
        ClusterError: see there.
        DrivesFailedError: drives that raised, or killed their workers; the others were made.
    """
    if not jobs:
        return
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints there what it has to say; stdout is for results
        _start(cluster)
        try:
            _Pool(cluster, jobs, on_done, on_event).run()
        finally:
            ray.shutdown()


def _start(cluster: Cluster) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if cluster.address:
            _reach(cluster.address)
            ray.init(address=cluster.address, **quiet)
            return
        ray.init(
            address="local",
            num_cpus=cluster.workers,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            _system_config={"enable_metrics_collection": False},
            **quiet,
        )
    except (RayError, OSError, ValueError, RuntimeError) as error:
        where = f"at {cluster.address!r}" if cluster.address else "on this machine"
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "; start it with `ray start --head`, set RAY_AUTH_MODE as it was set there, or leave --address out"
        raise ClusterError(f"no Ray {where}: {words}{remedy if cluster.address else ''}") from error


def _reach(address: str) -> None:
    """Fail at once where nobody listens; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACH_S).close()


class _Pool:
    """The actors of one sweep and what each is at."""

    def __init__(self, cluster: Cluster, jobs: Sequence[Job], on_done: Callable[[int, Metrics], None],
                 on_event: Callable[[str], None]) -> None:  # fmt: skip
        self._cluster, self._jobs, self._on_done, self._on_event = cluster, jobs, on_done, on_event
        self._todo: dict[tuple[str, ...], list[int]] = {}  # by planner, so that a worker keeps its model
        for i, job in enumerate(jobs):
            self._todo.setdefault(model_of(job), []).append(i)
        self._deaths: dict[int, int] = {}
        self._failed: dict[int, str] = {}
        self._at: dict[Any, tuple[Any, int]] = {}  # reference -> (actor, drive)

    def run(self) -> None:
        count = min(self._cluster.workers, len(self._jobs))
        self._check([self._new() for _ in range(count)])
        while self._at:
            (ref,), _ = ray.wait(list(self._at), num_returns=1)
            actor, i = self._at.pop(ref)
            try:
                metrics = ray.get(ref)
            except RayActorError:
                self._mourn(i)
                actor = self._new()
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, ValueError) and type(cause).__module__.startswith("efficientgen"):
                    raise cause from None  # what the user has to mend; no other drive would go better
                self._failed[i] = f"{type(cause).__name__}: {cause}"
            else:
                self._on_done(i, metrics)
            self._next(actor, model_of(self._jobs[i]))
        if self._failed:
            i, words = min(self._failed.items())
            job = self._jobs[i]
            raise DrivesFailedError(
                f"{len(self._failed)} of {len(self._jobs)} drives failed, first {job.planner} in {job.scenario}, seed "
                f"{job.seed}: {words}; the others are kept, and the same command tries these again"
            )

    def _new(self) -> Any:
        options = {"num_cpus": 1, "num_gpus": self._cluster.gpus, "max_restarts": 0, "max_task_retries": 0}
        return ray.remote(Worker).options(**options).remote(self._cluster.threads)

    def _check(self, actors: list[Any]) -> None:
        """Give every actor its first drive once it is known to run this code."""
        for actor in actors:
            try:
                other = ray.get(actor.code.remote()) != code_sha256()
            except RayActorError as error:
                raise ClusterError(f"a worker does not start: {str(error).strip().splitlines()[-1]}") from error
            if other:
                raise ClusterError("a node of the cluster runs other code: install the same efficientgen on every node")
            self._next(actor, ())

    def _next(self, actor: Any, loaded: tuple[str, ...]) -> None:
        """The actor's next drive: one for the planner it has loaded, else one of whichever planner has most to do."""
        queue = self._todo.get(loaded) or max(self._todo.values(), key=len, default=[])
        if queue:
            i = queue.pop(0)
            self._at[actor.drive.remote(self._jobs[i])] = (actor, i)
        else:
            ray.kill(actor)

    def _mourn(self, i: int) -> None:
        job = self._jobs[i]
        self._deaths[i] = self._deaths.get(i, 0) + 1
        words = f"a worker died on {job.planner} in {job.scenario}, seed {job.seed}"
        if self._deaths[i] < MAX_DEATHS:
            self._todo[model_of(job)].insert(0, i)
            self._on_event(f"{words}; another makes it again")
        else:
            self._failed[i] = f"killed its worker {MAX_DEATHS} times"
            self._on_event(f"{words}, {MAX_DEATHS} times now; it is given up")

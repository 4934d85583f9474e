"""Child processes of a drive: started together, watched, stopped together, never left behind.

Each drive gets a DDS domain of its own (a lock file per domain, held by the starter), so that drives on one machine do
not hear each other.  Stopping asks twice (SIGINT, SIGTERM) and then kills; what a killed process leaves in shared
memory is removed when nobody maps or locks it any more.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import IO

SHARED_MEMORY = Path("/dev/shm")
_drives = itertools.count(0, 7)
DOMAINS = range(1, 101)  # 0 is everybody's; above 101 the ports run into ephemeral ones


class NoFreeDomainError(RuntimeError):
    """Every DDS domain is taken by a running drive."""


@dataclass(frozen=True)
class Exit:
    """How a process ended: `code` >= 0 is its exit status, < 0 the signal that ended it."""

    node: str
    pid: int
    code: int

    @property
    def words(self) -> str:
        return f"killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"exited with status {self.code}"


class Supervisor:
    """The processes of one drive.

    Args:
        environment: of every child; see `child_environment`.
        log_directory: gets `<node>.log` with what each child prints.
    """

    def __init__(self, environment: Mapping[str, str], log_directory: Path) -> None:
        self.environment, self.log_directory = dict(environment), log_directory
        self.exits: dict[str, Exit] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: list[IO[bytes]] = []
        log_directory.mkdir(parents=True, exist_ok=True)

    @property
    def pids(self) -> dict[str, int]:
        return {node: child.pid for node, child in self._children.items()}

    def start(self, node: str, command: Sequence[str]) -> None:
        """Start `node`, or start it again, in a session of its own, so that a terminal's Ctrl-C reaches only us."""
        again = self.exits.pop(node, None) is not None
        log = (self.log_directory / f"{node}.log").open("ab" if again else "wb")
        self._logs.append(log)
        self._children[node] = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def poll(self) -> tuple[Exit, ...]:
        """Processes that ended since the last call."""
        ended = []
        for node, child in self._children.items():
            if node not in self.exits and child.poll() is not None:
                self.exits[node] = Exit(node, child.pid, child.returncode)
                ended.append(self.exits[node])
        return tuple(ended)

    def running(self, node: str) -> bool:
        return node in self._children and self._children[node].poll() is None

    def signal(self, node: str, number: int) -> None:
        """Send a signal to a child that still runs; after SIGKILL it is gone when this returns."""
        if self.running(node):
            self._children[node].send_signal(number)
            if number == signal.SIGKILL:
                self._children[node].wait()

    def stop(self, graces_s: tuple[float, float] = (10.0, 3.0)) -> None:
        """End every child: SIGINT, after a while SIGTERM, then SIGKILL; and tidy up after those that were killed."""
        try:
            for number, grace in zip((signal.SIGINT, signal.SIGTERM), graces_s, strict=True):
                for node in self._children:
                    self.signal(node, number)
                deadline = monotonic() + grace
                while any(map(self.running, self._children)) and monotonic() < deadline:
                    sleep(0.02)
        finally:  # also when Ctrl-C comes a second time
            for node, child in self._children.items():
                self.signal(node, signal.SIGKILL)
                child.wait()
            self.poll()
            for log in self._logs:
                log.close()
            if any(ended.code == -signal.SIGKILL for ended in self.exits.values()):
                remove_orphaned_segments()

    def last_words(self, node: str, lines: int = 12) -> str:
        """The end of what `node` printed."""
        held = (self.log_directory / f"{node}.log").read_text(errors="replace").strip().splitlines()
        return "\n".join(held[-lines:])


@contextmanager
def own_domain() -> Iterator[int]:
    """A DDS domain id that no other drive on this machine uses while the context lasts.

    Raises:
        NoFreeDomainError: all are taken.
    """
    first = os.getpid() + next(_drives)  # not the last drive's: a process of it may still be saying farewell there
    for k in range(len(DOMAINS)):
        domain = DOMAINS[(first + k) % len(DOMAINS)]
        lock = Path(tempfile.gettempdir()) / f"efficientgen-domain-{domain}.lock"
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # another user's
            continue
        try:
            if _lock(handle):
                yield domain
                return
        finally:
            os.close(handle)
    raise NoFreeDomainError(f"all {len(DOMAINS)} DDS domains are in use by running drives; stop some of them")


def remove_orphaned_segments() -> None:
    """Remove Fast DDS shared memory of ours that no process maps and no living owner has locked."""
    used = _mapped_names()
    for segment in SHARED_MEMORY.glob("fastdds_*"):
        name = segment.name.removesuffix("_el")
        if name in used or _owned(SHARED_MEMORY / f"{name}_el"):
            continue
        for orphan in (segment, SHARED_MEMORY / f"sem.{name}_mutex"):
            try:
                if orphan.stat().st_uid == os.getuid():
                    orphan.unlink()
            except FileNotFoundError:  # went with the other half of its pair
                continue


def _mapped_names() -> set[str]:
    """Names in shared memory that any process we may look into has mapped."""
    names: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text().splitlines()
        except OSError:  # ended meanwhile, or another user's
            continue
        names |= {line.rsplit("/", 1)[1].split(" ")[0] for line in lines if f"{SHARED_MEMORY}/fastdds_" in line}
    return names


def _owned(lock: Path) -> bool:
    """Whether a living process holds this lock file."""
    try:
        handle = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

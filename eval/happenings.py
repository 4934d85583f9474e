"""What went wrong in a drive and what safety did about it: injected faults, events and verdicts, in order of time.

Repetitions are told once: a planner that raises at every stamp is one line with a count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from efficientgen.eval.step_log import StepLog
from efficientgen.eval.words import SOURCE_WORDS
from efficientgen.perception.types import NS, Source

KIND_WORDS = {
    "chaos": "injected",
    "fault": "injected fault",
    "node_exit": "process ended",
    "planner_error": "planner error",
    "no_plan": "no plan",
}


@dataclass(frozen=True)
class Happening:
    """Something from `start_s` to `end_s` (equal for a moment); `source` is None for an event from outside safety."""

    start_s: float
    end_s: float
    what: str
    words: str
    count: int = 1
    source: Source | None = None


def events(log: StepLog) -> tuple[Happening, ...]:
    """The drive's events (`notes["events"]`), equal neighbours of one kind joined."""
    out: list[Happening] = []
    for event in sorted(log.notes.get("events", ()), key=_order):
        kind = str(event.get("kind", "event"))
        what, words = KIND_WORDS.get(kind, kind.replace("_", " ")), str(event.get("text", ""))
        start = event.get("stamp_ns", 0) / NS
        end = max(start, event.get("until_ns", 0) / NS)
        if out and (out[-1].what, out[-1].words) == (what, words):
            out[-1] = Happening(out[-1].start_s, end, what, words, out[-1].count + 1)
        else:
            out.append(Happening(start, end, what, words))
    return tuple(out)


def _order(event: Mapping[str, Any]) -> tuple[int, bool]:
    """By time; what was injected comes before what it led to."""
    return event.get("stamp_ns", 0), event.get("kind") not in ("chaos", "fault")


def rulings(log: StepLog) -> tuple[Happening, ...]:
    """Runs of plan periods with one source and one reason, over the whole drive; `count` is in plan periods."""
    out: list[Happening] = []
    for step in log.steps:
        source, reason = step.verdict.source, step.verdict.reason if step.verdict.source.fallback else ""
        start = step.stamp_ns / NS
        end = step.ticks[-1].stamp_ns / NS if step.ticks else start
        if out and (out[-1].source, out[-1].words) == (source, reason):
            out[-1] = Happening(out[-1].start_s, end, out[-1].what, reason, out[-1].count + 1, source)
        else:
            out.append(Happening(start, end, SOURCE_WORDS[source], reason, 1, source))
    return tuple(out)


def happenings(log: StepLog) -> tuple[Happening, ...]:
    """Events and what safety ruled in answer, oldest first; plain driving (fresh plan, expert) is left out.

    A return to fresh plans is told where a fallback ended.
    """
    told: list[Happening] = []
    fallen = False
    for ruling in rulings(log):
        assert ruling.source is not None
        if ruling.source.fallback or fallen:
            told.append(ruling)
        fallen = ruling.source.fallback
    return tuple(sorted((*events(log), *told), key=lambda h: (h.start_s, h.source is not None)))

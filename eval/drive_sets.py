"""Sets of drives from wherever they lie: sweep tables and the JSON of `eval closed-loop`, ready to be compared.

Numbers are compared only where they mean the same.  `comparable` refuses two sets that were driven with another plan
period, in another world, over another latency or scored by another convention, and pairs the rest by scenario and seed;
what only one of them drove is dropped and named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efficientgen.eval.compare import NothingInCommonError
from efficientgen.eval.metrics import Metrics, metrics_from

NO_WORLD = "none"  # of planners that look at no pictures; goes with any world
Pair = tuple[str, int]  # scenario, seed


class ResultFileError(ValueError):
    """A file or directory that holds no closed-loop drives, or not those asked for."""


class IncomparableError(ValueError):
    """Two sets of drives whose numbers do not mean the same; the message says in what they differ."""


@dataclass(frozen=True)
class DriveSet:
    """The drives of one planner from one result."""

    label: str
    source: str
    drives: tuple[Metrics, ...]
    families: Mapping[str, str] = field(default_factory=dict)  # scenario -> family, where the result says so
    scenario_sha256: Mapping[str, str] = field(default_factory=dict)  # scenario -> of its content and town
    images: str = "own"
    origin: Mapping[str, str] = field(default_factory=dict)  # sha256 of the code and the checkpoint that drove

    @property
    def name(self) -> str:
        return f"{self.label} ({Path(self.source).name})"

    def only(self, pairs: set[Pair]) -> tuple[Metrics, ...]:
        """The drives of these scenarios and seeds."""
        return tuple(m for m in self.drives if (m.scenario, m.seed) in pairs)


@dataclass(frozen=True)
class Paired:
    """The scenarios and seeds that all sets drove, and what had to be dropped from which."""

    sets: tuple[DriveSet, ...]
    pairs: tuple[Pair, ...]
    dropped: Mapping[str, tuple[Pair, ...]]  # name of a set -> its drives that others lack


def read_sets(source: str) -> tuple[DriveSet, ...]:
    """Every planner's drives in a sweep (its directory, a URL, a Parquet file) or a closed-loop JSON.

    Raises:
        ResultFileError: no such file, or another kind of result.
        StoreError: no finished sweep there.
        MetricsFormatError: written by a version with other metrics.
    """
    if source.endswith(".json"):
        return _from_json(Path(source))
    from efficientgen.eval.sweep_store import metrics_of, read_rows  # loads pyarrow

    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(source):
        rows.setdefault(row["label"], []).append(row)
    return tuple(
        DriveSet(
            label,
            source,
            tuple(metrics_of(row) for row in mine),
            {row["scenario"]: row["family"] for row in mine},
            {row["scenario"]: row["scenario_sha256"] for row in mine},
            mine[0]["images"],
            {key: ", ".join(sorted({row[key] or "" for row in mine})) for key in ("code_sha256", "checkpoint_sha256")},
        )
        for label, mine in rows.items()
    )


def chosen(sets: Sequence[DriveSet], label: str, source: str) -> DriveSet:
    """The set called `label`, or the only one there is.

    Raises:
        ResultFileError: none of that name, or several to choose from.
    """
    names = ", ".join(each.label for each in sets)
    mine = [each for each in sets if not label or each.label == label]
    if len(mine) == 1:
        return mine[0]
    if label:
        raise ResultFileError(f"no planner {label!r} in {source}; there are: {names}")
    raise ResultFileError(f"{source} holds several planners: {names}; say which with --a and --b")


def comparable(sets: Sequence[DriveSet]) -> Paired:
    """What may be compared of these sets.

    Raises:
        IncomparableError: another plan period, world, mode or latency, or a scenario whose content differs.
        NothingInCommonError: no scenario and seed was driven by all.
    """
    for words, of in _MUST_AGREE:
        held = {each.name: of(each) for each in sets}
        values = sorted({value for mine in held.values() for value in mine})
        if len(values) > 1:
            told = "; ".join(f"{name}: {', '.join(sorted(mine)) or 'any'}" for name, mine in held.items())
            raise IncomparableError(f"not comparable, {words} differ: {told}; drive both alike")
    for scenario in sorted({name for each in sets for name in each.scenario_sha256}):
        if len({each.scenario_sha256[scenario] for each in sets if scenario in each.scenario_sha256}) > 1:
            raise IncomparableError(f"not comparable: scenario {scenario!r} was changed between them; drive it again")
    every = [{(m.scenario, m.seed) for m in each.drives} for each in sets]
    common = set.intersection(*every) if every else set()
    if not common:
        raise NothingInCommonError(
            "no scenario and seed was driven by all of them: drive all planners on the same ones"
        )
    dropped = {each.name: tuple(sorted(mine - common)) for each, mine in zip(sets, every, strict=True) if mine - common}
    return Paired(tuple(sets), tuple(sorted(common)), dropped)


def dropped_words(paired: Paired) -> list[str]:
    """What was left out, one line per set."""
    out = []
    for name, pairs in paired.dropped.items():
        named = ", ".join(f"{scenario} {seed}" for scenario, seed in pairs[:6])
        more = f" and {len(pairs) - 6} more" if len(pairs) > 6 else ""
        out.append(f"{name}: {len(pairs)} drives dropped that not all have: {named}{more}")
    return out


def _worlds(each: DriveSet) -> set[str]:
    return {m.world for m in each.drives} - {NO_WORLD}


_MUST_AGREE: tuple[tuple[str, Callable[[DriveSet], set[str]]], ...] = (
    ("plan periods", lambda each: {f"{m.chunk_s:g} s" for m in each.drives}),
    ("worlds", _worlds),
    ("modes", lambda each: {m.mode for m in each.drives}),
)


def _from_json(path: Path) -> tuple[DriveSet, ...]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultFileError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ResultFileError(f"{path} is no JSON: {error}") from error
    kind, convention = (held.get(key, "") for key in ("result", "convention")) if isinstance(held, dict) else ("", "")
    if kind != "closed-loop":
        told = f"a result of kind {kind!r}" if kind else "no result of this package"
        of = f" under convention {convention!r}" if convention else ""
        raise ResultFileError(
            f"{path} is {told}{of}; this compares closed-loop drives: give a sweep, or JSON of `efficientgen eval "
            "closed-loop --out`; offline scores have `efficientgen score compare`"
        )
    drives: dict[str, list[Metrics]] = {}
    for each in held["drives"]:
        drives.setdefault(each["planner"], []).append(metrics_from(each))
    code, checkpoints = str(held.get("code_sha256", "")), held.get("checkpoint_sha256", {})
    return tuple(
        DriveSet(
            who,
            str(path),
            tuple(mine),
            images=held.get("images", "own"),
            origin={"code_sha256": code, "checkpoint_sha256": checkpoints.get(who, "")},
        )
        for who, mine in drives.items()
    )

"""Results as Parquet: what is written comes back exactly, on a disk and in memory, and nothing is half there."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("libsumo")

from efficientgen.eval.metrics import TIMED, Metrics, MetricsFormatError, score
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.sweep import Job
from efficientgen.eval.sweep_plan import Entry, SweepPlanError
from efficientgen.eval.sweep_run import run_sweep
from efficientgen.eval.sweep_store import (
    CONTEXT,
    DRIVES,
    PARTS,
    Store,
    StoreError,
    digest,
    metrics_of,
    read_rows,
    row_of,
    schema,
    table_of,
)
from tests.eval.synthetic import FakeOracle


@pytest.fixture(scope="module")
def metrics(log: StepLog, oracle: FakeOracle) -> Metrics:
    return score(log, oracle.town, expert=log)


@pytest.fixture(params=["disk", "memory"])
def url(request, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


ENTRIES = [Entry("cv", Job("maple_right", seed, "constant-velocity")) for seed in range(4)]


def maker(metrics: Metrics, made: list[int], stop_after: int = 99) -> Callable:
    def make(jobs: Sequence[Job], done: Callable[[int, Metrics], None]) -> None:
        for i, job in reversed(list(enumerate(jobs))):
            if len(made) >= stop_after:
                raise KeyboardInterrupt
            made.append(job.seed)
            done(i, replace(metrics, seed=job.seed))

    return make


def test_a_drive_comes_back_exactly(url: str, metrics: Metrics):
    store = Store(url)
    bare = replace(metrics, hd_score=None, pdms=None, event_incident=None)
    for key, each in (("a", metrics), ("b", bare)):
        store.add(row_of(key, {"label": "x", "rollouts": 1, "history": True}, each))
    assert store.finished() == {"a", "b"}
    one, two = store.rows(["a", "b"])
    assert metrics_of(one) == metrics and metrics_of(two) == bare and one["label"] == "x"
    assert two["family"] is None, "what nobody said is missing, not invented"


def test_columns_have_the_types_of_the_metrics_even_where_all_is_missing(metrics: Metrics):
    bare = row_of("k", {}, replace(metrics, plan_p50_s=None, carla_success=None, moves_off_delays_s=()))
    assert table_of([bare]).schema == schema() == table_of([]).schema
    assert schema().names == [*CONTEXT, *(field.name for field in fields(Metrics))]
    kinds = {name: str(schema().field(name).type) for name in ("plan_p50_s", "carla_success", "seed", "answers")}
    assert kinds == {"plan_p50_s": "double", "carla_success": "bool", "seed": "int64", "answers": "string"}


def test_an_interrupted_sweep_goes_on_and_equals_one_that_was_not(url: str, metrics: Metrics):
    made: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_sweep(ENTRIES, Store(url), maker(metrics, made, stop_after=2))
    assert made == [3, 2] and len(Store(url).finished()) == 2
    with pytest.raises(StoreError, match="to its end"):
        read_rows(url)
    swept = run_sweep(ENTRIES, Store(url), maker(metrics, made))
    assert made == [3, 2, 1, 0] and (swept.kept, swept.made) == (2, 2)
    assert [row["seed"] for row in swept.rows] == [0, 1, 2, 3] == [row["seed"] for row in read_rows(url)]
    whole = run_sweep(ENTRIES, Store(f"memory://{uuid.uuid4().hex}"), maker(metrics, []))
    assert swept.digest == whole.digest and digest(read_rows(url)) == whole.digest
    again = run_sweep(ENTRIES, Store(url), maker(metrics, made, stop_after=0))
    assert (again.kept, again.made, again.digest) == (4, 0, whole.digest)


def test_the_digest_minds_everything_but_wall_time(metrics: Metrics):
    def of(change: dict) -> str:
        return digest([row_of("k", {"label": "x"}, replace(metrics, **change))])

    assert of({name: 123.0 for name in TIMED}) == of({})
    for change in ({"driving_score": 0.1}, {"pose_sha256": "0"}, {"epdms": None}, {"moves_off_delays_s": (1.0,)}):
        assert of(change) != of({})


def test_torn_files_and_strange_places_are_told(tmp_path: Path, metrics: Metrics):
    store = Store(str(tmp_path))
    store.add(row_of("a", {"label": "x"}, metrics))
    part = tmp_path / PARTS / "a.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(StoreError, match="not whole"):
        store.rows(["a"])
    assert not list((tmp_path / PARTS).glob("*.new")), "nothing is left half written"
    (tmp_path / PARTS / "b.parquet.1234.new").write_bytes(b"PAR1")
    assert store.finished() == {"a"}, "a draft that a kill left behind is no drive"
    with pytest.raises(StoreError, match="cannot write results"):
        Store("nosuch://bucket/x")
    with pytest.raises(StoreError, match=DRIVES):
        read_rows(str(tmp_path))


def test_other_metrics_and_doubled_drives_are_refused(metrics: Metrics):
    row = Store("memory://other")
    row.add(row_of("a", {"label": "x"}, metrics))
    held = row.rows(["a"])[0]
    with pytest.raises(MetricsFormatError, match="new_metric"):
        metrics_of({**held, "new_metric": 1.0})
    twice = [ENTRIES[0], Entry("also cv", ENTRIES[0].job)]
    with pytest.raises(SweepPlanError, match="two labels"):
        run_sweep(twice, Store("memory://twice"), maker(metrics, []))

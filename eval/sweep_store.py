"""Where the drives of a sweep are kept: Parquet on any fsspec path, one small file per finished drive.

A file is named by the sha256 of everything that decides how the drive goes (`resume.job_key`), and appears whole or
not at all.  So whoever is killed, and whenever: a drive that has its file is finished, one that has none is driven
again, and driving one twice writes the same file.  When all are there, `drives.parquet` holds them as one table in the
order of the plan; it is what people read.

pyarrow and fsspec are imported only here.
"""

from __future__ import annotations

import hashlib
import json
import os
import types
import typing
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from efficientgen.eval.metrics import TIMED, Metrics, metrics_from

PARTS = "parts"
DRIVES = "drives.parquet"
CONTEXT = (  # columns beside the metrics: whose drive, of what, by which code
    "key",
    "label",
    "family",
    "split",
    "images",
    "decoder",
    "rollouts",
    "history",
    "scenario_sha256",
    "checkpoint_sha256",
    "code_sha256",
)
_KINDS: dict[Any, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


class StoreError(ValueError):
    """A place for results that cannot be used, or results that are none; the message says what to give instead."""


class Store:
    """The results of sweeps at an fsspec URL: a directory, `memory://name`, `s3://bucket/name`, ..."""

    def __init__(self, url: str) -> None:
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise StoreError(f"cannot write results to {url!r}: {error}") from error
        self.url = url

    def finished(self) -> frozenset[str]:
        """Keys of the drives that are there."""
        folder = f"{self.root}/{PARTS}"
        if not self.fs.exists(folder):
            return frozenset()
        names = (str(path).rsplit("/", 1)[-1] for path in self.fs.ls(folder, detail=False, refresh=True))
        return frozenset(name.removesuffix(".parquet") for name in names if name.endswith(".parquet"))

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep one drive, whole or not at all; the same drive again replaces its equal."""
        self._put(f"{self.root}/{PARTS}/{row['key']}.parquet", _bytes(table_of([row])))

    def rows(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The drives of these keys, in this order.

        Raises:
            StoreError: one is not there, or is not whole.
        """
        out = []
        for key in keys:
            path = f"{self.root}/{PARTS}/{key}.parquet"
            try:
                out += _read(self.fs, path).to_pylist()
            except FileNotFoundError as error:
                raise StoreError(f"drive {key[:12]} is not in {self.url}: run the sweep to its end") from error
        return out

    def gather(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Write `drives.parquet` over all rows; returns its URL."""
        path = f"{self.root}/{DRIVES}"
        self._put(path, _bytes(table_of(rows)))
        return self.fs.unstrip_protocol(path) if not isinstance(self.fs, LocalFileSystem) else path

    def _put(self, path: str, data: bytes) -> None:
        """Write a file that appears whole: renamed into place on a disk, one request on an object store."""
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if not isinstance(self.fs, LocalFileSystem):
            self.fs.pipe_file(path, data)
            return
        draft = f"{path}.{uuid.uuid4().hex}.new"
        with open(draft, "wb") as file:
            file.write(data)
        os.replace(draft, path)


def row_of(key: str, context: Mapping[str, Any], metrics: Metrics) -> dict[str, Any]:
    """One line of the table: the context of a drive and its metrics."""
    return {"key": key, **context, **asdict(metrics)}


def metrics_of(row: Mapping[str, Any]) -> Metrics:
    """The metrics in a row.

    Raises:
        MetricsFormatError: stored by a version with other metrics.
    """
    held = {name: value for name, value in row.items() if name not in CONTEXT}
    return metrics_from({**held, "answers": json.loads(held["answers"])})


def table_of(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table whose types are those of `Metrics`, whatever is missing in these rows."""
    plain = [{**row, "answers": _json(row["answers"])} for row in rows]
    return pa.Table.from_pylist(plain, schema=schema())


def schema() -> pa.Schema:
    """Columns: `CONTEXT`, then the fields of `Metrics`."""
    kinds = typing.get_type_hints(Metrics)
    context = [pa.field(name, {"rollouts": pa.int64(), "history": pa.bool_()}.get(name, pa.string()))
               for name in CONTEXT]  # fmt: skip
    return pa.schema([*context, *(pa.field(field.name, _kind(kinds[field.name])) for field in fields(Metrics))])


def digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256 over all rows and columns but those that measure wall time (`metrics.TIMED`): equal for equal drives."""
    held = [{name: value for name, value in row.items() if name not in TIMED} for row in rows]
    for row in held:
        row["answers"] = json.loads(_json(row["answers"]))
    return hashlib.sha256(json.dumps(held, sort_keys=True, default=list).encode()).hexdigest()


def read_rows(url: str) -> list[dict[str, Any]]:
    """The drives of a finished sweep: its directory, or a Parquet file of the same columns.

    Raises:
        StoreError: there is none, or the file is something else.
    """
    store = Store(url)
    path = store.root if store.root.endswith(".parquet") else f"{store.root}/{DRIVES}"
    try:
        table = _read(store.fs, path)
    except FileNotFoundError as error:
        raise StoreError(f"no {DRIVES} in {url}: run `efficientgen sweep` to its end, or give another place") from error
    if missing := [name for name in ("key", "label", "scenario", "planner") if name not in table.column_names]:
        raise StoreError(f"{url} is no table of drives: column {missing[0]!r} is missing")
    return table.to_pylist()


def _read(fs: Any, path: str) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(fs.cat_file(path)))
    except pa.ArrowInvalid as error:
        raise StoreError(f"{path} is not whole Parquet; delete it and run the sweep again") from error


def _bytes(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(table, out, write_statistics=False)
    return out.getvalue().to_pybytes()


def _kind(hint: Any) -> pa.DataType:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # `float | None`
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        return pa.list_(_kind(typing.get_args(hint)[0]))
    return _KINDS.get(hint, pa.string())  # a mapping goes in as JSON


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)

"""WOD-E2E files without TensorFlow: TFRecord with its checksums, and frames as the real protos read them.

A TFRecord is a sequence of (length, CRC of the length, payload, CRC of the payload); both CRCs are CRC-32C, rotated and
offset so that a CRC of a CRC is harmless.  They are always checked here: a driving score over silently damaged frames
is worth nothing.  The payload of a WOD-E2E file is one serialised `E2EDFrame`, parsed by the protos of the
`waymo-open-dataset` wheel (installed without its dependencies: `pip install --no-deps
waymo-open-dataset-tf-2-12-0==1.6.7`).  Exporters write with `write_records`; scorers read with `records`.
"""

from __future__ import annotations

import glob
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


class WodPackageError(RuntimeError):
    """The packages that read WOD-E2E are not installed."""


class NoRecordsError(FileNotFoundError):
    """A pattern that matches no file."""


class CorruptRecordError(ValueError):
    """A record whose checksum does not fit, or whose payload is no E2EDFrame; says file and offset."""


class TruncatedRecordError(CorruptRecordError):
    """A file that ends inside a record."""


def data_protos() -> ModuleType:
    """The module with `E2EDFrame`, `EgoTrajectoryStates`, `EgoIntent`.

    Raises:
        WodPackageError: the wheel is not installed.
    """
    try:
        from waymo_open_dataset.protos import end_to_end_driving_data_pb2 as data
    except ImportError as error:
        raise _missing(error) from error
    return data


def submission_protos() -> ModuleType:
    """The module with `E2EDChallengeSubmission`.

    Raises:
        WodPackageError: the wheel is not installed.
    """
    try:
        from waymo_open_dataset.protos import end_to_end_driving_submission_pb2 as submission
    except ImportError as error:
        raise _missing(error) from error
    return submission


def masked_crc(data: bytes) -> int:
    """The CRC that TFRecord stores for `data`.

    Raises:
        WodPackageError: crc32c is not installed.
    """
    return _checksum()(data)


def write_records(path: Path, payloads: Iterable[bytes]) -> int:
    """Write payloads as a TFRecord file, whole or not at all; returns how many there were.

    Raises:
        WodPackageError: crc32c is not installed.
    """
    crc = _checksum()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    count = 0
    try:
        with draft.open("wb") as file:
            for payload in payloads:
                header = _LENGTH.pack(len(payload))
                file.write(header + _CRC.pack(crc(header)) + payload + _CRC.pack(crc(payload)))
                count += 1
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return count


def records(path: Path) -> Iterator[bytes | CorruptRecordError]:
    """The payloads of a TFRecord file in order, one in memory at a time; an error object stands in for a damaged one.

    After a damaged payload the next record follows; after a damaged length or a truncation nothing can follow.

    Raises:
        WodPackageError: crc32c is not installed.
        FileNotFoundError: no such file.
    """
    crc = _checksum()
    size = path.stat().st_size
    with path.open("rb") as file:
        while (begin := file.tell()) < size:
            head = file.read(_LENGTH.size + _CRC.size)
            if len(head) < _LENGTH.size + _CRC.size:
                yield TruncatedRecordError(f"{path} ends inside the record at byte {begin}: fetch the file again")
                return
            (length,), (stored,) = _LENGTH.unpack(head[:8]), _CRC.unpack(head[8:])
            if crc(head[:8]) != stored:
                yield CorruptRecordError(
                    f"{path}: the length of the record at byte {begin} fails its checksum, and so the rest of the file "
                    "is lost: fetch it again"
                )
                return
            if begin + len(head) + length + _CRC.size > size:
                yield TruncatedRecordError(f"{path} ends inside the record at byte {begin}: fetch the file again")
                return
            payload, (stored,) = _payload(file, length)
            if crc(payload) != stored:
                yield CorruptRecordError(f"{path}: the record at byte {begin} fails its checksum: fetch the file again")
                continue
            yield payload


def count_records(path: Path) -> int:
    """How many records a file seems to hold, from their lengths alone; nothing is checked or read (for progress)."""
    size, count = path.stat().st_size, 0
    with path.open("rb") as file:
        at = 0
        while at + 16 <= size:
            file.seek(at)
            at += 16 + _LENGTH.unpack(file.read(8))[0]
            count += 1
    return count


def read_records(path: Path) -> Iterator[bytes]:
    """The payloads of a TFRecord file.

    Raises:
        CorruptRecordError: at the first damaged record.
    """
    for record in records(path):
        if isinstance(record, CorruptRecordError):
            raise record
        yield record


def frames(path: Path) -> Iterator[Any]:
    """The `E2EDFrame`s of a file; an error object stands in for a record that cannot be read.

    Raises:
        WodPackageError: a package is missing.
    """
    parse = data_protos().E2EDFrame.FromString
    for number, record in enumerate(records(path)):
        if isinstance(record, CorruptRecordError):
            yield record
            continue
        try:
            yield parse(record)
        except Exception as error:  # DecodeError's module differs between protobuf's versions
            if type(error).__name__ != "DecodeError":
                raise
            yield CorruptRecordError(f"{path}: record {number} is no E2EDFrame ({error}): is this a WOD-E2E file?")


def matching(patterns: Sequence[str]) -> tuple[Path, ...]:
    """The files that shell patterns (or plain paths) name, sorted, each once.

    Raises:
        NoRecordsError: a pattern matches no file.
    """
    found: set[str] = set()
    for pattern in patterns:
        here = [path for path in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(path)]
        if not here:
            raise NoRecordsError(f"'{pattern}' matches no file; quote it so that the shell leaves it alone")
        found.update(here)
    return tuple(map(Path, sorted(found)))


def _payload(file: BinaryIO, length: int) -> tuple[bytes, tuple[int]]:
    payload = file.read(length)
    return payload, _CRC.unpack(file.read(_CRC.size))


def _checksum() -> Callable[[bytes], int]:
    try:
        from crc32c import crc32c
    except ImportError as error:
        raise _missing(error) from error

    def masked(data: bytes) -> int:
        crc = int(crc32c(data))
        return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF

    return masked


def _missing(error: ImportError) -> WodPackageError:
    return WodPackageError(
        f"WOD-E2E needs packages that are not installed ({error}): pip install crc32c protobuf && "
        "pip install --no-deps waymo-open-dataset-tf-2-12-0==1.6.7"
    )

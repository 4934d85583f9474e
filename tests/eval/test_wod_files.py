"""TFRecords: what is written is read back, and no damaged byte passes as data."""

from pathlib import Path

import pytest

pytest.importorskip("crc32c")
pytest.importorskip("waymo_open_dataset")

from efficientgen.eval.io_wod import (  # noqa: E402
    CorruptRecordError,
    NoRecordsError,
    TruncatedRecordError,
    data_protos,
    frames,
    masked_crc,
    matching,
    read_records,
    records,
    write_records,
)

PAYLOADS = [b"", b"a", bytes(range(256)) * 40, b"last"]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "some.tfrecord-00000-of-00001"
    assert write_records(path, PAYLOADS) == len(PAYLOADS)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    return path


def test_records_come_back(written: Path):
    assert list(read_records(written)) == PAYLOADS


def test_checksum_is_tensorflows():
    """CRC-32C of 32 zero bytes is 0x8a9136aa (RFC 3720, B.4); the mask as TFRecord defines it."""
    crc = 0x8A9136AA
    assert masked_crc(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_every_flipped_byte_is_noticed(written: Path, tmp_path: Path):
    whole = written.read_bytes()
    damaged = tmp_path / "damaged"
    for place in [*range(40), *range(40, len(whole), 997), len(whole) - 1]:
        data = bytearray(whole)
        data[place] ^= 0x10
        damaged.write_bytes(data)
        got = list(records(damaged))
        assert any(isinstance(r, CorruptRecordError) for r in got)
        assert [r for r in got if isinstance(r, bytes)] != PAYLOADS
        with pytest.raises(CorruptRecordError, match="fetch"):
            list(read_records(damaged))


def test_a_damaged_payload_costs_one_record(written: Path):
    data = bytearray(written.read_bytes())
    data[16 + 12] ^= 1  # the payload of the second record
    written.write_bytes(data)
    got = list(records(written))
    assert [r if isinstance(r, bytes) else None for r in got] == [PAYLOADS[0], None, *PAYLOADS[2:]]


def test_every_truncation_is_noticed(written: Path, tmp_path: Path):
    whole = written.read_bytes()
    ends, at = {0}, 0
    for payload in PAYLOADS:
        at += 16 + len(payload)
        ends.add(at)
    short = tmp_path / "short"
    for end in [*range(60), *range(60, len(whole), 499), len(whole) - 1]:
        short.write_bytes(whole[:end])
        got = list(records(short))
        truncated = [r for r in got if isinstance(r, TruncatedRecordError)]
        assert len(truncated) == (end not in ends)


def test_frames_that_are_none(tmp_path: Path):
    frame = data_protos().E2EDFrame()
    frame.frame.context.name = "a-7"
    path = tmp_path / "f.tfrecord"
    write_records(path, [frame.SerializeToString(), b"\xff\xff\xff"])
    first, second = frames(path)
    assert first.frame.context.name == "a-7"
    assert isinstance(second, CorruptRecordError) and "E2EDFrame" in str(second)


def test_a_failed_write_leaves_nothing(tmp_path: Path):
    def payloads():
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(tmp_path / "x.tfrecord", payloads())
    assert not list(tmp_path.iterdir())


def test_patterns(written: Path):
    assert matching([str(written.parent / "*.tfrecord*"), str(written)]) == (written,)
    with pytest.raises(NoRecordsError, match="matches no file"):
        matching([str(written.parent / "*.nothing")])

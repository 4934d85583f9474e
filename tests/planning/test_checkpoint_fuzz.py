"""Any mutation of a small valid directory either loads or raises CheckpointError, and nothing else."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from efficientgen.planning.checkpoint import CheckpointError, config_from_json, load_model, save_model
from tests.planning.families import SMALL, random_model

INDEX = "model.safetensors.index.json"
FUZZ = settings(
    derandomize=True, max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module", params=["fast-dvlm", "efficient-dlm"])
def valid(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    save_model(random_model(SMALL[request.param]), directory, shard_bytes=90_000)
    return directory


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "model"


def try_loading(valid, scratch, mutate) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(valid, scratch)
    mutate(scratch)
    try:
        load_model(scratch)
    except CheckpointError as error:
        assert len(str(error)) > 20


def shards(directory):
    return sorted(directory.glob("*.safetensors"))


def paths_in(data, before=()):
    """Every place in a JSON value, as a tuple of keys."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield (*before, key)
            yield from paths_in(value, (*before, key))


@FUZZ
@given(data=st.data())
def test_bytes_flipped_or_cut(valid, scratch, data):
    """In the header (its length included) or the tensors of any shard."""

    def mutate(directory):
        shard = data.draw(st.sampled_from(shards(directory)))
        content = bytearray(shard.read_bytes())
        header = 8 + int.from_bytes(content[:8], "little")
        if data.draw(st.booleans()):
            for _ in range(data.draw(st.integers(1, 4))):
                at = data.draw(st.integers(0, 16) | st.integers(0, header - 1) | st.integers(0, len(content) - 1))
                content[at] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, 16) | st.integers(0, len(content))) :]
        shard.write_bytes(bytes(content))

    try_loading(valid, scratch, mutate)


@FUZZ
@given(data=st.data())
def test_header_edited(valid, scratch, data):
    """Keys renamed, dropped or added and values replaced, in a header that stays well formed."""

    def mutate(directory):
        shard = data.draw(st.sampled_from(shards(directory)))
        content = shard.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        name = data.draw(st.sampled_from(sorted(header)))
        action = data.draw(st.sampled_from(["rename", "drop", "add", "replace", "field"]))
        if action == "rename":
            header[data.draw(st.text(max_size=12))] = header.pop(name)
        elif action == "drop":
            del header[name]
        elif action == "add":
            header[data.draw(st.text(max_size=12))] = data.draw(st.just(header[name]) | JUNK)
        elif action == "replace":
            header[name] = data.draw(JUNK)
        elif isinstance(header[name], dict):
            field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
            dtypes = st.sampled_from(["F8_E5M2", "I64", "BOOL", "F4", "C64", "U8", "F16"])
            header[name][field] = data.draw(JUNK | dtypes | st.lists(st.integers(0, 2**70), max_size=3))
        edited = json.dumps(header).encode()
        shard.write_bytes(len(edited).to_bytes(8, "little") + edited + content[8 + size :])

    try_loading(valid, scratch, mutate)


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("file", ["config.json", INDEX])
def test_json_edited(valid, scratch, data, file):
    """Values replaced by random JSON, keys dropped and added, anywhere in the config or the index."""

    def mutate(directory):
        path = directory / file
        content = json.loads(path.read_text())
        for _ in range(data.draw(st.integers(1, 2))):
            where = data.draw(st.sampled_from(sorted(paths_in(content), key=str)))
            owner = content
            for key in where[:-1]:
                owner = owner[key]
            action = data.draw(st.sampled_from(["replace", "number", "drop", "add"]))
            if action == "drop":
                del owner[where[-1]]
                if not content:
                    break
            elif action == "add":
                owner[data.draw(st.text(max_size=8))] = data.draw(JUNK)
            else:
                owner[where[-1]] = data.draw(JUNK if action == "replace" else st.integers(-(2**70), 2**70))
        path.write_text(json.dumps(content))

    try_loading(valid, scratch, mutate)


ODD = [None, True, -1, 0, 3, 2**70, -0.5, float("nan"), float("inf"), "", "default", [], [1, 2, 3], [[1, 2]], [None],
       {}, {"a": 1}]  # fmt: skip


def test_every_value_of_the_config_replaced(valid):
    """Each key of `config.json` in turn, by each odd value and by nothing."""
    text = (valid / "config.json").read_text()
    outcomes = {"loads": 0, "refused": 0}
    for where in paths_in(json.loads(text)):
        for value in [*ODD, ...]:
            content = json.loads(text)
            owner = content
            for key in where[:-1]:
                owner = owner[key]
            if value is ...:
                del owner[where[-1]]
            else:
                owner[where[-1]] = value
            try:
                config_from_json(content)
                outcomes["loads"] += 1
            except CheckpointError:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 100


@FUZZ
@given(data=st.data())
def test_files_replaced(valid, scratch, data):
    """A file removed, emptied, swapped with another or turned into a directory."""

    def mutate(directory):
        file, other = (data.draw(st.sampled_from(sorted(directory.iterdir()))) for _ in range(2))
        action = data.draw(st.sampled_from(["remove", "junk", "swap", "directory"]))
        content = other.read_bytes()
        file.unlink()
        if action == "junk":
            file.write_bytes(data.draw(st.binary(max_size=64)))
        elif action == "swap":
            file.write_bytes(content)
        elif action == "directory":
            file.mkdir()

    try_loading(valid, scratch, mutate)

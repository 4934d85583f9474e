"""Each way in which a model directory can be bad ends in a CheckpointError that says what to do."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from efficientgen.planning.checkpoint import CheckpointError, load_model, save_model
from tests.planning.families import SMALL, random_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.language_model.norm.weight"


@pytest.fixture(scope="module")
def model():
    return random_model(SMALL["fast-dvlm"])


@pytest.fixture
def single(model, tmp_path):
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(model, tmp_path):
    save_model(model, tmp_path / "model", shard_bytes=40_000)
    return tmp_path / "model"


def refused(directory, told):
    with pytest.raises(CheckpointError, match=told):
        load_model(directory)


def edit(path, change):
    data = json.loads(path.read_text())
    path.write_text(json.dumps(change(data)))


def rewrite(path, **tensors):
    save_file(load_file(path) | tensors, path)


def shards(directory):
    return sorted(directory.glob("model-*.safetensors"))


def test_truncated_shard(sharded):
    shard = shards(sharded)[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(sharded, f"{shard.name} is damaged.*fetch")
    shard.write_bytes(b"\x08")
    refused(sharded, f"{shard.name} is damaged.*fetch")


def test_wrong_shape(single):
    rewrite(single / WEIGHTS, **{NORM: torch.ones(65)})
    refused(single, r"norm.weight is \(65,\), config.json says \(64,\); fetch weights and config")


@pytest.mark.parametrize(("dtype", "told"), [
    (torch.int8, "stored as I8; weights must be one of F64"),
    (torch.bool, "stored as BOOL; weights must be one of F64"),
    (torch.float8_e5m2, "stored as F8_E5M2; weights must be one of F64"),
    (torch.complex64, "stored as C64; weights must be one of F64"),
    (torch.float8_e4m3fn, "stored as F8_E4M3, but config.json has no quantization_config; fetch"),
])  # fmt: skip
def test_wrong_dtype(single, dtype, told):
    rewrite(single / WEIGHTS, **{NORM: torch.ones(64).to(dtype)})
    refused(single, told)


def test_names_that_do_not_fit(single):
    weights = load_file(single / WEIGHTS)
    save_file({k: v for k, v in weights.items() if "mlp" not in k}, single / WEIGHTS)
    refused(single, r"lacks 22 tensors that its config.json asks for: .*, .*, .* and 19 more; fetch")
    save_file(weights | {"adapter.weight": torch.ones(1)}, single / WEIGHTS)
    refused(single, "has 1 tensors that its config.json does not know: adapter.weight; fetch the config")


class Payload:
    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00002.bin"])
def test_pickles_are_not_opened(single, name):
    payload = Payload()
    payload.path = single / "executed"
    (single / WEIGHTS).unlink()
    (single / name).write_bytes(pickle.dumps(payload))
    refused(single, f"only pickled weights .{name}.*convert them to safetensors")
    (single / name).rename(single / WEIGHTS)
    refused(single, "model.safetensors is damaged")
    assert not (single / "executed").exists()


def test_remote_code_is_not_run(single):
    (single / "modeling.py").write_text(f"open({str(single / 'executed')!r}, 'w')")
    edit(single / "config.json", lambda d: d | {"auto_map": {"AutoModel": "modeling.Model"}})
    load_model(single)
    assert not (single / "executed").exists()


def test_missing_index(sharded):
    (sharded / INDEX).unlink()
    refused(sharded, f"but no {INDEX}; fetch that file too")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}',
                                  "[" * 100_000, '{"weight_map": {"a": "\\ud800.safetensors"}}'])  # fmt: skip
def test_index_that_is_none(sharded, text):
    (sharded / INDEX).write_text(text)
    refused(sharded, "fetch")


@pytest.mark.parametrize("name", [
    "../secret.safetensors", "/etc/passwd", "{outside}", "sub/model.safetensors", "..", "", "C:\\x.safetensors",
    "..\\x.safetensors", "model.bin", "a\0.safetensors", "x" * 5000 + ".safetensors",
])  # fmt: skip
def test_index_that_leaves_the_directory(sharded, name, tmp_path):
    outside = tmp_path / "secret.safetensors"
    save_file({NORM: torch.ones(64)}, outside)
    name = name.format(outside=outside)
    edit(sharded / INDEX, lambda d: {"weight_map": d["weight_map"] | {NORM: name}})
    refused(sharded, "is no safetensors file of its directory; do not load it")


def test_link_out_of_the_directory(sharded, tmp_path):
    shard = shards(sharded)[0]
    outside = tmp_path / "elsewhere.safetensors"
    shard.rename(outside)
    shard.symlink_to(outside)
    refused(sharded, "links to a file outside its directory; put the file itself there")
    inside = sharded / "blob.safetensors"
    outside.rename(inside)
    shard.unlink()
    shard.symlink_to(inside.name)
    load_model(sharded)


def test_links_of_a_hub_cache_are_followed(sharded, tmp_path):
    """The cache of the hub keeps a model as links into its own blob store; that is no way out."""
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    blobs.mkdir()
    sharded.rename(snapshot)
    for i, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(i))
        file.symlink_to(f"../../blobs/{i}")
    load_model(snapshot)


def test_index_that_lies(sharded):
    first, second = shards(sharded)[:2]
    name = next(iter(load_file(first)))
    edit(sharded / INDEX, lambda d: {"weight_map": d["weight_map"] | {name: second.name}})
    refused(sharded, f"does not say what the shards hold: {name}; fetch index and shards again")
    edit(sharded / INDEX, lambda d: {"weight_map": {k: v for k, v in d["weight_map"].items() if k != name}})
    refused(sharded, f"does not say what the shards hold: {name}")


def test_key_in_two_shards(sharded):
    first, second = shards(sharded)[:2]
    name, value = next(iter(load_file(first).items()))
    rewrite(second, **{name: value})
    refused(sharded, f"{name} of {second.name} and {name} of {first.name} are one parameter")


def test_key_in_two_layouts(single):
    rewrite(single / WEIGHTS, **{"model.norm.weight": torch.ones(64)})
    refused(single, "are one parameter; remove one")


def test_missing_shard(sharded):
    shard = shards(sharded)[-1]
    shard.unlink()
    refused(sharded, f"{shard.name} is missing.*fetch that shard")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(single, value):
    weights = load_file(single / WEIGHTS)
    weights[NORM][17] = value
    save_file(weights, single / WEIGHTS)
    refused(single, "norm.weight holds NaN or infinite weights.*fetch it again")


def test_weights_too_large_for_the_dtype_asked(single):
    rewrite(single / WEIGHTS, **{NORM: torch.full((64,), 1e6)})
    load_model(single, torch.bfloat16)
    with pytest.raises(CheckpointError, match="infinite weights as torch.float16"):
        load_model(single, torch.float16)
    rewrite(single / WEIGHTS, **{NORM: torch.full((64,), 3e38)})  # finite, though their sum is not
    load_model(single)


@pytest.mark.parametrize(
    "text", ["", "{", "nul", "[]", "3", '"x"', "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")]
)
def test_config_that_is_none(single, text):
    (single / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(single, "config.json .*fetch it again")


@pytest.mark.parametrize(("section", "key", "value", "told"), [
    ("text_config", "hidden_size", -64, "must be an integer from 1"),
    ("text_config", "hidden_size", 64.5, "must be an integer"),
    ("text_config", "hidden_size", True, "must be an integer"),
    ("text_config", "hidden_size", None, "hidden_size is missing"),
    ("text_config", "hidden_size", 10**30, "must be an integer from 1 to"),
    ("text_config", "num_hidden_layers", 10**9, "must be an integer from 1 to 512"),
    ("text_config", "vocab_size", 0, "must be an integer from 1"),
    ("text_config", "num_attention_heads", 3, "do not divide"),
    ("text_config", "num_attention_heads", 0, "must be an integer from 1"),
    ("text_config", "num_key_value_heads", 3, "do not divide"),
    ("text_config", "rms_norm_eps", "small", "must be a number"),
    ("text_config", "hidden_act", "gelu", "only silu"),
    ("text_config", "rope_parameters", {"rope_type": "yarn", "mrope_section": [2, 3, 3]}, "RoPE of type 'yarn'"),
    ("text_config", "rope_parameters", {"mrope_section": [2, 3, 4]}, "must sum to half the head"),
    ("text_config", "rope_parameters", {}, "needs rope_parameters.mrope_section"),
    ("text_config", "rope_parameters", {"rope_theta": float("nan"), "mrope_section": [2, 3, 3]}, "must be a number"),
    ("text_config", "use_sliding_window", True, "no model of ours has"),
    ("vision_config", "num_heads", 3, "do not divide"),
    ("vision_config", "out_hidden_size", 32, "is not the text's"),
    ("vision_config", "patch_size", 16, "only 14"),
    ("vision_config", "fullatt_block_indexes", [-1], "non-negative"),
    (None, "vision_config", None, "lacks the object vision_config"),
    (None, "text_config", [], "lacks the object text_config"),
    (None, "image_token_id", 5000, "outside the vocabulary"),
    (None, "bd_size", 0, "must be an integer from 1"),
    (None, "token_shift", 2, "from 0 to 1"),
    (None, "clean_context", "all", "one of token, block"),
    (None, "noise", {"kind": "pink"}, "one of uniform"),
    (None, "noise", {"kind": "beta-per-section", "beta": [[1, -1]]}, "pairs of positive"),
    (None, "family", "gpt", "one of fast-ddrive"),
    (None, "schema", 3, "schema must be"),
    (None, "tie_word_embeddings", "no", "true or false"),
])  # fmt: skip
def test_absurd_configs(single, section, key, value, told):
    def change(data):
        (data[section] if section else data)[key] = value
        return data

    edit(single / "config.json", change)
    refused(single, told)


def test_an_unknown_architecture_lists_ours(single):
    edit(single / "config.json", lambda d: {k: v for k, v in d.items() if k not in ("family", "model_type")} | {
        "architectures": ["LlamaForCausalLM"]})  # fmt: skip
    refused(single, "'LlamaForCausalLM' is none of ours; known are Fast_dDrive")


def test_no_directory_at_all(tmp_path):
    refused(tmp_path / "nowhere", "config.json does not exist")
    refused(tmp_path, "config.json does not exist")


def test_a_bad_shape_costs_no_memory(single):
    """A config that asks for a terabyte is refused from the headers, on meta tensors."""
    edit(single / "config.json", lambda d: d | {"text_config": d["text_config"] | {"intermediate_size": 1 << 20}})
    refused(single, "config.json says")

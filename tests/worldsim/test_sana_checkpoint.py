"""Released SANA-WM directories: each layout loads the same model, and damage is told."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from efficientgen.kernels.shards import CheckpointError
from efficientgen.worldsim.sana.checkpoint import Variant, find_release, load_transformer
from efficientgen.worldsim.sana.config import read_levels
from efficientgen.worldsim.sana.model import SanaTransformer
from tests.worldsim.sana_files import write_transformer
from tests.worldsim.sana_models import stock, tiny


def same(one: SanaTransformer, other: SanaTransformer) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return one.config == other.config and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def write(model: SanaTransformer, folder: Path, file: str, config: bool = True) -> None:
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / file)
    if config:
        (folder / "config.json").write_text(json.dumps(asdict(model.config)))


@pytest.mark.parametrize(
    ("folder", "file", "variant"),
    [
        ("dit", "sana_wm_1600m_720p.safetensors", "bidirectional"),
        ("dit", "sana_wm_chunk_causal_1600m_720p.safetensors", "chunk-causal"),
        ("sana_dit", "model.safetensors", "streaming"),
    ],
)
def test_original_layouts_load(tmp_path: Path, folder: str, file: str, variant: Variant):
    model = tiny(1)
    write(model, tmp_path / folder, file)
    release = find_release(tmp_path)
    assert release.variant == variant
    assert same(load_transformer(release), model)


def test_the_training_checkpoint_of_the_streaming_release_loads(tmp_path: Path):
    model = tiny(2)
    write_transformer(model, tmp_path)
    release = find_release(tmp_path)
    assert release.variant == "streaming"
    assert same(load_transformer(release), model)


@pytest.mark.parametrize("shards", ["10GB", "60kB"])
def test_diffusers_layout_loads_with_what_it_stores_and_never_reads(tmp_path: Path, shards: str):
    pytest.importorskip("diffusers")
    model = tiny(3, picture_height=704, picture_width=1280)  # sizes that diffusers does not store
    stock(model).save_pretrained(tmp_path / "transformer", max_shard_size=shards)
    assert (len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1) == (shards == "60kB")
    release = find_release(tmp_path)
    assert release.variant == "bidirectional"
    assert same(load_transformer(release), model)
    path = tmp_path / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"streaming": True, "ffn_type": "CachedGLUMBConvTemp"}))
    assert find_release(tmp_path).variant == "streaming"


def refused(directory: Path, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_transformer(find_release(directory))


class Rogue:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_damage_is_told(tmp_path: Path, capsys):
    model = tiny(4)
    good = {f"model.{k}": v for k, v in model.state_dict().items()}
    write_transformer(model, tmp_path)
    pt, config = tmp_path / "sana_dit" / "model.pt", tmp_path / "sana_dit" / "config.json"

    def stored(tensors: dict, words: str, **more: object) -> None:
        torch.save({"generator": tensors, **more}, pt)
        refused(tmp_path, words)

    name = "model.blocks.0.attn.qkv.weight"
    stored({k: v for k, v in good.items() if k != name}, "lacks 1 tensors: blocks.0.attn.qkv.weight")
    stored(good | {"model.extra": torch.zeros(1)}, "1 tensors that are no SANA-WM's: extra")
    stored(good | {name: good[name][:5]}, r"qkv.weight is \(5, 48\), the config says \(144, 48\)")
    stored(good | {name: good[name] * float("nan")}, "NaN or infinite")
    stored(good, "no checkpoint of plain tensors", rogue=Rogue())
    stored({"a": "text"}, "no `generator` of named tensors")
    assert "must never run" not in capsys.readouterr().out
    pt.write_bytes(b"not a checkpoint")
    refused(tmp_path, "no checkpoint of plain tensors")
    bad = {
        "{": "JSON",
        "[]": "not an object",
        '{"num_layers": -1}': "num_layers is -1",
        '{"hidden_size": 50}': "do not go together",
        '{"ffn_type": "mlp"}': "ffn_type is 'mlp'",
    }
    for text, words in bad.items():
        config.write_text(text)
        refused(tmp_path, words)


def test_noise_levels_come_with_the_weights(tmp_path: Path):
    path = tmp_path / "config.json"
    assert read_levels(tmp_path, (1000, 500)) == (1000, 500)
    path.write_text('{"denoising_step_list": [1000, 967, 908, 764, 0]}')
    assert read_levels(tmp_path, (1000, 500)) == (1000, 967, 908, 764)
    for listed in ("[500, 1000]", "[1000.5]", "[2000, 10]", "[]", "7"):
        path.write_text(f'{{"denoising_step_list": {listed}}}')
        with pytest.raises(CheckpointError, match="falling whole levels"):
            read_levels(tmp_path, (1000, 500))

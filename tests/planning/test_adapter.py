"""A merged adapter computes what was trained and changes nothing else; one that does not fit is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from efficientgen.planning.adapter import (
    ROWS,
    AdapterConfig,
    grow_vocabulary,
    load_adapted,
    read_adapter,
    save_adapter,
    sha256_of,
)
from efficientgen.planning.cache import KVCache
from efficientgen.planning.checkpoint import CheckpointError, load_model, save_model
from efficientgen.planning.load import ADAPTER, UnknownPlannerError
from efficientgen.planning.train.low_rank import LowRankLinear, attach, collect, restore

VOCABULARY = 192


@pytest.fixture(scope="module")
def base(small_model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    save_model(small_model, directory)
    return directory


@pytest.fixture
def taught(base, tmp_path):
    """(directory of an adapter with random branches, the model that has these branches beside its layers)."""
    model = load_model(base)
    old = model.config.text.vocab_size
    grow_vocabulary(model, VOCABULARY)
    rows = [4, *range(old, VOCABULARY)]
    generator = torch.Generator().manual_seed(0)
    attach(model, 3, 0.5, 1, rows, generator)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LowRankLinear):
                module.up.copy_(torch.randn(module.up.shape, generator=generator) * 0.05)
        model.model.language_model.embed_tokens.trained.add_(0.1)
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())  # what a file can hold
    sha = sha256_of(base / "model.safetensors")
    config = AdapterConfig("nano-ddrive", sha, 3, 0.5, VOCABULARY, tuple(rows), 8)
    save_adapter(tmp_path, config, model, collect(model), {"questions": ["may i go"]})
    return tmp_path, model


def logits(model, ids):
    cache = KVCache(model.config.text, ids.shape[1], torch.float32, torch.device("cpu"))
    with torch.no_grad():
        positions = torch.arange(ids.shape[1]).expand(3, -1)
        return model.logits(model(model.embed(ids), positions, cache.append("causal", ids.shape[1])))


def test_merged_weights_compute_what_the_branches_do(taught, base):
    directory, trained = taught
    before = sha256_of(base / "model.safetensors")
    merged = load_adapted(directory, base=base)
    ids = torch.randint(0, VOCABULARY, (1, 20), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(logits(merged, ids), logits(trained, ids), atol=2e-5, rtol=1e-5)
    patches = torch.randn(1, 128, 1176, generator=torch.Generator().manual_seed(2))
    grids = ((1, 8, 16),)
    torch.testing.assert_close(merged.see(patches, grids), trained.see(patches, grids).detach(), atol=2e-5, rtol=1e-5)
    assert sha256_of(base / "model.safetensors") == before
    assert merged.config.family == "fast-dvlm" and merged.config.schema is None
    assert merged.config.decode_block_size == 8


def test_only_named_rows_and_layers_differ_from_the_base(taught, base):
    directory, _ = taught
    merged, plain = load_adapted(directory, base=base), load_model(base)
    changed = {n for n, p in plain.named_parameters() if not torch.equal(p, merged.get_parameter(n)[: len(p)])}
    assert {n.rsplit(".", 1)[0] for n in changed} == {
        *(key.removesuffix(".lora_A") for key in load_file(directory / ADAPTER) if key.endswith(".lora_A")),
        "model.language_model.embed_tokens",
    }
    assert not any("visual.blocks.0." in name or "norm" in name or name.endswith(".bias") for name in changed)
    old, new = (m.model.language_model.embed_tokens.weight for m in (plain, merged))
    same = torch.isclose(old, new[: len(old)]).all(1)
    assert same[5:].all()  # only row 4 of the base's own words was trained


def test_each_misfit_is_told(taught, base, tmp_path):
    directory, _ = taught
    good, config = load_file(directory / ADAPTER), json.loads((directory / "config.json").read_text())
    key = next(k for k in good if k.endswith("q_proj.lora_A"))

    def with_state(state):
        save_file(state, directory / ADAPTER)
        return directory

    with pytest.raises(CheckpointError, match="lacks or does not know"):
        load_adapted(with_state({k: v for k, v in good.items() if k != ROWS}), base=base)
    with pytest.raises(CheckpointError, match="does not have"):
        load_adapted(with_state({k.replace("layers.0", "layers.9"): v for k, v in good.items()}), base=base)
    with pytest.raises(CheckpointError, match="needs"):
        load_adapted(with_state({**good, key: good[key][:1].clone()}), base=base)
    with pytest.raises(CheckpointError, match="not numbers"):
        load_adapted(with_state({**good, key: good[key] * float("nan")}), base=base)
    (directory / ADAPTER).write_bytes(b"\x08" * 40)
    with pytest.raises(CheckpointError, match="damaged"):
        load_adapted(directory, base=base)
    with_state(good)
    for change, words in (
        ({"base": "../nano-ddrive"}, "not a path"),
        ({"base_sha256": "0" * 64}, "give the base"),
        ({"rows": [VOCABULARY + 1] * len(config["adapter"]["rows"])}, "outside a vocabulary"),
        ({"vocab_size": 3}, "outside a vocabulary"),
        ({"rank": "three"}, "needs|lora"),
        ({"colour": 1}, "does not describe an adapter"),
    ):
        (directory / "config.json").write_text(json.dumps(config | {"adapter": config["adapter"] | change}))
        with pytest.raises(CheckpointError, match=words):
            load_adapted(directory, base=base)
    (directory / "config.json").write_text(json.dumps(config | {"adapter": config["adapter"] | {"base": "nobody"}}))
    with pytest.raises(UnknownPlannerError, match="nano-ddrive"):
        load_adapted(directory)


def test_training_begins_at_the_base_model(base):
    plain, model = load_model(base), load_model(base)
    attach(model, 4, 1.0, 1, [4], torch.Generator().manual_seed(0))
    ids = torch.arange(5, 30)[None]
    torch.testing.assert_close(logits(model, ids), logits(plain, ids))
    assert replace(model.config) == plain.config


def test_training_goes_on_from_what_was_saved(taught, base):
    directory, trained = taught
    again = load_model(base)
    grow_vocabulary(again, VOCABULARY)
    attach(again, 3, 0.5, 1, [4, *range(VOCABULARY - 64, VOCABULARY)], torch.Generator().manual_seed(9))
    restore(again, read_adapter(directory / ADAPTER))
    ids = torch.arange(0, 40)[None]
    torch.testing.assert_close(logits(again, ids), logits(trained, ids))

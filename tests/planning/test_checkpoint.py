"""Model directories: a round trip keeps every weight, and each kind of damage has its own words."""

import json
from dataclasses import replace

import pytest
import torch

from efficientgen.planning.checkpoint import CheckpointError, load_model, save_model
from efficientgen.planning.ddrive import DDrive, UnknownDecoderError, UnknownSchemaError
from efficientgen.planning.load import UnknownPlannerError, load_planner
from tests.planning.families import random_model


@pytest.fixture
def directory(small_model, tokenizer, tmp_path):
    save_model(small_model, tmp_path)
    tokenizer.save(tmp_path)
    return tmp_path


def test_round_trip_is_exact_in_bf16(small_model, directory):
    loaded = load_model(directory)
    for name, value in small_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(torch.bfloat16).float()), name
    assert loaded.config == small_model.config


def test_each_damage_is_told(directory):
    weights = directory / "model.safetensors"
    config = json.loads((directory / "config.json").read_text())
    wide = config | {"text_config": config["text_config"] | {"intermediate_size": 100}}
    (directory / "config.json").write_text(json.dumps(wide))
    with pytest.raises(CheckpointError, match="config.json says"):
        load_model(directory)
    deep = config | {"text_config": config["text_config"] | {"num_hidden_layers": 3}}
    (directory / "config.json").write_text(json.dumps(deep))
    with pytest.raises(CheckpointError, match="lacks 12 tensors"):
        load_model(directory)
    (directory / "config.json").write_text(json.dumps(config))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(directory)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        load_model(directory)


def test_unknown_names_list_the_choices(directory, small_config, tokenizer):
    with pytest.raises(UnknownSchemaError, match="nano"):
        DDrive(random_model(replace(small_config, schema=None)), tokenizer)
    with pytest.raises(UnknownDecoderError, match="scaffold-spec"):
        DDrive.from_pretrained(directory, decoder="beam")
    with pytest.raises(UnknownPlannerError, match="constant-velocity"):
        load_planner("no-such-planner")

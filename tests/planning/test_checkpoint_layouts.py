"""Key maps of the releases on meta tensors, and small directories in each released layout that load and plan."""

import json
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from efficientgen.perception.types import Plan
from efficientgen.planning import checkpoint
from efficientgen.planning.checkpoint import CheckpointError, config_from_json, config_to_json, load_model, save_model
from efficientgen.planning.config import efficient_dlm, fast_ddrive, fast_dllm_v2, fast_dvlm
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.layouts import HEAD, our_name, stored_name
from efficientgen.planning.model import VisionLanguageModel
from tests.planning.conftest import random_observation
from tests.planning.families import SMALL, random_model

RELEASED = {
    "fast-ddrive": fast_ddrive(), "fast-dvlm": fast_dvlm(),
    "fast-dllm-v2-1.5b": fast_dllm_v2("1.5b"), "fast-dllm-v2-7b": fast_dllm_v2("7b"),
    "efficient-dlm-1.5b": efficient_dlm("1.5b"), "efficient-dlm-4b": efficient_dlm("4b"),
    "efficient-dlm-8b": efficient_dlm("8b"),
}  # fmt: skip


def meta_shapes(config):
    with torch.device("meta"):
        model = VisionLanguageModel(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return shapes | {HEAD: (config.text.vocab_size, config.text.hidden_size)}  # the tied copy


def stock_shapes(config):
    transformers = pytest.importorskip("transformers")
    data = {k: v for k, v in config_to_json(config).items() if k not in ("architectures", "model_type")}
    kind, of = (
        (transformers.Qwen2_5_VLForConditionalGeneration, transformers.Qwen2_5_VLConfig)
        if config.vision
        else (transformers.Qwen3ForCausalLM, transformers.Qwen3Config)
        if config.text.qk_norm
        else (transformers.Qwen2ForCausalLM, transformers.Qwen2Config)
    )
    with torch.device("meta"):
        stock = kind(of(**data))
    return {name: tuple(value.shape) for name, value in stock.state_dict().items()}


@pytest.mark.parametrize("layout", ["nested", "flat"])
@pytest.mark.parametrize("name", ["fast-ddrive", "fast-dvlm"])
def test_825_keys_of_the_3b_releases(name, layout):
    shapes = meta_shapes(RELEASED[name])
    stored = {stored_name(ours, layout): shape for ours, shape in shapes.items()}
    text, visual = {"nested": ("model.language_model.", "model.visual."), "flat": ("model.", "visual.")}[layout]
    assert len(stored) == 825
    assert sum(key.startswith(visual) for key in stored) == 390
    assert sum(key.startswith(text) and not key.startswith(visual) for key in stored) == 434
    assert {our_name(key): shape for key, shape in stored.items()} == shapes
    assert stored[f"{visual}blocks.31.attn.qkv.weight"] == (3840, 1280)
    assert stored[f"{visual}patch_embed.proj.weight"] == (1280, 3, 2, 14, 14)
    assert stored[f"{text}layers.35.self_attn.k_proj.bias"] == (256,)


@pytest.mark.parametrize("name", list(RELEASED))
def test_names_and_shapes_are_stocks(name):
    config = RELEASED[name]
    layout = "nested" if config.vision else "flat"
    stored = {stored_name(ours, layout): shape for ours, shape in meta_shapes(config).items()}
    assert stored == stock_shapes(config)
    assert {our_name(key): shape for key, shape in stored.items()} == meta_shapes(config)


@pytest.mark.parametrize("config", [*RELEASED.values(), *SMALL.values()], ids=[*RELEASED, *SMALL])
def test_config_round_trip(config):
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize("family", list(SMALL))
@pytest.mark.parametrize("options", [
    {"layout": "flat", "dtype": torch.float32, "head_copy": True},
    {"layout": "nested", "dtype": torch.float32, "shard_bytes": 60_000},
    {"layout": "flat", "dtype": torch.bfloat16, "shard_bytes": 30_000, "head_copy": True},
])  # fmt: skip
def test_every_family_loads_from_every_layout(family, options, tmp_path):
    model = random_model(SMALL[family])
    save_model(model, tmp_path, **options)
    assert ("shard_bytes" in options) == (len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1)
    assert not list(tmp_path.glob(".*"))
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value.to(options["dtype"]).float()), name


def flat_release_config(config) -> dict:
    """`config.json` as transformers 4 wrote it for the Fast-dDrive release: text keys at the top."""
    data = config_to_json(config)
    text = data.pop("text_config")
    section = text["rope_parameters"]["mrope_section"]
    return {
        "architectures": ["Fast_dDriveForConditionalGeneration"],
        "auto_map": {"AutoModel": "modeling.Fast_dDriveForConditionalGeneration"},
        "model_type": "qwen2_5_vl", "torch_dtype": "float32", "hidden_act": "silu", "rope_theta": 1e6,
        **{k: text[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                "num_key_value_heads", "vocab_size", "rms_norm_eps", "tie_word_embeddings")},
        "rope_scaling": {"type": "mrope", "mrope_section": section},
        "vision_config": data["vision_config"] | {"in_chans": 3, "tokens_per_second": 2, "spatial_patch_size": 14},
        "bd_size": config.bd_size, "deep_json_scaffold": True, "always_mask_im_end": True, "schema": config.schema,
        **{k: v for k, v in data.items() if k.endswith("token_id")},
    }  # fmt: skip


def test_float32_release_with_flat_config_loads_and_plans(small_config, tokenizer, tmp_path):
    """Fast-dDrive's layout: flat config and names, float32 shards, a head copy, and an inv_freq that is skipped."""
    model = random_model(small_config)
    save_model(model, tmp_path, layout="flat", dtype=torch.float32, shard_bytes=100_000, head_copy=True)
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(flat_release_config(small_config)))
    shard = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    extra = "model.rotary_emb.inv_freq"
    save_file(load_file(shard) | {extra: torch.ones(8)}, shard, {"format": "pt"})
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"][extra] = shard.name
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load_model(tmp_path, torch.bfloat16)
    assert loaded.config == small_config
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(torch.bfloat16)), name
    plan = DDrive.from_pretrained(tmp_path).plan(random_observation(0))
    assert isinstance(plan, Plan) and plan.waypoints.shape == (6, 2)


def test_bf16_release_with_nested_names_loads_and_plans(small_model, tokenizer, tmp_path):
    save_model(small_model, tmp_path, layout="nested", shard_bytes=50_000)
    tokenizer.save(tmp_path)
    assert DDrive.from_pretrained(tmp_path).plan(random_observation(1)).waypoints.shape == (6, 2)


def test_what_a_release_leaves_out_comes_from_its_family():
    data = flat_release_config(replace(SMALL["fast-ddrive"], schema="wod-e2e"))
    assert config_from_json(data) == SMALL["fast-ddrive"]
    older = data | {"architectures": ["Fast_dLLM_Qwen2_5_VLForConditionalGeneration"]}
    assert config_from_json(older).family == "fast-ddrive"
    chat = {k: v for k, v in older.items() if k not in ("deep_json_scaffold", "schema")}
    assert config_from_json(chat) == SMALL["fast-dvlm"]
    assert config_from_json(chat | {"bd_size": 16}).decode_block_size == 16
    text = {
        k: v for k, v in config_to_json(SMALL["efficient-dlm"]).items() if k not in ("qk_norm", "qkv_bias", "noise")
    }
    assert config_from_json(text) == SMALL["efficient-dlm"]
    without_family = {k: v for k, v in text.items() if k not in ("family", "architectures")}
    assert config_from_json(without_family) == SMALL["efficient-dlm"]


def test_one_tensor_at_a_time(tmp_path, monkeypatch):
    """Memory stays near the model: what was read is converted and gone before the next tensor is read."""
    save_model(random_model(SMALL["fast-ddrive"]), tmp_path, dtype=torch.float32, shard_bytes=50_000)
    read_before: list[weakref.ref] = []
    original = checkpoint.reader

    def counting(path):
        manager = original(path)
        read = manager.__enter__()

        def one(name):
            assert not [r for r in read_before if r() is not None], "an earlier tensor is still held"
            value = read(name)
            read_before.append(weakref.ref(value))
            return value

        class Manager:
            def __enter__(self):
                return one

            def __exit__(self, *error):
                return manager.__exit__(*error)

        return Manager()

    monkeypatch.setattr(checkpoint, "reader", counting)
    load_model(tmp_path, torch.float32)
    assert len(read_before) == len(VisionLanguageModel(SMALL["fast-ddrive"]).state_dict())


def test_a_head_that_is_no_copy_is_told(tmp_path):
    save_model(random_model(SMALL["fast-ddrive"]), tmp_path, head_copy=True)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {HEAD: weights[HEAD] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to false"):
        load_model(tmp_path)


def test_saving_again_leaves_nothing_of_the_model_before(tmp_path):
    first, second = random_model(SMALL["fast-dvlm"], 1), random_model(SMALL["fast-dvlm"], 2)
    save_model(first, tmp_path, dtype=torch.float32)
    save_model(second, tmp_path, dtype=torch.float32, shard_bytes=50_000)
    assert torch.equal(load_model(tmp_path).model.language_model.norm.weight, second.model.language_model.norm.weight)
    save_model(first, tmp_path, dtype=torch.float32)
    assert torch.equal(load_model(tmp_path).model.language_model.norm.weight, first.model.language_model.norm.weight)

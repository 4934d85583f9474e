"""The W8A8 FP8 Linear against a table of all E4M3 numbers, and FP8 checkpoints in and out."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from efficientgen.planning import fp8
from efficientgen.planning.checkpoint import CheckpointError, load_model, save_model
from tests.planning.families import SMALL, random_model
from tests.planning.test_stock_families import our_logits, prompt, words


def e4m3_table() -> np.ndarray:
    """(256,) value of each byte, from the format's definition: sign, 4 exponent bits (bias 7), 3 of the fraction."""
    byte = np.arange(256)
    sign, exponent, fraction = 1.0 - 2.0 * (byte >> 7), (byte >> 3) & 15, byte & 7
    value = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    return np.where((byte & 0x7F) == 0x7F, np.nan, sign * value)


TABLE = e4m3_table()


def rounded(x: np.ndarray) -> np.ndarray:
    """Each number to the nearest E4M3 one, halves to the even byte."""
    positive = TABLE[:127]
    at = np.clip(np.searchsorted(positive, np.abs(x)), 1, 126)
    low, high = positive[at - 1], positive[at]
    middle, up = (low + high) / 2, np.abs(x)
    take_high = (up > middle) | ((up == middle) & (at % 2 == 0))
    return np.sign(x) * np.where(take_high, high, low)


def by_definition(x: np.ndarray, linear: torch.nn.Linear) -> np.ndarray:
    weight = linear.weight.double().numpy()
    weight_scale = np.abs(weight).max(1, keepdims=True) / 448
    scale = np.abs(x).max(1, keepdims=True) / 448
    product = rounded(x / scale) @ rounded(weight / weight_scale).T
    return product * scale * weight_scale.T + linear.bias.double().numpy()


def test_the_linear_is_its_definition():
    torch.manual_seed(0)
    linear = torch.nn.Linear(40, 24).requires_grad_(False)
    linear.weight[3] *= 1000  # a channel of its own magnitude
    x = torch.randn(9, 40, dtype=torch.float64) * torch.logspace(-3, 3, 9, dtype=torch.float64)[:, None]
    ours = fp8.quantise(linear)(x)
    np.testing.assert_allclose(ours.numpy(), by_definition(x.numpy(), linear), rtol=1e-5, atol=1e-7)
    sizes = x.norm(dim=1)[:, None] * linear.weight.double().norm(dim=1)  # |x| |w|, which the errors are relative to
    assert ((ours - linear.double()(x)).abs() / sizes).max() < 0.03
    assert torch.equal(fp8.quantise(linear.float())(torch.zeros(1, 40)), linear.float().bias[None])


def test_scales_are_per_token():
    """A token's result does not depend on what stands beside it, however large."""
    linear = fp8.quantise(torch.nn.Linear(16, 8))
    x = torch.randn(2, 16)
    x[1] *= 1e4
    torch.testing.assert_close(linear(x)[0], linear(x[:1])[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["fast-dvlm", "efficient-dlm"])
@pytest.mark.parametrize("layout", ["nested", "flat"])
def test_fp8_checkpoint_round_trip(family, layout, tmp_path):
    model = random_model(SMALL[family])
    ids, patches = prompt(((1, 8, 16),), 0) if model.config.vision else (words(30, 0), None)
    grids = ((1, 8, 16),) if model.config.vision else ()
    exact = our_logits(model, ids, patches, grids)
    fp8.quantise_model(model)
    quantised = [n for n, m in model.named_modules() if isinstance(m, fp8.FP8Linear)]
    assert len(quantised) == 7 * model.config.text.num_hidden_layers
    assert all(name.startswith("model.language_model.layers.") for name in quantised)
    save_model(model, tmp_path, layout=layout, dtype=torch.float32, shard_bytes=40_000)
    loaded = load_model(tmp_path)
    logits = our_logits(loaded, ids, patches, grids)
    assert torch.equal(logits, our_logits(model, ids, patches, grids))
    assert 0 < (logits - exact).norm() / exact.norm() < 0.15
    assert loaded.state_dict()[f"{quantised[0]}.weight"].dtype == torch.float8_e4m3fn


@pytest.fixture
def directory(tmp_path):
    model = random_model(SMALL["fast-dvlm"])
    fp8.quantise_model(model)
    save_model(model, tmp_path)
    return tmp_path


def edit_config(directory, **keys):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(("section", "told"), [
    (None, "has no quantization_config; fetch"),
    ({"quant_method": "awq"}, "only w8a8_fp8 is"),
    ({"quant_method": "w8a8_fp8", "ignore": "visual"}, "must be a list"),
    ({"quant_method": "w8a8_fp8", "ignore": ["re:(a+)+$"]}, "only names and"),
    ({"quant_method": "w8a8_fp8", "ignore": ["re:.*mlp.*"]}, "does not know|is stored as F8_E4M3"),
])  # fmt: skip
def test_other_quantisations_are_told(directory, section, told):
    edit_config(directory, quantization_config=section)
    with pytest.raises(CheckpointError, match=told):
        load_model(directory)


def test_damaged_fp8_weights_are_told(directory):
    weights = load_file(directory / "model.safetensors")
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    broken = weights[name].clone()
    broken.view(torch.uint8)[2, 3] = 0xFF
    save_file(weights | {name: broken}, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="up_proj.weight holds NaN"):
        load_model(directory)
    save_file({k: v for k, v in weights.items() if k != f"{name}_scale"}, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="lacks 1 tensors.*up_proj.weight_scale"):
        load_model(directory)

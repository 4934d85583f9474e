"""Captured training steps on a GPU: the same weights as without, learning in `fit_world`, and a capture that fails."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from efficientgen.worldsim.nano import fit_world as world
from efficientgen.worldsim.nano.autoencoder import Autoencoder
from efficientgen.worldsim.nano.capture import WARM_UP, Step
from efficientgen.worldsim.nano.fit_autoencoder import fit_autoencoder, polish_decoder
from efficientgen.worldsim.nano.fit_world import fit_world
from efficientgen.worldsim.nano.model import NanoModel
from efficientgen.worldsim.nano.training import Clock, Metrics, Run, TrainConfig
from tests.worldsim.nano_models import SMALL_CODER, SMALL_WORLD, noise_clips, small

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CONFIG = TrainConfig(max_steps=40, warmup_steps=1, batch=4, window=4, pixel_frames=2, first_dream=0.3,
                     dream_every_s=0.0, dream_segment=4)  # fmt: skip


def on(clips, device: str):
    parts = {name: getattr(clips, name).to(device) for name in ("pictures", "rasters", "poses", "weather")}
    return replace(clips, **parts)


def trained(capture: bool) -> tuple[Run, Step]:
    """Twelve steps of a small net on data that does not change."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8)).cuda()
    x, y = torch.randn(64, 8, device="cuda"), torch.randn(64, 8, device="cuda")
    run = Run(net, 1e-2, CONFIG, Clock(), 1e9)

    def work():
        loss = (net(x) - y).square().mean()
        run.move(loss)
        return loss.detach()

    step = Step(work, torch.device("cuda"), lambda **row: None, "test", capture)
    for _ in range(12):
        run.plan()
        step()
    return run, step


def test_replayed_steps_move_weights_and_their_average_as_steps_do():
    (eager, plain), (replayed, step) = trained(False), trained(True)
    assert step.captured and not plain.captured
    for a, b in zip(eager.model.parameters(), replayed.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    for name, value in eager.average.state.items():
        assert torch.allclose(value, replayed.average.state[name], atol=1e-5), name


def settled(monkeypatch, tmp_path, device: str, capture: bool) -> tuple[torch.Tensor, torch.Tensor, list[dict]]:
    """All weights before and after ten steps of the world, pictures included, with nothing left to chance."""
    torch.manual_seed(0)
    autoencoder, model = small()
    clips, model = on(noise_clips((6,)), device), model.requires_grad_(True)
    level = torch.rand(3, 6).mul(1000).round().div(1000).to(device)
    noise = torch.randn(3, 6, 8, 4, 24).to(device)
    monkeypatch.setattr(world, "noise_levels", lambda *args: level)
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)
    config = replace(CONFIG, max_steps=10, batch=3, window=6, pixels_from=-1.0, pixel_frames=18, first_dream=2.0,
                     capture=capture, bf16=False)  # fmt: skip
    before = torch.cat([v.flatten() for v in model.state_dict().values()])
    log = tmp_path / f"log{capture}"
    metrics = Metrics(log, Clock(), lambda line: None)
    fit_world(model, autoencoder.to(device), clips, config, Clock(), 1e9, metrics, lambda s: None, lambda m: None)
    after = torch.cat([v.flatten().cpu() for v in model.state_dict().values()])
    return before, after, [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture
def whole_fp32():
    """Products without TF32, by hand: `monkeypatch` would delete what these modules only compute."""
    modules = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [module.allow_tf32 for module in modules]
    for module in modules:
        module.allow_tf32 = False
    yield
    for module, value in zip(modules, before, strict=True):
        module.allow_tf32 = value


def test_captured_steps_of_the_world_move_it_as_steps_do(whole_fp32, monkeypatch, tmp_path):
    before, eager, _ = settled(monkeypatch, tmp_path, "cuda", False)
    same, replayed, log = settled(monkeypatch, tmp_path, "cuda", True)
    captures = [row for row in log if row["part"] == "capture"]
    assert [row["captured"] for row in captures] == [True], captures
    assert torch.equal(before, same)
    assert (replayed - eager).norm() < 0.05 * (eager - before).norm()  # sums on a GPU vary in their order


def test_the_autoencoder_and_its_decoder_are_trained_in_captured_steps_and_learn(tmp_path):
    torch.manual_seed(0)
    clips = on(noise_clips((4,)), "cuda")
    config = replace(CONFIG, max_steps=400, autoencoder_batch=2, autoencoder_lr=3e-3)
    metrics = Metrics(tmp_path / "log", Clock(), lambda line: None)
    done = fit_autoencoder(Autoencoder(SMALL_CODER), clips, config, Clock(), 1e9, metrics, lambda state: None)
    latents = (torch.randn(4, 8, 4, 24, device="cuda"), torch.randn(4, 8, 4, 24, device="cuda"))
    polish_decoder(done, clips, latents, replace(config, max_steps=20), Clock(), 1e9, metrics)
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    captures = [row for row in log if row["part"] == "capture"]
    assert [row["name"] for row in captures] == ["autoencoder step", "decoder step"]
    assert all(row["captured"] for row in captures), captures
    losses = [row["loss"] for row in log if row["part"] == "autoencoder" and "loss" in row]
    assert losses[1] < losses[0]


def test_the_world_is_trained_in_captured_steps_and_learns(tmp_path):
    autoencoder, _ = small()
    clips = on(noise_clips((8, 6)), "cuda")
    torch.manual_seed(0)
    metrics = Metrics(tmp_path / "log", Clock(), lambda line: None)
    until = Clock().elapsed + 1e9
    config = replace(CONFIG, max_steps=400, lr=3e-3)
    fit_world(NanoModel(SMALL_WORLD), autoencoder.cuda(), clips, config, Clock(), until, metrics, lambda state: None,
              lambda model: None)  # fmt: skip
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    captures = [row for row in log if row["part"] == "capture"]
    assert [row["name"] for row in captures] == ["world step", "world step with pictures"]
    assert all(row["captured"] for row in captures), captures
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[1] < 0.95 * losses[0]
    assert any("error" in row for row in log if row["part"] == "dream")


def test_a_step_that_cannot_be_captured_says_so_once_and_goes_on():
    told = []
    calls = torch.zeros((), device="cuda")

    def work():
        calls.add_(1)
        calls.item()  # asks the device, which a capture forbids
        return torch.rand(1, device="cuda")

    step = Step(work, torch.device("cuda"), lambda **row: told.append(row), "test")
    drawn = [step().item() for _ in range(WARM_UP + 4)]
    assert not step.captured and [row["captured"] for row in told] == [False] and told[0]["why"]
    assert calls.item() == WARM_UP + 4 and len(set(drawn)) == len(drawn), "no step is lost, and noise goes on"

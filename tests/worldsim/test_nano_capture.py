"""Training steps that a CUDA graph may hold, seen from a CPU: they ask the host for nothing, and move as steps do."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from efficientgen.worldsim.nano import fit_autoencoder, fit_world
from efficientgen.worldsim.nano.autoencoder import Autoencoder
from efficientgen.worldsim.nano.capture import Step
from efficientgen.worldsim.nano.model import NanoModel
from efficientgen.worldsim.nano.training import Clock, Metrics, Run, TrainConfig, learning_rate
from tests.worldsim.nano_models import SMALL_CODER, SMALL_WORLD, noise_clips, small

CONFIG = TrainConfig(max_steps=2, batch=3, window=4, autoencoder_batch=2, pixel_frames=2, pixels_from=-1.0,
                     first_dream=2.0)  # fmt: skip
ASK = {"_local_scalar_dense", "nonzero", "masked_select", "unique2", "_unique2", "is_nonzero", "equal", "item",
       "repeat_interleave", "lift_fresh", "lift_fresh_copy", "multinomial", "bincount"}  # fmt: skip
MAKE = {"arange", "zeros", "ones", "full", "eye", "rand", "randn", "randint", "empty", "scalar_tensor", "linspace"}


NOWHERE = torch.device("meta")  # the default device while a step is watched


class Asked(TorchDispatchMode):
    """Operations that on a GPU wait for the host, copy from it, or are made on the CPU for want of a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        index = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if name in ASK or any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in index):
            self.found.append(str(func))
        nowhere = any(isinstance(x, Tensor) and x.device == NOWHERE for x in args)
        if nowhere or (name in MAKE and kwargs.get("device") == NOWHERE):
            self.found.append(f"{func} without a device")
        return func(*args, **kwargs)


def second_call(monkeypatch, module, run) -> list[str]:
    """What the second call of a step asks for; the optimiser, whose CPU form is another, is left out."""
    found: list[str] = []

    class Watched(Step):
        def __call__(self) -> Tensor:
            self._calls += 1
            if self._calls == 1:
                return super().__call__()
            with NOWHERE, Asked() as asked:
                out = super().__call__()
            found.extend(asked.found)
            found.append("watched")
            return out

    monkeypatch.setattr(module, "Step", Watched)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    run()
    return found


def test_the_watch_sees_what_a_capture_forbids():
    x = torch.rand(4)
    for bad in (lambda: x.sum().item(), lambda: x[x > 0.5], lambda: torch.tensor([1.0], device="cpu"),
                lambda: x.nonzero(), lambda: torch.arange(3), lambda: torch.multinomial(x, 2),
                lambda: x.repeat_interleave(torch.ones(4, dtype=torch.long, device="cpu"))):  # fmt: skip
        with NOWHERE, Asked() as asked:
            bad()
        assert asked.found
    with NOWHERE, Asked() as asked:
        x[torch.zeros(2, dtype=torch.long, device="cpu")].topk(1)
    assert not asked.found


def test_a_step_of_the_world_with_pictures_asks_the_host_for_nothing(monkeypatch, tmp_path):
    autoencoder, _ = small()
    clips, metrics = noise_clips((6, 5)), Metrics(tmp_path / "log", Clock(), lambda line: None)

    def run():
        fit_world.fit_world(NanoModel(SMALL_WORLD), autoencoder, clips, CONFIG, Clock(), 1e9, metrics,
                            lambda state: None, lambda model: None)  # fmt: skip

    assert second_call(monkeypatch, fit_world, run) == ["watched"]


def test_steps_of_the_autoencoder_and_of_its_decoder_ask_the_host_for_nothing(monkeypatch, tmp_path):
    clips, metrics = noise_clips((4,)), Metrics(tmp_path / "log", Clock(), lambda line: None)

    def learn():
        fit_autoencoder.fit_autoencoder(Autoencoder(SMALL_CODER), clips, CONFIG, Clock(), 1e9, metrics,
                                        lambda state: None)  # fmt: skip

    def polish():
        latents = (torch.randn(4, 8, 4, 24), torch.randn(4, 8, 4, 24))
        fit_autoencoder.polish_decoder(small()[0], clips, latents, CONFIG, Clock(), 1e9, metrics)

    for run in (learn, polish):
        assert second_call(monkeypatch, fit_autoencoder, run) == ["watched"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_is_clipping_adamw_and_an_average_as_torch_has_them(layout):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 5, 3), nn.SiLU(), nn.Conv2d(5, 2, (3, 1), bias=False)).to(memory_format=layout)
    theirs = nn.Sequential(nn.Conv2d(3, 5, 3), nn.SiLU(), nn.Conv2d(5, 2, (3, 1), bias=False)).to(memory_format=layout)
    theirs.load_state_dict(ours.state_dict())
    mean = {k: v.clone() for k, v in theirs.state_dict().items()}
    config = TrainConfig(max_steps=20, warmup_steps=1, ema=0.9, weight_decay=0.1)
    run = Run(ours, 1e-2, config, Clock(), 1e9)
    matrices, rest = ([p for p in theirs.parameters() if (p.dim() > 1) == wide] for wide in (True, False))
    plain = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                              lr=1e-2, betas=(0.9, 0.95), foreach=False)  # fmt: skip
    for k in range(12):
        x = torch.randn(4, 3, 8, 8) * (10.0 if k % 2 else 0.1)  # clipped, and not
        for group in plain.param_groups:
            group["lr"] = learning_rate(k / 20, 1e-2, config.warmup)
        plain.zero_grad()
        theirs(x).square().mean().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        plain.step()
        keep = min(0.9, (k + 2) / (k + 11))
        mean = {n: keep * v + (1 - keep) * theirs.state_dict()[n] for n, v in mean.items()}
        run.plan()
        run.move(ours(x).square().mean())
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, atol=2e-5), name
        assert torch.allclose(run.average.state[name], mean[name], atol=2e-5), name


def test_a_run_that_was_interrupted_goes_on_in_the_same_memory(tmp_path):
    """A graph would write to the memory that it was captured with: loading must not put other tensors there."""
    model = nn.Linear(3, 3)
    run = Run(model, 1e-2, replace(CONFIG, max_steps=50), Clock(), 1e9)
    run.descend(model(torch.ones(3)).sum())
    kept = {k: v.clone() for k, v in run.average.state.items()}
    torch.save(run.state(), tmp_path / "state")
    places = {k: v.data_ptr() for k, v in run.average.state.items()} | {"w": model.weight.data_ptr()}
    run.descend(model(torch.ones(3)).sum())
    run.load(torch.load(tmp_path / "state", weights_only=True))
    assert places == {k: v.data_ptr() for k, v in run.average.state.items()} | {"w": model.weight.data_ptr()}
    assert all(torch.equal(v, run.average.state[k]) for k, v in kept.items()) and run.steps == 1

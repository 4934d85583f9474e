"""The SANA-WM transformer: diffusers' numbers, streams as one pass, a state that does not grow."""

import pytest
import torch
from torch.nn import functional as F

from efficientgen.worldsim.sana.camera import Rays, token_rays
from efficientgen.worldsim.sana.checkpoint import our_name
from efficientgen.worldsim.sana.config import SanaConfig
from efficientgen.worldsim.sana.model import SanaTransformer
from tests.worldsim.sana_models import GRID, SIZE, K, c2w, clip, stock, tiny


def in_stock(model, x, t, text, pose):
    """diffusers' class on the same clip, its own camera packing included."""
    from diffusers.pipelines.sana_wm.cam_utils import prepare_camera

    other = stock(model)
    vec = K[[0, 1, 0, 1], [0, 1, 2, 2]].float().expand(len(pose), 4).numpy()
    packed = prepare_camera(pose.numpy(), vec, target_size=SIZE, vae_stride=(8, 32, 32))
    out = other(
        x, t[:, None], text.hidden[:, None], mask=text.mask, camera_conditions=packed["raymap"][None],
        chunk_plucker=packed["chunk_plucker"][None],
    )  # fmt: skip
    return out.sample


@pytest.fixture
def exact_softmax(monkeypatch):
    """diffusers casts the softmax blocks' fp32 queries, keys and values to bf16; here they stay what they are."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)


@pytest.mark.parametrize("frames", [1, 3, 5])
@torch.inference_mode()
def test_one_chunk_is_diffusers_class(frames: int, exact_softmax):
    pytest.importorskip("diffusers")
    model = tiny(frames)
    x, t, text, rays = clip(frames, frames)
    theirs = in_stock(model, x, t, text, c2w(8 * (frames - 1) + 1, frames))
    ours = model(x, t, text, rays)
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp_min(1.0)


@torch.inference_mode()
def test_one_chunk_is_diffusers_class_with_heads_of_the_released_width(exact_softmax):
    """112 channels a head: other shares of the rotary axes, and camera heads that the release pads to 128."""
    pytest.importorskip("diffusers")
    model = tiny(11, hidden_size=224, linear_head_dim=112, num_attention_heads=2, num_layers=2, mlp_ratio=0.5)
    x, t, text, rays = clip(3, 11)
    theirs = in_stock(model, x, t, text, c2w(17, 11))
    assert (model(x, t, text, rays) - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp_min(1.0)


@torch.inference_mode()
def test_one_chunk_is_diffusers_class_as_it_comes():
    """With the bf16 casts that diffusers makes around softmax."""
    pytest.importorskip("diffusers")
    model = tiny(7)
    x, t, text, rays = clip(3, 7)
    theirs = in_stock(model, x, t, text, c2w(17, 7))
    torch.testing.assert_close(model(x, t, text, rays), theirs, rtol=0, atol=2e-2 * float(theirs.abs().max()))


@pytest.mark.parametrize(("sink", "blocks"), [(True, 2), (False, 2), (True, 3)])
@pytest.mark.parametrize("chunks", [(4, 3, 3, 3), (2, 1, 1, 1, 1, 1, 1), (1, 3, 2)])
@torch.inference_mode()
def test_a_stream_is_the_masked_pass(chunks: tuple[int, ...], sink: bool, blocks: int):
    model = tiny(1, sink_token=sink, num_cached_blocks=blocks)
    x, t, text, rays = clip(sum(chunks), 1)
    whole = model(x, t, text, rays, chunks)
    state, begin = None, 0
    for n in chunks:
        cut = slice(begin, begin + n)
        part, state = model.forward_chunk(x[:, :, cut], t[:, cut], text, rays[cut], state, save=True)
        assert (part - whole[:, :, cut]).abs().max() <= 1e-5 * whole.abs().max()
        begin += n


@torch.inference_mode()
def test_later_chunks_do_not_reach_earlier_ones_and_the_past_matters():
    model = tiny(2)
    x, t, text, rays = clip(6, 2)
    before = model(x, t, text, rays, (3, 3))
    late, early = x.clone(), x.clone()
    late[:, :, 5] += 1.0
    early[:, :, 0] += 1.0
    assert torch.equal(model(late, t, text, rays, (3, 3))[:, :, :3], before[:, :, :3])
    assert (model(early, t, text, rays, (3, 3))[:, :, 3:] - before[:, :, 3:]).abs().max() > 1e-3


@torch.inference_mode()
def test_state_keeps_its_size_over_500_chunks():
    model = tiny(3, num_layers=2)
    state, sizes = None, []
    for i in range(500):
        x, t, text, rays = clip(2 if i == 0 else 1, i % 7, grid=(1, 2))
        _, state = model.forward_chunk(x, t * 0, text, rays, state, save=True)
        sizes.append(state.bytes)
    assert state.frames == 501
    assert len(set(sizes[3:])) == 1 and sizes[0] < sizes[3], "the window fills, then nothing grows"
    assert all(torch.isfinite(block.attention.main.numerator).all() for block in state.blocks[:1])


@torch.inference_mode()
def test_half_precision_streams_stay_near_full_precision():
    """bf16 weights and activations, as released; the recurrences stay fp32."""
    exact, half = tiny(9), tiny(9, dtype=torch.bfloat16)
    x, t, text, rays = clip(4, 9)
    states: list = [None, None]
    for cut in (slice(0, 2), slice(2, 4)):
        outs = []
        for i, model in enumerate((exact, half)):
            out, states[i] = model.forward_chunk(x[:, :, cut], t[:, cut], text, rays[cut], states[i], save=True)
            outs.append(out.float())
        assert (outs[0] - outs[1]).norm() < 0.05 * outs[0].norm()
    first = states[1].blocks[0]
    assert first.attention.main.numerator.dtype == torch.float32 and first.tail.dtype == torch.bfloat16


@torch.inference_mode()
def test_without_saving_the_state_stays():
    model = tiny(4)
    x, t, text, rays = clip(3, 4)
    _, state = model.forward_chunk(x, t, text, rays, None, save=True)
    first, same = model.forward_chunk(x, t, text, rays, state, save=False)
    assert same is state
    assert torch.equal(first, model.forward_chunk(x, t, text, rays, state, save=False)[0])


@torch.inference_mode()
def test_cameras_share_a_token_grid():
    """Two cameras side by side: each token's ray is its own camera's."""
    pose = c2w(9)
    turned = pose @ torch.block_diag(torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]), torch.ones(1, 1)).double()
    both = token_rays(torch.stack([pose, turned]), K.expand(2, 3, 3), SIZE, GRID, 8, opening=True)
    each = [token_rays(p[None], K[None], SIZE, GRID, 8, opening=True) for p in (pose, turned)]

    def grid(rays: Rays, columns: int):
        return rays.plucker.unflatten(2, (GRID[0], columns)), rays.ray_from_world.unflatten(2, (GRID[0], columns))

    for wide, *parts in zip(grid(both, 6), *(grid(rays, 3) for rays in each), strict=True):
        assert torch.equal(wide, torch.cat(parts, 3))
    x, t, text, _ = clip(2, 5, grid=(2, 6))
    assert torch.isfinite(tiny(5)(x, t, text, both)).all()


def test_steering_moves_the_answer():
    model = tiny(6)
    x, t, text, rays = clip(3, 6)
    other = token_rays(c2w(17, 99)[None], K[None], SIZE, GRID, 8, opening=True)
    with torch.inference_mode():
        assert (model(x, t, text, rays) - model(x, t, text, other)).abs().max() > 1e-2


def test_every_parameter_learns():
    """One backward pass through a masked one-shot: what a training of the chunk-causal model needs."""
    model = tiny(8)
    x, t, text, rays = clip(4, 8)
    F.mse_loss(model(x, t, text, rays, (2, 2)), torch.zeros_like(x)).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still


def test_released_shape_has_the_releases_parameters():
    """Names and shapes of diffusers' class at its defaults, less what it stores and never reads."""
    pytest.importorskip("diffusers")
    from diffusers import SanaWMTransformer3DModel

    with torch.device("meta"):
        ours, theirs = SanaTransformer(SanaConfig()), SanaWMTransformer3DModel()
    shapes = {name: tuple(p.shape) for name, p in ours.state_dict().items()}
    named = {our_name(k, ours.config): tuple(p.shape) for k, p in theirs.state_dict().items()}
    named.pop(None)
    assert shapes == named
    assert round(sum(p.numel() for p in ours.parameters()) / 1e9, 2) == 2.66

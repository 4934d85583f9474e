"""The few-step sampler: keyed noise, clean frames that stay, the flow's path, rays as the release packs them."""

import pytest
import torch

from efficientgen.worldsim.sana.camera import token_rays
from efficientgen.worldsim.sana.sampler import LEVELS, DivergedError, frame_noise, sample_chunk
from tests.worldsim.sana_models import GRID, SIZE, K, c2w, clip, tiny

SHAPE = (8, *GRID)


def test_noise_is_keyed_by_seed_and_frame_whatever_the_chunks():
    whole = frame_noise(7, 0, 5, SHAPE)
    assert torch.equal(torch.cat([frame_noise(7, 0, 2, SHAPE), frame_noise(7, 2, 3, SHAPE)], 2), whole)
    assert not torch.equal(frame_noise(8, 0, 5, SHAPE), whole)
    assert not torch.equal(whole[:, :, 0], whole[:, :, 1])
    assert abs(float(whole.mean())) < 0.2 and abs(float(whole.std()) - 1.0) < 0.2


@torch.inference_mode()
def test_sampling_is_deterministic_and_leaves_the_state_it_is_given():
    model = tiny(1)
    _, _, text, rays = clip(3, 1)
    first, state = sample_chunk(model, frame_noise(0, 0, 3, SHAPE), text, rays, None)
    before = [block.attention.main.numerator.clone() for block in state.blocks[::2]]
    second, after = sample_chunk(model, frame_noise(0, 3, 3, SHAPE), text, rays, state)
    again, _ = sample_chunk(model, frame_noise(0, 3, 3, SHAPE), text, rays, state)
    assert torch.equal(second, again) and not torch.equal(first, second)
    assert all(torch.equal(a, b.attention.main.numerator) for a, b in zip(before, state.blocks[::2], strict=True))
    assert (state.frames, after.frames) == (3, 6)


@torch.inference_mode()
def test_given_frames_stay_and_steer_the_rest():
    model = tiny(2)
    _, _, text, rays = clip(3, 2)
    noise = frame_noise(0, 0, 3, SHAPE)
    given = torch.randn(1, 8, 1, *GRID, generator=torch.Generator().manual_seed(0))
    out, _ = sample_chunk(model, noise, text, rays, None, given)
    other, _ = sample_chunk(model, noise, text, rays, None, given + 1.0)
    assert torch.equal(out[:, :, :1], given)
    assert (out[:, :, 1:] - other[:, :, 1:]).abs().max() > 1e-3


class Straight:
    """The exact flow towards one latent: velocity = noise - latent whatever the level."""

    def __init__(self, target: torch.Tensor, noise: torch.Tensor) -> None:
        self.velocity, self.seen = noise - target, []

    def forward_chunk(self, x, t, text, rays, state, save):
        self.seen.append((t.unique().tolist(), save))
        return self.velocity, "state" if save else state


def test_euler_follows_a_straight_flow_to_its_end():
    _, _, text, rays = clip(3, 3)
    noise, target = frame_noise(0, 0, 3, SHAPE), torch.ones(1, *SHAPE[:1], 3, *GRID)
    flow = Straight(target, noise)
    out, _ = sample_chunk(flow, noise, text, rays, None)
    torch.testing.assert_close(out, target, rtol=0, atol=1e-5)
    assert flow.seen == [*(([float(level)], False) for level in LEVELS), ([0.0], True)], "four steps, one clean pass"


def test_latents_that_are_not_finite_are_told():
    _, _, text, rays = clip(3, 4)
    noise = frame_noise(0, 0, 3, SHAPE)
    with pytest.raises(DivergedError):
        sample_chunk(Straight(noise * float("nan"), noise), noise, text, rays, None)


def test_rays_of_a_stream_are_those_of_the_clip():
    """Chunks after the opening need the poses of their own pictures only."""
    pose = c2w(1 + 8 * 5)
    whole = token_rays(pose[None], K[None], SIZE, GRID, 8, opening=True)
    opening = token_rays(pose[None, :17], K[None], SIZE, GRID, 8, opening=True)
    later = token_rays(pose[None, 17:], K[None], SIZE, GRID, 8, opening=False)
    for part, cut in ((opening, slice(0, 3)), (later, slice(3, 6))):
        assert torch.equal(part.plucker, whole[cut].plucker)
        assert torch.equal(part.ray_from_world, whole[cut].ray_from_world)


def test_a_token_looks_where_its_pixel_does():
    """The ray transform takes a point on the token's viewing ray to its own z axis, at the right distance."""
    pose = c2w(9)
    rays = token_rays(pose[None], K[None], SIZE, GRID, 8, opening=True)
    row, column, depth = 1, 2, 12.5
    pixel = torch.tensor([column * SIZE[1] / GRID[1], row * SIZE[0] / GRID[0], 1.0], dtype=torch.float64)
    direction = torch.linalg.solve(K, pixel)
    point = pose[8] @ torch.cat([depth * direction / direction.norm(), torch.ones(1, dtype=torch.float64)])
    seen = rays.ray_from_world[0, 1, row * GRID[1] + column].double() @ point
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.0, depth, 1.0]).double(), rtol=0, atol=1e-5)


def test_pictures_that_are_no_whole_latent_frames_are_told():
    with pytest.raises(ValueError, match="no whole number of latent frames"):
        token_rays(c2w(12)[None], K[None], SIZE, GRID, 8, opening=True)

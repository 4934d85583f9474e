"""The nano transformer: rays of a rig, streams against one pass, a state that does not grow, sizes that are shipped."""

import numpy as np
import pytest
import torch

from efficientgen.perception.rig import NANO_RIG, NUSCENES_RIG
from efficientgen.worldsim.nano.autoencoder import Autoencoder, AutoencoderConfig, from_grid, to_grid
from efficientgen.worldsim.nano.model import NanoModel, RigRays, WorldConfig
from efficientgen.worldsim.nano.stream import Stream
from efficientgen.worldsim.sana.camera import rigid_inverse, token_rays
from efficientgen.worldsim.sana.poses import camera_to_map
from efficientgen.worldsim.sana.sampler import DivergedError
from tests.worldsim.nano_models import SMALL_WORLD, small

WAY = np.array([[3.0, 4.0, 0.3], [5.0, 5.0, 0.5], [9.0, 6.0, -0.2], [13.0, 6.0, -0.1]])


def test_a_rigs_rays_are_token_rays_of_its_cameras():
    rays = RigRays()
    poses = rays.poses(WAY)
    mine = rays(poses[None], poses[:1], 0.1)
    c2w = torch.stack([rigid_inverse(poses[:1]) @ camera_to_map(WAY, camera) for camera in NANO_RIG])
    c2w[..., :3, 3] *= 0.1
    k = torch.from_numpy(NANO_RIG[0].intrinsics)[None].expand(3, 3, 3)
    theirs = token_rays(c2w, k, (112, 224), (4, 8), 1, opening=False)
    assert torch.allclose(mine.ray_from_world, theirs.ray_from_world, atol=1e-5)
    assert torch.allclose(mine.plucker, theirs.plucker, atol=1e-5)


def test_rays_say_the_same_wherever_in_town_the_drive_is():
    rays = RigRays()
    there = WAY + np.array([310.0, -275.0, 0.0])
    here, far = (rays(p[None], p[:1], 0.1) for p in (rays.poses(WAY), rays.poses(there)))
    assert torch.allclose(here.ray_from_world, far.ray_from_world, atol=1e-6)


def test_cameras_that_stand_apart_are_refused():
    with pytest.raises(ValueError, match="share one place"):
        RigRays(NUSCENES_RIG)


def test_the_grid_puts_the_cameras_side_by_side():
    z = torch.arange(2 * 3 * 5 * 4 * 8).float().view(6, 5, 4, 8)
    grid = to_grid(z, 3)
    assert grid.shape == (2, 5, 4, 24) and torch.equal(grid[0, :, :, 8:16], z[1]), "the second camera in the middle"
    assert torch.equal(from_grid(grid, 3), z)


def test_a_stream_computes_what_one_causal_pass_does():
    _, model = small()
    rays, frames = RigRays(), 4
    torch.manual_seed(1)
    x, condition = torch.randn(1, 8, frames, 4, 24), torch.randn(1, 8, frames, 4, 24)
    level = torch.tensor([[0.0, 0.0, 500.0, 1000.0]])
    poses = rays.poses(WAY)[None]
    where, text = rays(poses, poses[:, 0], 0.1), model.text(torch.tensor([2]))
    with torch.no_grad():
        whole = model(x, level, text, where, condition)
        state, parts = None, []
        for t in range(frames):
            now = slice(t, t + 1)
            bound = model.bound(condition[:, :, now])
            out, state = bound.forward_chunk(x[:, :, now], level[:, now], text, where[now], state, True)
            parts.append(out)
    assert whole.shape == x.shape and torch.allclose(torch.cat(parts, 2), whole, atol=1e-5)


def stream(model: NanoModel, seed: int = 0) -> Stream:
    torch.manual_seed(seed)
    first = torch.randn(1, 8, 4, 24)
    return Stream(model, RigRays(), model.text(torch.tensor([0])), first, first, RigRays().poses(WAY[:1]))


def test_what_a_stream_carries_does_not_grow_over_60_steps():
    _, model = small()
    dream, rays = stream(model), RigRays()
    condition = torch.zeros(1, 8, 4, 24)
    sizes = []
    for k in range(60):
        dream.step(condition, rays.poses(np.array([[5.0 * k, 0.0, 0.0]])), torch.randn(1, 8, 4, 24))
        sizes.append(dream.bytes)
    session = SMALL_WORLD.session
    assert len(set(sizes[session:])) <= session and max(sizes[session:]) == max(sizes[:20])


def test_a_dream_depends_on_the_pose_on_the_condition_and_on_what_was():
    _, model = small()
    rays, noise = RigRays(), torch.randn(1, 8, 4, 24)
    still, turned = (rays.poses(np.array([[4.0, 4.0, yaw]])) for yaw in (0.3, 0.6))
    zero = torch.zeros(1, 8, 4, 24)
    plain = stream(model).step(zero, still, noise)
    assert torch.equal(stream(model).step(zero, still, noise), plain)
    assert not torch.allclose(stream(model).step(zero, turned, noise), plain, atol=1e-4)
    assert not torch.allclose(stream(model).step(zero + 1, still, noise), plain, atol=1e-4)
    assert not torch.allclose(stream(model, seed=5).step(zero, still, noise), plain, atol=1e-4)


def test_latents_that_are_not_finite_are_an_error():
    _, model = small()
    with pytest.raises(DivergedError):
        stream(model).step(torch.full((1, 8, 4, 24), torch.nan), RigRays().poses(WAY[:1]), torch.randn(1, 8, 4, 24))


def test_the_shipped_size_fits_into_15_mib_and_96_tokens():
    with torch.device("meta"):
        parts = Autoencoder(AutoencoderConfig()), NanoModel(WorldConfig())
    count = sum(p.numel() for part in parts for p in part.parameters())
    assert 2 * count < 15 * 2**20
    rows, columns = RigRays().grid
    assert rows * columns * len(NANO_RIG) == 96
    assert parts[0].config.latent == parts[1].config.latent and parts[0].config.quarter == parts[1].config.features

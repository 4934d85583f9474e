"""The measures behind the gates, against pictures whose answer is known."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from efficientgen.eval.world_pictures import overlap_psnr, psnr, spearman, ssim, turn_px
from efficientgen.perception.rig import NANO_RIG


def landscape(seed: int = 0, height: int = 112, width: int = 400) -> torch.Tensor:
    """A smooth random picture (H, W, 3)."""
    torch.manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8, width // 8)
    fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return (fine[0].permute(1, 2, 0) * 255).clamp(0, 255).to(torch.uint8)


def test_psnr_of_a_known_error_and_of_none():
    a = torch.full((2, 8, 8, 3), 100, dtype=torch.uint8)
    b = a.clone()
    b[1] += 5
    assert psnr(a, b).tolist() == pytest.approx([60.0, 10 * math.log10(255**2 / 25)], abs=1e-3)


def test_ssim_is_one_for_equals_falls_with_noise_and_forgives_a_little_brightness():
    a = landscape()[None]
    noise = (a.float() + 30 * torch.randn(a.shape)).clamp(0, 255).to(torch.uint8)
    brighter = (a.float() + 8).clamp(0, 255).to(torch.uint8)
    assert float(ssim(a, a)) == pytest.approx(1.0, abs=1e-5)
    assert float(ssim(a, noise)) < 0.6 < 0.9 < float(ssim(a, brighter)) < 1.0


@pytest.mark.parametrize("shift", [-37, -9, 0, 4, 25])
def test_turns_are_measured_in_px_to_the_right(shift):
    wide = landscape()
    before, after = wide[None, :, 80:304], wide[None, :, 80 - shift : 304 - shift]
    assert float(turn_px(before, after)) == pytest.approx(shift, abs=0.1)


def test_half_pixels_are_seen():
    wide = landscape().float()
    after = ((wide[:, 80:304] + wide[:, 79:303]) / 2).round().to(torch.uint8)
    assert float(turn_px(wide[None, :, 80:304].to(torch.uint8), after[None])) == pytest.approx(0.5, abs=0.15)


def test_ranks_correlate_whatever_the_scale():
    a = torch.tensor([3.0, -1.0, 7.0, 0.5, 2.0])
    assert spearman(a, a.exp()) == pytest.approx(1.0) and spearman(a, -a) == pytest.approx(-1.0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=40), rng.normal(size=40)
    rank = [np.argsort(np.argsort(v)) for v in (x, y)]
    assert spearman(torch.tensor(x), torch.tensor(y)) == pytest.approx(float(np.corrcoef(rank)[0, 1]))


def panorama() -> torch.Tensor:
    """What the rig sees of a far wall with a smooth pattern, (n_cams, H, W, 3), by the rays of each pixel."""
    out = []
    for camera in NANO_RIG:
        v, u = np.mgrid[0 : camera.height, 0 : camera.width] + 0.5
        across, up = (camera.width / 2 - u) / camera.focal, (camera.height / 2 - v) / camera.focal
        yaw = math.radians(camera.yaw_deg)
        ahead, left = math.cos(yaw) - math.sin(yaw) * across, math.sin(yaw) + math.cos(yaw) * across
        angle, height = np.arctan2(left, ahead), up / np.hypot(ahead, left)
        waves = [127 + 100 * np.sin(k * 6 * angle + 5 * height + k) for k in (1, 2, 3)]
        out.append(np.stack(waves, -1).astype(np.uint8))
    return torch.from_numpy(np.stack(out))


def test_neighbouring_cameras_agree_on_one_scene_and_not_on_two():
    one = panorama()[None]
    assert float(overlap_psnr(one, NANO_RIG).min()) > 35
    torn = one.clone()
    torn[:, 1] = one[:, 2]
    assert float(overlap_psnr(torn, NANO_RIG).max()) < 20

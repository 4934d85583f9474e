"""The fused vision tower without a GPU: the tower's own tokens, whatever pictures are packed together."""

import pytest
import torch

from efficientgen.perception.vision import VisionConfig, VisionTower
from efficientgen.perception.vision_engine import VisionEngine

CONFIG = VisionConfig(3, 32, 44, 2, 64, 112, (1,))  # 44 is no multiple of what the width is padded to


@pytest.fixture(scope="module")
def tower() -> VisionTower:
    torch.manual_seed(0)
    tower = VisionTower(CONFIG).double().eval()
    for name, parameter in tower.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name or "ln_q" in name else 0.0, 0.2)
    return tower.requires_grad_(False)


@pytest.mark.parametrize(
    "grids",
    [((1, 4, 8),), ((1, 32, 30),) * 3, ((1, 10, 14), (1, 8, 6)), ((1, 10, 14), (1, 10, 14), (1, 8, 6), (1, 10, 14))],
    ids=["smaller than a window", "three cameras", "two sizes", "sizes mixed"],
)
def test_tokens_are_the_towers(tower: VisionTower, grids):
    patches = torch.randn(1, sum(t * h * w for t, h, w in grids), 1176, dtype=torch.float64)
    torch.testing.assert_close(VisionEngine(tower).see(patches, grids), tower(patches, grids), rtol=1e-6, atol=1e-6)


def test_no_picture_sees_another(tower: VisionTower):
    grids, engine = ((1, 8, 6), (1, 10, 14)), VisionEngine(tower)
    patches = torch.randn(1, 48 + 140, 1176, dtype=torch.float64)
    before = engine.see(patches, grids)
    patches[:, 48:] = torch.randn(1, 140, 1176)
    after = engine.see(patches, grids)
    assert torch.equal(before[:, :12], after[:, :12]) and not torch.allclose(before[:, 12:], after[:, 12:])

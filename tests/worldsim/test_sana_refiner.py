"""The refiner as a stream: what diffusers' pipeline makes of the clip, from a release's directory, in the loop."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from efficientgen.kernels.shards import CheckpointError
from efficientgen.worldsim.sana.refiner import Refiner, RefinerText, load_refiner
from efficientgen.worldsim.sana.sampler import DivergedError
from efficientgen.worldsim.sana.world import SanaWorld
from tests.worldsim.sana_files import tiny_refiner, write_refiner, write_release
from tests.worldsim.test_sana_world import CAMERA, Scene, ticks

GRID = (2, 3)


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


TEXT = RefinerText(random(1, 5, 16, seed=1), torch.tensor([[0, 1, 1, 1, 1]]))


@pytest.mark.parametrize("chunks", [(4, 3, 3, 3, 3, 3), (19,)])
def test_a_stream_is_what_diffusers_pipeline_makes_of_the_clip(chunks: tuple[int, ...], monkeypatch):
    """19 frames: the window of ten is full and slides.  Its noise, drawn block by block, is given to ours."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaWMLTX2Refiner

    transformer = tiny_refiner(3)
    whole = SanaWMLTX2Refiner(
        transformer=transformer, connectors=None, tokenizer=None, text_encoder=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    )  # fmt: skip
    monkeypatch.setattr(whole, "_encode_prompt", lambda *a, **k: (TEXT.hidden, TEXT.mask))
    monkeypatch.setattr(SanaWMLTX2Refiner, "_execution_device", torch.device("cpu"))
    whole.set_progress_bar_config(disable=True)
    z = random(1, 8, 19, *GRID, seed=2)
    expected = whole(z, "", fps=20.0, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(5)
    drawn = [torch.randn(1, 8, 3, *GRID, generator=g) for _ in range(6)]
    noise = torch.cat([torch.zeros(1, 8, 1, *GRID), *drawn], 2)
    ours, begin = Refiner(transformer, {"day": TEXT}, 20.0), 0
    for _ in range(2):  # the second time after a begin anew
        ours.begin("day")
        parts, begin, sizes = [], 0, []
        for n in chunks:
            cut = slice(begin, begin + n)
            parts.append(ours.refine(z[:, :, cut], noise[:, :, cut]))
            sizes.append(ours.bytes)
            begin += n
        assert (torch.cat(parts, 2) - expected).abs().max() < 1e-5 * expected.abs().max()
        assert torch.equal(parts[0][:, :, :1], z[:, :, :1])
    assert len(chunks) == 1 or (sizes[-1] == sizes[-2] and sizes[0] < sizes[1]), "the window fills, then nothing grows"


def test_latents_that_are_not_finite_are_told():
    ours = Refiner(tiny_refiner(), {"day": TEXT}, 20.0)
    ours.begin("day")
    with pytest.raises(DivergedError):
        ours.refine(random(1, 8, 2, *GRID) * float("nan"), random(1, 8, 2, *GRID))


def test_a_world_with_a_refiner_shows_other_pictures_and_says_what_it_costs(tmp_path):
    write_release(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no refiner_diffusers/ .*drive without refining"):
        SanaWorld.from_pretrained(tmp_path, camera=CAMERA, opening=Scene(), refine=True)
    write_refiner(tmp_path)
    films = []
    for refine in (False, True, True):
        world = SanaWorld.from_pretrained(tmp_path, camera=CAMERA, opening=Scene(), refine=refine)
        world.reset("testville", "day", 0)
        films.append(np.stack([f.image for k in range(4) for f in world.step(ticks(k)).cameras["FRONT"]]))
        assert ("refine_p50_s" in world.diagnostics()) == refine
    plain, refined, again = films
    assert np.array_equal(plain[:4], refined[:4]), "the recording"
    assert not np.array_equal(plain[4:], refined[4:]) and np.array_equal(refined, again)
    prompts = {"day": "by day", "night": "by night"}
    read = load_refiner(tmp_path, prompts, torch.float32, "cpu", 20.0)._texts
    assert not torch.equal(read["day"].hidden, read["night"].hidden)

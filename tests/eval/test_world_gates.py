"""The gates on dreams whose quality is known: the truth itself, and another drive's pictures."""

from dataclasses import replace

import pytest
import torch

from efficientgen.eval import world_gates
from efficientgen.eval.world_features import distances, frechet
from efficientgen.eval.world_gates import Deadline, Dreams, chosen, examine
from efficientgen.eval.world_reader import CLASSES, LIGHTS, Reader, read, train_reader, truth_of
from efficientgen.worldsim.nano.layout import Kind
from efficientgen.worldsim.nano.training import Clock
from tests.worldsim.nano_models import noise_clips, small


@pytest.fixture(scope="module")
def clips():
    return noise_clips((14, 8))


def test_the_truth_passes_and_swapped_pictures_do_not(clips):
    perfect = Dreams(clips, clips.pictures, clips.pictures)
    swapped = Dreams(clips, clips.pictures, clips.pictures.flip(0))
    good, bad = world_gates._horizons(perfect)["1.2 s"], world_gates._horizons(swapped)["1.2 s"]
    assert good["dream_psnr_db"] == 60.0 and good["dream_ssim"] == 1.0
    assert bad["dream_psnr_db"] < 15 and good["copy_last_psnr_db"] < 15
    assert good["pictures"] == 3 * 2 * 5, "five steps around it, of both drives"


def test_horizons_and_collapse_leave_out_what_no_drive_reaches(clips):
    perfect = Dreams(clips, clips.pictures, clips.pictures)
    assert "20 s" not in world_gates._horizons(perfect)
    assert "left out" in world_gates._collapse(perfect)


def test_collapse_is_late_quality_as_a_share_of_early_quality():
    clips = noise_clips((160,))
    noisy = clips.pictures.clone()
    noisy[:80] = (clips.pictures[:80].float() * 0.98).to(torch.uint8)
    noisy[80:] = clips.pictures[80:].flip(0)
    told = world_gates._collapse(Dreams(clips, clips.pictures, noisy))
    assert told["psnr_share"] < 0.6 and not told["passed"]
    whole = world_gates._collapse(Dreams(clips, clips.pictures, (clips.pictures.float() * 0.98).to(torch.uint8)))
    assert whole["psnr_share"] == pytest.approx(1.0, abs=0.05) and whole["passed"]


def test_all_gates_report_and_what_breaks_does_not_end_the_others(clips, monkeypatch, tmp_path):
    def broken(dreams):
        raise RuntimeError("a gate that breaks")

    monkeypatch.setattr(world_gates, "_views", broken)
    few = chosen(clips, drives=1, most=6)
    clock = Clock()
    result = examine(*small(), few, None, Deadline(1e9, clock), samples=tmp_path / "samples.png")
    assert result["steps"] == 6 and "a gate that breaks" in result["views"]["error"]
    assert {"autoencoder", "horizons", "collapse", "steering", "speed"} <= set(result) and "recall" not in result
    assert result["speed"]["step_p50_s"] > 0 and (tmp_path / "samples.png").stat().st_size > 1000
    late = examine(*small(), few, None, Deadline(-1.0, clock))
    assert late["autoencoder"] == {"left out": "no time left"}


def test_chosen_drives_keep_their_own_steps(clips):
    second = chosen(replace(clips, starts=clips.starts[1:], lengths=clips.lengths[1:], names=clips.names[1:]), most=5)
    assert torch.equal(second.pictures, clips.pictures[14:19]) and second.starts == (0,) and second.lengths == (5,)


def painted_clips():
    """Pictures in which each class has a colour of its own, 4x4 px squares on black."""
    clips = noise_clips((6,))
    torch.manual_seed(0)
    kinds = torch.zeros(6, 3, 14, 28, dtype=torch.uint8)
    spots = torch.rand(6, 3, 14, 28) < 0.1
    members = torch.tensor([int(c[0]) for c in CLASSES.values()], dtype=torch.uint8)
    kinds[spots] = members[torch.randint(len(members), (int(spots.sum()),))]
    cells = kinds.repeat_interleave(4, 2).repeat_interleave(4, 3)
    rasters = torch.zeros_like(clips.rasters)
    rasters[..., 0] = cells
    colours = torch.zeros(len(Kind), 3, dtype=torch.uint8)
    colours[members.long()] = torch.tensor([[40, 40, 255], [255, 0, 255], [255, 0, 0], [255, 255, 0], [0, 255, 0]],
                                           dtype=torch.uint8)  # fmt: skip
    pictures = colours[cells.long()].repeat_interleave(2, 2).repeat_interleave(2, 3)
    return replace(clips, pictures=pictures, rasters=rasters)


def test_a_reader_finds_what_is_shown_where_it_is_shown_and_misses_what_is_not():
    torch.manual_seed(0)
    clips = painted_clips()
    net = train_reader(clips, seconds=60.0, batch=6, most_steps=60, lr=5e-3)
    pictures, rasters = clips.pictures[:2].flatten(0, 1), clips.rasters[:2].flatten(0, 1)
    shown, nothing = read(net, pictures, rasters), read(net, torch.zeros_like(pictures), rasters)
    there = sum(c.there for c in shown.values())
    assert sum(c.found for c in shown.values()) > 0.9 * there > 0.9 * 50
    assert sum(c.found for c in nothing.values()) < 0.3 * there
    assert sum(shown[name].right for name in LIGHTS) > 0.8 * sum(shown[name].there for name in LIGHTS)


def test_what_is_far_away_counts_neither_way():
    rasters = torch.zeros(1, 56, 112, 6, dtype=torch.uint8)
    rasters[0, 20:24, 20:24, 0] = int(Kind.CAR)
    rasters[0, 20:24, 20:24, 1] = 250
    inside, doubtful = truth_of(rasters)
    assert not inside.any() and doubtful[0, 0].any()


def test_frechet_distance_of_gaussians_and_of_none():
    torch.manual_seed(0)
    a = torch.randn(4000, 3, dtype=torch.float64)
    shifted, wide = a + torch.tensor([2.0, 0.0, 0.0]), a * torch.tensor([3.0, 1.0, 1.0])
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-6)
    assert frechet(a, shifted) == pytest.approx(4.0, abs=1e-6)
    assert frechet(a, wide) == pytest.approx(4.0, rel=0.1), "(3 - 1)^2"
    told = distances(a, a)
    assert told["own_moment_over_other_moment"] == 0.0 and told["frechet_between_halves_of_real"] < 0.05


def test_a_reader_that_says_yes_to_everything_passes_no_gate(monkeypatch):
    """All cells of all classes found, and nothing known: recall alone would be perfect."""
    clips = painted_clips()
    yes = Reader()
    for parameter in yes.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(parameter, 5.0)  # the last one is the bias of the answers
    monkeypatch.setattr(world_gates, "train_reader", lambda reference, seconds: yes.eval())
    told = world_gates._recall(Dreams(clips, clips.pictures, clips.pictures), clips, 60.0)
    assert told["vehicle"]["dream_recall"] == 1.0 and not told["reader_fit"] and not told["passed"]
    assert "left out" in world_gates._recall(Dreams(clips, clips.pictures, clips.pictures), clips, 2.0)

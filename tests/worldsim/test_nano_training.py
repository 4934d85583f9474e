"""Training the nano world at the size of a test: it learns, goes on after an interruption, and keeps to its clock."""

import json
from dataclasses import replace

import pytest
import torch

from efficientgen.worldsim.nano.autoencoder import Autoencoder
from efficientgen.worldsim.nano.checkpoint import load_nano
from efficientgen.worldsim.nano.clips import NoClipsError, load_clips
from efficientgen.worldsim.nano.fit_autoencoder import fit_autoencoder, weights_of
from efficientgen.worldsim.nano.fit_decoder import finish_decoder, piece_chances
from efficientgen.worldsim.nano.fit_world import FINISHED, dream, noise_levels, read_rasters
from efficientgen.worldsim.nano.layout import Kind
from efficientgen.worldsim.nano.model import RigRays
from efficientgen.worldsim.nano.train import STATE, train_nano
from efficientgen.worldsim.nano.training import Clock, Metrics, Run, TrainConfig
from tests.worldsim.nano_models import SMALL_CODER, SMALL_WORLD, noise_clips, small

QUICK = TrainConfig(seconds=1000.0, gates_s=1.0, autoencoder_batch=2, batch=2, window=4, max_steps=4, first_dream=0.4,
                    dream_every_s=0.0, pixels_from=0.3, pixel_frames=2, export_every_s=0.0)  # fmt: skip


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_both_parts_are_trained_dream_on_the_way_and_are_written_twice(tmp_path):
    out, export = tmp_path / "out", tmp_path / "export"
    clips = noise_clips((6, 5))
    autoencoder, model = train_nano(clips, out, QUICK, Clock(), lambda line: None, export, SMALL_CODER, SMALL_WORLD)
    parts = [row["part"] for row in rows(out / "training.jsonl")]
    assert parts.index("autoencoder") < parts.index("world") and "dream" in parts and parts[-1] == "decoder"
    for directory in (out, export):
        loaded = load_nano(directory)
        for ours, theirs in zip((autoencoder, model), loaded, strict=True):
            for name, value in ours.state_dict().items():
                assert torch.allclose(theirs.state_dict()[name], value, atol=1e-2, rtol=1e-2), name


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    clips, lines = noise_clips((6,)), []
    train_nano(clips, tmp_path, QUICK, Clock(), lines.append, None, SMALL_CODER, SMALL_WORLD)
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert state["part"] == "world" and state["run"]["steps"] == QUICK.max_steps
    coder = {k: v.clone() for k, v in state["autoencoder"].items()}
    again = replace(QUICK, max_steps=QUICK.max_steps + 3, polish_share=0.0)
    clock = Clock()
    autoencoder, _ = train_nano(clips, tmp_path, again, clock, lines.append, None, SMALL_CODER, SMALL_WORLD)
    resumed = next(row for row in rows(tmp_path / "training.jsonl") if row.get("resumed"))
    assert resumed["step"] == QUICK.max_steps and clock.before > 0
    after = torch.load(tmp_path / STATE, weights_only=True)
    assert after["run"]["steps"] == again.max_steps and after["begin"] == state["begin"]
    assert torch.equal(autoencoder.mean, coder["mean"]), "the autoencoder was finished and is not trained again"


def test_the_autoencoder_learns_pictures_that_their_rasters_explain(tmp_path):
    clips = noise_clips((4,))
    colours = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200]], dtype=torch.uint8)
    half = clips.rasters[..., 0] % 3
    half = half[..., ::8, ::8].repeat_interleave(8, -2).repeat_interleave(8, -1)
    rasters = clips.rasters.clone()
    rasters[..., 0] = half
    pictures = colours[half.long()].repeat_interleave(2, 2).repeat_interleave(2, 3)
    clips = replace(clips, pictures=pictures, rasters=rasters)
    torch.manual_seed(0)
    config = replace(QUICK, max_steps=25, autoencoder_lr=3e-3, autoencoder_batch=1, ema=0.5)
    log = tmp_path / "log.jsonl"
    metrics = Metrics(log, Clock(), lambda line: None)
    fit_autoencoder(Autoencoder(SMALL_CODER), clips, config, Clock(), 1e9, metrics, lambda state: None)
    losses = [row["loss"] for row in rows(log) if "loss" in row]
    blind = 8.0 * ((clips.pictures.float() / 127.5 - 1) - (clips.pictures.float() / 127.5 - 1).mean()).square().mean()
    assert losses[-1] < 0.6 * float(blind), "better than one colour for all"


def test_a_dream_begins_with_the_truth_and_leaves_shorter_drives_alone_after_their_end():
    autoencoder, model = small()
    clips = noise_clips((5, 3))
    truth = torch.randn(8, 8, 4, 24)
    out = dream(model, clips, truth, read_rasters(autoencoder, clips), RigRays(), seed=1)
    assert torch.equal(out[0], truth[0]) and torch.equal(out[5], truth[5])
    changed = (out != truth).flatten(1).any(1).tolist()
    assert changed == [False, True, True, True, True, False, True, True]
    assert torch.equal(dream(model, clips, truth, read_rasters(autoencoder, clips), RigRays(), seed=1), out)


def test_pieces_of_a_drive_go_on_from_the_dream_before_and_leave_no_step_out():
    autoencoder, model = small()
    clips = noise_clips((7, 2))
    truth, before = torch.randn(9, 8, 4, 24), torch.randn(9, 8, 4, 24)
    features = read_rasters(autoencoder, clips)

    def pieces(given):
        return dream(model, clips, truth, features, RigRays(), seed=1, segment=4, before=given)

    out = pieces(before)
    changed = (out != truth).flatten(1).any(1).tolist()
    assert changed == [False, True, True, True, True, True, True, False, True]
    other = before.clone()
    other[3] += 1.0  # where the drive's second piece begins
    moved = (pieces(other) != out).flatten(1).any(1).tolist()
    assert moved == [False, False, False, False, True, True, True, False, False]
    other = before.clone()
    other[0] += 1.0  # drives begin with the truth whatever was dreamed
    assert torch.equal(pieces(other), out)


def test_noise_levels_hold_finished_frames_and_frames_in_the_making():
    torch.manual_seed(0)
    levels = noise_levels(4000, 12, (1000, 500), torch.device("cpu"))
    assert levels.min() == 0 and levels.max() == 1 and torch.equal(levels, (levels * 1000).round() / 1000)
    assert (levels[:, 0] <= FINISHED).float().mean() > 0.8, "a stream begins with given frames"
    assert 0.2 < (levels == 1).float().mean() < 0.45
    near = ((levels - 0.5).abs() <= 0.05).float().mean()
    assert near > 0.1, "the second pass's level is trained most of what lies between"
    assert (levels <= FINISHED).float().mean() > 0.25


def test_lights_and_people_count_more_than_walls():
    rasters = torch.zeros(1, 8, 8, 6, dtype=torch.uint8)
    rasters[0, 2, 2, 0], rasters[0, 6, 6, 0] = Kind.RED, Kind.PEDESTRIAN
    weights = weights_of(rasters)[0, 0]
    assert weights.shape == (16, 16) and weights[4, 4] > weights[12, 12] > weights[4, 12] == 1
    assert weights[3, 3] == weights[4, 4], "and what is right beside them"


def test_a_gradient_that_is_not_finite_moves_nothing_far():
    _, model = small()
    model.requires_grad_(True)
    run = Run(model, 1e-2, TrainConfig(), Clock(), 1e9)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    run.descend(sum(p.sum() for p in model.parameters()) * torch.inf)
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
    assert all(torch.allclose(v, before[k], atol=1e-4) for k, v in model.state_dict().items())


def test_the_warm_up_has_a_least_number_of_steps_however_fast_its_time_goes_by():
    _, model = small()
    model.requires_grad_(True)
    run = Run(model, 1.0, TrainConfig(), Clock(before=500.0), 1000.0)
    run.began = 0.0  # half of the time has gone by
    rates = []
    for _ in range(200):
        run.plan()
        rates.append(run.optimiser.param_groups[0]["lr"])
    assert rates[0] < 0.02 * max(rates) and rates[49] < 0.6 * max(rates)
    assert rates[110] == pytest.approx(rates[199], rel=1e-2), "then only the time counts"


def test_no_clips_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(NoClipsError, match="efficientgen data world"):
        load_clips(tmp_path, "cpu")


def test_pieces_are_drawn_where_lights_and_people_are_and_only_the_decoder_learns(tmp_path):
    clips = noise_clips((3,))
    rasters = torch.zeros_like(clips.rasters)
    rasters[1, 2, 20:22, 40:42, 0] = Kind.RED  # token (1, 2) of the last camera at step 1
    clips = replace(clips, rasters=rasters)
    chances = piece_chances(clips)
    assert chances.shape == (9, 4, 8) and chances.flatten().argmax() == (3 + 2) * 32 + 1 * 8 + 2
    autoencoder, _ = small()
    before = {k: v.clone() for k, v in autoencoder.state_dict().items()}
    latents = (torch.randn(3, 8, 4, 24), torch.randn(3, 8, 4, 24))
    config, metrics = replace(QUICK, max_steps=3, ema=0.5), Metrics(tmp_path / "log", Clock(), lambda line: None)
    done = finish_decoder(autoencoder, clips, latents, config, Clock(), 1e9, metrics, pieces=2)
    changed = {k.partition(".")[0] for k, v in done.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"recall", "spread", "meet", "form", "rise", "join", "finish"}

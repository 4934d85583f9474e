"""The nano world in a drive: what it is given, stamps, determinism, anchors, errors and what a reset mends."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from efficientgen.kernels.shards import CheckpointError
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import CHUNK_NS, TICK_NS, EgoState, OracleFrame
from efficientgen.worldsim.nano.checkpoint import WEIGHTS, load_nano, save_nano
from efficientgen.worldsim.nano.world import NanoWorld
from efficientgen.worldsim.reference.weather import UnknownWeatherError
from efficientgen.worldsim.sana.checkpoint import MissingWorldError, WrongVariantError
from efficientgen.worldsim.sana.poses import PoseJumpError
from efficientgen.worldsim.sana.sampler import DivergedError
from efficientgen.worldsim.sana.world import ChunkLengthError, NotResetError
from efficientgen.worldsim.worlds import (
    UnknownWorldError,
    WorldOptionsError,
    check_world,
    nano_directory,
)
from tests.worldsim.nano_models import small
from tests.worldsim.test_reference_world import TOWN


class Scene:
    """An opening that counts how often it is looked at."""

    def reset(self, town: str, weather: str, seed: int) -> None:
        self.seed, self.looks = seed, 0

    def render(self, frame: OracleFrame) -> np.ndarray:
        self.looks += 1
        rng = np.random.default_rng([self.seed, frame.stamp_ns])
        return rng.integers(0, 255, (3, 112, 224, 3), np.uint8)


def ticks(chunk: int, turn: float = 0.0, speed: float = 8.0) -> tuple[OracleFrame, ...]:
    """The four ticks of one chunk of a drive on a circle (or straight on)."""
    out = []
    for i in range(chunk * 4 + 1, chunk * 4 + 5):
        t = i * 0.1
        yaw = turn * t
        x, y = (speed * t, 0.0) if not turn else (speed / turn * math.sin(yaw), speed / turn * (1 - math.cos(yaw)))
        ego = EgoState(i * TICK_NS, 100.0 + x, 100.0 + y, yaw, speed, 0.0, turn, 0.0)
        out.append(OracleFrame(i * TICK_NS, TOWN, ego, (), {}, "day"))
    return tuple(out)


@pytest.fixture
def world():
    world = NanoWorld(*small(), Scene())
    world.reset(TOWN, "day", 0)
    return world


def drive(world: NanoWorld, chunks: int, **motion: float) -> list[np.ndarray]:
    """The front pictures of a drive."""
    return [world.step(ticks(k, **motion)).cameras["FRONT"][0].image for k in range(chunks)]


def test_pictures_carry_their_own_stamps_names_and_calibration(world):
    for k in range(3):
        sensed = world.step(ticks(k))
        assert sensed.stamps_ns == ((k + 1) * CHUNK_NS,)
        assert list(sensed.cameras) == [camera.name for camera in NANO_RIG]
        for camera in NANO_RIG:
            (frame,) = sensed.cameras[camera.name]
            assert frame.image.shape == (112, 224, 3) and frame.image.dtype == np.uint8
            assert frame.stamp_ns == (k + 1) * CHUNK_NS and (frame.camera_to_ego == camera.camera_to_ego).all()


def test_only_the_first_picture_is_real(world):
    first = drive(world, 6)[0]
    scene = world._opening
    assert scene.looks == 1
    assert (first == Scene.render(scene, ticks(0)[-1])[1]).all()


def test_an_anchored_dream_goes_on_from_a_real_picture_now_and_then():
    world = NanoWorld(*small(), Scene(), anchor_every=3)
    world.reset(TOWN, "day", 0)
    drive(world, 9)
    assert world._opening.looks == 3 and world.diagnostics()["anchors"] == 2, "the first, the fifth, the ninth"


def test_the_same_seed_dreams_the_same_and_the_way_and_the_seed_matter(world):
    straight = drive(world, 4)
    world.reset(TOWN, "day", 0)
    assert all((a == b).all() for a, b in zip(straight, drive(world, 4), strict=True))
    world.reset(TOWN, "day", 0)
    turned = drive(world, 4, turn=0.4)
    assert (turned[0] == straight[0]).all() and not (turned[3] == straight[3]).all()
    world.reset(TOWN, "day", 1)
    assert not (drive(world, 4)[3] == straight[3]).all()


def test_what_it_costs_is_told(world):
    drive(world, 5)
    told = world.diagnostics()
    assert told["chunks"] == 4 and told["state_bytes"] > 0 and told["peak_resident_bytes"] > 1 << 20
    parts = [told[f"{part}_p50_s"] for part in ("raster", "denoise", "decode")]
    assert all(0 < part <= told["chunk_p99_s"] for part in parts) and told["chunk_p50_s"] <= told["chunk_p99_s"]
    assert 0.2 < told["real_time_factor"] * told["chunk_p50_s"] / 0.4 < 5
    json.dumps(told)


def test_errors_say_what_to_do_and_a_reset_mends_them(world):
    drive(world, 2)
    with pytest.raises(PoseJumpError, match="leaps"):
        world.step(tuple(replace(f, ego=replace(f.ego, x=f.ego.x + 30.0)) for f in ticks(2)))
    with pytest.raises(NotResetError, match="reset"):
        world.step(ticks(2))
    world.reset(TOWN, "day", 0)
    with pytest.raises(ChunkLengthError, match="without a plan stamp"):
        world.step(ticks(0)[:2])
    world.reset(TOWN, "day", 0)
    with pytest.raises(PoseJumpError, match="every tick"):
        world.step(ticks(0)[::2])
    with pytest.raises(UnknownWeatherError):
        world.reset(TOWN, "hail", 0)
    world.reset(TOWN, "day", 0)
    assert len(drive(world, 3)) == 3


def test_weights_that_make_nan_end_the_drive_and_another_world_is_untouched(world):
    autoencoder, model = small()
    model.gather.bias.fill_(torch.nan)
    broken = NanoWorld(autoencoder, model, Scene())
    broken.reset(TOWN, "day", 0)
    with pytest.raises(DivergedError, match="NaN"):
        drive(broken, 2)
    with pytest.raises(NotResetError):
        broken.step(ticks(2))
    assert len(drive(world, 3)) == 3


def test_a_directory_brings_back_the_same_dreams(world, tmp_path):
    save_nano(tmp_path, *small())
    here = NanoWorld(*load_nano(tmp_path), Scene())
    there = NanoWorld.from_pretrained(tmp_path, opening=Scene())
    for each in (here, there):
        each.reset(TOWN, "day", 0)
    assert all((a == b).all() for a, b in zip(drive(here, 3), drive(there, 3), strict=True))


def test_a_file_holds_the_worlds_matrices_in_bytes_and_no_weight_is_off_by_more_than_half_a_unit(tmp_path):
    parts = small()
    save_nano(tmp_path, *parts)
    stored = load_file(tmp_path / WEIGHTS)
    in_bytes = {k for k, v in stored.items() if v.dtype == torch.int8}
    assert in_bytes and all(k.startswith("world.") for k in in_bytes)
    for part, module, loaded in zip(("autoencoder", "world"), parts, load_nano(tmp_path), strict=True):
        for name, value in module.state_dict().items():
            off = (loaded.state_dict()[name] - value).abs()
            rows = value.flatten(1) if value.dim() > 1 else value[None]
            unit = rows.abs().amax(1) / 127 if f"{part}.{name}" in in_bytes else rows.abs().amax(1) / 128
            assert (off.view(rows.shape) <= 0.501 * unit[:, None]).all(), name
    name = sorted(in_bytes)[0]
    save_file({k: v for k, v in stored.items() if k != f"{name}.scale"}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="scale"):
        load_nano(tmp_path)


def test_a_file_of_bf16_alone_is_read_as_well(tmp_path):
    parts = small()
    save_nano(tmp_path, *parts)
    plain = {f"{part}.{k}": v.bfloat16() for part, module in zip(("autoencoder", "world"), parts, strict=True)
             for k, v in module.state_dict().items()}  # fmt: skip
    save_file(plain, tmp_path / WEIGHTS)
    for module, loaded in zip(parts, load_nano(tmp_path), strict=True):
        assert all(torch.equal(loaded.state_dict()[k], v.bfloat16().float()) for k, v in module.state_dict().items())


def test_directories_that_hold_no_nano_world_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(MissingWorldError, match="train world"):
        NanoWorld.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["SanaTransformer"]}')
    with pytest.raises(WrongVariantError, match="sana-wm"):
        NanoWorld.from_pretrained(tmp_path / "other")
    save_nano(tmp_path / "cut", *small())
    weights = tmp_path / "cut" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        NanoWorld.from_pretrained(tmp_path / "cut")
    save_nano(tmp_path / "sizes", *small())
    config = json.loads((tmp_path / "sizes" / "config.json").read_text())
    config["world"]["condition"] = 16
    (tmp_path / "sizes" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="was expected"):
        NanoWorld.from_pretrained(tmp_path / "sizes")
    config["world"]["transformer"] = "none"
    (tmp_path / "sizes" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="nano world"):
        NanoWorld.from_pretrained(tmp_path / "sizes")


def test_worlds_are_called_by_name_and_options_that_do_not_go_together_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what ships is found from anywhere
    check_world("nano", None)
    assert nano_directory().parts[-2:] == ("checkpoints", "nano-world") and nano_directory(tmp_path) == tmp_path
    with pytest.raises(UnknownWorldError, match="reference, nano, sana-wm"):
        check_world("matrix", None)
    with pytest.raises(WorldOptionsError, match="give --world-dir"):
        check_world("sana-wm", None)
    with pytest.raises(WorldOptionsError, match="add --world sana-wm"):
        check_world("reference", tmp_path)

"""SANA-WM as a world: stamps, recording, determinism, steering, errors and what a reset mends."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from efficientgen.perception.rig import Camera
from efficientgen.perception.types import CHUNK_NS, TICK_NS, EgoState, OracleFrame, SensorFrames
from efficientgen.worldsim.reference.weather import UnknownWeatherError
from tests.worldsim.sana_files import write_release

pytest.importorskip("diffusers")
from efficientgen.kernels.shards import CheckpointError  # noqa: E402
from efficientgen.worldsim.sana.checkpoint import MissingWorldError, WrongVariantError  # noqa: E402
from efficientgen.worldsim.sana.poses import PoseJumpError  # noqa: E402
from efficientgen.worldsim.sana.sampler import DivergedError  # noqa: E402
from efficientgen.worldsim.sana.world import (  # noqa: E402
    ChunkLengthError,
    NotResetError,
    SanaWorld,
    WorldMemoryError,
)

CAMERA = Camera("FRONT", width=96, height=64, focal=60.0, mount=(1.7, 0.0, 1.55), yaw_deg=0.0)


class Scene:
    """An opening of stripes that move with the ego."""

    def reset(self, town: str, weather: str, seed: int) -> None:
        self.phase = seed

    def render(self, frame: OracleFrame) -> np.ndarray:
        y, x = np.mgrid[0:64, 0:96]
        wave = 127 + 100 * np.sin(0.2 * (x + 5 * frame.ego.x + self.phase) + 0.1 * y)
        return np.repeat(wave[None, ..., None].astype(np.uint8), 3, -1)


def ticks(chunk: int, turn: float = 0.0, n: int = 4, speed: float = 8.0) -> tuple[OracleFrame, ...]:
    """The n ticks of one chunk of a drive on a circle (or straight on)."""
    out = []
    for i in range(chunk * n + 1, chunk * n + n + 1):
        t = i * 0.1
        yaw = turn * t
        x, y = (speed * t, 0.0) if not turn else (speed / turn * math.sin(yaw), speed / turn * (1 - math.cos(yaw)))
        ego = EgoState(i * TICK_NS, x, y, yaw, speed, 0.0, turn, 0.0)
        out.append(OracleFrame(i * TICK_NS, "testville", ego, (), {}, "day"))
    return tuple(out)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("release")
    write_release(path)
    return path


@pytest.fixture(scope="module")
def loaded(directory) -> SanaWorld:
    return SanaWorld.from_pretrained(directory, camera=CAMERA, opening=Scene())


@pytest.fixture
def world(loaded: SanaWorld) -> SanaWorld:
    loaded.reset("testville", "day", 0)
    return loaded


def film(world: SanaWorld, chunks: int, seed: int = 0, turn: float = 0.0, n: int = 4) -> list[SensorFrames]:
    world.reset("testville", "day", seed)
    return [world.step(ticks(k, turn, n)) for k in range(chunks)]


def images(frames: list[SensorFrames]) -> np.ndarray:
    return np.stack([frame.image for chunk in frames for frame in chunk.cameras["FRONT"]])


def test_pictures_come_at_the_ticks_from_the_one_camera(world: SanaWorld):
    for k, chunk in enumerate(film(world, 3)):
        assert chunk.stamps_ns == tuple(k * CHUNK_NS + i * TICK_NS for i in range(1, 5))
        (name,) = chunk.cameras
        assert name == "FRONT"
        for stamp, frame in zip(chunk.stamps_ns, chunk.cameras[name], strict=True):
            assert frame.stamp_ns == stamp
            assert frame.image.shape == (64, 96, 3) and frame.image.dtype == np.uint8
            assert np.array_equal(frame.intrinsics, CAMERA.intrinsics)


def test_the_first_chunk_is_the_recording(world: SanaWorld):
    first = film(world, 1, seed=3)[0]
    scene = Scene()
    scene.reset("testville", "day", 3)
    for tick, frame in zip(ticks(0), first.cameras["FRONT"], strict=True):
        assert np.array_equal(frame.image, scene.render(tick)[0])


def test_same_seed_same_pictures_other_seed_or_way_others(world: SanaWorld):
    one = images(film(world, 4))
    assert np.array_equal(one, images(film(world, 4)))
    assert not np.array_equal(one[8:], images(film(world, 4, seed=1))[8:])
    assert not np.array_equal(one[8:], images(film(world, 4, turn=0.3))[8:]), "it steers"


def test_longer_chunks_are_chunks_of_more_latent_frames(world: SanaWorld):
    chunks = film(world, 3, n=12)
    assert images(chunks).shape[0] == 36
    assert world._stream.state.frames == 1 + 2 * 3
    assert world.diagnostics()["chunks"] == 2


def test_diagnostics_tell_latency_and_memory(world: SanaWorld):
    film(world, 9)
    early = world.diagnostics()["state_bytes"]
    for k in range(9, 14):
        world.step(ticks(k))
    facts = world.diagnostics()
    assert facts["chunks"] == 13 and facts["state_bytes"] == early > 0
    assert 0 < facts["chunk_p50_s"] <= facts["chunk_p99_s"]
    assert facts["longest_step_m"] == pytest.approx(0.4, abs=1e-3), "8 m/s at 20 pictures/s"


def broken(frames: tuple[OracleFrame, ...], **changes: float) -> tuple[OracleFrame, ...]:
    return (*frames[:2], *(replace(f, ego=replace(f.ego, **changes)) for f in frames[2:]))


@pytest.mark.parametrize("changes", [{"x": 80.0}, {"yaw": 1.5}, {"y": math.nan}])
def test_a_pose_jump_is_refused_and_a_reset_mends_it(world: SanaWorld, changes: dict[str, float]):
    film(world, 2)
    with pytest.raises(PoseJumpError):
        world.step(broken(ticks(2), **changes))
    with pytest.raises(NotResetError):
        world.step(ticks(2))
    assert len(images(film(world, 3))) == 12


def test_left_out_ticks_are_refused(world: SanaWorld):
    film(world, 2)
    with pytest.raises(PoseJumpError, match="every tick"):
        world.step(ticks(3))


def test_half_a_latent_frame_is_refused(world: SanaWorld):
    film(world, 2)
    with pytest.raises(ChunkLengthError, match="4 ticks"):
        world.step(ticks(2)[:2])


def test_latents_that_are_not_finite_are_told_and_a_reset_mends_it(world: SanaWorld):
    good = images(film(world, 3))
    linear = world._model.final_layer.linear
    weight = linear.weight.clone()
    linear.weight[0] = math.nan
    world.reset("testville", "day", 0)
    world.step(ticks(0))
    with pytest.raises(DivergedError, match="NaN"):
        world.step(ticks(1))
    linear.weight.copy_(weight)
    assert np.array_equal(images(film(world, 3)), good)


def test_exhausted_memory_is_told_and_a_reset_mends_it(world: SanaWorld, monkeypatch):
    """The accelerator's own error stands for it here; tests/gpu exhausts a real one."""
    good = images(film(world, 2))

    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    world.reset("testville", "day", 0)
    world.step(ticks(0))
    with monkeypatch.context() as patch:
        patch.setattr(world._model.blocks[1].mlp, "forward", full)
        with pytest.raises(WorldMemoryError, match="96x64.*2.00 GiB"):
            world.step(ticks(1))
    assert np.array_equal(images(film(world, 2)), good)


def test_unknown_weather_is_told(world: SanaWorld):
    with pytest.raises(UnknownWeatherError):
        world.reset("testville", "hail", 0)


def test_each_weather_has_its_words(world: SanaWorld):
    day, night = world._texts["day"], world._texts["night"]
    assert day.hidden.shape == (1, 300, 12) and day.mask.shape == (1, 300)
    assert not torch.equal(day.hidden, night.hidden)


def test_directories_that_are_no_streaming_release_are_told(directory, tmp_path):
    with pytest.raises(MissingWorldError, match="no directory"):
        SanaWorld.from_pretrained(tmp_path / "nowhere", opening=Scene())
    with pytest.raises(WrongVariantError, match="holds no SANA-WM"):
        SanaWorld.from_pretrained(tmp_path, opening=Scene())
    (tmp_path / "dit").mkdir()
    (tmp_path / "dit" / "sana_wm_1600m_720p.safetensors").touch()
    with pytest.raises(WrongVariantError, match="bidirectional SANA-WM; streaming weights are needed"):
        SanaWorld.from_pretrained(tmp_path, opening=Scene())
    for folder in ("ltx2_causal_vae", "tokenizer"):
        (tmp_path / folder).mkdir()
        partial = tmp_path / f"without-{folder}"
        partial.mkdir()
        for part in directory.iterdir():
            if part.name != folder:
                (partial / part.name).symlink_to(part)
        with pytest.raises(CheckpointError, match=folder):
            SanaWorld.from_pretrained(partial, camera=CAMERA, opening=Scene())
    with pytest.raises(CheckpointError, match="latents of 32 px"):
        SanaWorld.from_pretrained(directory, camera=replace(CAMERA, width=100), opening=Scene())

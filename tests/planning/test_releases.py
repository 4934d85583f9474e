"""A directory in each released layout loads and plans; what does not belong together is told in words."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from efficientgen.perception.types import Observation
from efficientgen.perception.vision import VisionConfig
from efficientgen.planning.checkpoint import save_model
from efficientgen.planning.config import TextConfig, fast_ddrive
from efficientgen.planning.config_json import CheckpointError
from efficientgen.planning.ddrive import DDrive, NotAPlannerError, PromptTooLongError
from efficientgen.planning.drive_prompt import PromptError
from efficientgen.planning.load import (
    DeviceError,
    WeightsNotShippedError,
    WrongFamilyError,
    load_planner,
    model_directory,
    resolve_dtype,
)
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.qwen_tokenizer import installed_ranks
from efficientgen.planning.schema import AnswerError, decode_answer
from efficientgen.planning.tokenizer import TokenizerError
from efficientgen.planning.views import PictureLimitsError, UnknownSchemaError
from tests.planning.conftest import random_observation
from tests.planning.tiny_release import PADDING, tiny_backend, tiny_model, write_release


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    root = tmp_path_factory.mktemp("releases")
    return {family: write_release(root / f"my-{family}", family) for family in ("fast-ddrive", "fast-dvlm")}


@pytest.fixture
def ddrive(releases, tmp_path):
    """A copy to be damaged."""
    for path in releases["fast-ddrive"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def three_fronts(seed: int) -> Observation:
    """Three frames per camera, the newest at the stamp, 0.5 s apart."""
    seen = random_observation(seed)
    cameras = {
        name: tuple(replace(frames[-1], stamp_ns=seen.stamp_ns - k * 500_000_000) for k in (2, 1, 0))
        for name, frames in seen.cameras.items()
    }
    return replace(seen, cameras=cameras)


@pytest.mark.parametrize(
    ("family", "schema", "frames", "pictures", "times"),
    [
        ("fast-ddrive", "", 1, 3, [1.0, 2.0, 3.0, 4.0, 5.0]),
        ("fast-ddrive", "nuscenes", 3, 3, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]),
        ("fast-dvlm", "", 1, 3, [1.0, 2.0, 3.0, 4.0, 5.0]),
        ("fast-dvlm", "nuscenes", 3, 3, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]),
    ],
)
def test_every_released_layout_plans(releases, family, schema, frames, pictures, times):
    planner = load_planner(family, releases[family], schema=schema)
    assert planner.frames_per_camera == frames and planner.name == f"my-{family}"
    seen = three_fronts(3)
    patches, grids, ids = planner.inputs(seen)
    assert grids == ((1, 2, 4),) * pictures  # 224x112 px at 3136 px of area: 56x28
    assert ids.count(planner.model.config.image_token_id) == patches.shape[1] // 4
    plan = planner.plan(seen)
    assert plan.waypoints.shape == (len(times), 2) and np.isfinite(plan.waypoints).all()
    assert plan.times_s.tolist() == times
    answer = json.loads(plan.text)
    assert list(answer) == ["critical_objects", "explanation", "future_meta_behavior", "trajectory"]
    assert plan.stats.value_tokens == planner.template.is_value.sum()


@pytest.mark.parametrize("family", ["fast-ddrive", "fast-dvlm"])
def test_loaded_weights_are_the_saved_ones(releases, family):
    loaded = DDrive.from_pretrained(releases[family]).model.state_dict()
    for name, value in tiny_model(family).state_dict().items():
        saved = value if family == "fast-ddrive" else value.to(torch.bfloat16).float()
        assert torch.equal(loaded[name], saved), name


def test_speculation_writes_what_ar_writes_on_a_released_layout(releases):
    """Padded logits, byte-level vocabulary, two prompts' worth of scaffold: still lossless, here in float64."""
    planners = [
        DDrive.from_pretrained(releases["fast-ddrive"], decoder=decoder, dtype=torch.float64)
        for decoder in ("ar", "scaffold-spec")
    ]
    answers = [planner.answer(three_fronts(5))[0] for planner in planners]
    assert answers[0].ids == answers[1].ids
    assert max(answers[0].ids) < tiny_backend().get_vocab_size()
    assert planners[0].template.allow_lists.shape[1] == tiny_backend().get_vocab_size() + PADDING


def test_a_planner_trained_without_filler_fills_with_end_of_text(releases):
    """Fast-dVLM never saw NULL: it must not be able to write it."""
    planners = {family: DDrive.from_pretrained(directory) for family, directory in releases.items()}
    null, end = tiny_backend().token_to_id("<|NULL|>"), tiny_backend().token_to_id("<|endoftext|>")
    assert planners["fast-ddrive"].template.filler == null
    assert planners["fast-dvlm"].template.filler == end
    assert not planners["fast-dvlm"].template.allow_lists[:, null].any()
    text = planners["fast-dvlm"].plan(three_fronts(1)).text
    assert "<|" not in text


def test_what_the_rig_lacks_is_told_in_the_stats(releases):
    planner = DDrive.from_pretrained(releases["fast-ddrive"], schema="nuscenes")
    seen = three_fronts(2)
    late = replace(seen.cameras["FRONT"][0], stamp_ns=seen.stamp_ns - 800_000_000)
    shorter = replace(seen, cameras={**seen.cameras, "FRONT": (late, *seen.cameras["FRONT"][1:])})
    assert planner.plan(seen).stats.note == ""
    assert planner.plan(shorter).stats.note == "3 frames over 0.8 s, trained on 1.0 s"
    view = replace(planner.view, pixels=(200_704, 200_704))
    full = DDrive(planner.model, planner.tokenizer, view=view)
    note = full.plan(shorter).stats.note
    assert note.startswith("pictures of 224x112 px enlarged to 644x336;") and "0.8 s" in note


def test_the_users_prompt_replaces_ours(releases, ddrive):
    (ddrive / "prompt.txt").write_text("See <image> and go {command}. History: {history}.")
    (ddrive / "history.txt").write_text("t{t}:{x}")
    ours, theirs = DDrive.from_pretrained(releases["fast-ddrive"]), DDrive.from_pretrained(ddrive)
    seen = three_fronts(0)
    text = theirs.tokenizer.decode([i for i in theirs.inputs(seen)[2] if i != theirs.model.config.image_token_id])
    assert "and go GO_STRAIGHT. History: t-3.0:" in text and "; t-2.5:" in text and text.count("t+0.0:0.00") == 1
    assert len(theirs.inputs(seen)[2]) < len(ours.inputs(seen)[2])
    (ddrive / "prompt.txt").write_text("Nothing to see, go {command}")
    with pytest.raises(PromptError, match="write it where the pictures belong"):
        DDrive.from_pretrained(ddrive)


def test_what_does_not_belong_together_is_told(releases, ddrive):
    with pytest.raises(WeightsNotShippedError, match="give its directory"):
        model_directory("fast-ddrive")
    with pytest.raises(WrongFamilyError, match="give planner 'fast-dvlm'"):
        load_planner("fast-ddrive", releases["fast-dvlm"])
    with pytest.raises(UnknownSchemaError, match="wod-e2e"):
        load_planner("fast-ddrive", releases["fast-ddrive"], schema="kitti")
    with pytest.raises(TokenizerError, match="schema that the model was trained with"):
        load_planner("nano-ddrive", schema="wod-e2e")
    config = json.loads((ddrive / "config.json").read_text())
    (ddrive / "config.json").write_text(json.dumps(config | {"mask_token_id": 7}))
    with pytest.raises(CheckpointError, match="take both from one release"):
        DDrive.from_pretrained(ddrive)
    (ddrive / "config.json").write_text(json.dumps(config))
    (ddrive / "preprocessor_config.json").write_text('{"min_pixels": 9, "max_pixels": 4}')
    with pytest.raises(PictureLimitsError, match="in this order"):
        DDrive.from_pretrained(ddrive)
    (ddrive / "preprocessor_config.json").write_text("[]")
    with pytest.raises(PictureLimitsError, match="damaged"):
        DDrive.from_pretrained(ddrive)
    (ddrive / "preprocessor_config.json").unlink()
    (ddrive / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 3}}')
    with pytest.raises(TokenizerError, match="damaged"):
        DDrive.from_pretrained(ddrive)


def test_a_vocabulary_larger_than_the_model_is_refused(releases):
    planner = DDrive.from_pretrained(releases["fast-ddrive"])
    model = planner.model
    small = replace(model.config, text=replace(model.config.text, vocab_size=tiny_backend().get_vocab_size() - 1))
    with torch.device("meta"):
        other = VisionLanguageModel(small)
    with pytest.raises(TokenizerError, match="from one release"):
        DDrive(other, planner.tokenizer)


def test_text_models_do_not_drive(releases):
    planner = DDrive.from_pretrained(releases["fast-ddrive"])
    blind = replace(planner.model.config, vision=None, family="fast-dllm-v2")
    with torch.device("meta"):
        model = VisionLanguageModel(blind)
    with pytest.raises(NotAPlannerError, match="sees no road"):
        DDrive(model, planner.tokenizer)


def test_the_token_budget_is_kept(releases):
    planner = DDrive.from_pretrained(releases["fast-ddrive"], max_tokens=500)
    with pytest.raises(PromptTooLongError, match="shorten prompt.txt"):
        planner.plan(three_fronts(0))


def test_devices_and_number_formats():
    assert resolve_dtype("cpu") is torch.float32 and resolve_dtype("cpu", "bfloat16") is torch.bfloat16
    assert resolve_dtype("meta") is torch.bfloat16
    for device, dtype in (("cpu", "int3"), ("cuda:99", ""), ("abacus", "")):
        with pytest.raises(DeviceError, match="use cpu|choose one of"):
            resolve_dtype(device, dtype)


def test_answers_without_a_trajectory_are_typed(releases):
    planner = DDrive.from_pretrained(releases["fast-ddrive"])
    with pytest.raises(AnswerError):
        decode_answer(planner.template, planner.tokenizer, planner.answer(three_fronts(0))[0].ids[:-20])


def test_the_real_prompt_and_answer_fit_what_the_releases_were_trained_with(tmp_path):
    """Qwen's own vocabulary, the released picture size: about 2000 tokens, as in training (2048 at most)."""
    if installed_ranks() is None:
        pytest.skip("Qwen's vocabulary is not installed: pip install tiktoken; pip install --no-deps dashscope")
    pytest.importorskip("tiktoken")
    config = replace(fast_ddrive(), text=TextConfig(16, 16, 1, 2, 1, mrope_section=(2, 1, 1)),
                     vision=VisionConfig(1, 16, 16, 2, 16, 112, (0,)))  # fmt: skip
    save_model(VisionLanguageModel(config), tmp_path, layout="flat", dtype=torch.float32)
    planner = DDrive.from_pretrained(tmp_path)
    _, grids, ids = planner.inputs(random_observation(0))
    assert planner.tokenizer.source == "qwen.tiktoken" and len(planner.template) == 404
    assert grids == ((1, 24, 46),) * 3 and ids.count(151655) == 3 * 276
    assert 1400 < len(ids) and len(ids) + 404 <= 2048

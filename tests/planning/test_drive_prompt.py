"""What the released planners are told: three seconds of history in the ego frame, the command, pictures in order."""

import math
import re
from dataclasses import replace

import pytest

from efficientgen.perception.types import HISTORY_PERIOD_NS, HISTORY_STATES, Command, EgoHistory, EgoState
from efficientgen.planning.drive_prompt import (
    DrivePrompt,
    PromptError,
    default_prompt,
    drive_prompt_ids,
    history_text,
    load_prompt,
)
from efficientgen.planning.schema import CRITICAL_OBJECTS, NUSCENES, WOD_E2E
from tests.planning.tiny_release import tiny_tokenizer

FIGURES = "{t} {x} {y} {ax} {ay} {vx} {vy}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tiny"))


def circle(speed: float = 8.0, radius: float = 40.0, yaw: float = 2.0) -> EgoHistory:
    """A left bend at constant speed, ending at (100, -50) with heading `yaw`."""
    states = []
    for k in range(1 - HISTORY_STATES, 1):
        turned = speed / radius * k * HISTORY_PERIOD_NS / 1e9
        x, y = radius * math.sin(turned), radius * (1 - math.cos(turned))  # in the ego frame now
        states.append(
            EgoState(
                10**10 + k * HISTORY_PERIOD_NS,
                100 + math.cos(yaw) * x - math.sin(yaw) * y,
                -50 + math.sin(yaw) * x + math.cos(yaw) * y,
                yaw + turned,
                speed,
                0.0,
                speed / radius,
                0.1,
            )
        )
    return EgoHistory(tuple(states))


def test_history_is_seven_points_in_the_ego_frame_now():
    points = [[float(n) for n in point.split()] for point in history_text(circle(), FIGURES).split("; ")]
    assert [point[0] for point in points] == [-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0]
    for t, x, y, ax, ay, vx, vy in points:
        turned = 0.2 * t
        expected = (40 * math.sin(turned), 40 * (1 - math.cos(turned)), -1.6 * math.sin(turned),
                    1.6 * math.cos(turned), 8 * math.cos(turned), 8 * math.sin(turned))  # fmt: skip
        assert (x, y, ax, ay, vx, vy) == pytest.approx(expected, abs=0.0051)


def test_history_has_two_decimals_and_no_minus_zero():
    still = EgoHistory(tuple(replace(s, speed=0.0, yaw_rate=0.0, x=1.0, y=1.0) for s in circle().states))
    text = history_text(still)
    assert "-0.00" not in text and text.count("(") == 7
    assert all(re.fullmatch(r"-?\d+\.\d\d", n) for n in re.findall(r"[\[ ](-?\d+\.\d+)[,\]]", text))


def test_half_a_history_is_refused():
    with pytest.raises(PromptError, match="13 at 4 Hz"):
        history_text(EgoHistory(circle().states[4:]))


def test_our_prompts_name_tasks_vocabulary_and_horizon():
    wod, nuscenes = default_prompt(WOD_E2E).text, default_prompt(NUSCENES).text
    for text in (wod, nuscenes):
        assert all(name in text for name in CRITICAL_OBJECTS) and text.count("<image>") == 1
        order = [text.index(f'"{name}"') for name in ("critical_objects", "explanation", "future_meta_behavior")]
        assert order == sorted(order) and text.endswith("<|im_start|>assistant\n")
        assert set(re.findall(r"{(\w+)}", text)) == {"command", "history"}
    assert "5 points [x, y], one every 1 s up to 5 s" in wod
    assert "6 points [x, y], one every 0.5 s up to 3 s" in nuscenes and "last second" in nuscenes


def test_pictures_stand_where_the_prompt_has_them(tiny):
    start, pad, end = (tiny.id_of(f"<|{name}|>") for name in ("vision_start", "image_pad", "vision_end"))
    once = drive_prompt_ids(DrivePrompt("a <image> b {history}"), tiny, [2, 1], Command.GO_LEFT, circle())
    each = drive_prompt_ids(DrivePrompt("a <image> b <image>{command}"), tiny, [2, 1], Command.GO_LEFT, circle())
    assert [i for i in once if i in (start, pad, end)] == [start, pad, pad, end, start, pad, end]
    assert once.index(start) == len(tiny.encode("a ")) and once[once.index(end) + 1] == start
    assert each[each.index(end) + 1] != start
    assert each[-len(tiny.encode("GO_LEFT")) :] == tiny.encode("GO_LEFT")
    withheld = drive_prompt_ids(DrivePrompt("<image>{history}"), tiny, [1], Command.GO_LEFT, None)
    assert tiny.decode(withheld).endswith("not known")
    with pytest.raises(PromptError, match="2 <image> in the prompt for 3 pictures"):
        drive_prompt_ids(DrivePrompt("<image> <image>"), tiny, [1, 1, 1], Command.GO_LEFT, circle())


def test_a_directory_may_bring_the_words(tmp_path):
    ours = default_prompt(WOD_E2E)
    assert load_prompt(tmp_path, {}, WOD_E2E) == ours
    config = {"prompt_template": "q {x} <image>", "history_template": "{t}"}
    held = load_prompt(tmp_path, config, WOD_E2E)
    assert held.point == "{t}" and "<|im_start|>user\nq {x} <image><|im_end|>" in held.text
    (tmp_path / "prompt.txt").write_text("<|im_start|>user\n{odd <image> braces}}", "utf-8")
    assert load_prompt(tmp_path, config, WOD_E2E).text == "<|im_start|>user\n{odd <image> braces}}"
    with pytest.raises(PromptError, match="one string"):
        load_prompt(tmp_path, {"history_template": 3}, WOD_E2E)
    (tmp_path / "prompt.txt").write_bytes(b"\xff\xfe<image>")
    with pytest.raises(PromptError, match="UTF-8"):
        load_prompt(tmp_path, config, WOD_E2E)

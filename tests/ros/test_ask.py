"""`efficientgen ask` in one process: the answer on standard output, the cost beside it, mistakes with their remedy."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from efficientgen.planning.dvlm import PictureError, UnknownAnswererError
from efficientgen.planning.load import UnknownPlannerError
from efficientgen.planning.question_prompt import QuestionError
from efficientgen_ros.cli import app
from efficientgen_ros.cli.ask import PictureFileError


@pytest.fixture
def front(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (120, 200, 3), dtype=np.uint8)).save(tmp_path / "front.png")
    return str(tmp_path / "front.png")


def ask(*arguments):
    return CliRunner().invoke(app, ["ask", *arguments])


def test_a_picture_is_answered_about_and_the_cost_is_told(front):
    result = ask("May I go?", "--image", front)
    assert result.exit_code == 0, result.exception
    assert result.stdout.strip() and "tokens in" in result.stderr and "ms" in result.stderr
    row = json.loads(ask("May I go?", "--image", front, "--decoder", "ar", "--json").stdout)
    assert row["answer"] == result.stdout.strip() and row["oracle"] is None
    assert row["counts"]["forwards"] >= row["tokens"] - 1 and row["planner"] == "nano-dvlm"


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (("may I go", "--image", "no.png"), PictureFileError, "there is no file no.png"),
        (("may I go", "--image", __file__), PictureFileError, "is not a picture"),
        (
            ("who is the unicorn", "--image", "FRONT"),
            QuestionError,
            "never met 'unicorn'; it knows e.g. 'what is ahead'",
        ),
        (("may I go", "--image", "FRONT", "--image", "FRONT"), PictureError, "in this order"),
        (("may I go", "--image", "FRONT", "--decoder", "beam"), UnknownAnswererError, "self-spec"),
        (("may I go", "--image", "FRONT", "--planner", "nobody"), UnknownPlannerError, "no planner 'nobody'"),
        (("may I go", "--image", "FRONT", "--planner", "fast-dvlm"), UnknownPlannerError, "not shipped"),
    ],
)
def test_mistakes_are_typed(front, arguments, error, told):
    result = ask(*(front if a == "FRONT" else a for a in arguments))
    assert isinstance(result.exception, error) and told in str(result.exception)
    assert "\n" not in str(result.exception)


def test_one_thing_to_look_at(front):
    for arguments in ((), ("--image", front, "--scenario", "maple_red")):
        assert "give one of --image, --scenario and --run" in " ".join(ask("may I go", *arguments).stderr.split())

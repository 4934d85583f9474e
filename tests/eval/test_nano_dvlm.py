"""The shipped question model: small, tied to its base, and right about a scene of a held-out kind."""

import json

import pytest

from efficientgen import share
from efficientgen.planning.adapter import sha256_of
from efficientgen.planning.load import ADAPTER, WEIGHTS, model_directory, question_model

DIRECTORY = question_model("nano-dvlm")


def test_it_is_small_and_names_the_base_that_is_shipped():
    config = json.loads((DIRECTORY / "config.json").read_text())["adapter"]
    assert (DIRECTORY / ADAPTER).stat().st_size <= 2 * 2**20
    assert config["base_sha256"] == sha256_of(model_directory(config["base"]) / WEIGHTS)
    assert sha256_of(DIRECTORY / ADAPTER) in (DIRECTORY / "README.md").read_text()


def test_the_committed_result_is_of_this_checkpoint():
    result = json.loads((share("checkpoints").parent / "docs/results/dvlm.json").read_text())
    assert result["models"]["model"]["sha256"] == sha256_of(DIRECTORY / ADAPTER)
    means = {who: row["balanced"] for who, row in result["mean over types"].items()}
    assert means["model"] > means["no-image control"] + 0.2
    assert set(result["not above the control"]) <= {"crossing", "people", "route"}


def test_it_sees_the_night_and_the_oracle_agrees():
    pytest.importorskip("panda3d")
    pytest.importorskip("libsumo")
    from efficientgen.eval.moment import MomentError, moment_of_scenario
    from efficientgen.planning.dvlm import DVLM
    from efficientgen.worldsim.reference.world import ReferenceWorld
    from efficientgen.worldsim.scenario import load_scenario

    scenario, world = load_scenario("elm_brake"), ReferenceWorld()
    try:
        with pytest.raises(MomentError, match="outside of elm_brake"):
            moment_of_scenario(scenario, 0, 900.0, world)
        moment = moment_of_scenario(scenario, 0, 5.2, world)
    finally:
        world.close()
    assert [p.shape for p in moment.pictures] == [(2, 112, 224, 3)] * 3 and moment.frame.stamp_ns == 5_200_000_000
    assert moment.truth("What is the weather?") == "It is night." and moment.truth("tell me a joke") is None
    reply = DVLM.from_pretrained(DIRECTORY).ask(moment.pictures, "What is the weather?", moment.command)
    assert reply.text == "It is night."

"""The study of trust: who counts, what is left out, and correlations that are known; pictures made worse."""

from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval.degrade import DEGRADED
from efficientgen.eval.metrics import Metrics
from efficientgen.eval.world_trust import Entrant, entrants_of, jobs_for, trust
from efficientgen.perception.types import CameraFrame, Command, EgoHistory, Observation
from efficientgen.worldsim.worlds import NANO

SCENARIOS = tuple(f"s{k}" for k in range(12))
ENTRANTS = (*(Entrant("nano-ddrive", images=name) for name in ("own", "blur-1", "blur-3", "noise-25")),
            Entrant("nano-ddrive", images="grey"), Entrant("constant-velocity"))  # fmt: skip


class Scored:
    """As much of a drive's metrics as the study reads."""

    def __init__(self, score: float) -> None:
        self.driving_score = score


def found(score_of) -> list[tuple[object, Metrics]]:
    out = []
    for job in jobs_for(ENTRANTS, SCENARIOS, (0,)):
        who, where = ENTRANTS.index(Entrant(job.planner, images=job.images)), SCENARIOS.index(job.scenario)
        out.append((job, Scored(score_of(who, where, job.world))))
    return out


def test_a_world_that_ranks_alike_is_trusted_and_one_that_turns_ranks_around_is_not():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (2, len(ENTRANTS), len(SCENARIOS)))

    def alike(k, s, world):
        return 60 - 10 * k + 2 * s + noise[int(world == NANO), k, s]

    def around(k, s, world):
        return alike(k, s, world) if world != NANO else alike(5 - k, 11 - s, world)

    good, bad = trust(ENTRANTS, SCENARIOS, found(alike)), trust(ENTRANTS, SCENARIOS, found(around))
    assert good["over_planners"]["spearman"] == 1 and good["over_scenarios"]["spearman"] > 0.95
    assert bad["over_planners"]["spearman"] == -1 and bad["over_scenarios"]["spearman"] < -0.95
    assert good["over_planners"]["low"] <= 1 <= good["over_planners"]["high"] + 1e-9
    assert good["reference_spread"] == pytest.approx(30, abs=2), "of those that look"


def test_planners_that_do_not_look_are_shown_and_not_counted():
    def score(k, s, world):
        return (50 + 5 * k if k < 4 else 0 if world == NANO else 99) + s

    result = trust(ENTRANTS, SCENARIOS, found(score))
    assert result["over_planners"]["spearman"] == 1
    assert [row["sees"] for row in result["rows"]] == [True] * 4 + [False] * 2
    assert not any("grey" in name or "velocity" in name for name in result["over_scenarios_by_planner"])


def test_unfinished_scenarios_are_left_out_for_all():
    drives = [(job, metrics) for job, metrics in found(lambda k, s, world: k + s)
              if not (job.scenario == "s3" and job.world == NANO and job.images == "grey")]  # fmt: skip
    assert "s3" not in trust(ENTRANTS, SCENARIOS, drives)["scenarios"]
    few = trust(ENTRANTS, SCENARIOS[:2], drives)
    assert "left out" in few and "over_planners" not in few


def test_every_planner_drives_in_at_least_eight_forms_that_look():
    forms = entrants_of([("nano-ddrive", "")])
    assert sum(e.sees for e in forms) >= 8 and len({e.name for e in forms}) == len(forms)


@pytest.mark.parametrize("name", list(DEGRADED))
def test_worse_pictures_keep_their_form_differ_and_can_be_made_twice(name):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (112, 224, 3), np.uint8)
    frame = CameraFrame("FRONT", 400_000_000, image, np.eye(3), np.eye(4))
    seen = Observation(400_000_000, {"FRONT": (frame, replace(frame, stamp_ns=800_000_000))}, EgoHistory(()),
                       Command.GO_STRAIGHT)  # fmt: skip
    once, twice = (DEGRADED[name](seen).cameras["FRONT"] for _ in range(2))
    for before, a, b in zip(seen.cameras["FRONT"], once, twice, strict=True):
        assert a.image.shape == image.shape and a.image.dtype == np.uint8 and a.stamp_ns == before.stamp_ns
        assert (a.image == b.image).all() and not (a.image == before.image).all()

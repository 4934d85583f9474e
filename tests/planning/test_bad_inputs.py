"""Whatever an observation holds, a planner answers with a plan or with an error that names what is wrong.

Hypothesis builds observations with one to three defects out of a list; the planner is a nano-form and a released-form
one.  No numpy, torch or key error may come through: those say nothing to who has to mend the camera.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from efficientgen.perception.health import Expected, UnfitObservationError, findings
from efficientgen.perception.patches import ImageSizeError
from efficientgen.perception.types import EgoHistory, Observation
from efficientgen.planning.ddrive import CAMERAS, DDrive, PromptTooLongError
from tests.planning.conftest import random_observation
from tests.planning.tiny_release import write_release

TYPED = (UnfitObservationError, ImageSizeError, PromptTooLongError)
STATES = ("x", "y", "yaw", "speed", "acceleration", "yaw_rate", "steering")


@pytest.fixture(scope="module")
def planners(small_model, tokenizer, tmp_path_factory):
    nano = DDrive(small_model, tokenizer)
    released = DDrive.from_pretrained(write_release(tmp_path_factory.mktemp("release"), "fast-ddrive"))
    return nano, released


pictures = st.builds(
    lambda shape, dtype: np.ones(shape, dtype),
    st.one_of(
        st.tuples(st.sampled_from([0, 1, 27, 28, 29, 112]), st.sampled_from([0, 1, 28, 224, 225]), st.integers(0, 4)),
        st.tuples(st.integers(0, 60), st.integers(0, 60)),
        st.just((1, 1000, 3)),
        st.just((2, 28, 28, 3)),
        st.just(()),
    ),
    st.sampled_from([np.uint8, np.float32, np.int64, np.bool_, np.uint16]),
)
matrices = st.one_of(
    st.just(np.zeros((3, 3))), st.just(np.eye(2)), st.just(np.full((3, 3), np.nan)), st.just(np.ones((3, 3)))
)
values = st.sampled_from([np.nan, np.inf, -np.inf, 1e9, -1e9, 1e300, 0.0, -0.0, 149.0])


@st.composite
def broken(draw) -> Observation:
    """A good observation with one to three things wrong; some of them harmless."""
    seen = random_observation(draw(st.integers(0, 3)))
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["picture", "matrix", "mount", "lost", "surplus", "frames", "state", "short"]))
        name = draw(st.sampled_from(CAMERAS))
        frames = seen.cameras.get(name, ())
        if kind in ("picture", "matrix", "mount") and frames:
            at = draw(st.integers(0, len(frames) - 1))
            change = {
                "picture": lambda: {"image": draw(pictures)},
                "matrix": lambda: {"intrinsics": draw(matrices)},
                "mount": lambda: {"camera_to_ego": draw(matrices)},
            }[kind]()
            frames = tuple(replace(f, **change) if i == at else f for i, f in enumerate(frames))
            seen = replace(seen, cameras={**seen.cameras, name: frames})
        elif kind == "lost":
            seen = replace(seen, cameras={k: v for k, v in seen.cameras.items() if k != name})
        elif kind == "surplus" and frames:
            seen = replace(seen, cameras={**seen.cameras, draw(st.sampled_from(["REAR", "CAM_FRONT", ""])): frames})
        elif kind == "frames":
            seen = replace(seen, cameras={**seen.cameras, name: frames[: draw(st.integers(0, 1))]})
        elif kind == "state" and seen.history.states:
            at = draw(st.integers(0, len(seen.history.states) - 1))
            change = {draw(st.sampled_from(STATES)): draw(values)}
            states = tuple(replace(s, **change) if i == at else s for i, s in enumerate(seen.history.states))
            seen = replace(seen, history=EgoHistory(states))
        elif kind == "short":
            seen = replace(seen, history=EgoHistory(seen.history.states[draw(st.integers(0, 16)) :]))
    return seen


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(broken())
def test_inputs_are_made_or_refused_in_words(planners, seen):
    for planner in planners:
        try:
            patches, _, ids = planner.inputs(seen)
        except TYPED as error:
            assert len(str(error)) > 20
        else:
            assert np.isfinite(patches.numpy()).all()
            assert ids.count(planner.model.config.image_token_id) == patches.shape[1] // 4
    findings(seen, Expected(CAMERAS, 2))  # the node's check, whatever comes


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(broken())
def test_what_is_unreadable_is_unfit_too(planners, seen):
    """The node asks `findings` first: what a planner would refuse for its form never gets as far as the planner."""
    found = {finding for finding, _ in findings(seen, Expected(CAMERAS, 2))}
    for planner in planners:
        try:
            planner.inputs(seen)
        except UnfitObservationError:
            assert found
        except (ImageSizeError, PromptTooLongError):
            continue


def test_a_plan_is_made_of_what_passes(planners):
    for planner in planners:
        assert np.isfinite(planner.plan(random_observation(0)).waypoints).all()

"""Drives that several tests of this room look at, made once."""

from __future__ import annotations

import pytest

from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import StepLog
from tests.eval.synthetic import FakeOracle, FakePlanner, FakeWorld, scenario


@pytest.fixture(scope="session")
def oracle() -> FakeOracle:
    return FakeOracle()


@pytest.fixture(scope="session")
def log(oracle: FakeOracle) -> StepLog:
    """12 s, pictures kept."""
    return drive(scenario(12.0), 0, FakePlanner(oracle.route), FakeWorld(), keep_frames=True, oracle=oracle)


@pytest.fixture(scope="session")
def dead_log(oracle: FakeOracle) -> StepLog:
    """The planner dies at 6 s of 20."""
    return drive(scenario(20.0), 0, FakePlanner(oracle.route, dies_at_s=6.0), oracle=oracle)

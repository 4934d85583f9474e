"""One town for all tests of what it measures: building it takes longer than looking at it."""

import pytest

from efficientgen.worldsim.reference.world import ReferenceWorld
from tests.worldsim.test_reference_world import TOWN


@pytest.fixture(scope="session")
def world():
    """A `ReferenceWorld` in `TOWN` by day; a test that changes that changes it back."""
    world = ReferenceWorld()
    world.reset(TOWN, "day", 0)
    yield world
    world.close()

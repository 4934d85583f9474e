"""The town's plan: nothing stands on a road or hides a light, and the same seed plans the same town."""

import numpy as np
import pytest

from efficientgen.worldsim.reference import polyline
from efficientgen.worldsim.reference.plan import plan_town
from efficientgen.worldsim.reference.roads import ears
from efficientgen.worldsim.reference.signals import lamps_lit
from efficientgen.worldsim.reference.streets import net_file, read_streets

TOWNS = ("birch", "maple", "oak")


def clearance(points: np.ndarray, streets) -> np.ndarray:
    """Distance (N,) from points to the border of the nearest lane for vehicles, negative inside it."""
    segments = [(lane.shape, lane.width) for lane in streets.lanes if lane.use != "walk"] + list(streets.inner_lanes)
    best = np.full(len(points), np.inf)
    for shape, width in segments:
        a, b = shape[:-1][None], shape[1:][None]
        step = b - a
        share = np.clip(((points[:, None] - a) * step).sum(2) / (step**2).sum(2), 0, 1)
        nearest = a + share[..., None] * step
        best = np.minimum(best, np.hypot(*(points[:, None] - nearest).transpose(2, 0, 1)).min(1) - width / 2)
    return best


@pytest.fixture(scope="module", params=TOWNS)
def town(request):
    streets = read_streets(net_file(request.param))
    return streets, plan_town(streets, 0)


def test_nothing_stands_on_a_road(town):
    streets, plan = town
    assert len(plan.buildings) > 100 and len(plan.trees) > 200 and len(plan.lamps) > 40
    corners = np.concatenate([house.corners for house in plan.buildings])
    assert clearance(corners, streets).min() > 1.0
    assert clearance(np.array([(tree.x, tree.y) for tree in plan.trees]), streets).min() > 0.3
    for things in (plan.lamps, plan.masts, [head for head in plan.heads if head.foot]):
        assert clearance(np.array([(thing.x, thing.y) for thing in things]), streets).min() > 0.1
    assert clearance(np.concatenate([line for line, _, _ in plan.hedges]), streets).min() > 0.5
    assert clearance(np.array([(car.x, car.y) for car in plan.parked]), streets).min() > 2.0


def test_the_middle_of_a_roundabout_is_planted_and_not_built_on():
    streets = read_streets(net_file("oak"))
    plan = plan_town(streets, 0)
    assert len(streets.islands) == 2 and not read_streets(net_file("maple")).islands
    for island in streets.islands:
        middle, radius = island.mean(0), np.hypot(*(island - island.mean(0)).T)
        assert radius.min() > 15 and np.ptp(radius) < 1.0

        def inside(points, middle=middle, radius=radius):
            return np.hypot(*(np.asarray(points) - middle).T) < radius.min()

        assert 8 < inside([(tree.x, tree.y) for tree in plan.trees]).sum() < 30
        assert not inside(np.concatenate([house.corners for house in plan.buildings])).any()
        assert not inside([(lamp.x, lamp.y) for lamp in plan.lamps]).any()
        assert not inside(np.concatenate([paving.shape for paving in plan.paving])).any()


def test_every_approach_has_a_near_and_a_far_head_for_each_group(town):
    streets, plan = town
    assert len(streets.approaches) >= 8
    for approach in streets.approaches:
        for link, _ in approach.groups:
            mine = [h for h in plan.heads if (h.signal, h.link) == (approach.signal, link)]
            mine = [h for h in mine if h.heading @ approach.heading > 0.99]
            along = [float((np.array([head.x, head.y]) - approach.stops[0]) @ approach.heading) for head in mine]
            assert min(along) < 3.0 < 6.0 < max(along)


def test_the_seed_picks_the_plan(town):
    streets, plan = town
    again, other = plan_town(streets, 0), plan_town(streets, 1)
    assert again.buildings == plan.buildings and again.trees == plan.trees and again.lamps == plan.lamps
    assert other.buildings != plan.buildings
    assert [head.link for head in other.heads] == [head.link for head in plan.heads]


def test_ears_cover_a_concave_polygon_exactly():
    outline = np.array([(0, 0), (4, 0), (4, 3), (2, 1), (0, 3)], float)
    for shape in (outline, outline[::-1]):
        a, b, c = shape[ears(shape)].transpose(1, 0, 2)
        doubled = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
        assert (doubled > 0).all()
        assert doubled.sum() / 2 == pytest.approx(8.0)


def test_simplified_lines_stay_close():
    angle = np.linspace(0, 1.5, 40)
    arc = 30 * np.stack([np.cos(angle), np.sin(angle)], 1)
    fewer = polyline.simplify(arc, 0.05)
    assert len(fewer) < 20
    assert np.abs(np.hypot(*polyline.at(fewer, np.linspace(0, 40, 50))[0].T) - 30).max() < 0.06


@pytest.mark.parametrize("state, stamp_ns, lit", [
    ("r", 0, (True, False, False)), ("G", 0, (False, False, True)), ("g", 0, (False, False, True)),
    ("y", 0, (False, True, False)), ("u", 0, (True, True, False)), ("O", 0, (False, False, False)),
    ("o", 0, (False, True, False)), ("o", 500_000_000, (False, False, False)),
])  # fmt: skip
def test_lamps_follow_sumo_states(state, stamp_ns, lit):
    assert lamps_lit(state, stamp_ns) == lit

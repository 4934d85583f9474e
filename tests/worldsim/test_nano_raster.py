"""The condition raster says what the reference renderer's semantic pass sees, though it is drawn by other code."""

import math
from dataclasses import replace

import numpy as np
import pytest

from efficientgen.perception.rig import NANO_RIG, Camera
from efficientgen.perception.types import Actor, ActorKind, EgoState, OracleFrame
from efficientgen.worldsim.nano.layout import Kind, layout_of
from efficientgen.worldsim.nano.raster import CHANNELS, FARTHEST_M, NEAREST_M, Raster, distance_code
from efficientgen.worldsim.reference import polyline
from efficientgen.worldsim.reference.labels import Label
from efficientgen.worldsim.reference.streets import net_file, read_streets
from tests.worldsim.test_reference_world import TOWN, ego_on

MEANS = {
    Kind.SKY: Label.SKY, Kind.TERRAIN: Label.TERRAIN, Kind.ROAD: Label.ROAD, Kind.CROSSING: Label.ROAD,
    Kind.SIDEWALK: Label.SIDEWALK, Kind.WALL: Label.BUILDING, Kind.ROOF: Label.BUILDING, Kind.HEDGE: Label.VEGETATION,
    Kind.TREE: Label.VEGETATION, Kind.TRUNK: Label.VEGETATION, Kind.POLE: Label.POLE, Kind.HEAD: Label.TRAFFIC_LIGHT,
    Kind.RED: Label.TRAFFIC_LIGHT, Kind.YELLOW: Label.TRAFFIC_LIGHT, Kind.GREEN: Label.TRAFFIC_LIGHT,
    Kind.CAR: Label.CAR, Kind.TRUCK: Label.TRUCK, Kind.BUS: Label.BUS, Kind.BICYCLE: Label.BICYCLE,
    Kind.PEDESTRIAN: Label.PEDESTRIAN, Kind.PARKED: Label.CAR,
}  # fmt: skip


@pytest.fixture(scope="module")
def layout():
    return layout_of(TOWN, "day", 0)


@pytest.fixture(scope="module")
def raster():
    return Raster()


def approach():
    """The first signalled approach of the town, on its main lane."""
    return read_streets(net_file(TOWN)).approaches[0]


def frame_at(back_m: float, actors=(), state: str = "r") -> OracleFrame:
    """The ego `back_m` before the stop line, every light of the town in one state."""
    lane = approach().shapes[0]
    ego = ego_on(lane, float(polyline.stations(lane)[-1]) - back_m)
    lights = {a.signal: state * 40 for a in read_streets(net_file(TOWN)).approaches}
    return OracleFrame(0, TOWN, ego, tuple(actors), lights)


def ahead(ego: EgoState, metres: float, kind: ActorKind = ActorKind.CAR, left: float = 0.0, yaw: float = 0.0) -> Actor:
    x = ego.x + metres * math.cos(ego.yaw) - left * math.sin(ego.yaw)
    y = ego.y + metres * math.sin(ego.yaw) + left * math.cos(ego.yaw)
    size = (4.6, 1.82, 1.5) if kind is ActorKind.CAR else (0.5, 0.5, 1.72)
    return Actor(f"{kind.value}_a", kind, x, y, ego.yaw + yaw, 0.0, *size)


def test_classes_and_distances_are_those_of_the_reference_renderers_semantic_pass(world, layout, raster):
    right, near, cells = 0.0, [], 0
    for back, others in ((60.0, 18.0), (25.0, 12.0), (8.0, 30.0)):
        frame = frame_at(back)
        frame = replace(frame, actors=(ahead(frame.ego, others), ahead(frame.ego, 14.0, left=4.0, yaw=0.6)))
        told, seen = raster.draw(frame, layout), world.measure(frame)
        labels = seen.labels[:, 1::2, 1::2]
        labels = np.where(labels == Label.MARKING, Label.ROAD, labels)
        meant = np.vectorize(lambda kind: int(MEANS[Kind(kind)]))(told[..., 0])
        right, cells = right + (meant == labels).sum(), cells + labels.size
        depth = seen.depth[:, 1::2, 1::2]
        solid = (meant == labels) & np.isfinite(depth) & (depth < 60)
        near.append(np.abs(told[..., 1][solid] - distance_code(depth[solid])))
    assert right / cells > 0.85, "most cells name what the renderer shows there"
    assert np.median(np.concatenate(near)) < 2.0, "distances agree to a few percent"


def test_a_car_ahead_is_where_it_projects_to_and_hides_what_is_behind_it(layout, raster):
    empty = frame_at(40.0)
    with_car = replace(empty, actors=(ahead(empty.ego, 20.0),))
    before, after = raster.draw(empty, layout), raster.draw(with_car, layout)
    cells = after[1, ..., 0] == Kind.CAR
    rows, columns = np.nonzero(cells)
    distance = 20.0 - 2.3 - 1.7  # its rear, from the camera
    focal = NANO_RIG[1].focal / 2
    assert columns.mean() == pytest.approx(55.5, abs=0.6) and np.ptp(columns) + 1 == pytest.approx(
        1.82 * focal / distance, abs=1.1
    )
    assert rows.max() + 0.5 == pytest.approx(28 + focal * 1.55 / distance, abs=1.0)
    assert (after[1, ..., 1][cells] < before[1, ..., 1][cells]).all(), "nearer than what was there"
    assert not (before[..., 0] == Kind.CAR).any()


@pytest.mark.parametrize(("state", "kind"), [("r", Kind.RED), ("y", Kind.YELLOW), ("G", Kind.GREEN)])
def test_lights_show_the_oracles_state_and_no_other(layout, raster, state, kind):
    kinds = raster.draw(frame_at(22.0, state=state), layout)[..., 0]
    lit = {Kind(k) for k in np.unique(kinds)} & {Kind.RED, Kind.YELLOW, Kind.GREEN}
    assert lit == {kind}


def test_only_brake_lights_change_when_a_car_stops(layout, raster):
    frame = frame_at(40.0)
    standing = ahead(frame.ego, 15.0)
    stops, goes = (raster.draw(replace(frame, actors=(a,)), layout) for a in (standing, replace(standing, speed=5.0)))
    changed = (stops != goes).any((0, 1, 2))
    assert changed.tolist() == [False] * 4 + [True, False], "the style alone"
    assert (stops != goes).any(-1).sum() == (stops[..., 0] == Kind.CAR).sum()


def test_it_is_a_pure_function_of_frame_and_layout(layout, raster):
    frame = frame_at(30.0)
    first = raster.draw(frame, layout)
    raster.draw(frame_at(5.0), layout)
    assert first.shape == (3, 56, 112, CHANNELS) and (raster.draw(frame, layout) == first).all()
    assert (layout_of.__wrapped__(TOWN, "day", 0).ground == layout.ground).all()


def test_distance_codes_grow_and_end(layout):
    codes = distance_code(np.array([0.1, NEAREST_M, 10.0, 20.0, FARTHEST_M, np.inf]))
    assert codes[0] == codes[1] == 0 and codes[-1] == codes[-2] == 255 and codes[2] < codes[3] < 255


def test_a_tilted_camera_is_refused():
    with pytest.raises(ValueError, match="level"):
        Raster((Camera("FRONT", 224, 112, 160.0, (1.7, 0.0, 1.55), 0.0, pitch_deg=-5.0),))

"""The lidar: its points lie on the world, its beams where they should, and weather and seed act as they should."""

import math
from dataclasses import replace

import numpy as np

from efficientgen.perception.rig import LIDAR_TOP
from efficientgen.perception.types import Actor, ActorKind, OracleFrame
from efficientgen.worldsim.reference.labels import OF_KIND, Label
from efficientgen.worldsim.reference.lidar import NOISE_M, Beams
from efficientgen.worldsim.reference.weather import WEATHERS
from tests.worldsim.test_reference_depth import FIELD, SIZES, TERRAIN_Z, in_box
from tests.worldsim.test_reference_world import TOWN, ahead, ego_on, long_lane, traffic_frame


def around() -> OracleFrame:
    """One of each kind, all around the ego, in open fields."""
    places = ((12.0, 2.0), (-14.0, 6.0), (3.0, -16.0), (6.0, 7.0), (-5.0, -6.0))
    actors = tuple(Actor(kind.value, kind, *ahead(FIELD, *place), FIELD.yaw + 0.5, 1.0, *SIZES[kind])
                   for kind, place in zip(ActorKind, places, strict=True))  # fmt: skip
    return OracleFrame(0, TOWN, FIELD, actors, {})


def test_points_fall_on_the_oracles_boxes(world):
    frame = around()
    scan = world.scan(frame)
    for k, actor in enumerate(frame.actors):
        mine = scan.instances == k + 1
        assert mine.sum() >= 20, actor.kind
        assert (scan.labels[mine] == OF_KIND[actor.kind]).all()
        limbs = 0.2 + 5 * NOISE_M  # mirrors and strides
        assert in_box(scan.in_ego[mine], actor, FIELD, limbs).all(), actor.kind
        inside = in_box(scan.in_ego, actor, FIELD, -0.1) & (scan.in_ego[:, 2] > 0.1)
        assert mine[inside].all(), actor.kind


def test_the_ground_lies_flat_and_rings_are_circles(world):
    scan = world.scan(OracleFrame(0, TOWN, FIELD, (), {}))
    ground = scan.on_ground
    assert ground.sum() > 5_000
    assert np.abs(scan.in_ego[ground][:, 2] - TERRAIN_Z).max() < 5 * NOISE_M
    for ring in (0, 5, 15):  # each meets the field where its elevation says
        mine = scan.points[(scan.ring == ring) & ground].astype(float)
        elevation = math.radians(-30.67 + ring * 41.34 / 31)
        expected = (LIDAR_TOP.mount[2] - TERRAIN_Z) / math.tan(-elevation)
        assert len(mine) > 900
        assert np.abs(np.hypot(mine[:, 0], mine[:, 1]) - expected).max() < 0.02 * expected + 5 * NOISE_M


def test_every_point_lies_on_its_ring(world):
    scan = world.scan(traffic_frame())
    p = scan.points.astype(float)
    elevation = np.degrees(np.arctan2(p[:, 2], np.hypot(p[:, 0], p[:, 1])))
    nominal = np.linspace(LIDAR_TOP.lowest_deg, LIDAR_TOP.highest_deg, LIDAR_TOP.rings)
    assert np.abs(elevation - nominal[scan.ring]).max() < 0.14
    assert len(np.unique(scan.ring)) == LIDAR_TOP.rings
    assert 0.5 * 32 * 1080 < len(p) < 32 * 1080


def test_the_sensor_frame_is_that_of_nuscenes(world):
    """x right, y forward: a car to the front left has x < 0 and y > 0."""
    car = Actor("car", ActorKind.CAR, *ahead(FIELD, 15.0, 6.0), FIELD.yaw, 0.0, 4.6, 1.82, 1.5)
    scan = world.scan(OracleFrame(0, TOWN, FIELD, (car,), {}))
    mine = scan.points[scan.instances == 1].mean(0)
    assert mine[0] < -4 and mine[1] > 10


def test_a_scan_is_a_function_of_frame_and_seed(world):
    frame = traffic_frame(400_000_000)
    first = world.scan(frame)
    world.scan(traffic_frame(0))
    again = world.scan(frame)
    assert np.array_equal(first.points, again.points) and np.array_equal(first.intensity, again.intensity)
    later = world.scan(replace(frame, stamp_ns=500_000_000))
    assert len(later.points) != len(first.points) or not np.array_equal(later.points, first.points)


def test_weather_dims_and_swallows_returns(world):
    frame, beams = OracleFrame(0, TOWN, ego_on(long_lane().shape, 12.0), (), {}), Beams(LIDAR_TOP)
    images = world.measure(frame, beams.cameras)
    clear, rain, fog = (beams.read(images, WEATHERS[name], 0) for name in ("day", "rain", "fog"))

    def mean_on(scan, label):
        return scan.intensity[scan.labels == label].mean()

    assert mean_on(rain, Label.ROAD) < 0.7 * mean_on(clear, Label.ROAD)
    assert mean_on(fog, Label.BUILDING) < 0.8 * mean_on(clear, Label.BUILDING)
    far = [int((np.linalg.norm(scan.points, axis=1) > 50).sum()) for scan in (clear, fog)]
    assert far[1] < 0.9 * far[0]
    world.reset(TOWN, "rain", 0)
    wet = world.measure(frame, beams.cameras)
    assert (wet.depth != images.depth).mean() < 1e-3  # streaks have no depth; the bulbs of street lamps are lit
    assert len(world.scan(frame).points) < len(clear.points)
    world.reset(TOWN, "day", 0)

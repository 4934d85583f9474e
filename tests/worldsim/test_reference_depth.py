"""Depth, semantics and instances agree with the plane, with the oracle's boxes and with the pictures."""

import math

import numpy as np
import pytest

from efficientgen.perception.rig import NANO_RIG, project
from efficientgen.perception.types import Actor, ActorKind, EgoState, OracleFrame
from efficientgen.worldsim.reference import polyline
from efficientgen.worldsim.reference.depth import DepthUnsupportedError
from efficientgen.worldsim.reference.labels import OF_KIND, Label
from efficientgen.worldsim.reference.streets import net_file, read_streets
from efficientgen.worldsim.reference.world import ReferenceWorld
from tests.worldsim.test_reference_world import TOWN, ahead, ego_on, long_lane, traffic_frame

FIELD = EgoState(0, 480.0, 30.0, 0.4, 0.0, 0.0, 0.0, 0.0)  # open fields
TERRAIN_Z = -0.02
SIZES = {
    ActorKind.CAR: (4.6, 1.82, 1.5),
    ActorKind.TRUCK: (8.2, 2.4, 3.2),
    ActorKind.BUS: (11.5, 2.5, 3.1),
    ActorKind.BICYCLE: (1.8, 0.65, 1.75),
    ActorKind.PEDESTRIAN: (0.5, 0.5, 1.75),
}


def points_of(depth: np.ndarray, camera) -> np.ndarray:
    """(H, W, 3) in the ego frame."""
    rows, columns = np.mgrid[0 : camera.height, 0 : camera.width] + 0.5
    k = camera.intrinsics
    rays = np.stack([np.ones_like(rows), (k[0, 2] - columns) / k[0, 0], (k[1, 2] - rows) / k[1, 1]], -1)
    pose = camera.camera_to_ego
    return np.where(np.isinf(depth), 1e6, depth)[..., None] * rays @ pose[:3, :3].T + pose[:3, 3]


def in_box(points: np.ndarray, actor: Actor, ego: EgoState, margin: float) -> np.ndarray:
    """Roofs of cars vary: the box says 1.5 m, a van is drawn 0.4 m taller."""
    dx, dy = actor.x - ego.x, actor.y - ego.y
    cos, sin = math.cos(ego.yaw), math.sin(ego.yaw)
    place = np.array([cos * dx + sin * dy, -sin * dx + cos * dy])
    turn = actor.yaw - ego.yaw
    local = (points[..., :2] - place) @ np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    flat = (np.abs(local) <= np.array([actor.length, actor.width]) / 2 + margin).all(-1)
    return flat & (points[..., 2] > -margin) & (points[..., 2] < actor.height + margin + 0.42 * (margin > 0))


def test_the_ground_is_a_plane(world):
    images = world.measure(OracleFrame(0, TOWN, FIELD, (), {}))
    grass = 0
    for k, camera in enumerate(NANO_RIG):
        points = points_of(images.depth[k].astype(float), camera)[images.labels[k] == Label.TERRAIN]
        away = np.hypot(points[:, 0], points[:, 1])
        assert np.abs(points[:, 2] - TERRAIN_Z).max() < 1e-5 * away.max()  # float32 of hundreds of metres
        grass += len(points)
    assert grass > 10_000
    street = world.measure(OracleFrame(0, TOWN, ego_on(long_lane().shape, 12.0), (), {}))
    road = np.isin(street.labels[1], (Label.ROAD, Label.MARKING))
    assert road.sum() > 3_000
    assert np.abs(points_of(street.depth[1].astype(float), NANO_RIG[1])[road][:, 2]).max() < 1e-3


def test_where_nothing_is_depth_is_infinite_and_the_label_sky(world):
    images = world.measure(OracleFrame(0, TOWN, FIELD, (), {}))
    sky = np.isinf(images.depth)
    assert sky.any() and (images.labels[sky] == Label.SKY).all() and (images.labels[~sky] != Label.SKY).all()
    assert images.depth.dtype == np.float32 and (images.depth > 0).all()


@pytest.mark.parametrize("kind", list(ActorKind))
def test_an_actor_fills_its_box_and_its_projection_and_nothing_else(world, kind):
    for camera, x, y in ((1, 15.0, 1.0), (0, 7.0, 8.0), (2, 7.0, -8.0)):
        rig = NANO_RIG[camera]
        actor = Actor("someone", kind, *ahead(FIELD, x, y), FIELD.yaw + 0.3, 2.0, *SIZES[kind])
        images = world.measure(OracleFrame(0, TOWN, FIELD, (actor,), {}))
        mine = images.instances[camera] == 1
        assert (images.labels[camera][mine] == OF_KIND[kind]).all()
        assert (mine == (images.labels[camera] == OF_KIND[kind])).all()
        points = points_of(images.depth[camera].astype(float), rig)
        limbs = 0.2  # mirrors stand out by 0.18 m, a stride by 0.15 m
        assert in_box(points[mine], actor, FIELD, limbs).all()
        cos, sin = math.cos(0.3), math.sin(0.3)
        length, width, height = SIZES[kind]
        sides = [(a, b) for a in (-length / 2, length / 2) for b in (-width / 2, width / 2)]
        corners = [(x + cos * a - sin * b, y + sin * a + cos * b, z) for a, b in sides for z in (0.0, height)]
        pixels, _ = project(np.array(corners), rig.intrinsics, rig.camera_to_ego)
        low, high = np.clip(pixels.min(0), 0, (224, 112)), np.clip(pixels.max(0), 0, (224, 112))
        assert mine.sum() > (0.15 if kind is ActorKind.BICYCLE else 0.25) * (high - low).prod()
        # and where the actor stands no other thing is measured inside its box
        inside = in_box(points, actor, FIELD, -0.02) & (points[..., 2] > 0.05)
        assert mine[inside].all()


def test_labels_cover_what_the_pictures_show_of_an_actor(world):
    actor = Actor("someone", ActorKind.TRUCK, *ahead(FIELD, 16.0, 1.0), FIELD.yaw + 0.3, 0.0, 8.2, 2.4, 3.2)
    without, with_it = (OracleFrame(0, TOWN, FIELD, actors, {}) for actors in ((), (actor,)))
    changed = np.abs(world.render(with_it).astype(int) - world.render(without).astype(int)).max(-1) > 10
    mine = world.measure(with_it).instances == 1
    assert (changed & mine).sum() > 0.95 * mine.sum()


def test_the_nearer_of_two_actors_hides_the_other(world):
    near = Actor("near", ActorKind.BUS, *ahead(FIELD, 15.0, 0.0), FIELD.yaw + 1.57, 0.0, 11.5, 2.5, 3.1)
    far = Actor("far", ActorKind.CAR, *ahead(FIELD, 30.0, 0.0), FIELD.yaw, 0.0, 4.6, 1.82, 1.5)
    images = world.measure(OracleFrame(0, TOWN, FIELD, (far, near), {}))
    assert set(np.unique(images.instances)) == {0, 2}


def test_markings_lights_and_walls_are_told_apart(world):
    lane = long_lane()
    ego = ego_on(lane.shape, 12.0)
    images = world.measure(OracleFrame(0, TOWN, ego, (), {}))
    camera = NANO_RIG[1]
    border = polyline.offset(lane.shape, 0.25 - lane.width / 2)
    hits = 0
    for s in np.arange(20.0, 25.0, 0.5):
        (point,), _ = polyline.at(border, s)
        cos, sin = math.cos(ego.yaw), math.sin(ego.yaw)
        x, y = point - (ego.x, ego.y)
        (pixel,), depth = project(np.array([[cos * x + sin * y, -sin * x + cos * y, 0.0]]), camera.intrinsics,
                                  camera.camera_to_ego)  # fmt: skip
        u, v = pixel.astype(int)
        hits += Label.MARKING in images.labels[1, v, u - 1 : u + 2]
        assert abs(images.depth[1, v, u] - depth[0]) < 0.35  # half a pixel of a road seen from 1.5 m
    assert hits >= 9
    assert (images.labels == Label.BUILDING).sum() > 1000
    approach = read_streets(net_file(TOWN)).approaches[0]
    shape = approach.shapes[0]
    stop = ego_on(shape, float(polyline.stations(shape)[-1]) - 20.0)
    seen = world.measure(OracleFrame(0, TOWN, stop, (), {}))
    assert (seen.labels == Label.TRAFFIC_LIGHT).sum() >= 8 and (seen.labels == Label.POLE).any()


def test_measuring_leaves_the_pictures_alone_and_is_pure(world):
    frame = traffic_frame(300_000_000)
    picture, first = world.render(frame), world.measure(frame)
    world.measure(traffic_frame(0))
    world.scan(frame)
    assert np.array_equal(world.render(frame), picture)
    again = world.measure(frame)
    for name in ("depth", "labels", "instances"):
        assert np.array_equal(getattr(again, name), getattr(first, name))


def test_the_software_renderer_says_that_it_cannot_measure():
    plain = ReferenceWorld(load_display="p3tinydisplay")
    with pytest.raises(DepthUnsupportedError, match="libegl1"):
        plain.measure(traffic_frame())
    with pytest.raises(DepthUnsupportedError, match="leave those sensors out"):
        plain.scan(traffic_frame())
    plain.close()

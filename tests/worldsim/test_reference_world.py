"""The reference world's promises: pure pictures, exact projection, readable lights, markings where SUMO's lanes are."""

import hashlib
import math
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from efficientgen.perception.rig import NANO_RIG, project
from efficientgen.perception.types import Actor, ActorKind, EgoState, OracleFrame, VehicleParams
from efficientgen.worldsim.reference import polyline
from efficientgen.worldsim.reference.roads import EDGE_INSET_M
from efficientgen.worldsim.reference.streets import Lane, UnknownTownError, net_file, read_streets
from efficientgen.worldsim.reference.weather import UnknownWeatherError
from efficientgen.worldsim.reference.world import ReferenceWorld, WorldNotResetError

TOWN = "birch"
FRONT = 1  # index of the front camera in NANO_RIG
BUMPER_M = VehicleParams().rear_to_centre + VehicleParams().length / 2  # rear axle to front bumper


def ego_on(shape: np.ndarray, s: float, stamp_ns: int = 0) -> EgoState:
    point, along = polyline.at(shape, s)
    yaw = math.atan2(along[0, 1], along[0, 0])
    return EgoState(stamp_ns, float(point[0, 0]), float(point[0, 1]), yaw, 0.0, 0.0, 0.0, 0.0)


def long_lane() -> Lane:
    """The longest lane for cars with a painted edge on its right."""
    lanes = [lane for lane in read_streets(net_file(TOWN)).lanes if lane.use == "drive" and lane.rightmost]
    return max(lanes, key=lambda lane: polyline.stations(lane.shape)[-1])


def ahead(ego: EgoState, x: float, y: float) -> tuple[float, float]:
    """A point in the ego frame, in map coordinates."""
    cos, sin = math.cos(ego.yaw), math.sin(ego.yaw)
    return ego.x + cos * x - sin * y, ego.y + sin * x + cos * y


def traffic_frame(stamp_ns: int = 0) -> OracleFrame:
    """A frame with one of everything in front of the ego."""
    ego = ego_on(long_lane().shape, 5.0, stamp_ns)
    speeds_and_sizes = {
        ActorKind.CAR: (6.0, 4.6, 1.82, 1.5),
        ActorKind.TRUCK: (0.0, 8.2, 2.4, 3.2),
        ActorKind.BUS: (4.0, 11.5, 2.5, 3.1),
        ActorKind.BICYCLE: (3.0, 1.8, 0.65, 1.7),
        ActorKind.PEDESTRIAN: (1.3, 0.5, 0.5, 1.75),
    }
    actors = tuple(
        Actor(kind.value, kind, *ahead(ego, 14.0 + 9 * k, -2.0 + 1.7 * k), ego.yaw + 0.4 * k, *numbers)
        for k, (kind, numbers) in enumerate(speeds_and_sizes.items())
    )
    signals = {approach.signal: "rGyGrG" * 6 for approach in read_streets(net_file(TOWN)).approaches}
    return OracleFrame(stamp_ns, TOWN, ego, actors, signals)


def digest(picture: np.ndarray) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


def _draw_elsewhere(weather: str) -> tuple[str, str]:
    """Runs in a spawned process."""
    world = ReferenceWorld()
    world.reset(TOWN, weather, 0)
    answer = digest(world.render(traffic_frame(300_000_000))), world.renderer
    world.close()
    return answer


def test_a_picture_depends_on_its_frame_alone(world):
    first = world.render(traffic_frame(300_000_000))
    for k in range(4):  # other ticks, other actors in between
        other = traffic_frame(100_000_000 * k)
        world.render(replace(other, actors=other.actors[k:], ego=ego_on(long_lane().shape, 9.0 * k)))
    assert np.array_equal(world.render(traffic_frame(300_000_000)), first)
    assert first.shape == (3, 112, 224, 3) and first.dtype == np.uint8
    assert first.std() > 30  # not a blank picture


def test_a_spawned_process_draws_the_same_bytes(world):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere, renderer = pool.apply(_draw_elsewhere, ("day",))
    assert renderer == world.renderer
    assert elsewhere == digest(world.render(traffic_frame(300_000_000)))


def test_step_returns_one_frame_per_camera_and_tick(world):
    frames = tuple(traffic_frame(100_000_000 * k) for k in (1, 2, 3, 4))
    sensors = world.step(frames)
    assert sensors.stamps_ns == tuple(frame.stamp_ns for frame in frames)
    assert list(sensors.cameras) == [camera.name for camera in NANO_RIG]
    for k, camera in enumerate(NANO_RIG):
        seen = sensors.cameras[camera.name]
        assert [frame.stamp_ns for frame in seen] == list(sensors.stamps_ns)
        assert np.array_equal(seen[2].image, world.render(frames[2])[k])
        assert np.array_equal(seen[0].camera_to_ego, camera.camera_to_ego)


@pytest.mark.parametrize("kind, size", [(ActorKind.CAR, (4.6, 1.82, 1.5)), (ActorKind.TRUCK, (8.2, 2.4, 3.2)),
                                        (ActorKind.PEDESTRIAN, (0.5, 0.5, 1.75))])  # fmt: skip
def test_actors_appear_where_project_says(world, kind, size):
    ego = EgoState(0, 480.0, 30.0, 0.4, 0.0, 0.0, 0.0, 0.0)  # open fields, so that nothing hides the actor
    length, width, height = size
    for camera, x, y in ((FRONT, 16.0, 1.0), (0, 7.0, 8.0), (2, 7.0, -8.0)):
        actor = Actor("someone", kind, *ahead(ego, x, y), ego.yaw + 0.3, 0.0, length, width, height)
        empty = world.render(OracleFrame(0, TOWN, ego, (), {}))[camera].astype(int)
        there = world.render(OracleFrame(0, TOWN, ego, (actor,), {}))[camera].astype(int)
        rows, columns = np.nonzero(np.abs(there - empty).max(-1) > 10)
        cos, sin = math.cos(0.3), math.sin(0.3)
        box = [(x + cos * a - sin * b, y + sin * a + cos * b, z)
               for a in (-length / 2, length / 2) for b in (-width / 2, width / 2) for z in (0.0, height)]  # fmt: skip
        rig = NANO_RIG[camera]
        pixels, depth = project(np.array(box), rig.intrinsics, rig.camera_to_ego)
        assert (depth > 0).all()
        low, high = np.clip(pixels.min(0), 0, (223, 111)), np.clip(pixels.max(0), 0, (223, 111))
        inside = (columns >= low[0] - 2) & (columns <= high[0] + 2) & (rows >= low[1] - 2) & (rows <= high[1] + 2)
        assert inside.sum() > 0.25 * (high - low).prod()  # the body fills its projected box
        assert rows[inside].min() < low[1] + 0.2 * (high - low)[1] + 2  # and reaches its top
        shadow = ~inside & (rows > low[1])  # whatever else changed is the shadow on the ground
        assert inside.sum() + shadow.sum() == len(rows)


def test_the_ego_itself_is_never_drawn_and_may_stand_anywhere(world):
    ego = ego_on(long_lane().shape, 5.0)
    far_away = replace(ego, x=ego.x + 900.0, y=ego.y - 900.0)
    assert world.render(OracleFrame(0, TOWN, far_away, (), {})).shape == (3, 112, 224, 3)


def lit_pixels(world: ReferenceWorld, frame: OracleFrame, signal: str, link: int) -> int:
    """Pixels, over all cameras, that tell green from red for one link."""
    states = ["".join(state if k == link else "r" for k in range(64)) for state in "rG"]
    red, green = (world.render(replace(frame, lights={signal: state})).astype(int) for state in states)
    return int((np.abs(green - red).max(-1) > 60).sum())


@pytest.mark.parametrize("distance_m", [32.0, 20.0, 1.0])
def test_a_light_can_be_read_at_stopping_distance_and_at_the_line(world, distance_m):
    seen = 0
    for approach in read_streets(net_file(TOWN)).approaches:
        for shape in approach.shapes:
            s = polyline.stations(shape)[-1] - distance_m - BUMPER_M
            if s < 0:
                continue
            for link, _ in approach.groups:
                frame = OracleFrame(0, TOWN, ego_on(shape, float(s)), (), {})
                assert lit_pixels(world, frame, approach.signal, link) >= 4, (approach.signal, link, distance_m)
                seen += 1
    assert seen >= 8


def test_edge_lines_lie_on_the_lane_border(world):
    lane = long_lane()
    ego = ego_on(lane.shape, 12.0)
    picture = world.render(OracleFrame(0, TOWN, ego, (), {}))[FRONT].astype(int).sum(-1)
    camera = NANO_RIG[FRONT]
    cos, sin = math.cos(ego.yaw), math.sin(ego.yaw)
    hits = 0
    for s in np.arange(20.0, 25.0, 0.5):
        pixels = []
        for inwards in (0.0, 0.5):  # on the line, and on the asphalt beside it
            border = polyline.offset(lane.shape, EDGE_INSET_M + inwards - lane.width / 2)
            (point,), _ = polyline.at(border, s)
            x, y = point - (ego.x, ego.y)
            local = np.array([[cos * x + sin * y, -sin * x + cos * y, 0.0]])
            (pixel,), _ = project(local, camera.intrinsics, camera.camera_to_ego)
            pixels.append(pixel.astype(int))
        (u, v), (beside_u, beside_v) = pixels
        hits += picture[v, u - 1 : u + 2].max() > picture[beside_v, beside_u] + 120
    assert hits >= 9


def test_brake_lights_are_red_when_a_car_stands(world):
    ego = ego_on(long_lane().shape, 5.0)
    redness = []
    for speed in (0.0, 8.0):
        actor = Actor("v1", ActorKind.CAR, *ahead(ego, 12.0, 0.0), ego.yaw, speed, 4.6, 1.82, 1.5)
        picture = world.render(OracleFrame(0, TOWN, ego, (actor,), {}))[FRONT].astype(int)
        redness.append(int(((picture[..., 0] > 220) & (picture[..., 1] < 80)).sum()))
    assert redness[0] >= redness[1] + 8


def test_weathers_differ_and_reset_brings_back_the_same_town(world):
    frame = traffic_frame()
    day = world.render(frame)
    world.reset(TOWN, "night", 0)
    night = world.render(frame)
    world.reset(TOWN, "day", 0)
    assert night[FRONT, :20].mean() < 0.5 * day[FRONT, :20].mean()  # the sky
    assert np.array_equal(world.render(frame), day)


def test_errors_name_the_remedy(world):
    with pytest.raises(UnknownTownError, match=TOWN):
        world.reset("atlantis", "day", 0)
    with pytest.raises(UnknownWeatherError, match="night"):
        world.reset(TOWN, "hail", 0)
    fresh = ReferenceWorld(load_display="p3tinydisplay")
    with pytest.raises(WorldNotResetError, match="reset"):
        fresh.render(traffic_frame())
    fresh.close()


def test_without_egl_the_software_renderer_takes_over():
    code = (
        "from efficientgen.worldsim.reference.world import ReferenceWorld\n"
        "from tests.worldsim.test_reference_world import TOWN, traffic_frame\n"
        "world = ReferenceWorld()\n"
        "world.reset(TOWN, 'day', 0)\n"
        "print(world.renderer, world.render(traffic_frame()).std() > 30)\n"
        "world.close()\n"
    )
    environment = {**os.environ, "__EGL_VENDOR_LIBRARY_FILENAMES": os.devnull, "LIBGL_DRIVERS_PATH": os.devnull}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Panda3D software (p3tinydisplay) True"

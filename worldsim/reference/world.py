"""`ReferenceWorld`: the cameras' view of the oracle's town.  No traffic logic, no memory: one frame, one picture.

Depth, semantics and lidar come from the same scene, when they are asked for.  Everything is a pure function of (town,
weather, seed, frame); the same bytes come out in every process that uses the same renderer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path

import numpy as np

from efficientgen.perception.rig import LIDAR_TOP, NANO_RIG, Camera, Lidar
from efficientgen.perception.types import U8, CameraFrame, OracleFrame, SensorFrames
from efficientgen.worldsim.reference.depth import RangeCameras, RangeImages
from efficientgen.worldsim.reference.display import Display
from efficientgen.worldsim.reference.lidar import Beams, LidarScan
from efficientgen.worldsim.reference.plan import ParkedCar
from efficientgen.worldsim.reference.rain import Rain
from efficientgen.worldsim.reference.streets import net_file, read_streets
from efficientgen.worldsim.reference.town_scene import TownScene
from efficientgen.worldsim.reference.weather import weather_named

CACHED_TOWNS = 2  # built scenes kept for the next reset


class WorldNotResetError(RuntimeError):
    """A frame was asked for before `reset` chose a town."""


class ReferenceWorld:
    """Panda3D cameras in a town built from a SUMO net.

    Args:
        rig: cameras of one size, mounted in the ego frame; pictures agree with `rig.project`.
        supersample: draw this many times larger in both directions and average (2 for good-looking stills).
        load_display: "p3headlessgl" | "p3tinydisplay"; None takes the first that starts.
    """

    name = "reference"
    memoryless = True  # each tick is drawn from its own oracle frame alone

    def __init__(
        self, rig: tuple[Camera, ...] = NANO_RIG, supersample: int = 1, load_display: str | None = None
    ) -> None:
        self.rig = rig
        self._display = Display(rig, supersample, load_display)
        self._towns: OrderedDict[tuple[Path, str, int], TownScene] = OrderedDict()
        self._town: TownScene | None = None
        self._rain = Rain(self._display.cameras)
        self._seed = 0
        self._ranges: dict[tuple[Camera, ...], RangeCameras] = {}  # opened when first asked for
        self._lidars: dict[Lidar, tuple[Beams, RangeCameras]] = {}

    @property
    def renderer(self) -> str:
        """What draws, for reports."""
        return self._display.renderer

    def reset(self, town: str | Path, weather: str, seed: int) -> None:
        """Shows a town (a shipped name, or a path to a .net.xml(.gz)) in a weather; `seed` picks its houses and trees.

        Raises:
            UnknownTownError, UnknownWeatherError: no such thing; the message lists what there is.
        """
        place = net_file(town), weather, seed
        style = weather_named(weather)
        if place not in self._towns:
            while len(self._towns) >= CACHED_TOWNS:
                self._towns.popitem(last=False)[1].close()
            self._towns[place] = TownScene(read_streets(place[0]), style, seed, self._display.basic)
        self._towns.move_to_end(place)
        self._town, self._seed = self._towns[place], seed
        self._display.root.reparentTo(self._town.root)
        self._display.set_background(style.horizon)
        self._rain.show_if(style.rain)

    def render(self, frame: OracleFrame) -> U8:
        """The rig's view of one tick, (n_cams, H, W, 3) RGB.  The ego may stand anywhere; it is never drawn itself."""
        self._show(frame)
        self._rain.fall(frame.stamp_ns)
        return self._display.grab()

    def measure(self, frame: OracleFrame, rig: tuple[Camera, ...] = ()) -> RangeImages:
        """Depth, semantics and instances of the pictures at one tick, or of other cameras' (`rig`).

        Raises:
            DepthUnsupportedError: the renderer cannot; only EGL can.
        """
        rig = rig or self.rig
        if rig not in self._ranges:
            self._ranges[rig] = RangeCameras(self._display, rig)
        self._show(frame)
        return self._ranges[rig].grab(frame.actors, frame.stamp_ns)

    def scan(self, frame: OracleFrame, lidar: Lidar = LIDAR_TOP) -> LidarScan:
        """One turn of a lidar at one tick; noise and dropouts are keyed by the seed of `reset` and the stamp.

        Raises:
            DepthUnsupportedError: the renderer cannot; only EGL can.
        """
        if lidar not in self._lidars:
            beams = Beams(lidar)
            self._lidars[lidar] = beams, RangeCameras(self._display, beams.cameras)
        beams, cameras = self._lidars[lidar]
        town = self._show(frame)
        return beams.read(cameras.grab(frame.actors, frame.stamp_ns), town.weather, self._seed)

    @property
    def parked(self) -> tuple[ParkedCar, ...]:
        """The cars that stand in the town's driveways: part of the scene, unknown to the oracle."""
        return self._scene().plan.parked

    def _scene(self) -> TownScene:
        if self._town is None:
            raise WorldNotResetError("call reset(town, weather, seed) before asking for pictures")
        return self._town

    def _show(self, frame: OracleFrame) -> TownScene:
        town = self._scene()
        self._display.root.setPosHpr(frame.ego.x, frame.ego.y, 0, math.degrees(frame.ego.yaw), 0, 0)
        town.show(frame)
        return town

    def step(self, frames: tuple[OracleFrame, ...]) -> SensorFrames:
        """The camera frames of one chunk of ticks."""
        pictures = [self.render(frame) for frame in frames]
        cameras = {
            camera.name: tuple(
                CameraFrame(
                    camera.name,
                    frame.stamp_ns,
                    np.ascontiguousarray(picture[k]),
                    camera.intrinsics,
                    camera.camera_to_ego,
                )
                for frame, picture in zip(frames, pictures, strict=True)
            )
            for k, camera in enumerate(self.rig)
        }
        return SensorFrames(tuple(frame.stamp_ns for frame in frames), cameras)

    def close(self) -> None:
        """Frees the buffer and all towns."""
        self._rain.close()
        for ranges in (*self._ranges.values(), *(cameras for _, cameras in self._lidars.values())):
            ranges.close()
        self._ranges.clear()
        self._lidars.clear()
        self._display.close()
        for scene in self._towns.values():
            scene.close()
        self._towns.clear()
        self._town = None

"""A town in one weather as a Panda3D scene: plan, meshes, light map, draw order; built in a second or two, then static.

Draw order: whatever stands (its depth then saves the work of painting what it hides), the terrain, roads and
paving without writing depth, shadows and light beams on the ground, sky, halos, rain.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from panda3d.core import (
    AlphaTestAttrib,
    ColorBlendAttrib,
    DepthTestAttrib,
    Fog,
    LODNode,
    NodePath,
    OmniBoundingVolume,
    PandaNode,
    RenderAttrib,
    Texture,
    TextureStage,
    TransparencyAttrib,
)

from efficientgen.perception.types import OracleFrame
from efficientgen.worldsim.reference import facades, sky, textures, vegetation
from efficientgen.worldsim.reference.buildings import build, build_plain
from efficientgen.worldsim.reference.labels import CUT, LIGHT, SOLID, TAG, Label
from efficientgen.worldsim.reference.lightmap import light_map
from efficientgen.worldsim.reference.mesh import Mesh, static_node, static_tiles
from efficientgen.worldsim.reference.plan import plan_town
from efficientgen.worldsim.reference.roads import draw_paving, draw_roads, terrain
from efficientgen.worldsim.reference.signals import STEEL, Lamps, draw_posts
from efficientgen.worldsim.reference.streets import Streets
from efficientgen.worldsim.reference.traffic import PARKED, Traffic, parked_car
from efficientgen.worldsim.reference.weather import Weather, shade

TILE_M = 64.0
GROUND_TILE_M = 128.0
NEAR_M, MIDDLE_M, FAR_M = 34.0, 80.0, 300.0  # tiles of trees and furniture change their level of detail here
HOUSE_DETAIL_M = 95.0  # and houses here


class TownScene:
    """Everything that a camera can see in one town; `show` moves it to one tick.

    `basic` suits Panda3D's own rasteriser, which has a coarse depth buffer and cannot add textures: ground and sky are
    then drawn first, without depth test, and windows stay dark at night.
    """

    def __init__(self, streets: Streets, weather: Weather, seed: int, basic: bool = False) -> None:
        self.weather, self._basic = weather, basic
        self.root = NodePath("town")
        self.plan = plan_town(streets, seed)
        self._light = light_map(self.plan, weather)
        self._sky = self._add_sky()
        self._add_ground(streets, seed)
        self._add_built()
        self._add_details()
        self.lamps = Lamps(self.plan.heads, halo=0.9 * max(weather.lamps, weather.headlights))
        self.traffic = Traffic(weather, self._light)
        self._add_moving()
        self._fog()

    def show(self, frame: OracleFrame) -> None:
        """Sets traffic, signals and sky to one tick."""
        self._sky.setPos(frame.ego.x, frame.ego.y, 0)
        self.traffic.show(frame)
        self.lamps.show(frame)

    def close(self) -> None:
        """Frees geometry and textures."""
        self.traffic.close()
        self.root.removeNode()

    def _light_of(self, normals: np.ndarray) -> np.ndarray:
        return shade(normals, self.weather)

    def _add_sky(self) -> NodePath:
        mesh = Mesh()
        sky.dome(mesh)
        node = self.root.attachNewNode("sky")
        node.attachNewNode(static_node("dome", mesh))
        node.setTexture(sky.panorama(self.weather))
        node.setFogOff(1)
        node.setTwoSided(True)
        node.hide(SOLID)
        self._paint(node, -1 if self._basic else 12)
        node.node().setBounds(OmniBoundingVolume())
        node.node().setFinal(True)
        return node

    def _add_ground(self, streets: Streets, seed: int) -> None:
        grass, road, paved = Mesh(), Mesh(), Mesh()
        terrain(self.plan.bounds, grass, seed)
        draw_roads(streets, road)
        draw_paving(streets, [(piece.shape, piece.width) for piece in self.plan.paving], paved)
        light, plain, stage = self._light, TextureStage.getDefault(), TextureStage("light")
        stage.setSort(5)
        stage.setMode(TextureStage.MModulate)
        picture = textures.to_texture(light.image[::-1], wrap=False)
        for sort, (name, mesh, texture, metres, tile) in enumerate((
            ("terrain", grass, textures.grass(), 7.0, 4000.0),
            ("road", road, textures.asphalt(), 8.0, GROUND_TILE_M),
            ("paved", paved, textures.paving(), 4.0, GROUND_TILE_M),
        )):  # fmt: skip
            group = self.root.attachNewNode(name)
            for node in static_tiles(name, mesh, None, tile).values():
                group.attachNewNode(node)
            group.setTexture(texture)
            group.setTexScale(plain, 1 / metres, 1 / metres)
            group.setTexture(stage, picture)
            group.setTexScale(stage, 1 / light.extent, 1 / light.extent)
            group.setTexOffset(stage, -light.x0 / light.extent, -light.y0 / light.extent)
            self._paint(group, sort)
            group.setDepthWrite(name == "terrain" and not self._basic)

    def _paint(self, node: NodePath, sort: int) -> None:
        """Draws a node at its place in the painter's order of flat things, without writing depth."""
        node.setDepthWrite(False)
        node.setBin("background" if self._basic else "fixed", sort)
        if self._basic:
            node.setAttrib(DepthTestAttrib.make(RenderAttrib.MAlways))

    def _add_built(self) -> None:
        near, far = Mesh(facades.WHITE), Mesh(facades.WHITE)
        near.label = far.label = Label.BUILDING
        build(self.plan.buildings, near)
        build_plain(self.plan.buildings, far)
        day, glow = facades.atlas()
        group = self.root.attachNewNode("built")
        far_tiles = static_tiles("plain", far, self._light_of, TILE_M)
        for tile, node in sorted(static_tiles("built", near, self._light_of, TILE_M).items(), key=lambda item: item[0]):
            switch = _detail_switch(*tile, TILE_M)
            _add_level(switch, node, HOUSE_DETAIL_M, 0.0)
            _add_level(switch, far_tiles.get(tile), 1000.0, HOUSE_DETAIL_M)
            group.attachNewNode(switch)
        group.setTexture(day)
        if self.weather.lamps > 0 and not self._basic:
            stage = TextureStage("lit windows")
            stage.setSort(5)
            stage.setMode(TextureStage.MAdd)
            group.setTexture(stage, glow)

    def _add_details(self) -> None:
        """Trees, hedges and street furniture in three levels of detail, all with the foliage texture."""
        levels = Mesh(vegetation.WHITE), Mesh(vegetation.WHITE), Mesh(vegetation.WHITE)
        vegetation.plant(self.plan.trees, levels)
        vegetation.plant_hedges(self.plan.hedges, levels[0], levels[1])
        lamps = self.plan.lamps
        for detail, mesh in enumerate(levels[:2]):
            mesh.label = Label.POLE
            mesh.instances(_street_lamp(), [(lamp.x, lamp.y, 0.0) for lamp in lamps], [lamp.yaw for lamp in lamps])
            mesh.label = Label.CAR
            for variant in range(PARKED):
                cars = [car for car in self.plan.parked if car.variant % PARKED == variant]
                mesh.instances(
                    parked_car(variant, detail > 0), [(car.x, car.y, 0.0) for car in cars], [car.yaw for car in cars]
                )
        for detail, mesh in enumerate(levels):
            draw_posts(self.plan.heads, self.plan.masts, mesh, detail)
        near, middle, far = (
            static_tiles("details", mesh, self._light_of, size)
            for mesh, size in zip(levels, (TILE_M / 2, TILE_M / 2, TILE_M), strict=True)
        )  # fmt: skip
        group = self.root.attachNewNode("details")
        for column, row in sorted({(c // 2, r // 2) for c, r in near} | far.keys()):
            outer = _detail_switch(column, row, TILE_M)
            inside = PandaNode("inside")
            for c, r in sorted((2 * column + i, 2 * row + j) for i in (0, 1) for j in (0, 1)):
                inner = _detail_switch(c, r, TILE_M / 2)
                _add_level(inner, near.get((c, r)), NEAR_M, 0.0)
                _add_level(inner, middle.get((c, r)), 1000.0, NEAR_M)
                inside.addChild(inner)
            _add_level(outer, inside, MIDDLE_M, 0.0)
            _add_level(outer, far.get((column, row)), FAR_M, MIDDLE_M)
            group.attachNewNode(outer)
        group.setTexture(textures.foliage())
        group.setAttrib(AlphaTestAttrib.make(RenderAttrib.MGreaterEqual, 0.45))
        group.setTwoSided(True)
        group.setTag(TAG, CUT)
        if self.weather.lamps > 0:
            bulbs = Mesh()
            bulbs.label = Label.POLE
            bulbs.instances(_bulb(), [(lamp.x, lamp.y, 0.0) for lamp in lamps], [lamp.yaw for lamp in lamps])
            for node in static_tiles("bulbs", bulbs, None, 4 * TILE_M).values():
                self.root.attachNewNode(node)

    def _add_moving(self) -> None:
        self.traffic.root.reparentTo(self.root)
        shadows = self.root.attachNewNode(self.traffic.shadows.node)
        shadows.setTransparency(TransparencyAttrib.MAlpha)
        self._paint(shadows, 10)
        beams = self.root.attachNewNode(self.traffic.beams.node)
        _additive(beams, textures.beam())
        self._paint(beams, 11)
        for flat in (shadows, beams):
            flat.setTwoSided(True)
            flat.hide(SOLID)
        lamps = self.root.attachNewNode(self.lamps.discs.node)
        lamps.setFogOff(1)
        lamps.setTag(TAG, LIGHT)
        for node in (self.lamps.halos.node, self.traffic.glows.node):
            glow = self.root.attachNewNode(node)
            _additive(glow, textures.glow())
            glow.setTwoSided(True)
            glow.hide(SOLID)
            glow.setDepthWrite(False)
            glow.setBin("fixed", 20)
        for mesh in (self.traffic.shadows, self.traffic.beams, self.traffic.glows, self.lamps.discs, self.lamps.halos):
            mesh.node.setBounds(OmniBoundingVolume())
            mesh.node.setFinal(True)

    def _fog(self) -> None:
        fog = Fog("air")
        fog.setColor(*self.weather.horizon)
        fog.setExpDensity(self.weather.fog)
        self.root.setFog(fog)


def _detail_switch(column: int, row: int, size: float) -> LODNode:
    """An empty switch that measures distances to the middle of a tile."""
    switch = LODNode("detail")
    switch.setCenter(((column + 0.5) * size, (row + 0.5) * size, 2.0))
    return switch


def _add_level(switch: LODNode, node: PandaNode | None, to: float, begin: float) -> None:
    """Shows `node` between two distances (m)."""
    if node is not None:
        switch.addChild(node)
        switch.addSwitch(to, begin)


@cache
def _street_lamp() -> Mesh:
    mesh = Mesh(vegetation.WHITE)
    mesh.tube((0, 0, 0), (0, 0, 6.1), 0.075, STEEL, end_radius=0.05)
    mesh.tube((0, 0, 6.1), (1.5, 0, 6.4), 0.045, STEEL, sides=4)
    mesh.box((1.6, 0, 6.3), (0.75, 0.26, 0.13), np.array(STEEL) * 0.8)
    return mesh


@cache
def _bulb() -> Mesh:
    mesh = Mesh()
    mesh.box((1.6, 0, 6.2), (0.6, 0.3, 0.1), (1.0, 0.9, 0.66))
    return mesh


def _additive(node: NodePath, texture: Texture) -> None:
    node.setTexture(texture)
    node.setAttrib(ColorBlendAttrib.make(ColorBlendAttrib.MAdd, ColorBlendAttrib.OOne, ColorBlendAttrib.OOne))
    node.setFogOff(1)

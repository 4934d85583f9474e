"""Cameras in isolation: what is drawn lands where `rig.project` says."""

import math

import numpy as np
import pytest
from panda3d.core import NodePath

from efficientgen.perception.rig import NANO_RIG, Camera, project
from efficientgen.worldsim.reference.display import Display
from efficientgen.worldsim.reference.mesh import Mesh, static_node

YAW, X, Y = 0.7, 37.2, -12.5  # the ego's pose


@pytest.mark.parametrize("supersample", [1, 2])
def test_small_cards_are_drawn_where_project_says(supersample):
    tilted = tuple(Camera(c.name, 224, 112, 160.0, (1.7, 0.2, 1.55), c.yaw_deg, -3.0) for c in NANO_RIG)
    display = Display(tilted, supersample)
    display.set_background((0, 0, 0))
    scene = NodePath("scene")
    display.root.reparentTo(scene)
    display.root.setPosHpr(X, Y, 0, math.degrees(YAW), 0, 0)
    rng = np.random.default_rng(0)
    ego = np.array([[math.cos(YAW), math.sin(YAW), 0], [-math.sin(YAW), math.cos(YAW), 0], [0, 0, 1]])
    errors = []
    for _ in range(40):
        k = int(rng.integers(3))
        camera = tilted[k]
        depth, u, v = rng.uniform(3, 60), rng.uniform(10, 214), rng.uniform(10, 102)
        pose, half = camera.camera_to_ego, 2.5 * depth / camera.focal  # a card of 5 x 5 pixels
        centre = np.array([depth, (112 - u) / 160 * depth, (56 - v) / 160 * depth])
        square = [(0, 1, -1), (0, -1, -1), (0, -1, 1), (0, 1, 1)]
        corners = (centre + half * np.array(square)) @ pose[:3, :3].T + pose[:3, 3]
        (wanted,), _ = project((centre @ pose[:3, :3].T + pose[:3, 3])[None], camera.intrinsics, pose)
        assert np.allclose(wanted, (u, v))
        mesh = Mesh()
        mesh.quads((corners @ ego + [X, Y, 0])[None], (1, 1, 1))
        card = scene.attachNewNode(static_node("card", mesh))
        card.setTwoSided(True)
        light = display.grab()[k, ..., 0].astype(float)
        card.removeNode()
        rows, columns = np.mgrid[0:112, 0:224] + 0.5
        errors.append((abs((columns * light).sum() / light.sum() - u), abs((rows * light).sum() / light.sum() - v)))
    display.close()
    assert np.max(errors) < 0.55 / supersample + 0.05  # rasterisation rounds to whole (sub)pixels
    assert np.mean(errors) < 0.3 / supersample + 0.02  # and shifts nothing


def test_cameras_of_different_size_are_refused():
    with pytest.raises(ValueError, match="one size"):
        Display((NANO_RIG[0], Camera("WIDE", 448, 112, 160.0, (0, 0, 1), 0.0)))


def test_an_unknown_display_is_refused():
    with pytest.raises(ValueError, match="p3headlessgl"):
        Display(NANO_RIG, load_display="p3abacus")

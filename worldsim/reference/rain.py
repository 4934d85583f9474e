"""Falling rain: two layers of streaks before every camera, moved by the stamp."""

from __future__ import annotations

import numpy as np
from panda3d.core import NodePath, TextureStage, TransparencyAttrib

from efficientgen.perception.types import NS
from efficientgen.worldsim.reference import textures
from efficientgen.worldsim.reference.labels import SOLID
from efficientgen.worldsim.reference.mesh import Mesh, static_node

LAYERS = ((1.5, 0.55, 1.0), (3.2, 0.32, 2.2))  # distance m, alpha, repeats of the texture


class Rain:
    """Cards attached to cameras (Panda3D camera frames: y forward, z up)."""

    def __init__(self, cameras: list[NodePath]) -> None:
        self._cards: list[NodePath] = []
        for camera in cameras:
            for distance, alpha, repeats in LAYERS:
                mesh = Mesh()
                half = distance * 0.9
                corners = [
                    [(-half, distance, -half), (half, distance, -half), (half, distance, half), (-half, distance, half)]
                ]
                uv = np.array([[[0, 0], [repeats, 0], [repeats, 1.6 * repeats], [0, 1.6 * repeats]]])
                mesh.quads(corners, (1, 1, 1, alpha), uv)
                card = camera.attachNewNode(static_node("rain", mesh))
                card.setTexture(textures.rain())
                card.setTransparency(TransparencyAttrib.MAlpha)
                card.setFogOff(1)
                card.setDepthTest(False)
                card.setDepthWrite(False)
                card.setTwoSided(True)
                card.setBin("fixed", 50)
                card.hide()
                card.hide(SOLID)
                self._cards.append(card)
        self._falling = False

    def show_if(self, falling: bool) -> None:
        """Turns the rain on or off."""
        self._falling = falling
        for card in self._cards:
            if falling:
                card.show()
            else:
                card.hide()

    def fall(self, stamp_ns: int) -> None:
        """Moves the streaks to an instant."""
        if self._falling:
            t = stamp_ns / NS
            for k, card in enumerate(self._cards):
                card.setTexOffset(TextureStage.getDefault(), (0.37 * k + 0.7 * t) % 1.0, (0.21 * k + 3.1 * t) % 1.0)

    def close(self) -> None:
        """Removes the cards."""
        for card in self._cards:
            card.removeNode()
        self._cards.clear()

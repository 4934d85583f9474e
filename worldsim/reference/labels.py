"""What a surface is: the classes of semantic pictures and lidar points, and how static geometry carries them.

Static meshes are merged by texture, not by meaning, so each vertex carries its class in the alpha byte of its colour
(`Mesh.label`).  The pictures never show it: opaque geometry ignores alpha, and the alpha test of leaves cuts far below.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from panda3d.core import BitMask32

from efficientgen.perception.types import U8, Actor, ActorKind

SOLID = BitMask32.bit(20)  # cameras that measure see only this bit: `hide(SOLID)` whatever is not solid
TAG, CUT, LIGHT = "solid", "cut", "light"  # a node's tag says how its pixels are labelled


class Label(IntEnum):
    """Semantic classes; a bicycle includes who rides it, a traffic light its housing, a pole every post and mast."""

    SKY = 0
    TERRAIN = 1
    ROAD = 2
    MARKING = 3
    SIDEWALK = 4  # everything paved beside the road, kerbs included
    BUILDING = 5
    VEGETATION = 6
    POLE = 7
    TRAFFIC_LIGHT = 8
    CAR = 9
    TRUCK = 10
    BUS = 11
    BICYCLE = 12
    PEDESTRIAN = 13


GROUND = (Label.TERRAIN, Label.ROAD, Label.MARKING, Label.SIDEWALK)
OF_KIND = {kind: Label[kind.name] for kind in ActorKind}

_COLOURS = np.array([
    (110, 160, 220), (120, 150, 80), (90, 90, 95), (250, 250, 250), (220, 140, 200), (150, 110, 90), (40, 120, 40),
    (160, 160, 150), (250, 200, 30), (30, 60, 220), (20, 150, 200), (0, 90, 120), (160, 20, 80), (230, 30, 40),
], np.uint8)  # fmt: skip


def painted(labels: U8) -> U8:
    """Labels (...,) as colours (..., 3), to look at."""
    return _COLOURS[labels]


def actor_tag(actor: Actor) -> str:
    """The tag of the node that shows an actor."""
    return f"actor {actor.id}"


def alpha_of(label: int) -> float:
    """The vertex alpha that stands for a label."""
    return (255 - label) / 255

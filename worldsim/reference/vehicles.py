"""Cars, trucks and buses: smooth bodies from a few cross-sections, dark glass that mirrors the sky, wheels and lamps.

Models stand on the ground with their middle at the origin, x forward, and come as (body, lamps): lamps shine by
themselves.  They are built at a nominal size and scaled to the actor's box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from efficientgen.perception.types import F64
from efficientgen.worldsim.reference.mesh import Mesh
from efficientgen.worldsim.reference.weather import Colour

PAINTS: tuple[Colour, ...] = (
    (0.80, 0.81, 0.82), (0.62, 0.64, 0.66), (0.14, 0.15, 0.17), (0.92, 0.92, 0.91), (0.52, 0.10, 0.10),
    (0.13, 0.22, 0.42), (0.36, 0.38, 0.40), (0.18, 0.30, 0.26), (0.62, 0.56, 0.45), (0.07, 0.07, 0.08),
    (0.30, 0.42, 0.55),
)  # fmt: skip
GLASS_LOW, GLASS_HIGH = np.array([0.07, 0.085, 0.10]), np.array([0.30, 0.36, 0.42])
TYRE, RIM, TRIM = np.array([0.045, 0.045, 0.05]), np.array([0.50, 0.51, 0.53]), np.array([0.09, 0.09, 0.10])
HEADLAMP, TAIL_DARK, TAIL_LIT = (0.96, 0.96, 0.92), (0.48, 0.03, 0.03), (1.0, 0.10, 0.06)
CAR_SIZE, TRUCK_SIZE, BUS_SIZE = (4.6, 1.82, 1.48), (8.2, 2.4, 3.2), (11.5, 2.5, 3.1)


@dataclass(frozen=True)
class CarShape:
    """Side view of a car: deck heights along x (parts of the length) and the corners of its greenhouse."""

    deck: tuple[tuple[float, float], ...]  # (x in -0.5..0.5, z m)
    glass_base: tuple[float, float]  # rear, front x of the greenhouse at the belt
    glass_top: tuple[float, float]  # ... and at the roof
    belt: float
    roof: float


SHAPES: tuple[CarShape, ...] = (
    CarShape(((-0.5, 0.80), (-0.47, 0.94), (-0.3, 0.97), (0.2, 0.94), (0.42, 0.80), (0.49, 0.66), (0.5, 0.55)),
             (-0.37, 0.20), (-0.20, 0.03), 0.93, 1.46),  # saloon
    CarShape(((-0.5, 0.78), (-0.48, 0.95), (-0.3, 0.97), (0.22, 0.95), (0.42, 0.83), (0.49, 0.68), (0.5, 0.56)),
             (-0.485, 0.24), (-0.40, 0.06), 0.94, 1.48),  # hatchback
    CarShape(((-0.5, 0.80), (-0.485, 0.98), (-0.3, 0.98), (0.2, 0.95), (0.42, 0.81), (0.49, 0.67), (0.5, 0.56)),
             (-0.49, 0.20), (-0.45, 0.03), 0.94, 1.50),  # estate
    CarShape(((-0.5, 0.92), (-0.485, 1.08), (-0.3, 1.10), (0.22, 1.08), (0.43, 0.98), (0.49, 0.82), (0.5, 0.68)),
             (-0.485, 0.24), (-0.43, 0.08), 1.06, 1.70),  # sport utility
    CarShape(((-0.5, 1.00), (-0.49, 1.12), (-0.3, 1.14), (0.30, 1.12), (0.45, 0.95), (0.495, 0.80), (0.5, 0.66)),
             (-0.495, 0.36), (-0.485, 0.17), 1.10, 1.88),  # van
)  # fmt: skip


def car(shape: CarShape, paint: Colour, braking: bool) -> tuple[Mesh, Mesh]:
    """A passenger car of nominal `CAR_SIZE` length and width; its height is the shape's roof."""
    body, lamps = Mesh(), Mesh()
    length, width = CAR_SIZE[0], CAR_SIZE[1]
    colour, half = np.array(paint), width / 2
    _lower_body(body, shape, colour, length, half)
    _greenhouse(body, shape, colour, length, half)
    sill = 0.66 if shape.roof > 1.6 else 0.62
    for x in (-0.305 * length, 0.305 * length):
        for side in (-1, 1):
            _wheel(body, x, side * half, 0.335, side, arch=sill)
    front, rear = length / 2, -length / 2
    low, high, nose = shape.deck[0][1] - 0.18, shape.deck[0][1] + 0.06, shape.deck[-1][1]
    for side in (-1, 1):
        tail = TAIL_LIT if braking else TAIL_DARK
        body_panel(lamps, rear - 0.008, side, 0.52 * half, 0.85 * half, low, high - 0.05, tail, -1)
        body_panel(lamps, front + 0.008, side, 0.44 * half, 0.76 * half, nose - 0.13, nose - 0.02, HEADLAMP, 1)
        body.box((0.17 * length, side * (half + 0.08), shape.belt - 0.02), (0.12, 0.2, 0.15), colour * 0.85)
    if braking:
        body_panel(lamps, -0.40 * length - 0.02, 1, -0.2, 0.2, shape.roof - 0.1, shape.roof - 0.05, TAIL_LIT, -1)
    body_panel(body, rear - 0.015, 1, -0.27, 0.27, 0.52, 0.63, (0.86, 0.86, 0.82), -1)
    body_panel(body, rear - 0.01, 1, -0.8 * half, 0.8 * half, 0.26, 0.40, TRIM, -1)
    body_panel(body, front + 0.012, 1, -0.62 * half, 0.62 * half, 0.27, 0.40, TRIM, 1)
    body_panel(body, front + 0.02, 1, -0.25, 0.25, 0.30, 0.40, (0.86, 0.86, 0.82), 1)
    return body, lamps


def plain_car(shape: CarShape, paint: Colour, braking: bool) -> Mesh:
    """The same car for distant views: three boxes and its lamps."""
    mesh = Mesh()
    length, width = CAR_SIZE[0], CAR_SIZE[1]
    colour = np.array(paint)
    (rb, fb), (rt, ft) = ((a * length, b * length) for a, b in (shape.glass_base, shape.glass_top))
    mesh.box((0, 0, 0.22), (length, width, shape.belt - 0.22), colour, taper=(0.97, 0.92), foot=0.5)
    glass = (GLASS_LOW + GLASS_HIGH) / 2
    mesh.box(((rb + fb) / 2, 0, shape.belt), (fb - rb, 0.9 * width, shape.roof - shape.belt - 0.05), glass,
             taper=((ft - rt) / (fb - rb), 0.8))  # fmt: skip
    mesh.box(((rb + fb) / 2, 0, shape.roof - 0.06), (ft - rt, 0.74 * width, 0.06), colour)
    for side in (-1, 1):
        for x in (-0.305 * length, 0.305 * length):
            mesh.box((x, side * (width / 2 - 0.08), 0), (0.6, 0.2, 0.55), TYRE)
        low = shape.deck[0][1] - 0.2
        body_panel(mesh, -length / 2 - 0.01, side, 0.5, 0.86, low, low + 0.24, TAIL_LIT if braking else TAIL_DARK, -1)
        body_panel(mesh, length / 2 + 0.01, side, 0.5, 0.84, 0.58, 0.72, HEADLAMP, 1)
    return mesh


def body_panel(mesh: Mesh, x: float, side: int, y0: float, y1: float, z0: float, z1: float, colour: ArrayLike,
               facing: int) -> None:  # fmt: skip
    """A rectangle across the car at `x`, from y0 to y1 (mirrored for side -1), facing forward (1) or back (-1)."""
    a, b = (side * y0, side * y1) if side * facing > 0 else (side * y1, side * y0)
    mesh.quads([[(x, a, z0), (x, b, z0), (x, b, z1), (x, a, z1)]], colour)


def _lower_body(mesh: Mesh, shape: CarShape, colour: F64, length: float, half: float) -> None:
    xs = np.array([-0.5, -0.492, -0.47, -0.40, -0.25, 0.0, 0.22, 0.36, 0.44, 0.48, 0.495, 0.5])
    plan = np.array([0.86, 0.91, 0.955, 0.985, 1.0, 1.0, 1.0, 0.99, 0.96, 0.90, 0.84, 0.78]) * half
    deck = np.interp(xs, *np.array(shape.deck).T)
    rings, tones = [], []
    for x, w, top in zip(xs * length, plan, deck, strict=True):
        mid = min(0.56, top - 0.1)
        section = np.array(
            [
                (w * 0.93, 0.20),
                (w * 0.985, 0.34),
                (w, mid),
                (w * 0.97, top - 0.07),
                (w * 0.86, top),
                (w * 0.4, top + 0.02),
            ]
        )
        points = np.vstack([section, section[::-1] * [-1, 1]])  # from lower left over the deck to lower right
        rings.append(np.c_[np.full(len(points), x), points])
        tone = np.array([0.42, 0.72, 0.92, 1.0, 1.04, 1.06])
        tones.append(np.r_[tone, tone[::-1]][:, None] * colour)
    rings_array = np.array(rings)
    mesh.loft(rings_array, np.array(tones), closed=False)
    for k, normal in ((0, (-1.0, 0, 0)), (-1, (1.0, 0, 0))):
        ring = rings_array[k]
        fan = np.c_[np.zeros(len(ring) - 2), np.arange(1, len(ring) - 1), np.arange(2, len(ring))].astype(int)
        mesh.add(ring, normal, np.array(tones)[k] * 0.95, fan[:, ::-1] if k == 0 else fan)


def _greenhouse(mesh: Mesh, shape: CarShape, colour: F64, length: float, half: float) -> None:
    (rb, fb), (rt, ft) = ((a * length, b * length) for a, b in (shape.glass_base, shape.glass_top))
    wb, wt, zb, zt = 0.90 * half, 0.72 * half, shape.belt - 0.02, shape.roof - 0.04
    base = {"rl": (rb, wb, zb), "rr": (rb, -wb, zb), "fl": (fb, wb, zb), "fr": (fb, -wb, zb)}
    top = {"rl": (rt, wt, zt), "rr": (rt, -wt, zt), "fl": (ft, wt, zt), "fr": (ft, -wt, zt)}
    shade = np.stack([GLASS_LOW, GLASS_LOW, GLASS_HIGH, GLASS_HIGH])
    panes = [("fr", "fl"), ("rl", "rr"), ("rr", "fr"), ("fl", "rl")]
    mesh.quads(
        [[base[a], base[b], top[b], top[a]] for a, b in panes], np.stack([shade, shade, shade * 0.8, shade * 0.8])
    )
    # pillars: strips of paint just outside the side glass
    for side in (1, -1):
        for low, high, breadth in ((rb, rt, 0.16), (fb, ft, 0.10), ((rb + fb) / 2 + 0.05, (rt + ft) / 2 + 0.05, 0.09)):
            shift = breadth / 2 * (1 if low == rb else -1 if low == fb else 0)
            a, b = low + shift, high + shift
            y0, y1 = side * (wb + 0.012), side * (wt + 0.012)
            strip = [
                (a - breadth / 2, y0, zb),
                (a + breadth / 2, y0, zb),
                (b + breadth / 2, y1, zt),
                (b - breadth / 2, y1, zt),
            ]
            mesh.quads([strip if side < 0 else strip[::-1]], colour * 0.9)
    xs = np.linspace(rt - 0.05, ft + 0.06, 4)
    rings = []
    for x, lift in zip(xs, (-0.03, 0.035, 0.04, -0.02), strict=True):
        ys = np.array([1.04, 0.9, 0.4, -0.4, -0.9, -1.04]) * wt
        rings.append(np.c_[np.full(6, x), ys, zt + np.array([-0.03, lift, lift + 0.02, lift + 0.02, lift, -0.03])])
    mesh.loft(np.array(rings), colour * 1.05, closed=False)


def _wheel(mesh: Mesh, x: float, y: float, radius: float, side: int, arch: float = 0.0, width: float = 0.22) -> None:
    """A wheel whose outer face lies near `y`; `arch` > 0 paints a dark wheel house on the body up to that height."""
    out = (0.0, float(side), 0.0)
    if arch:
        angle = np.linspace(0, math.pi, 9)
        rim = np.c_[
            x + 1.22 * radius * np.cos(angle),
            np.full(9, y + side * 0.004),
            radius + 1.16 * radius * np.sin(angle) * 0.98,
        ]
        rim[:, 2] = np.minimum(rim[:, 2], arch + 0.12)
        fan = np.array([(8, k, k + 1) for k in range(7)])
        feet = np.array([[x + 1.22 * radius, y + side * 0.004, 0.22], [x - 1.22 * radius, y + side * 0.004, 0.22]])
        mesh.add(np.vstack([rim, feet]), out, TRIM * 0.5, np.vstack([fan, [(9, 0, 8), (9, 8, 10)]])[:, ::-side])
    face = y + side * 0.015
    mesh.tube((x, face - side * width, radius), (x, face, radius), radius, TYRE, sides=12)
    mesh.disc((x, face, radius), out, radius, TYRE, sides=12)
    mesh.disc((x, face + side * 0.006, radius), out, 0.62 * radius, RIM * 0.8, sides=10)
    mesh.disc((x, face + side * 0.010, radius), out, 0.2 * radius, TRIM, sides=6)


def truck(paint: Colour, box: Colour, braking: bool) -> tuple[Mesh, Mesh]:
    """A box truck of nominal `TRUCK_SIZE`."""
    body, lamps = Mesh(), Mesh()
    length, width, height = TRUCK_SIZE
    x, y, colour, load = length / 2, width / 2, np.array(paint), np.array(box)
    body.box((0, 0, 0.55), (length - 0.4, width * 0.7, 0.35), TRIM)
    body.box((-1.05, 0, 0.9), (length - 2.2, width, height - 0.9), load, foot=0.8)
    body_panel(body, -x - 0.0 + 0.045, 1, -y * 0.93, y * 0.93, 1.0, height - 0.1, load * 0.92, -1)
    for z in (1.5, 2.1, 2.7):
        body_panel(body, -x + 0.04, 1, -0.02, 0.02, z - 0.4, z, TRIM, -1)
    cab = x - 0.95
    body.box((cab, 0, 0.5), (1.85, width * 0.96, 0.95), colour, foot=0.7)
    body.box((cab - 0.06, 0, 1.45), (1.73, width * 0.95, 1.25), colour, taper=(0.82, 0.92))
    shade = np.stack([GLASS_LOW, GLASS_LOW, GLASS_HIGH, GLASS_HIGH])
    body.quads(
        [
            [
                (x - 0.13, -y * 0.84, 1.5),
                (x - 0.13, y * 0.84, 1.5),
                (x - 0.24, y * 0.8, 2.35),
                (x - 0.24, -y * 0.8, 2.35),
            ]
        ],
        shade[None],
    )
    for side in (-1, 1):
        pane = [
            (x - 1.2, side * 1.15, 1.55),
            (x - 0.35, side * 1.15, 1.55),
            (x - 0.42, side * 1.11, 2.3),
            (x - 1.15, side * 1.11, 2.3),
        ]
        body.quads([pane if side < 0 else pane[::-1]], shade[None] if side < 0 else shade[None, ::-1])
        for wheel in (-x + 1.3, -x + 2.3, x - 1.15):
            _wheel(body, wheel, side * (y - 0.03), 0.47, side, width=0.3)
        body.box((-0.6, side * (y - 0.1), 0.5), (3.0, 0.05, 0.35), TRIM * 1.5)
        body_panel(lamps, -x + 0.035, side, 0.55, 0.95, 0.68, 0.86, TAIL_LIT if braking else TAIL_DARK, -1)
        body_panel(lamps, x - 0.02, side, 0.7, 1.05, 0.72, 0.9, HEADLAMP, 1)
    body_panel(body, -x + 0.05, 1, -y * 0.95, y * 0.95, 0.5, 0.66, TRIM, -1)
    body_panel(body, x - 0.015, 1, -y * 0.6, y * 0.6, 0.75, 1.25, TRIM, 1)
    return body, lamps


def bus(paint: Colour, braking: bool) -> tuple[Mesh, Mesh]:
    """A city bus of nominal `BUS_SIZE`."""
    body, lamps = Mesh(), Mesh()
    length, width, height = BUS_SIZE
    x, y, colour = length / 2, width / 2, np.array(paint)
    pale = 0.35 * colour + 0.6
    body.box((0, 0, 0.3), (length, width, 0.95), colour, foot=0.6)
    body.box((0, 0, 1.25), (length, width, height - 1.35), pale, taper=(0.985, 0.95))
    body.box((-0.5, 0, height - 0.16), (length * 0.75, width * 0.7, 0.16), pale * 0.9)
    shade = np.stack([GLASS_LOW, GLASS_LOW, GLASS_HIGH * 0.9, GLASS_HIGH * 0.9])
    for side in (-1, 1):
        for k in range(8):
            x0, x1 = -x + 0.35 + 1.37 * k, -x + 0.35 + 1.37 * k + 1.22
            z0 = 0.5 if side < 0 and k in (3, 7) else 1.3  # doors on the right
            pane = [
                (x0, side * (y + 0.01), z0),
                (x1, side * (y + 0.01), z0),
                (x1, side * (y - 0.03), 2.4),
                (x0, side * (y - 0.03), 2.4),
            ]
            body.quads([pane if side < 0 else pane[::-1]], shade[None] if side < 0 else shade[None, ::-1])
        for wheel in (-x + 2.7, x - 2.5):
            _wheel(body, wheel, side * y, 0.47, side, arch=0.95, width=0.3)
        body_panel(lamps, -x - 0.015, side, 0.8, 1.15, 0.75, 1.15, TAIL_LIT if braking else TAIL_DARK, -1)
        body_panel(lamps, x + 0.015, side, 0.75, 1.15, 0.62, 0.84, HEADLAMP, 1)
    body.quads(
        [[(x + 0.01, -y * 0.92, 1.1), (x + 0.01, y * 0.92, 1.1), (x - 0.05, y * 0.9, 2.5), (x - 0.05, -y * 0.9, 2.5)]],
        shade[None],
    )
    body.quads(
        [
            [
                (-x - 0.01, y * 0.8, 1.5),
                (-x - 0.01, -y * 0.8, 1.5),
                (-x + 0.03, -y * 0.8, 2.4),
                (-x + 0.03, y * 0.8, 2.4),
            ]
        ],
        shade[None],
    )
    body_panel(body, x - 0.02, 1, -y * 0.8, y * 0.8, 2.58, 2.88, (0.06, 0.06, 0.06), 1)
    body_panel(lamps, x - 0.01, 1, -0.5, 0.5, 2.66, 2.8, (1.0, 0.72, 0.2), 1)
    return body, lamps

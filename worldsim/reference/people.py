"""Pedestrians and cyclists: jointed limbs posed by a walking or pedalling phase.

Models stand on the ground at the origin, x forward; `phase` runs from 0 to 1 through one stride (two steps).
"""

from __future__ import annotations

import math

import numpy as np

from efficientgen.perception.types import F64
from efficientgen.worldsim.reference.mesh import Mesh
from efficientgen.worldsim.reference.weather import Colour

TOPS: tuple[Colour, ...] = (
    (0.60, 0.18, 0.17), (0.20, 0.28, 0.48), (0.74, 0.71, 0.65), (0.22, 0.38, 0.30), (0.46, 0.33, 0.50),
    (0.82, 0.62, 0.22), (0.16, 0.17, 0.19), (0.45, 0.52, 0.58),
)  # fmt: skip
LEGS: tuple[Colour, ...] = ((0.14, 0.16, 0.24), (0.33, 0.29, 0.24), (0.09, 0.09, 0.10), (0.24, 0.28, 0.36))
SKINS: tuple[Colour, ...] = ((0.78, 0.58, 0.47), (0.62, 0.44, 0.33), (0.42, 0.28, 0.20))
HAIRS: tuple[Colour, ...] = ((0.12, 0.09, 0.07), (0.35, 0.24, 0.14), (0.55, 0.48, 0.40))
PERSON_M = 1.72
CYCLIST_SIZE = (1.8, 0.65, 1.75)


def _outfit(variant: int) -> tuple[F64, F64, F64, F64]:
    return (np.array(TOPS[variant % 8]), np.array(LEGS[variant // 8 % 4]), np.array(SKINS[variant // 32 % 3]),
            np.array(HAIRS[variant // 96 % 3]))  # fmt: skip


def _oval(centre: F64, depth: float, width: float, forward: F64, sides: int = 8) -> F64:
    """A ring (sides, 3) around `centre`, counter-clockwise from above, `forward` (3,) being its x axis."""
    angle = np.linspace(0, 2 * math.pi, sides, endpoint=False)[:, None]
    return centre + depth * np.cos(angle) * forward + width * np.sin(angle) * np.array([0.0, 1.0, 0.0])


def _torso(mesh: Mesh, hip: F64, lean: float, top: F64, coat: float) -> F64:
    """From the hips to the neck, leaning forward by `lean` rad; returns the neck."""
    up = np.array([math.sin(lean), 0.0, math.cos(lean)])
    forward = np.array([math.cos(lean), 0.0, -math.sin(lean)])
    sections = (
        (-coat, 0.14, 0.18),
        (0.0, 0.125, 0.175),
        (0.16, 0.11, 0.155),
        (0.38, 0.135, 0.2),
        (0.50, 0.11, 0.215),
        (0.57, 0.055, 0.07),
    )
    rings = np.array([_oval(hip + up * s, d, w, forward) for s, d, w in sections])
    tones = np.array([0.8, 0.86, 0.92, 1.0, 1.02, 0.95])[:, None] * top
    mesh.loft(rings, tones)
    return hip + up * 0.57


def _head(mesh: Mesh, neck: F64, skin: F64, hair: F64, helmet: F64 | None = None) -> None:
    x = np.array([1.0, 0, 0])
    mesh.tube(neck - [0, 0, 0.02], neck + [0.01, 0, 0.08], 0.05, skin * 0.9, sides=6)
    middle = neck + [0.03, 0, 0.17]
    face = [(-0.12, 0.04, 0.04), (-0.08, 0.085, 0.07), (0.0, 0.10, 0.08), (0.07, 0.09, 0.075), (0.12, 0.04, 0.035)]
    mesh.loft(np.array([_oval(middle + [0, 0, z], d, w, x) for z, d, w in face]), skin)
    cap = [(-0.03, 0.095, 0.088), (0.05, 0.108, 0.09), (0.11, 0.075, 0.065), (0.135, 0.02, 0.02)]
    back = middle - [0.022, 0, -0.01]
    mesh.loft(np.array([_oval(back + [0, 0, z], d, w, x) for z, d, w in cap]), hair if helmet is None else helmet)


def _leg(mesh: Mesh, hip: F64, knee: F64, foot: F64, legs: F64) -> None:
    mesh.tube(hip, knee, 0.085, legs, sides=7, end_radius=0.065)
    mesh.tube(knee, foot, 0.062, legs * 0.94, sides=7, end_radius=0.045)
    mesh.box(foot + [0.05, 0, -0.07], (0.25, 0.09, 0.09), (0.10, 0.09, 0.09))


def _arm(mesh: Mesh, shoulder: F64, elbow: F64, hand: F64, sleeve: F64, skin: F64) -> None:
    mesh.tube(shoulder, elbow, 0.055, sleeve * 0.95, sides=6, end_radius=0.046)
    mesh.tube(elbow, hand, 0.044, sleeve * 0.9, sides=6, end_radius=0.036)
    mesh.tube(hand, hand + (hand - elbow) * 0.3, 0.036, skin, sides=5, end_radius=0.02)


def pedestrian(variant: int, phase: float, walking: bool) -> Mesh:
    """A person of `PERSON_M`; `walking` False stands."""
    mesh = Mesh()
    top, legs, skin, hair = _outfit(variant)
    swing = 0.46 if walking else 0.05
    bob = 0.02 * math.cos(4 * math.pi * phase) if walking else 0.0
    hip_z = 0.90 + bob
    for side, turn in ((1, 0.0), (-1, 0.5)):
        angle = swing * math.sin(2 * math.pi * (phase + turn))
        bend = (0.12 + 0.75 * max(0.0, math.cos(2 * math.pi * (phase + turn)))) if walking else 0.03
        hip = np.array([0.0, side * 0.09, hip_z])
        knee = hip + 0.42 * np.array([math.sin(angle), 0, -math.cos(angle)])
        shin = angle - bend
        foot = knee + 0.41 * np.array([math.sin(shin), 0, -math.cos(shin)])
        _leg(mesh, hip, knee, foot, legs)
        shoulder = np.array([0.02, side * 0.22, hip_z + 0.50])
        elbow = shoulder + 0.28 * np.array([-math.sin(angle) * 0.8, side * 0.12, -math.cos(angle)])
        forearm = -angle * 0.9 + 0.3
        hand = elbow + 0.25 * np.array([math.sin(forearm), 0, -math.cos(forearm)])
        _arm(mesh, shoulder, elbow, hand, top, skin)
    coat = (0.05, 0.05, 0.22, 0.4)[variant // 3 % 4]
    neck = _torso(mesh, np.array([0.0, 0, hip_z]), 0.05, top, coat)
    _head(mesh, neck, skin, hair)
    if variant % 5 == 0:
        mesh.box(
            (-0.2, 0, hip_z + 0.1),
            (0.17, 0.28, 0.4),
            np.array([0.16, 0.17, 0.2]) + 0.2 * (variant % 2),
            taper=(0.8, 0.9),
        )
    return mesh


def cyclist(variant: int, phase: float) -> Mesh:
    """A bicycle with its rider, of nominal `CYCLIST_SIZE`."""
    mesh = Mesh()
    top, legs, skin, hair = _outfit(variant)
    frame = np.array(TOPS[(variant + 3) % 8]) * 0.9
    black = (0.05, 0.05, 0.055)
    axle_r, axle_f = np.array([-0.53, 0, 0.34]), np.array([0.53, 0, 0.34])
    crank, saddle, stem = np.array([-0.08, 0, 0.29]), np.array([-0.24, 0, 0.93]), np.array([0.36, 0, 0.93])
    for axle in (axle_r, axle_f):
        angle = np.linspace(0, 2 * math.pi, 14, endpoint=False)
        for r0, r1 in ((0.345, 0.30),):
            outer = axle + r0 * np.c_[np.cos(angle), np.zeros(14), np.sin(angle)]
            inner = axle + r1 * np.c_[np.cos(angle), np.zeros(14), np.sin(angle)]
            for y in (0.025, -0.025):
                i, j = np.arange(14), (np.arange(14) + 1) % 14
                both = np.vstack([outer, inner]) + [0, y, 0]
                faces = np.r_[np.c_[i, j, j + 14], np.c_[i, j + 14, i + 14]]
                mesh.add(both, (0, math.copysign(1, y), 0), black, faces[:, ::-1] if y > 0 else faces)
        mesh.tube(axle - [0, 0.03, 0], axle + [0, 0.03, 0], 0.345, black, sides=14)
    seat_post = saddle - [0, 0, 0.2]
    for a, b in ((axle_r, crank), (crank, saddle), (crank, stem - [0.05, 0, 0.12]), (seat_post, stem - [0, 0, 0.05]),
                 (axle_r, seat_post), (stem, axle_f)):  # fmt: skip
        mesh.tube(a, b, 0.024, frame, sides=5)
    mesh.tube(stem + [0, -0.24, 0.08], stem + [0, 0.24, 0.08], 0.022, black, sides=5)
    mesh.box(saddle + [0.02, 0, 0], (0.24, 0.13, 0.06), black)
    hip = saddle + np.array([0.0, 0, 0.1])
    for side, turn in ((1, 0.0), (-1, 0.5)):
        pedal_angle = 2 * math.pi * (phase + turn)
        foot = crank + np.array([0.17 * math.cos(pedal_angle), side * 0.1, -0.17 * math.sin(pedal_angle) + 0.06])
        joint = hip + [0.0, side * 0.09, 0.0]
        _leg(mesh, joint, _joint(joint, foot, 0.42, 0.43), foot, legs)
        shoulder = hip + np.array([0.25, side * 0.2, 0.45])
        hand = stem + np.array([0.02, side * 0.22, 0.1])
        elbow = (shoulder + hand) / 2 + [0.0, side * 0.06, -0.06]
        _arm(mesh, shoulder, elbow, hand, top, skin)
    neck = _torso(mesh, hip, 0.5, top, 0.04)
    _head(mesh, neck, skin, hair, None if variant % 3 else np.array([0.80, 0.80, 0.78]))
    return mesh


def plain_figure(variant: int, phase: float, cycling: bool) -> Mesh:
    """A pedestrian or cyclist for distant views."""
    mesh = Mesh()
    top, legs, skin, hair = _outfit(variant)
    hip = np.array([-0.2, 0, 1.0]) if cycling else np.array([0.0, 0, 0.9])
    neck = hip + ([0.28, 0, 0.5] if cycling else [0.03, 0, 0.57])
    for side, turn in ((1, 0.0), (-1, 0.5)):
        swing = 0.3 * math.sin(2 * math.pi * (phase + turn))
        foot = np.array([-0.05 + 0.4 * swing, side * 0.1, 0.3]) if cycling else np.array([swing, side * 0.09, 0.0])
        mesh.tube(foot, hip + [0, side * 0.09, 0], 0.06, legs, sides=4, end_radius=0.09)
        mesh.tube(
            neck + [0, side * 0.22, -0.08], hip + [0.45 if cycling else -swing, side * 0.25, 0.05], 0.05, top, sides=3
        )
    mesh.tube(hip - [0, 0, 0.05], neck, 0.17, top, sides=6, end_radius=0.15)
    mesh.box(neck + [0.03, 0, 0.04], (0.18, 0.16, 0.18), skin)
    mesh.box(neck + [0.02, 0, 0.2], (0.2, 0.18, 0.07), hair)
    if cycling:
        frame = np.array(TOPS[(variant + 3) % 8]) * 0.9
        for x in (-0.53, 0.53):
            for side in (-1, 1):
                mesh.disc((x, side * 0.02, 0.34), (0.0, side, 0.0), 0.34, (0.12, 0.12, 0.12), sides=8)
        mesh.tube((-0.5, 0, 0.4), (0.4, 0, 0.9), 0.04, frame, sides=3)
    return mesh


def _joint(upper: F64, lower: F64, first: float, second: float) -> F64:
    """The knee between hip and foot, bent forward."""
    to = lower - upper
    distance = min(float(np.linalg.norm(to)), first + second - 1e-3)
    along = to / (np.linalg.norm(to) + 1e-9)
    reach = (first**2 - second**2 + distance**2) / (2 * distance)
    forward = np.array([1.0, 0, 0]) - along * along[0]
    forward /= np.linalg.norm(forward)
    return upper + along * reach + forward * math.sqrt(max(first**2 - reach**2, 0.0))

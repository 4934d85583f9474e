"""Generate the SUMO towns of this folder: `python scenarios/make_towns.py [town ...]`.

A development tool: it needs `eclipse-sumo` (netconvert), which the drive itself does not.  Every town is described
here as junctions and roads (`town_plan.py`), written as SUMO's plain XML and turned into `towns/<name>.net.xml.gz`.
The header comment (time stamp, paths) is stripped and gzip's clock is zero, so the same netconvert gives the same
bytes.

All roads close into rings: there are no dead ends, so no U-turns, and traffic never gets stuck at an end.
"""

from __future__ import annotations

import gzip
import itertools
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from town_plan import Plan, Point

HERE = Path(__file__).resolve().parent
NETCONVERT_OPTIONS = {
    "offset.disable-normalization": "true",
    "default.lanewidth": "3.5",
    "default.sidewalk-width": "2.2",
    "default.junctions.radius": "7",
    "junctions.corner-detail": "8",
    "junctions.internal-link-detail": "12",
    "junctions.limit-turn-speed": "4.5",
    "crossings.guess": "true",
    "walkingareas": "true",
    "no-turnarounds": "true",
    "check-lane-foes.all": "true",
    "tls.green.time": "18",
    "tls.left-green.time": "5",
    "tls.yellow.time": "3",
    "tls.layout": "opposites",
    "tls.allred.time": "1",
    "output.street-names": "false",
    "precision": "2",
}


def elm() -> Plan:
    """Training town: a signalised centre, two ring roads, spokes; curves everywhere."""
    plan, rng = Plan(), random.Random(11)
    plan.node("c", 0, 0, "traffic_light")
    radius = {"i": 115.0, "o": 225.0}
    for ring, size in radius.items():
        for k in range(8):
            r, angle = size + rng.uniform(-6, 6), math.radians(45 * k + rng.uniform(-4, 4))
            kind = "traffic_light" if k % 2 == 0 and (ring == "i" or k % 4 == 0) else "priority"
            plan.node(f"{ring}{k}", r * math.cos(angle), r * math.sin(angle), kind)
    for k in range(8):
        if k % 2 == 0:
            plan.road("c", f"i{k}", 2, 50, rng.uniform(-0.1, 0.1))
            plan.road(f"i{k}", f"o{k}", 2, 50, rng.uniform(-0.12, 0.12))
        else:
            plan.road(f"i{k}", f"o{k}", 1, 30, rng.uniform(-0.2, 0.2))
        for ring, kmh in (("i", 40), ("o", 50)):
            (ax, ay, _), (bx, by, _) = plan.nodes[f"{ring}{k}"], plan.nodes[f"{ring}{(k + 1) % 8}"]
            swell = 1 / math.cos(math.radians(22.5)) ** 2
            plan.road(f"{ring}{k}", f"{ring}{(k + 1) % 8}", 1, kmh, via=((ax + bx) / 2 * swell, (ay + by) / 2 * swell))
    return plan


def birch() -> Plan:
    """Training town: a shaken grid with rounded corners, some streets missing; signals, priority, quiet streets."""
    plan, rng = Plan(), random.Random(23)
    columns, rows, dx, dy = 5, 4, 118.0, 104.0
    missing = {((1, 0), (1, 1)), ((3, 2), (3, 3)), ((0, 2), (1, 2)), ((3, 1), (4, 1)), ((2, 1), (2, 2))}
    signals = {(1, 1), (3, 1), (2, 1), (1, 2), (3, 2), (2, 3), (4, 2)}
    grid = [(i, j) for i in range(columns) for j in range(rows)]
    name = {(i, j): f"{'abcde'[i]}{j}" for i, j in grid}
    for i, j in grid:
        kind = (
            "traffic_light" if (i, j) in signals else "right_before_left" if (i, j) in {(2, 2), (0, 1)} else "priority"
        )
        plan.node(name[i, j], (i - 2) * dx + rng.uniform(-13, 13), (j - 1.5) * dy + rng.uniform(-13, 13), kind)
    for i, j in grid:
        for other in ((i + 1, j), (i, j + 1)):
            if other in name and ((i, j), other) not in missing:
                avenue = j == other[1] == 1 or i == other[0] == 3
                quiet = i == other[0] and i in (0, 2)
                lanes, kmh = (2, 50) if avenue else (1, 30 if quiet else 40)
                plan.road(name[i, j], name[other], lanes, kmh, rng.uniform(-0.09, 0.09))
    return plan


def cedar() -> Plan:
    """Training town: a random net, the Gabriel graph of scattered junctions without sharp forks or dead ends."""
    plan, rng = Plan(), random.Random(5)
    points: list[Point] = []
    while len(points) < 24:
        p = (rng.uniform(-260, 260), rng.uniform(-210, 210))
        if all(math.dist(p, q) > 84 for q in points):
            points.append(p)
    links = {
        (i, j)
        for i in range(len(points))
        for j in range(i + 1, len(points))
        if math.dist(points[i], points[j]) < 190 and _gabriel(points, i, j)
    }
    links = _without_forks(points, links)
    while True:  # prune dead ends
        degree = {i: sum(i in link for link in links) for i in range(len(points))}
        loose = {link for link in links if 1 in (degree[link[0]], degree[link[1]])}
        if not loose:
            break
        links -= loose
    for i, (x, y) in enumerate(_straightened(points, links)):
        if degree[i]:
            kind = "traffic_light" if degree[i] >= 4 or (degree[i] == 3 and rng.random() < 0.45) else "priority"
            plan.node(f"n{i}", x, y, kind)
    for i, j in sorted(links):
        wide = degree[i] >= 4 and degree[j] >= 3 or degree[j] >= 4 and degree[i] >= 3
        kmh = 50 if wide else rng.choice((30, 40, 40, 50))
        plan.road(f"n{i}", f"n{j}", 2 if wide and rng.random() < 0.5 else 1, kmh, rng.uniform(-0.08, 0.08))
    return plan


def _gabriel(points: list[Point], i: int, j: int) -> bool:
    (ax, ay), (bx, by) = points[i], points[j]
    middle, radius = ((ax + bx) / 2, (ay + by) / 2), math.dist(points[i], points[j]) / 2
    return all(math.dist(middle, p) >= radius for k, p in enumerate(points) if k not in (i, j))


def _without_forks(points: list[Point], links: set[tuple[int, int]], least_deg: float = 58) -> set[tuple[int, int]]:
    """Drop the longer of two roads that leave a junction at a sharp angle; at most four roads meet."""
    keep: set[tuple[int, int]] = set()
    arms: dict[int, list[float]] = {i: [] for i in range(len(points))}
    for i, j in sorted(links, key=lambda link: math.dist(points[link[0]], points[link[1]])):
        angle = math.atan2(points[j][1] - points[i][1], points[j][0] - points[i][0])
        ends = ((i, angle), (j, angle + math.pi))
        if all(
            len(arms[k]) < 4 and all(abs(math.remainder(a - b, 2 * math.pi)) > math.radians(least_deg) for b in arms[k])
            for k, a in ends
        ):
            keep.add((i, j))
            for k, a in ends:
                arms[k].append(a)
    return keep


def _straightened(points: list[Point], links: set[tuple[int, int]]) -> list[Point]:
    """Junctions of three roads moved towards the line between the two most opposite: through-roads bend less there."""
    out = list(points)
    for i, (x, y) in enumerate(points):
        ends = [points[b if a == i else a] for a, b in sorted(links) if i in (a, b)]
        if len(ends) != 3:
            continue

        def bend(pair: tuple[Point, Point], x: float = x, y: float = y) -> float:
            one, two = (math.atan2(q[1] - y, q[0] - x) for q in pair)
            return abs(abs(math.remainder(one - two, 2 * math.pi)) - math.pi)

        a, b = min(itertools.combinations(ends, 2), key=bend)
        share = ((x - a[0]) * (b[0] - a[0]) + (y - a[1]) * (b[1] - a[1])) / math.dist(a, b) ** 2
        foot = (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]))
        out[i] = (x + 0.7 * (foot[0] - x), y + 0.7 * (foot[1] - y))
    return out


def maple() -> Plan:
    """Held-out town: a winding riverside road, a broad diagonal-ish avenue, an old quarter with narrow streets."""
    plan = Plan()
    for name, x, y, kind in (
        ("w1", -270, -120, "priority"), ("w2", -255, 20, "traffic_light"), ("w3", -225, 150, "priority"),
        ("m0", -130, -175, "priority"), ("m1", -120, -70, "traffic_light"), ("m2", -110, 45, "traffic_light"),
        ("m3", -95, 165, "priority"), ("p0", 15, -150, "traffic_light"), ("p1", 5, -45, "right_before_left"),
        ("p2", 20, 60, "traffic_light"), ("p3", 40, 170, "priority"), ("q0", 150, -165, "priority"),
        ("q1", 140, -50, "priority"), ("q2", 155, 75, "traffic_light"), ("q3", 170, 185, "priority"),
        ("e1", 270, -80, "priority"), ("e2", 285, 60, "priority"),
    ):  # fmt: skip
        plan.node(name, x, y, kind)
    for a, b, lanes, kmh, bend in (
        ("w2", "m2", 2, 50, 0.08), ("m2", "p2", 2, 50, -0.1), ("p2", "q2", 2, 50, 0.09), ("q2", "e2", 2, 50, -0.06),
        ("m1", "m2", 1, 40, 0.06), ("m0", "m1", 1, 40, -0.1), ("m2", "m3", 1, 40, 0.12),
        ("p0", "p1", 1, 30, -0.1), ("p1", "p2", 1, 30, 0.08), ("p2", "p3", 1, 40, -0.12),
        ("m1", "p1", 1, 30, 0.12), ("p1", "q1", 1, 30, -0.14), ("q1", "q2", 1, 40, 0.1), ("q0", "q1", 1, 40, 0.07),
        ("q2", "q3", 1, 40, -0.1), ("m0", "p0", 1, 50, 0.14), ("p0", "q0", 1, 50, -0.12), ("w1", "m1", 1, 40, 0.1),
        ("w1", "w2", 1, 50, -0.03), ("w2", "w3", 1, 50, 0.1), ("m3", "p3", 1, 50, -0.1), ("w3", "m3", 1, 50, 0.16),
        ("p3", "q3", 1, 50, 0.13), ("q1", "e1", 1, 40, 0.1), ("e1", "e2", 1, 50, -0.14),
    ):  # fmt: skip
        plan.road(a, b, lanes, kmh, bend)
    plan.road("w1", "m0", 1, 50, via=(-268, -190))
    plan.road("q0", "e1", 1, 50, via=(265, -180))
    plan.road("q3", "e2", 1, 50, via=(295, 180))
    return plan


def oak() -> Plan:
    """Held-out town: two roundabouts, a skewed junction of five roads, a sharp fork, a street of S-curves.

    None of these is found in a training town.
    """
    plan = Plan()
    plan.roundabout("a", 0, 0, 20, {"e": 4, "n": 92, "w": 184, "s": 272})
    plan.roundabout("b", 238, 20, 18, {"n": 84, "w": 187, "s": 268})
    for name, x, y, kind in (
        ("f", -200, 5, "traffic_light"), ("n1", -245, 185, "traffic_light"), ("n2", 5, 190, "traffic_light"),
        ("n3", 250, 180, "traffic_light"), ("w1", -330, 55, "priority"), ("s1", -245, -180, "traffic_light"),
        ("y", -30, -150, "priority"), ("t", 95, -160, "priority"), ("e1", 235, -165, "traffic_light"),
    ):  # fmt: skip
        plan.node(name, x, y, kind)
    plan.road("n1", "n2", 2, 50, 0.05)
    plan.road("n2", "n3", 2, 50, -0.06)
    plan.road("an", "n2", 1, 40, -0.1)
    plan.road("f", "aw", 1, 50, 0.08)
    plan.road("ae", "bw", 1, 50, -0.1)
    plan.road("bn", "n3", 1, 40, 0.06)
    plan.road("bs", "e1", 1, 40, 0.1)
    plan.road("f", "n1", 1, 40, -0.08)
    plan.road("f", "w1", 1, 40, 0.06)
    plan.road("f", "s1", 1, 40, 0.06)
    plan.road("f", "y", 1, 40, via=(-140, -105))
    plan.road("w1", "n1", 1, 50, via=(-335, 150))
    plan.road("w1", "s1", 1, 50, via=(-345, -130))
    plan.winding("s1", "y", 30, (-212, -178), (-188, -232), (-142, -228), (-118, -158), (-82, -152))
    plan.forbid("f", "y", "s1")
    plan.road("y", "t", 1, 40, -0.08)
    plan.road("as", "t", 1, 40, via=(8, -120))
    plan.road("t", "e1", 1, 50, 0.08)
    plan.winding("e1", "n3", 50, (340, -165), (350, 20), (345, 175))
    return plan


TOWNS = {"elm": elm, "birch": birch, "cedar": cedar, "maple": maple, "oak": oak}


def build(name: str, folder: Path) -> Path:
    """Write `<folder>/<name>.net.xml.gz` and return it.

    Raises:
        SystemExit: eclipse-sumo is not installed, or netconvert refused the town.
    """
    try:
        import sumo  # the eclipse-sumo wheel
    except ImportError as error:
        raise SystemExit("make_towns needs netconvert: pip install eclipse-sumo==1.28.0") from error
    home = Path(sumo.SUMO_HOME)
    with tempfile.TemporaryDirectory() as scratch:
        nodes, edges, links, net = (Path(scratch) / f"{name}.{kind}.xml" for kind in ("nod", "edg", "con", "net"))
        for path, text in zip((nodes, edges, links), TOWNS[name]().xml(), strict=True):
            path.write_text(text)
        files = ["-n", str(nodes), "-e", str(edges), "-x", str(links), "-o", str(net)]
        command = [str(home / "bin" / "netconvert"), *files]
        for option, value in NETCONVERT_OPTIONS.items():
            command += [f"--{option}", value]
        environment = {**os.environ, "SUMO_HOME": str(home)}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"netconvert failed on {name}:\n{done.stderr}")
        warnings = [line for line in done.stderr.splitlines() if line.strip()]
        text = re.sub(r"<!--.*?-->\s*", "", net.read_text(), flags=re.DOTALL)
    target = folder / f"{name}.net.xml.gz"
    unfinished = target.with_suffix(".partial")
    unfinished.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    unfinished.rename(target)
    print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB" + "".join(f"\n  {line}" for line in warnings))
    return target


def main() -> None:
    folder = HERE / "towns"
    folder.mkdir(exist_ok=True)
    for name in sys.argv[1:] or TOWNS:
        build(name, folder)


if __name__ == "__main__":
    main()

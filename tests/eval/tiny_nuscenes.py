"""A nuScenes-format data set of one short scene, written from formulas: a car on a bend among three others.

Layout and keys are those that the devkit asks for; pictures are tiny, with the calibration to match.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SCENE = "scene-0061"
BEGIN_US = 1_600_000_000_000_000
LIDAR = ((0.94, 0.0, 1.84), (math.sqrt(0.5), 0.0, 0.0, -math.sqrt(0.5)))
WIDTH, HEIGHT = 160, 90
CAMERAS = {"CAM_FRONT": 0.0, "CAM_FRONT_LEFT": 55.0, "CAM_FRONT_RIGHT": -55.0}


def circle(speed: float = 6.0, radius: float = 60.0) -> Callable[[float], tuple[float, float, float]]:
    """Ego pose (x, y, yaw) by time: a left bend."""
    return lambda t: (
        100 + radius * math.sin(speed * t / radius),
        200 + radius * (1 - math.cos(speed * t / radius)),
        speed * t / radius,
    )


def write(
    root: Path,
    ego: Callable[[float], tuple[float, float, float]] | None = None,
    agents: Callable[[float], list[tuple[str, float, float, float, str, int]]] = lambda t: [],
    samples: int = 18,
    speed: float = 6.0,
    can_from_s: float = 0.0,
    version: str = "v1.0-mini",
) -> Path:
    """Write the data set.

    Args:
        ego: time s -> x, y, yaw in the world.
        agents: time s -> (category, x, y, yaw, visibility token, lidar points) of each, always the same list of agents;
            a category "" leaves one out at that time.
        can_from_s: when the CAN bus begins.
    """
    ego = ego or circle(speed)
    times = [0.5 * k for k in range(samples)]
    tables: dict[str, list[dict]] = {name: [] for name in (
        "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene",
        "sample", "sample_data", "sample_annotation", "map")}  # fmt: skip
    names = sorted({a[0] for t in times for a in agents(t) if a[0]} | {"vehicle.car"})
    tables["category"] = [{"token": n, "name": n, "description": ""} for n in names]
    tables["visibility"] = [{"token": str(k), "level": f"v{k}", "description": ""} for k in range(1, 5)]
    tables["log"] = [{"token": "log", "logfile": "", "vehicle": "", "date_captured": "", "location": "boston-seaport"}]
    tables["map"] = [{"token": "map", "category": "semantic_prior", "filename": "maps/m.png", "log_tokens": ["log"]}]
    tables["scene"] = [{"token": "scene", "name": SCENE, "description": "", "log_token": "log", "nbr_samples": samples,
                        "first_sample_token": "s0", "last_sample_token": f"s{samples - 1}"}]  # fmt: skip
    _sensors(tables)
    ticks = [0.1 * k for k in range(5 * samples - 4)]
    for t in ticks:
        x, y, yaw = ego(t)
        tables["ego_pose"].append({"token": f"e{round(10 * t)}", "timestamp": _us(t), "translation": [x, y, 0.0],
                                   "rotation": [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]})  # fmt: skip
    for k, t in enumerate(times):
        before, after = f"s{k - 1}" if k else "", f"s{k + 1}" if k + 1 < samples else ""
        tables["sample"].append(
            {"token": f"s{k}", "timestamp": _us(t), "scene_token": "scene", "prev": before, "next": after}
        )
    for channel in ("LIDAR_TOP", *CAMERAS):
        for i, t in enumerate(ticks):
            key = i % 5 == 0
            name = f"{'samples' if key else 'sweeps'}/{channel}/{i}.{'jpg' if channel in CAMERAS else 'pcd.bin'}"
            tables["sample_data"].append({
                "token": f"{channel}{i}", "sample_token": f"s{min((i + 2) // 5, samples - 1)}", "timestamp": _us(t),
                "ego_pose_token": f"e{i}", "calibrated_sensor_token": f"c{channel}", "is_key_frame": key,
                "fileformat": "jpg" if channel in CAMERAS else "pcd", "height": HEIGHT, "width": WIDTH,
                "filename": name, "prev": f"{channel}{i - 1}" if i else "",
                "next": f"{channel}{i + 1}" if i + 1 < len(ticks) else "",
            })  # fmt: skip
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if channel in CAMERAS:
                _picture(i).save(root / name, quality=60)
            else:
                np.zeros((4, 5), np.float32).tofile(root / name)
    _annotations(tables, times, agents)
    for name, rows in tables.items():
        _json(root / version / f"{name}.json", rows)
    (root / "maps").mkdir(exist_ok=True)
    Image.new("L", (20, 20), 128).save(root / "maps" / "m.png")
    poses = []
    for k in range(int(50 * can_from_s), int(50 * times[-1]) + 6):
        t = k / 50
        x, y, yaw = ego(t)
        turn = (ego(t + 1e-3)[2] - ego(t - 1e-3)[2]) / 2e-3
        turned = [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]
        poses.append({"utime": _us(t), "pos": [x, y, 0.0], "vel": [speed, 0, 0], "accel": [0.0, 0, 9.8],
                      "orientation": turned, "rotation_rate": [0, 0, turn]})  # fmt: skip
    _json(root / "can_bus" / f"{SCENE}_pose.json", poses)
    return root


def _sensors(tables: dict[str, list[dict]]) -> None:
    place, rotation = LIDAR
    tables["sensor"] = [{"token": n, "channel": n, "modality": "camera" if n in CAMERAS else "lidar"}
                        for n in ("LIDAR_TOP", *CAMERAS)]  # fmt: skip
    tables["calibrated_sensor"] = [{"token": "cLIDAR_TOP", "sensor_token": "LIDAR_TOP", "translation": list(place),
                                    "rotation": list(rotation), "camera_intrinsic": []}]  # fmt: skip
    for name, degrees in CAMERAS.items():
        half = math.radians(degrees) / 2
        w, z = math.cos(half), math.sin(half)  # turned left by `degrees`, then to the optical frame
        a = 0.5
        tables["calibrated_sensor"].append({
            "token": f"c{name}", "sensor_token": name, "translation": [1.7, 0.0, 1.5],
            "rotation": [a * w + a * z, -a * w - a * z, a * w - a * z, -a * w + a * z],
            "camera_intrinsic": [[126.6, 0, WIDTH / 2], [0, 126.6, HEIGHT / 2], [0, 0, 1]],
        })  # fmt: skip


def _annotations(tables: dict[str, list[dict]], times: list[float], agents: Callable) -> None:
    tokens: dict[int, list[str]] = {}
    for k, t in enumerate(times):
        for i, (category, x, y, yaw, visibility, points) in enumerate(agents(t)):
            if not category:
                continue
            tokens.setdefault(i, []).append(f"a{i}.{k}")
            tables["sample_annotation"].append({
                "token": f"a{i}.{k}", "sample_token": f"s{k}", "instance_token": f"i{i}", "attribute_tokens": [],
                "visibility_token": visibility, "translation": [x, y, 0.8], "size": [1.9, 4.5, 1.6],
                "rotation": [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)], "num_lidar_pts": points,
                "num_radar_pts": 0, "prev": "", "next": "", "_category": category,
            })  # fmt: skip
    held = {row["token"]: row for row in tables["sample_annotation"]}
    for i, chain in tokens.items():
        for before, after in zip(chain, chain[1:], strict=False):
            if int(after.split(".")[1]) - int(before.split(".")[1]) == 1:
                held[before]["next"], held[after]["prev"] = after, before
        tables["instance"].append({"token": f"i{i}", "category_token": held[chain[0]]["_category"],
                                   "nbr_annotations": len(chain), "first_annotation_token": chain[0],
                                   "last_annotation_token": chain[-1]})  # fmt: skip
    for row in tables["sample_annotation"]:
        del row["_category"]


def _picture(i: int) -> Image.Image:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    grey = (40 + 2 * rows + (columns + 7 * i) % 60).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([grey, grey // 2 + 40, 255 - grey], -1))


def _us(t: float) -> int:
    return BEGIN_US + round(1e6 * t)


def _json(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))

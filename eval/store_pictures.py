"""The pictures of a step log: what `eval/store.py` writes as `frames.npz`, one JPEG per picture, joined per camera."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from efficientgen.eval.step_log import Step
from efficientgen.perception.types import CameraFrame, SensorFrames

JPEG_QUALITY = 90


def pack_frames(steps: Iterable[Step]) -> dict[str, np.ndarray]:
    """The pictures of the steps that kept theirs, as arrays."""
    from PIL import Image  # a picture library, only for drives that kept pictures

    out: dict[str, np.ndarray] = {}
    cameras: dict[str, list[tuple[int, CameraFrame]]] = {}
    stamps: list[tuple[int, int]] = []
    for i, step in enumerate(steps):
        if step.frames is None:
            continue
        stamps.extend((i, stamp) for stamp in step.frames.stamps_ns)
        for name, sequence in step.frames.cameras.items():
            cameras.setdefault(name, []).extend((i, frame) for frame in sequence)
    out["stamps"] = np.array(stamps, np.int64).reshape(len(stamps), 2)
    for name, held in cameras.items():
        blobs = []
        for _, frame in held:
            buffer = io.BytesIO()
            Image.fromarray(frame.image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
            blobs.append(buffer.getvalue())
        out[f"{name}/jpeg"] = np.frombuffer(b"".join(blobs), np.uint8)
        out[f"{name}/offsets"] = np.cumsum([0, *map(len, blobs)]).astype(np.int64)
        out[f"{name}/step_stamp"] = np.array([(i, frame.stamp_ns) for i, frame in held], np.int64)
        out[f"{name}/intrinsics"] = np.array([frame.intrinsics for _, frame in held])
        out[f"{name}/camera_to_ego"] = np.array([frame.camera_to_ego for _, frame in held])
    return out


def unpack_frames(path: Path, steps: int) -> list[SensorFrames | None]:
    """The pictures of each of `steps` steps, None where a step kept none."""
    from PIL import Image

    cameras: list[dict[str, list[CameraFrame]]] = [{} for _ in range(steps)]
    stamps: list[list[int]] = [[] for _ in range(steps)]
    with np.load(path) as held:
        for i, stamp in held["stamps"].tolist():
            stamps[i].append(stamp)
        for name in [key.removesuffix("/jpeg") for key in held.files if key.endswith("/jpeg")]:
            blob, offsets = held[f"{name}/jpeg"].tobytes(), held[f"{name}/offsets"].tolist()
            intrinsics, mounts = held[f"{name}/intrinsics"], held[f"{name}/camera_to_ego"]
            for k, (i, stamp) in enumerate(held[f"{name}/step_stamp"].tolist()):
                image = np.asarray(Image.open(io.BytesIO(blob[offsets[k] : offsets[k + 1]])).convert("RGB"))
                cameras[i].setdefault(name, []).append(CameraFrame(name, stamp, image, intrinsics[k], mounts[k]))
    return [
        SensorFrames(tuple(stamps[i]), {name: tuple(seq) for name, seq in cameras[i].items()}) if stamps[i] else None
        for i in range(steps)
    ]

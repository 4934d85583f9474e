"""Imagined pictures beside what the reference world would have shown: computed after a drive, from its log alone.

The log holds the imagined pictures and the oracle's ticks; the reference world draws the same moments again.  Nobody
who drove has seen these pictures.  The result is how alike both are over time, and a strip of moments to look at.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from efficientgen.eval.canvas import INK, NIGHT, font
from efficientgen.eval.step_log import StepLog
from efficientgen.perception.rig import NANO_RIG, Camera
from efficientgen.perception.types import NS, U8, OracleFrame
from efficientgen.worldsim.worlds import REFERENCE

MOMENTS = 6
SECONDS = (1.2, 5.2, 20.0)  # after the first picture
AROUND_S = 0.9  # moments so near to these count
LABEL_PX = 20


@dataclass(frozen=True)
class Beside:
    """`times_s` (N,) after the first picture, `psnr_db` and `ssim` (N,) averaged over cameras, and a JPEG strip."""

    times_s: np.ndarray
    psnr_db: np.ndarray
    ssim: np.ndarray
    strip: bytes

    @property
    def figures(self) -> dict[str, Any]:
        """For a log's notes."""
        if not len(self.times_s):
            return {"pictures": 0}
        out: dict[str, Any] = {"pictures": len(self.times_s), "psnr_db": round(float(self.psnr_db.mean()), 2),
                               "ssim": round(float(self.ssim.mean()), 3)}  # fmt: skip
        for seconds in SECONDS:
            near = np.abs(self.times_s - seconds) < AROUND_S
            if near.any():
                out[f"at_{seconds:g}_s"] = [round(float(self.psnr_db[near].mean()), 2),
                                            round(float(self.ssim[near].mean()), 3)]  # fmt: skip
        return out


def beside(log: StepLog, rig: tuple[Camera, ...] = NANO_RIG, every: int = 2) -> Beside | None:
    """The log's pictures against the reference world's, at every `every`-th plan stamp; None: it kept none of the rig.

    The first picture is the recording itself and is left out.
    """
    moments = [(frame, pictures) for step in log.steps for frame, pictures in _moments(step, rig)]
    if len(moments) < 2:
        return None
    import torch

    from efficientgen.eval.world_pictures import psnr, ssim
    from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D

    world = ReferenceWorld(rig)
    world.reset(log.town, log.start.weather, log.seed)
    try:
        dreamed = moments[1::every]
        real = [world.render(frame) for frame, _ in dreamed]
    finally:
        world.close()
    a, b = (torch.from_numpy(np.stack(pictures)) for pictures in ([p for _, p in dreamed], real))
    times = np.array([(frame.stamp_ns - moments[0][0].stamp_ns) / NS for frame, _ in dreamed])
    like = torch.cat([ssim(x, y).mean(-1) for x, y in zip(a.split(16), b.split(16), strict=True)])
    return Beside(times, psnr(a, b).mean(-1).numpy(), like.numpy(), _strip(times, [p for _, p in dreamed], real))


def compared(log: StepLog, world: str) -> tuple[StepLog, str]:
    """A drive in an imagined world with the figures in its notes, and the report's section; as it is in the reference.

    Also as it is where the log kept no pictures of the nano rig, as with one camera of another size.
    """
    found = None if world == REFERENCE else beside(log)
    if found is None:
        return log, ""
    return replace(log, notes=log.notes | {"beside_reference": found.figures}), section(found, world)


def section(found: Beside, world: str) -> str:
    """HTML for the report: the strip and the figures."""
    told = found.figures
    at = "; ".join(f"{s:g} s in: {told[f'at_{s:g}_s'][0]:.1f} dB, SSIM {told[f'at_{s:g}_s'][1]:.2f}"
                   for s in SECONDS if f"at_{s:g}_s" in told)  # fmt: skip
    picture = b64encode(found.strip).decode()
    return (
        f'<h4>Imagined beside reference</h4><p class="muted">Rows of {world} (what the planner saw) over what the '
        f"reference world shows of the same oracle; the latter was drawn after the drive, for this page only. "
        f"Over the drive {told['psnr_db']:.1f} dB, SSIM {told['ssim']:.2f}{'; ' + at if at else ''}.</p>"
        f'<img alt="imagined and reference pictures" style="width:100%" src="data:image/jpeg;base64,{picture}">'
    )


def _moments(step: Any, rig: tuple[Camera, ...]) -> list[tuple[OracleFrame, U8]]:
    """The ticks of a step of which all cameras of the rig have a picture, with those (n_cams, H, W, 3)."""
    cameras = step.frames.cameras if step.frames is not None else {}
    if any(camera.name not in cameras for camera in rig):
        return []
    by_stamp = [{frame.stamp_ns: frame.image for frame in cameras[camera.name]} for camera in rig]
    return [(tick, np.stack([held[tick.stamp_ns] for held in by_stamp]))
            for tick in step.ticks if all(tick.stamp_ns in held for held in by_stamp)]  # fmt: skip


def _strip(times: np.ndarray, dreamed: Sequence[U8], real: Sequence[U8]) -> bytes:
    from PIL import Image, ImageDraw

    picks = np.unique(np.linspace(0, len(times) - 1, MOMENTS).round().astype(int))
    rows = []
    for k in picks:
        label = Image.new("RGB", (sum(p.shape[1] for p in dreamed[k]), LABEL_PX), NIGHT)
        ImageDraw.Draw(label).text((4, 2), f"{times[k]:.1f} s: imagined, reference", INK, font(13))
        rows += [np.asarray(label), np.concatenate(list(dreamed[k]), 1), np.concatenate(list(real[k]), 1)]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(out, "JPEG", quality=80)
    return out.getvalue()

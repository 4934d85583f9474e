"""The recording of another car shows the same town: rectified, it is what the planner's own camera would have seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("libsumo")
pytest.importorskip("panda3d")

from efficientgen.eval import foreign_bag
from efficientgen.eval.bag_replay import replay
from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import all_ticks
from efficientgen.perception.rectify import Lens
from efficientgen.perception.rig import NANO_RIG
from efficientgen.worldsim.reference.world import ReferenceWorld
from efficientgen.worldsim.scenario import load_scenario
from tests.eval.foreign import Watcher


def small(lens: Lens) -> Lens:
    """The lens with a quarter of the pixels in each direction."""
    shrunk = {name: getattr(lens, name) / 4 for name in ("fx", "fy")}
    centre = {name: (getattr(lens, name) + 0.5) / 4 - 0.5 for name in ("cx", "cy")}
    return replace(lens, width=320, height=180, **shrunk, **centre)


@pytest.mark.slow
def test_the_planner_sees_the_town_through_foreign_cameras(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_bag, "RENDERED", (420, 240, 180.0))
    cameras = tuple(replace(camera, lens=small(camera.lens)) for camera in foreign_bag.CAR)
    monkeypatch.setattr(foreign_bag, "CAR", cameras)
    short = replace(load_scenario("maple_right"), duration_s=4.8)
    log = drive(short, 3, "expert")
    monkeypatch.setattr(foreign_bag, "drive", lambda *_: log)
    bag, rig = foreign_bag.make_foreign_bag(tmp_path, short, 3, "sqlite3")
    watcher = Watcher()
    made = replay(bag, rig, watcher, tmp_path / "out")
    assert made.summary["planned"] >= 1 and not made.summary["skipped"]
    observation = watcher.seen[0]

    world = ReferenceWorld(tuple(replace(c, mount=f.mount) for c, f in zip(NANO_RIG, cameras, strict=True)))
    world.reset(log.start.town, log.start.weather, 3)
    ticks = all_ticks(log)
    try:
        for k, camera in enumerate(cameras):
            at = observation.stamp_ns + made.summary["origin_ns"] - foreign_bag.EPOCH_NS - camera.early_ns
            wanted = world.render(foreign_bag.frame_at(ticks, at))[k].astype(float)
            seen = observation.cameras[camera.planner_name][-1].image.astype(float)
            lit = seen.any(-1)
            assert lit.mean() > 0.97
            apart = np.abs(seen - wanted)[lit]
            elsewhere = np.abs(np.roll(seen, 6, 1) - wanted)[lit]
            assert apart.mean() < 7.0 and apart.mean() < 0.4 * elsewhere.mean(), "leaves and edges aside, the same"
    finally:
        world.close()

"""Pictures shrunk by matrix products: the bytes that Pillow gives, and the patches that a CPU makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from efficientgen.eval.bench_observations import enlarged
from efficientgen.perception.patches import grid_of, patchify
from efficientgen.perception.resize import resize
from efficientgen.perception.resize_device import resampled, weights
from efficientgen.planning.views import VIEWS, View, patches_on, pictures
from tests.planning.conftest import random_observation

SIZES = [((1079, 972), (448, 420)), ((90, 160), (252, 448)), ((64, 500), (84, 28)), ((112, 140), (112, 56)),
         ((30, 28), (56, 28)), ((17, 3), (28, 28))]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_bytes_are_pillows(old: tuple[int, int], new: tuple[int, int]):
    """Noise of full contrast, where bicubic overshoots at both ends."""
    rng = np.random.default_rng(sum(old))
    images = rng.choice(np.array([0, 1, 127, 254, 255], np.uint8), (2, *old, 3))
    ours = resampled(torch.from_numpy(images), *new).numpy()
    for image, each in zip(images, ours, strict=True):
        np.testing.assert_array_equal(each, resize(image, *new))


def test_weights_of_a_pixel_sum_to_one():
    for old, new in ((972, 420), (10, 30), (5, 5)):
        assert np.abs(weights(old, new).sum(1) / 2**22 - 1).max() < 1e-5


@pytest.mark.parametrize("name", ["nano", "wod-e2e", "nuscenes"])
def test_patches_are_those_of_the_pictures(name: str):
    """Resized or as they are, pairs in time or one frame twice."""
    view, seen = _view(name), random_observation(1)
    if not view.paired:
        seen = enlarged(_with_past(seen, view), 130, 190)
    ours, grids = patches_on(view, seen, torch.device("cpu"))
    images = pictures(view, seen)
    theirs = torch.cat([patchify(torch.from_numpy(image)[None]) for image in images], 1)
    assert grids == tuple(grid_of(*image.shape[1:3]) for image in images)
    assert torch.equal(ours, theirs)


def test_cameras_may_differ_in_size():
    view, seen = _view("wod-e2e"), random_observation(1)
    other = enlarged(seen, 200, 100)
    seen = replace(
        enlarged(seen, 130, 190), cameras={**enlarged(seen, 130, 190).cameras, "FRONT": other.cameras["FRONT"]}
    )
    ours, grids = patches_on(view, seen, torch.device("cpu"))
    theirs = torch.cat([patchify(torch.from_numpy(image)[None]) for image in pictures(view, seen)], 1)
    assert len(set(grids)) == 2 and torch.equal(ours, theirs)


def test_enlarged_pictures_lie_in_memory_as_a_cameras():
    images = [frame.image for frames in enlarged(random_observation(1), 130, 190).cameras.values() for frame in frames]
    assert all(image.flags.c_contiguous and image.shape == (130, 190, 3) for image in images)


def _view(name: str) -> View:
    return next(view for schema, view in VIEWS.items() if schema.startswith(name))


def _with_past(seen, view: View):
    """As many frames of each camera as the view looks at."""
    return replace(seen, cameras={n: (frames * view.frames)[-view.frames :] for n, frames in seen.cameras.items()})

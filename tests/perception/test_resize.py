"""Picture sizes, resampling, normalisation and patch order against transformers' own Qwen2-VL processor."""

import numpy as np
import pytest
import torch

from efficientgen.perception.patches import ImageSizeError, grid_of, patchify
from efficientgen.perception.resize import RELEASED_PIXELS, resize, smart_size

transformers = pytest.importorskip("transformers")
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as reference  # noqa: E402


def test_the_release_sees_240_tokens_of_a_wod_e2e_picture():
    """The grid that the release's processor gives: (1, 32, 30) for a front picture of 972 x 1079 px."""
    height, width = smart_size(1079, 972, RELEASED_PIXELS, RELEASED_PIXELS)
    assert grid_of(height, width) == (1, 32, 30) and 32 * 30 // 4 == 240


def test_sizes_are_the_processors():
    rng = np.random.default_rng(0)
    for _ in range(400):
        height, width = (int(v) for v in rng.integers(8, 4000, 2))
        low = int(rng.integers(784, 400_000))
        high = low + int(rng.integers(0, 2_000_000))
        if max(height, width) > 200 * min(height, width):
            continue
        theirs = reference.smart_resize(height, width, factor=28, min_pixels=low, max_pixels=high)
        assert smart_size(height, width, low, high) == tuple(theirs), (height, width, low, high)


@pytest.mark.parametrize(("height", "width"), [(112, 224), (900, 1600), (1079, 972), (64, 500)])
def test_patches_are_the_processors(height, width):
    processor = reference.Qwen2VLImageProcessorPil(min_pixels=RELEASED_PIXELS, max_pixels=RELEASED_PIXELS)
    image = np.random.default_rng(height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    theirs = processor(images=[image], return_tensors="np")
    sized = resize(image, *smart_size(height, width, RELEASED_PIXELS, RELEASED_PIXELS))
    ours = patchify(torch.from_numpy(np.stack([sized, sized]))[None])[0]
    assert grid_of(*sized.shape[:2]) == tuple(theirs["image_grid_thw"][0].tolist())
    np.testing.assert_allclose(ours.numpy(), np.asarray(theirs["pixel_values"]), atol=1e-5)


def test_a_picture_of_the_right_size_is_not_touched():
    image = np.zeros((28, 56, 3), np.uint8)
    assert resize(image, 28, 56) is image


@pytest.mark.parametrize(("height", "width"), [(0, 100), (100, 0), (-1, 5), (1, 201)])
def test_pictures_of_no_use_are_refused(height, width):
    with pytest.raises(ImageSizeError, match="px"):
        smart_size(height, width, RELEASED_PIXELS, RELEASED_PIXELS)

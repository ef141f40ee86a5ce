# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Images are resized as qwen_vl_utils reads them in training, and rejected if a training could not read them."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from prepare_fixtures import BROKEN, FADED, GRAY, HUGE, TINY, photo, stored
from qwen_vl_utils import fetch_image
from qwen_vl_utils.vision_process import to_rgb as their_to_rgb

from verl_durian.prepare.base import EVALUATION, TRAINING, Dropped
from verl_durian.prepare.images import MAX_RATIO, fit, fitted_size, to_rgb

SIDES = st.integers(1, 20_000)
RANGES = st.sampled_from([TRAINING, EVALUATION])


@given(SIDES, SIDES, RANGES)
def test_sizes_are_in_the_range_and_keep_their_aspect_ratio(width, height, pixels):
    fitted = fitted_size(width, height, pixels)
    if max(width, height) <= MAX_RATIO * min(width, height):
        assert pixels.least <= fitted[0] * fitted[1] <= pixels.most
    # Each side is off by less than one pixel from a side of the same ratio.
    scale = np.sqrt(fitted[0] * fitted[1] / (width * height))
    assert abs(fitted[0] - width * scale) < 1 + width / height and abs(fitted[1] - height * scale) < 1 + height / width
    assert fitted_size(*fitted, pixels) == fitted or max(fitted) > MAX_RATIO * min(fitted)


@given(SIDES, SIDES, RANGES)
def test_sizes_within_the_range_are_kept(width, height, pixels):
    inside = pixels.least <= width * height <= pixels.most
    assert (fitted_size(width, height, pixels) == (width, height)) == inside or min(width, height) == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_rgb_is_that_of_qwen_vl_utils(mode):
    picture = Image.open(BytesIO(FADED["bytes"]))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 256)
    else:
        picture = (picture if mode in ("RGBA", "LA") else picture.convert("RGB")).convert(mode)
    assert picture.mode == mode
    assert np.array_equal(np.asarray(to_rgb(picture)), np.asarray(their_to_rgb(picture)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_images_within_the_range_are_unchanged(form):
    content = stored(photo("coffee", (600, 500)), form)["bytes"]
    assert fit(content, TRAINING) is content
    assert fit(GRAY["bytes"], EVALUATION) is GRAY["bytes"]


@pytest.mark.parametrize(
    ("image", "pixels", "size"),
    [
        (TINY, TRAINING, (592, 444)),
        (FADED, TRAINING, (628, 418)),
        (HUGE, TRAINING, (2289, 1831)),
        (HUGE, EVALUATION, (1118, 894)),
    ],
)
def test_other_images_are_resized(image, pixels, size):
    resized = Image.open(BytesIO(fit(image["bytes"], pixels)))
    assert (resized.format, resized.mode, resized.size) == ("PNG", "RGB", size)
    seen = their_to_rgb(Image.open(BytesIO(image["bytes"])))
    assert np.array_equal(np.asarray(resized), np.asarray(seen.resize(size)))
    assert fit(fit(image["bytes"], pixels), pixels) == fit(image["bytes"], pixels)
    fetch_image({"image": resized})  # a training can read it


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (BROKEN["bytes"], "not in an image format"),
        (b"<svg></svg>", "not in an image format"),
        (HUGE["bytes"][:5000], "OSError"),
        (stored(Image.new("1", (20_000, 20_000)))["bytes"], "DecompressionBombError"),
        (stored(Image.new("RGB", (3000, 4)))["bytes"], "ratio above 200: 3000 x 4"),
        # Below 200 as it is, above once its short side is rounded down.
        (stored(Image.new("1", (59_970, 300)))["bytes"], "ratio above 200: 59970 x 300"),
    ],
)
def test_images_that_training_cannot_read_are_dropped(content, problem):
    with pytest.raises(Dropped, match=problem):
        fit(content, TRAINING)

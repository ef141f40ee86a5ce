# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Images are resized as qwen_vl_utils reads them, dropped if training cannot read them, and placed in the question."""

import re
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prepare_fixtures import BROKEN, FADED, GRAY, HUGE, TINY, photo, stored
from qwen_vl_utils import fetch_image
from qwen_vl_utils.vision_process import to_rgb as their_to_rgb

from verl_durian.prepare.base import EVALUATION, TRAINING, Dropped
from verl_durian.prepare.images import MAX_RATIO, fit, fitted_size, place_images


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from([TRAINING, EVALUATION]))
def test_sizes_are_in_the_range_and_keep_their_aspect_ratio(width, height, pixels):
    fitted = fitted_size(width, height, pixels)
    if max(width, height) <= MAX_RATIO * min(width, height):
        assert pixels.least <= fitted[0] * fitted[1] <= pixels.most
    # Each side is off by less than one pixel from a side of the same ratio.
    scale = np.sqrt(fitted[0] * fitted[1] / (width * height))
    assert abs(fitted[0] - width * scale) < 1 + width / height and abs(fitted[1] - height * scale) < 1 + height / width
    assert fitted_size(*fitted, pixels) == fitted or max(fitted) > MAX_RATIO * min(fitted)
    inside = pixels.least <= width * height <= pixels.most
    assert (fitted == (width, height)) == inside or min(width, height) == 1


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_other_images_are_resized_as_qwen_vl_utils_sees_them(mode, monkeypatch):
    picture = photo((300, 200), "RGBA")
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 256)
    else:
        picture = (picture if mode in ("RGBA", "LA") else picture.convert("RGB")).convert(mode)
    assert picture.mode == mode
    monkeypatch.setattr(Image, "open", lambda content: picture)
    content = fit(b"", TRAINING)
    monkeypatch.undo()
    resized = Image.open(BytesIO(content))
    assert (resized.format, resized.mode) == ("PNG", "RGB")
    assert np.array_equal(np.asarray(resized), np.asarray(their_to_rgb(picture).resize(resized.size)))


@pytest.mark.parametrize(
    ("image", "pixels", "size"),
    [
        (TINY, TRAINING, (592, 444)),
        (FADED, TRAINING, (628, 418)),
        (HUGE, TRAINING, (2289, 1831)),
        (HUGE, EVALUATION, (1118, 894)),
        (GRAY, EVALUATION, (520, 512)),
        *((stored(photo((600, 500)), form), TRAINING, (600, 500)) for form in ("PNG", "JPEG", "WEBP", "GIF")),
    ],
)
def test_sizes_of_images(image, pixels, size):
    content = fit(image["bytes"], pixels)
    resized = Image.open(BytesIO(content))
    assert resized.size == size
    assert (content is image["bytes"]) == (Image.open(BytesIO(image["bytes"])).size == size)
    assert fit(content, pixels) is content
    fetch_image({"image": resized})  # a training can read it


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (BROKEN["bytes"], "not in an image format"),
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


@pytest.mark.parametrize(
    ("question", "images", "placed"),
    [
        ("Find x.", 1, "<image>Find x."),
        ("<image>Find x.", 1, "<image>Find x."),
        ("<image1> or <image2>?", 2, "<image> or <image>?"),
        ("Is <image1> here? <image1>", 1, "Is <image> here? <image1>"),
        ("<image>Which?", 2, "<image><image>Which?"),
        ("<image><image>Which?", 1, "<image>< image >Which?"),
        ("<video>Find <image>.", 1, "< video >Find <image>."),
        ("<audio>Find x.", 1, "<image>< audio >Find x."),
    ],
)
def test_marks_of_images(question, images, placed):
    assert place_images(question, images) == placed
    assert re.findall("<image>|<video>|<audio>", placed) == ["<image>"] * images  # where verl splits a prompt

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Images of a row: resized into the pixel range of the paper, and placed in the question.

The resizing is that of the paper's framework. verl has no option for it: qwen_vl_utils only rounds the sides of an
image to multiples of 28.
"""

import math
import re
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from verl_durian.prepare.base import Dropped, PixelRange

MAX_RATIO = 200
"""Largest aspect ratio that qwen_vl_utils accepts; an image above it would stop the training."""
IMAGE = "<image>"
_MARK = re.compile(r"<(image|video|audio)(\d*)>")


def fit(content: bytes, pixels: PixelRange) -> bytes:
    """Returns an image file within a pixel range: `content` itself, or a PNG of the resized RGB image.

    The aspect ratio changes only by rounding.

    Raises:
        Dropped: PIL cannot decode the file, or qwen_vl_utils would reject the aspect ratio.
    """
    try:
        image = Image.open(BytesIO(content))
        image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # its message is only a memory address
        raise Dropped("an image cannot be used", "not in an image format that PIL reads") from error
    except Exception as error:  # PIL's plugins raise many types for a broken file
        raise Dropped("an image cannot be used", f"{type(error).__name__}: {error}") from error
    size = fitted_size(*image.size, pixels)
    if max(size) > MAX_RATIO * min(size):
        raise Dropped("an image cannot be used", f"aspect ratio above {MAX_RATIO}: {image.width} x {image.height}")
    if size == image.size:
        return content
    if image.mode == "RGBA":  # as qwen_vl_utils, which would import torch into every worker
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(image, mask=image.getchannel("A"))
    else:
        rgb = image.convert("RGB")
    resized = BytesIO()
    rgb.resize(size, Image.Resampling.BICUBIC).save(resized, "PNG")
    return resized.getvalue()


def fitted_size(width: int, height: int, pixels: PixelRange) -> tuple[int, int]:
    """Returns width and height within the range: rounded up when the image grows, down when it shrinks."""
    grown, shrunk = (math.sqrt(limit / (width * height)) for limit in pixels)
    if grown > 1:
        return math.ceil(width * grown), math.ceil(height * grown)
    if shrunk < 1:
        return max(1, math.floor(width * shrunk)), max(1, math.floor(height * shrunk))
    return width, height


def place_images(question: str, images: int) -> str:
    """Places one `<image>` per image in a question, and removes other tags at which verl splits a prompt.

    The tags `<image>` and `<image1>` stand for the images in order. Images without a tag are placed at the front. Tags
    without an image become `< image >`; those with a number are kept, because verl does not split there.
    """

    def placed_mark(mark: re.Match[str]) -> str:
        nonlocal images
        kind, number = mark.groups()
        if kind == "image" and images:
            images -= 1
            return IMAGE
        return mark[0] if number else f"< {kind} >"

    placed = _MARK.sub(placed_mark, question)
    return IMAGE * images + placed

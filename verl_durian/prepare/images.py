# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Images of a row: resized into the pixel range of the paper, and placed in the question.

The resizing is that of the paper's framework. verl has no option for it: qwen_vl_utils only rounds the sides of an
image to multiples of 28.
"""

import math
import re
import warnings
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from verl_durian.prepare.base import Dropped, PixelRange

MAX_RATIO = 200
"""Largest ratio of the sides that qwen_vl_utils accepts; an image above it would stop a training."""
IMAGE = "<image>"
_MARK = re.compile(r"<(image|video|audio)(\d*)>")


def fit(content: bytes, pixels: PixelRange) -> bytes:
    """Resizes an image into a pixel range; the aspect ratio changes only by rounding.

    Args:
        content (bytes): An image file in any format that PIL reads.
        pixels (PixelRange): The range.

    Returns:
        bytes: `content` itself if the image is within the range, otherwise a PNG of the resized RGB image.

    Raises:
        Dropped: the file cannot be decoded, or qwen_vl_utils would reject the ratio of the sides.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # above 89 Mpixel; above 179 PIL raises
            image = Image.open(BytesIO(content))
            image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # its message contains nothing but a memory address
        raise Dropped("an image cannot be used", "not in an image format that PIL reads") from error
    except Exception as error:  # PIL's plugins raise many types for a broken file
        raise Dropped("an image cannot be used", f"{type(error).__name__}: {error}") from error
    size = fitted_size(*image.size, pixels)
    if max(size) > MAX_RATIO * min(size):
        raise Dropped("an image cannot be used", f"aspect ratio above {MAX_RATIO}: {image.width} x {image.height}")
    if size == image.size:
        return content
    resized = BytesIO()
    to_rgb(image).resize(size, Image.Resampling.BICUBIC).save(resized, "PNG")
    return resized.getvalue()


def fitted_size(width: int, height: int, pixels: PixelRange) -> tuple[int, int]:
    """Returns width and height within the range: rounded up when the image grows, down when it shrinks."""
    if width * height < pixels.least:
        scale = math.sqrt(pixels.least / (width * height))
        return math.ceil(width * scale), math.ceil(height * scale)
    if width * height > pixels.most:
        scale = math.sqrt(pixels.most / (width * height))
        return max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
    return width, height


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts to RGB as qwen_vl_utils does (RGBA on white), without importing torch into every worker."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def place_images(question: str, images: int) -> tuple[str, list[int]]:
    """Gives a question as many `<image>` as it has images, and no other mark at which verl splits a prompt.

    The first mark stands for the first image, `<image2>` for the second. Images without a mark are placed at the front,
    or after the last mark if they follow the first image that has one. A mark without an image becomes `< image >`.
    Returns the question and the index of each image in it.
    """
    order: list[int] = []

    def placed_mark(mark: re.Match[str]) -> str:
        kind, digits = mark.groups()
        free = [number for number in range(images) if number not in order]
        wanted = int(digits) - 1 if digits else min(free, default=None)
        if kind == "image" and wanted in free:
            order.append(wanted)
            return IMAGE
        return mark[0] if digits else f"< {kind} >"

    placed = _MARK.sub(placed_mark, question)
    unmarked = [number for number in range(images) if number not in order]
    before = [number for number in unmarked if number < min(order, default=images)]
    after = unmarked[len(before) :]
    end = placed.rfind(IMAGE) + len(IMAGE) if order else 0
    return IMAGE * len(before) + placed[:end] + IMAGE * len(after) + placed[end:], before + order + after

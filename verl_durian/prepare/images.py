# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Images of a set, brought into the range of pixels that the paper has, with PIL, as its framework does.

verl has no setting for it: it hands pictures of any size to qwen_vl_utils, which rounds their sides to multiples of 28.
"""

import math
import warnings
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, UnidentifiedImageError

MAX_RATIO = 200
"""Of the longer side to the shorter: what is above is refused by qwen_vl_utils, so no training could show it."""


@dataclass(frozen=True)
class PixelRange:
    """How many pixels a picture may have."""

    least: int
    most: int


TRAINING = PixelRange(262_144, 4_194_304)
"""The paper's framework, on its training data."""
EVALUATION = PixelRange(262_144, 1_000_000)
"""The evaluation that the paper follows."""


class ImageError(ValueError):
    """An image that verl could not show to a model."""


def fit(content: bytes, pixels: PixelRange) -> bytes:
    """Brings an image file into a range of pixels, its ratio of sides kept but for rounding.

    Args:
        content (bytes): An image file in any format that PIL reads.
        pixels (PixelRange): The range, whose ends belong to it.

    Returns:
        bytes: The file as it is if its picture is within the range, else a PNG of the resized RGB picture.

    Raises:
        ImageError: the file cannot be decoded, or its sides are in a ratio that qwen_vl_utils refuses.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from 89 million pixels; 179 are an error
            picture = Image.open(BytesIO(content))
            picture.load()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # its message has nothing but an address in memory
        raise ImageError("not a picture in any format that PIL reads") from error
    except Exception as error:  # PIL's plugins raise many types for a broken file
        raise ImageError(f"{type(error).__name__}: {error}") from error
    size = fitted_size(*picture.size, pixels)
    if max(size) > MAX_RATIO * min(size):
        raise ImageError(f"sides in a ratio above {MAX_RATIO}: {picture.width} x {picture.height}")
    if size == picture.size:
        return content
    resized = BytesIO()
    to_rgb(picture).resize(size, Image.Resampling.BICUBIC).save(resized, "PNG")
    return resized.getvalue()


def fitted_size(width: int, height: int, pixels: PixelRange) -> tuple[int, int]:
    """Width and height of a picture within the range: rounded up when it grows, and down when it shrinks."""
    if width * height < pixels.least:
        scale = math.sqrt(pixels.least / (width * height))
        return math.ceil(width * scale), math.ceil(height * scale)
    if width * height > pixels.most:
        scale = math.sqrt(pixels.most / (width * height))
        return max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
    return width, height


def to_rgb(picture: Image.Image) -> Image.Image:
    """RGB as qwen_vl_utils makes it: RGBA on white, all else as PIL converts it.

    Written out, since qwen_vl_utils would load torch into every worker.
    """
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    white = Image.new("RGB", picture.size, (255, 255, 255))
    white.paste(picture, mask=picture.getchannel("A"))
    return white

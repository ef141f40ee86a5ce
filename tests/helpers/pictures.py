# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Small pictures of scikit-image, and files of pictures."""

from io import BytesIO

from PIL import Image
from skimage import data


def picture(name: str, width: int = 112, height: int = 84) -> Image.Image:
    return Image.fromarray(getattr(data, name)()).convert("RGB").resize((width, height))


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    content = BytesIO()
    image.save(content, form, **options)
    return content.getvalue()

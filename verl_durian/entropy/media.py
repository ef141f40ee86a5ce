# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The images and videos of a row: collected as they are stored, decoded as verl decodes them for training.

`collect` -> `Media`, which can be sent to another machine -> `decode`
"""

import hashlib
import json
import os
import reprlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, TypeGuard, TypeVar

import datasets  # type: ignore[import-untyped]
import requests  # type: ignore[import-untyped]
import torch
from PIL import Image, UnidentifiedImageError
from qwen_vl_utils.vision_process import fetch_image, fetch_video

Picture = bytes | str
"""The content of an image file, or the URL of an image."""

_PICTURE_FIELDS = ("bytes", "image", "image_url", "path")
"""Fields of a stored image that contain its content or location. Other fields, except `video`, are settings."""
_URL_SECONDS = 30
"""Time limit for an image at a URL."""
_VIDEO_URL_SECONDS = 600
"""Time limit for a video at a URL, which is decoded during the download."""
_URL_BYTES = 1 << 30
"""Size limit for an image at a URL: an endless stream must not fill the memory."""
_LONGEST_REASON = 500
"""Characters. Some errors quote their complete input."""

_Result = TypeVar("_Result")


class MediaError(ValueError):
    """An image or video cannot be read or decoded; the message names its position in the row."""


@dataclass(frozen=True)
class Media:
    """The images and videos of one row, not decoded, without references to image files.

    Each image or video is a dict in the format of qwen_vl_utils: settings, and either `image`, a `Picture`, or `video`,
    which is a path, a URL, or a tuple with the `Picture` of each frame.
    """

    images: tuple[dict[str, Any], ...]
    videos: tuple[dict[str, Any], ...]
    by_datasets: bool
    """Whether `datasets` decodes the images, as verl does for a column with a `datasets.Image` feature. `datasets`
    applies the EXIF orientation, and verl then drops the alpha channel instead of blending the image with white."""
    key: str
    """32 hexadecimal digits. Rows with the same key have the same images and videos."""

    def __len__(self) -> int:
        return len(self.images) + len(self.videos)


def collect(images: Any, videos: Any, by_datasets: bool = False) -> Media | None:
    """Collects everything that determines the images of a row. Image files are read; videos and URLs stay references.

    Args:
        images: The row's list of images, or None. An image is a path, a URL, or a dict with `bytes`, or a path or URL
            as `image`, `image_url` or `path`, and settings of qwen_vl_utils (`max_pixels`, ...).
        videos: The row's list of videos, or None. A video is the path or URL of a file, a list of frames, or a dict
            with one of these as `video` and settings of qwen_vl_utils (`fps`, ...). A frame is an image without
            settings.
        by_datasets: See `Media.by_datasets`.

    Returns:
        None for a row with neither images nor videos.

    Raises:
        MediaError: a cell is not a list, or an image or video has an unknown format or an unreadable file.
    """
    read_images, read_videos = _each("image", images, _image), _each("video", videos, _video)
    if not read_images and not read_videos:
        return None
    contents = [by_datasets, _each("image", read_images, _content), _each("video", read_videos, _content)]
    key = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:32]
    return Media(tuple(read_images), tuple(read_videos), by_datasets, key)


def decode(media: Media, patch_size: int) -> tuple[list[Image.Image], list[tuple[torch.Tensor, dict[str, Any]]]]:
    """Decodes the images and videos of a row like verl's RLHFDataset, resized by qwen_vl_utils.

    Args:
        media: Result of `collect`. Video files must exist at their paths.
        patch_size: Side of a patch in pixels. The sides of images and videos become multiples of twice that.

    Returns:
        RGB images; and for each video its frames, float32 from 0 to 255, `(frames, 3, height, width)`, with the
        metadata of qwen_vl_utils.

    Raises:
        MediaError: an image or video cannot be decoded, or a URL cannot be fetched in time.
    """

    def decode_image(image: dict[str, Any]) -> Image.Image:
        return fetch_image({**image, "image": _open(image["image"], media.by_datasets)}, image_patch_size=patch_size)

    return _each("image", media.images, decode_image), _each("video", media.videos, partial(_decode_video, patch_size))


def _each(kind: str, items: Any, function: Callable[[Any], _Result]) -> list[_Result]:
    """Applies a function to each item of a list (or None). Exceptions name the position of the item."""
    if items is not None and not isinstance(items, list | tuple):
        raise MediaError(f"verl expects a list of {kind}s in a row, not {type(items).__name__}")
    results = []
    for position, item in enumerate(items or ()):
        try:
            results.append(function(item))
        except MemoryError:
            raise
        except UnidentifiedImageError as error:  # its message is only a memory address
            raise MediaError(f"{kind} {position}: not a picture in any format that PIL reads") from error
        except Exception as error:  # PIL's plugins and the video readers raise many types for a damaged file
            name = "" if isinstance(error, MediaError) else f"{type(error).__name__}: "
            raise MediaError(f"{kind} {position}: {name}{' '.join(str(error).split())[:_LONGEST_REASON]}") from error
    return results


def _image(stored: Any) -> dict[str, Any]:
    return {**_settings(stored), "image": _picture(stored)}


def _video(stored: Any) -> dict[str, Any]:
    source = stored.get("video") if isinstance(stored, dict) else stored
    if isinstance(source, list):
        return {**_settings(stored), "video": tuple(_each("frame", source, _picture))}
    if isinstance(source, str):
        path = _local(source)
        return {**_settings(stored), "video": source if path is None else os.path.abspath(path)}
    raise MediaError(f"a video is a path, a list of frames or a dict with one as `video`, not {reprlib.repr(stored)}")


def _settings(stored: Any) -> dict[str, Any]:
    """The settings of a stored image or video. In a column of structs, a missing setting is None."""
    fields = stored.items() if isinstance(stored, dict) else ()
    return {name: value for name, value in fields if value is not None and name not in (*_PICTURE_FIELDS, "video")}


def _picture(stored: Any) -> Picture:
    """The `Picture` of an image or a frame; a file is read."""
    source = stored
    if isinstance(stored, dict):
        source = next((stored[name] for name in _PICTURE_FIELDS if stored.get(name) is not None), None)
        if isinstance(source, bytes):
            return source
    if not isinstance(source, str):
        raise MediaError(f"an image is a path, a URL or a dict with `bytes` or a path, not {reprlib.repr(stored)}")
    path = _local(source)
    if path is None:
        return source
    with _open_regular(path) as file:
        return file.read()


def _local(source: str) -> str | None:
    """The path of a local file; None for a URL."""
    path = source.removeprefix("file://")
    return None if "://" in path or path.startswith("data:image") else path


def _open_regular(path: str) -> Any:
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe or a device may never end
        raise MediaError(f"'{path}' is not a regular file")
    return open(path, "rb")


def _content(element: dict[str, Any]) -> str:
    """An image or video as JSON, with hashes instead of pixels and files. URLs are unchanged."""
    video = element.get("video")
    if isinstance(video, str) and (path := _local(video)) is not None:
        digest = hashlib.sha256()
        with _open_regular(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        element = {**element, "video": digest.hexdigest()}
    return json.dumps(element, sort_keys=True, default=_as_json)


def _as_json(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _decode_video(patch_size: int, video: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    source = video["video"]
    if isinstance(source, tuple):
        source = _each("frame", source, _open)
    fetch = partial(fetch_video, {**video, "video": source}, image_patch_size=patch_size, return_video_metadata=True)
    try:
        return in_time(fetch, source, _VIDEO_URL_SECONDS) if _is_web(source) else fetch()
    except AttributeError as error:  # of qwen_vl_utils' fallback, `torchvision.io.read_video`, which was removed
        if isinstance(error.__context__, AttributeError):
            raise MediaError("no video reader is installed: pip install decord, or torchcodec and FFmpeg") from error
        raise error.__context__ or error from None


def _open(picture: Picture, by_datasets: bool = False) -> str | Image.Image:
    """Converts a picture to the input of qwen_vl_utils."""
    if _is_web(picture):
        picture = in_time(partial(_download, picture), picture, _URL_SECONDS)
    if by_datasets:
        stored = {"bytes": picture, "path": None} if isinstance(picture, bytes) else {"bytes": None, "path": picture}
        return datasets.Image().decode_example(stored).convert("RGB")
    return Image.open(BytesIO(picture)) if isinstance(picture, bytes) else picture


def _is_web(source: Any) -> TypeGuard[str]:
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def in_time(function: Callable[[], _Result], source: str, seconds: float) -> _Result:
    """Calls a function that reads a source, with a time limit, in a thread that is abandoned after it.

    HTTP libraries cannot limit the total time from name resolution to the last byte.
    """
    future: Future[_Result] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return future.result(seconds)
    except FutureTimeoutError as error:
        raise MediaError(f"{source}: reading took more than {seconds:g} s") from error


def _download(url: str) -> bytes:
    content = bytearray()
    with requests.get(url, stream=True, timeout=_URL_SECONDS) as response:
        response.raise_for_status()
        for chunk in response.iter_content(1 << 16):
            content += chunk
            if len(content) > _URL_BYTES:
                raise MediaError(f"{url}: download stopped after {len(content):,} bytes")
    return bytes(content)

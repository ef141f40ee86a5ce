# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The images and videos of a row: collected as they are stored, decoded as verl decodes them for training.

`collect` -> `Media`, which can be sent to another machine -> `decode`

torchvision and qwen_vl_utils are imported when they are used: a process that only collects starts faster without them.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # the built-in one from Python 3.11 on
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import datasets  # type: ignore[import-untyped]
import requests  # type: ignore[import-untyped]
import torch
from PIL import Image, UnidentifiedImageError

Picture = bytes | str | Image.Image
"""The content of an image file, the URL of an image, or a decoded RGB image."""

_SOURCES = ("bytes", "image", "image_url", "path", "video")
"""Fields of a stored image or video with its content or location; the other fields are settings."""
_CHUNK = 1 << 20
"""Bytes of a video file that are read at a time to hash it."""
_URL_SECONDS = 30
"""Time limit for an image at a URL, from the connection to the last byte."""
_VIDEO_URL_SECONDS = 600
"""Time limit for a video at a URL, which is decoded during the download."""
_URL_BYTES = 1 << 30
"""Size limit for an image at a URL, above any image that PIL accepts: an endless stream must not fill the memory."""
_LONGEST_REASON = 500
"""Characters. Some errors quote their complete input."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class MediaError(ValueError):
    """An image or video cannot be read or decoded; the message names its position in the row."""


@dataclass(frozen=True)
class Media:
    """The images and videos of one row, not decoded. It can be pickled and needs no image files.

    Each image or video is a dict in the format of qwen_vl_utils: settings, and either `image`, a `Picture`, or `video`,
    which is a path, a URL, or a tuple with the `Picture` of each frame. `len` is the number of images and videos.
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
        images: The row's list of images, or None. An image is a path, a URL, a PIL image, or a dict with `bytes`, or a
            path or URL as `image`, `image_url` or `path`, and settings of qwen_vl_utils (`max_pixels`, ...).
        videos: The row's list of videos, or None. A video is the path or URL of a file, a list of frames, or a dict
            with one of these as `video` and settings of qwen_vl_utils (`fps`, ...). A frame has the format of an
            image; its dict has no settings.
        by_datasets (bool): See `Media.by_datasets`.

    Returns:
        Media | None: None for a row with neither images nor videos.

    Raises:
        MediaError: a cell is not a list, or an image or video has another format or an unreadable file.
    """
    read_images = _each("image", _listed("image", images), _image)
    read_videos = _each("video", _listed("video", videos), _video)
    if not read_images and not read_videos:
        return None
    contents = (_each("image", read_images, _content), _each("video", read_videos, _content))
    key = _sha256(json.dumps([by_datasets, *contents]).encode())[:32]
    return Media(tuple(read_images), tuple(read_videos), by_datasets, key)


def decode(media: Media, patch_size: int) -> tuple[list[Image.Image], list[tuple[torch.Tensor, dict[str, Any]]]]:
    """Decodes the images and videos of a row like verl's RLHFDataset, resized by qwen_vl_utils.

    Args:
        media (Media): Result of `collect`. Video files must exist at their paths.
        patch_size (int): Side of a patch in pixels. The sides of images and videos become multiples of twice that.

    Returns:
        tuple[list[Image.Image], list[tuple[torch.Tensor, dict]]]: RGB images, and for each video its frames,
            float32 from 0 to 255, shape is (frames, 3, height, width), with the metadata of qwen_vl_utils.

    Raises:
        MediaError: an image or video cannot be decoded, or a URL cannot be fetched in time.
    """
    images = _each("image", media.images, partial(_decode_image, patch_size, media.by_datasets))
    videos = _each("video", media.videos, partial(_decode_video, patch_size))
    return images, videos


def _listed(kind: str, cell: Any) -> list[Any]:
    if cell is None:
        return []
    if not isinstance(cell, list):
        raise MediaError(f"verl expects a list of {kind}s in a row, not {type(cell).__name__}")
    return cell


def _each(kind: str, items: Iterable[_Item], function: Callable[[_Item], _Result]) -> list[_Result]:
    """Applies a function to each item. Exceptions become a `MediaError` with the position of the item."""
    results = []
    for position, item in enumerate(items):
        try:
            results.append(function(item))
        except MemoryError:
            raise
        except Exception as error:  # PIL's plugins and the video readers raise many types for a damaged file
            raise MediaError(f"{kind} {position}: {_reason(error)}") from error
    return results


def _reason(error: Exception) -> str:
    if isinstance(error, MediaError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):  # its message is only a memory address
        return "not a picture in any format that PIL reads"
    return " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]


def _image(stored: Any) -> dict[str, Any]:
    if isinstance(stored, Image.Image):  # verl drops the alpha channel, qwen_vl_utils would blend it with white
        return {"image": stored.convert("RGB")}
    return {**_settings(stored), "image": _picture(stored)}


def _video(stored: Any) -> dict[str, Any]:
    source = stored.get("video") if isinstance(stored, dict) else stored
    if isinstance(source, list):
        return {**_settings(stored), "video": tuple(_each("frame", source, _picture))}
    if isinstance(source, str | os.PathLike):
        path = _local(source)
        return {**_settings(stored), "video": os.fspath(source) if path is None else os.path.abspath(path)}
    raise MediaError(f"a video is a path, a list of frames or a dict with one as `video`, not {_kind(stored)}")


def _settings(stored: Any) -> dict[str, Any]:
    """The settings of a stored image or video. In a column of structs, a missing setting is None."""
    if not isinstance(stored, dict):
        return {}
    return {name: value for name, value in stored.items() if value is not None and name not in _SOURCES}


def _picture(stored: Any) -> Picture:
    """The `Picture` of an image or a frame; a file is read."""
    source = stored
    if isinstance(stored, dict):
        if isinstance(stored.get("bytes"), bytes):
            return stored["bytes"]
        source = next((stored[name] for name in ("image", "image_url", "path") if stored.get(name) is not None), None)
    if isinstance(source, Image.Image):
        from qwen_vl_utils.vision_process import to_rgb

        return to_rgb(source)
    if isinstance(source, str | os.PathLike):
        path = _local(source)
        return os.fspath(source) if path is None else _regular(path).read_bytes()
    raise MediaError(f"an image is a path, a PIL image or a dict with `bytes` or a path, not {_kind(stored)}")


def _kind(stored: Any) -> str:
    fields = [f"{name} ({type(value).__name__})" for name, value in stored.items()] if isinstance(stored, dict) else []
    return f"a dict with the fields {', '.join(fields)}" if fields else type(stored).__name__


def _local(source: str | os.PathLike[str]) -> Path | None:
    """The path of a local file; None for a URL."""
    path = os.fspath(source).removeprefix("file://")
    return None if "://" in path or path.startswith("data:image") else Path(path)


def _regular(path: Path) -> Path:
    """Checks that reading a path ends: it is not a pipe, a socket or a device."""
    if path.exists() and not path.is_file() and not path.is_dir():  # a folder has its own error
        raise MediaError(f"'{path}' is not a regular file, but a pipe, a socket or a device")
    return path


def _content(element: dict[str, Any]) -> str:
    """An image or video as JSON, with hashes instead of pixels and files."""
    hashed = dict(element)
    for name in element.keys() & {"image", "video"}:
        source = element[name]
        hashed[name] = [_hash(frame) for frame in source] if isinstance(source, tuple) else _hash(source)
    return json.dumps(hashed, sort_keys=True, default=str)


def _hash(source: Picture) -> str:
    if isinstance(source, bytes):
        return _sha256(source)
    if isinstance(source, Image.Image):
        return f"{source.size} {_sha256(source.tobytes())}"
    path = _local(source)
    if path is None:
        return source
    digest = hashlib.sha256()
    with _regular(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _decode_image(patch_size: int, by_datasets: bool, image: dict[str, Any]) -> Image.Image:
    from qwen_vl_utils.vision_process import fetch_image

    return fetch_image({**image, "image": _open(image["image"], by_datasets)}, image_patch_size=patch_size)


def _decode_video(patch_size: int, video: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    import torchvision
    from qwen_vl_utils.vision_process import fetch_video, get_video_reader_backend

    source = video["video"]
    if isinstance(source, tuple):
        source = _each("frame", source, _open)
    elif (path := _local(source)) is not None:
        _regular(path)
    if (
        isinstance(source, str)
        and get_video_reader_backend() == "torchvision"
        and not hasattr(torchvision.io, "read_video")
    ):
        raise MediaError("no package reads video files here: pip install decord, or torchcodec next to FFmpeg")
    fetch = partial(fetch_video, {**video, "video": source}, image_patch_size=patch_size, return_video_metadata=True)
    try:
        return _in_time(fetch, source, _VIDEO_URL_SECONDS) if isinstance(source, str) and _is_web(source) else fetch()
    except AttributeError as error:
        # After a failure qwen_vl_utils tries torchvision, whose reader was removed: report the first failure.
        if error.name == "read_video" and error.__context__ is not None:
            raise error.__context__ from None
        raise


def _open(picture: Picture, by_datasets: bool = False) -> str | Image.Image:
    """Converts a picture to the input of qwen_vl_utils."""
    if isinstance(picture, Image.Image):
        return picture
    # `datasets` has the token for files of the Hub, but no limits for downloads from other servers.
    of_hub = by_datasets and isinstance(picture, str) and picture.startswith(f"{datasets.config.HF_ENDPOINT}/")
    if isinstance(picture, str) and _is_web(picture) and not of_hub:
        picture = _in_time(partial(_download, picture), picture, _URL_SECONDS)
    if by_datasets:
        stored = {"bytes": picture, "path": None} if isinstance(picture, bytes) else {"bytes": None, "path": picture}
        return datasets.Image().decode_example(stored).convert("RGB")
    return Image.open(BytesIO(picture)) if isinstance(picture, bytes) else picture


def _is_web(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _in_time(function: Callable[[], _Result], url: str, seconds: float) -> _Result:
    """Calls a function with a time limit, in a thread that is abandoned when the time is over.

    HTTP libraries have no limit for the total time from the name resolution to the last byte.
    """
    future: Future[_Result] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return future.result(seconds)
    except FutureTimeoutError:
        if future.done():
            raise
        raise MediaError(f"{url}: download took more than {seconds:g} s") from None


def _download(url: str) -> bytes:
    """Downloads a file with limits on time and size, which qwen_vl_utils lacks."""
    end, content = time.monotonic() + _URL_SECONDS, bytearray()
    with requests.get(url, stream=True, timeout=_URL_SECONDS) as response:
        response.raise_for_status()
        for chunk in response.iter_content(1 << 16):
            content += chunk
            if len(content) > _URL_BYTES or time.monotonic() > end:
                raise MediaError(f"{url}: download stopped after {len(content):,} bytes")
    return bytes(content)

# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Visual entropy of every row of a verl training set, computed once and kept on disk.

The stages are separate functions: `content_key` -> `decode` -> `VisionTower.preprocess` -> `VisionTower.features` ->
`visual_entropy`. Each distinct set of images is scored once, however many rows share it.
"""

import hashlib
import json
import logging
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import datasets  # type: ignore[import-untyped]
import numpy as np
import torch
from PIL import Image
from qwen_vl_utils import fetch_image  # type: ignore[import-untyped]
from tqdm import tqdm  # type: ignore[import-untyped]

from verl_durian.vision_tower import FeatureLayer, VisionTower, load_vision_tower
from verl_durian.visual_entropy import visual_entropy

logger = logging.getLogger(__name__)

PATCH_BUDGET = 16384
"""Patches (14 x 14 pixels) encoded in one pass of the tower, under 2 GB of activations. A larger row goes alone."""


class ImageSet(NamedTuple):
    """The images of one row, by content."""

    key: str
    """Hash of what decides the pictures: equal keys, equal pictures."""
    images: int


class PreparedRow(NamedTuple):
    """The images of one row, ready for the tower."""

    row: int
    pixel_values: torch.Tensor
    """shape is (patches of all images, values of a patch)"""
    grid_thw: torch.Tensor
    """shape is (images, 3)"""


def default_cache_dir() -> Path:
    """VERL_DURIAN_CACHE, or ~/.cache/verl_durian."""
    return Path(os.environ.get("VERL_DURIAN_CACHE", "~/.cache/verl_durian")).expanduser()


def score_dataset(
    dataset: datasets.Dataset,
    image_key: str,
    model_path: str,
    cache_dir: Path | None = None,
    device: torch.device | str = "cpu",
    feature_layer: FeatureLayer = "merger",
) -> np.ndarray:
    """Visual entropy H (Eq. 9) of each row, with the patches of all its images in one F.

    The tower sees each picture as training does: decoded and resized the way verl's RLHFDataset does it, then
    preprocessed by the checkpoint's image processor. `data.mm_processor_kwargs` is not applied.

    Args:
        dataset (datasets.Dataset): Rows of a verl training set.
        image_key (str): Column with the list of images of each row. An image is a `datasets.Image`, a path, or a dict
            with `bytes` or `path` and optionally the sizes that qwen_vl_utils understands (`max_pixels`, ...).
        model_path (str): Local folder or Hub id of the checkpoint whose vision tower is used.
        cache_dir (Path | None): Folder of the results, see `EntropyCache`. None is `default_cache_dir()`.
        device (torch.device | str): Where the tower runs.
        feature_layer (FeatureLayer): Which output of the tower is F, see `vision_tower.FeatureLayer`.

    Returns:
        np.ndarray: H in nats, float64, NaN for a row without images. shape is (len(dataset),)

    Raises:
        ValueError: no such column; an image that is missing, unreadable or of an unknown form, or whose features are
            not finite, with the row's number.
    """
    if image_key not in dataset.column_names:
        raise ValueError(f"no column {image_key!r} in the data set, only: {', '.join(dataset.column_names)}")
    dataset = dataset.select_columns([image_key])
    tower = load_vision_tower(model_path, device, feature_layer)
    cache = EntropyCache((cache_dir or default_cache_dir()) / tower.fingerprint)

    image_sets = list(_image_sets(dataset, image_key))
    entropies = cache.load()
    todo: dict[int, ImageSet] = {}  # the first row of each image set that is not known yet
    seen = set(entropies)
    for row, image_set in enumerate(image_sets):
        if image_set is not None and image_set.key not in seen:
            seen.add(image_set.key)
            todo[row] = image_set

    images = sum(image_set.images for image_set in todo.values())
    with tqdm(total=images, desc="visual entropy", unit="image", disable=not todo) as progress:
        for batch in _batches(_prepare(dataset.with_format(None), image_key, todo, tower)):
            scored = {todo[row].key: entropy for row, entropy in _score(batch, tower).items()}
            cache.add(scored)
            entropies.update(scored)
            progress.update(sum(len(prepared.grid_thw) for prepared in batch))
    return np.array([math.nan if image_set is None else entropies[image_set.key] for image_set in image_sets])


def content_key(image: Any) -> str:
    """Hash of a stored image: its file's bytes and the settings beside them, of which some decide how it is resized.

    Args:
        image: A path, or a dict with `bytes` or a path, as the data set stores it (undecoded). The file behind a path
            is read; an image behind a URL is known by its URL.

    Raises:
        OSError: no readable file at the path.
        TypeError, ValueError: `image` has another form.
    """
    source, settings = _source(image)
    if isinstance(source, str) and not source.startswith(("http://", "https://", "data:image")):
        source = Path(source.removeprefix("file://")).read_bytes()
    content = source.encode() if isinstance(source, str) else source
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def decode(image: Any, patch_size: int) -> Image.Image:
    """The RGB picture that verl's RLHFDataset makes of an image, resized by qwen_vl_utils.

    Args:
        image: A PIL image, a path, or a dict with `bytes` or a path.
        patch_size (int): Side of a patch in pixels; both sides of the picture become multiples of twice that.

    Raises:
        Exception: whatever PIL or qwen_vl_utils raise for bytes that are no image.
    """
    if isinstance(image, Image.Image):
        return fetch_image({"image": image.convert("RGB")}, image_patch_size=patch_size)
    source, settings = _source(image)
    picture = source if isinstance(source, str) else Image.open(BytesIO(source))
    return fetch_image({**settings, "image": picture}, image_patch_size=patch_size)


def _source(image: Any) -> tuple[bytes | str, dict[str, Any]]:
    """Splits a stored image into its bytes (or path or URL) and the remaining settings that are not None."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image), {}
    if not isinstance(image, dict):
        raise TypeError(f"an image is a dict, a path or a PIL image, not {type(image).__name__}")
    settings = {name: value for name, value in image.items() if value is not None}
    sources = [settings.pop(name, None) for name in ("bytes", "image", "image_url", "path")]
    for source in sources:
        if isinstance(source, bytes | str):
            return source, settings
    raise ValueError(f"no bytes and no path in an image with the fields: {', '.join(image)}")


def _image_sets(dataset: datasets.Dataset, image_key: str) -> Iterator[ImageSet | None]:
    """The image set of each row, from the stored bytes: nothing is decoded. None for a row without images."""
    # A datasets.Image column is decoded by `datasets`, which turns pictures by their EXIF tag; plain bytes are not.
    decoder = repr(dataset.features[image_key])
    row = 0
    for table in dataset.with_format("arrow").iter(batch_size=64):
        for images in table[image_key].to_pylist():
            yield _image_set(images, decoder, row) if images else None
            row += 1


def _image_set(images: Any, decoder: str, row: int) -> ImageSet:
    if not isinstance(images, list):
        raise ValueError(f"row {row}: verl expects a list of images in a row, not {type(images).__name__}")
    digest = hashlib.sha256(decoder.encode())
    for position, image in enumerate(images):
        try:
            digest.update(content_key(image).encode())
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"row {row}, image {position}: {error}") from error
    return ImageSet(digest.hexdigest(), len(images))


def _prepare(
    dataset: datasets.Dataset, image_key: str, rows: Iterable[int], tower: VisionTower
) -> Iterator[PreparedRow]:
    """Decodes and preprocesses the images of the given rows."""
    patch_size = tower.image_processor.patch_size
    for row in rows:
        try:
            pictures = [decode(image, patch_size) for image in dataset[row][image_key]]
        except Exception as error:  # PIL and its plugins raise many types for a broken file
            raise ValueError(f"row {row}: cannot decode an image: {error}") from error
        yield PreparedRow(row, *tower.preprocess(pictures))


def _batches(rows: Iterable[PreparedRow]) -> Iterator[list[PreparedRow]]:
    """Consecutive rows together, up to `PATCH_BUDGET` patches."""
    batch: list[PreparedRow] = []
    patches = 0
    for prepared in rows:
        if batch and patches + len(prepared.pixel_values) > PATCH_BUDGET:
            yield batch
            batch, patches = [], 0
        batch.append(prepared)
        patches += len(prepared.pixel_values)
    if batch:
        yield batch


def _score(batch: list[PreparedRow], tower: VisionTower) -> dict[int, float]:
    """H in nats of each row of a batch, in one pass of the tower."""
    features = iter(
        tower.features(
            torch.cat([prepared.pixel_values for prepared in batch]),
            torch.cat([prepared.grid_thw for prepared in batch]),
        )
    )
    entropies = {}
    for prepared in batch:
        patches = torch.cat([next(features) for _ in prepared.grid_thw])
        try:
            entropies[prepared.row] = visual_entropy(patches).item()
        except ValueError as error:
            raise ValueError(f"row {prepared.row}: {error}") from error
    return entropies


class EntropyCache:
    """Entropies on disk, by image set, for one vision tower.

    Each process that scores appends to a file of its own, `<folder>/<random>.jsonl`, one line per image set:

        {"key": "<hash of the images>", "entropy": <nats>}

    So writers never wait for each other, on a network file system neither, and a killed one leaves at worst an
    unfinished last line. Lines that are not of this form are passed over, and their images scored again. Files may be
    concatenated or deleted at will.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._file = folder / f"{uuid.uuid4().hex}.jsonl"

    def load(self) -> dict[str, float]:
        """All stored entropies in nats, by key."""
        entropies: dict[str, float] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            for number, line in enumerate(file.read_bytes().splitlines(), start=1):
                try:
                    entry = json.loads(line)
                    key, entropy = entry["key"], entry["entropy"]
                    valid = isinstance(key, str) and isinstance(entropy, float) and math.isfinite(entropy)
                except (ValueError, KeyError, TypeError):
                    valid = False
                if valid:
                    entropies[key] = entropy
                else:
                    logger.warning("%s line %d is damaged and is passed over", file, number)
        return entropies

    def add(self, entropies: Mapping[str, float]) -> None:
        """Appends entropies in nats; they survive a kill of this process as soon as this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as file:
            file.writelines(f"{json.dumps({'key': key, 'entropy': entropy})}\n" for key, entropy in entropies.items())

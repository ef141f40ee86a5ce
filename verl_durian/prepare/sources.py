# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Opens the source of a dataset: a hub repository, a copy of it, or a folder written by `Dataset.save_to_disk`."""

import glob
import re
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import datasets  # type: ignore[import-untyped]
import huggingface_hub
from huggingface_hub.errors import HFValidationError

from verl_durian.files import room_for
from verl_durian.prepare.base import DatasetSpec

_TEXT, _INTEGER = "(large_)?string", "u?int[0-9]+"
_IMAGE = r"struct<(?=.*\bbytes: )(?=.*\bpath: ).*>"
COLUMN_TYPES = {
    "text": ("text", _TEXT),
    "texts": ("list of texts", rf"(large_)?list<\w+: {_TEXT}.*>"),
    "paths": ("list of texts", rf"(large_)?list<\w+: {_TEXT}.*>"),
    "id": ("text or integer", f"{_TEXT}|{_INTEGER}"),
    "number": ("number", f"halffloat|float|double|{_INTEGER}"),
    "image": ("image", _IMAGE),
    "images": ("list of images", rf"(large_)?list<\w+: {_IMAGE}.*>"),
    "record": ("struct", "struct<.*>"),
    "value": ("any type", ".+"),
}
"""Types of columns: the name in messages, and a pattern for the Arrow type."""


@dataclass(frozen=True)
class Source:
    """A source whose columns were checked."""

    name: str
    """Hub id, or absolute path of a folder."""
    revision: str | None
    """Commit on the hub."""
    splits: dict[str, datasets.Dataset]
    """In the format `arrow`."""
    archive: Path | None
    """Zip file with the images, or the folder into which it was unpacked."""

    def digest(self, split: str) -> str:
        """Returns a text that changes when the files of a split change."""
        return f"{self.splits[split]._fingerprint} {self.archive and self.archive.stat().st_mtime_ns}"


def open_source(spec: DatasetSpec, source: str) -> Source:
    """Opens the splits of a dataset and checks their columns.

    Args:
        spec (DatasetSpec): The dataset.
        source (str): A folder, or a hub id, which huggingface_hub downloads into its cache.

    Raises:
        ValueError: the source does not exist, lacks a file, has a file that cannot be read, or its columns differ.
        OSError: the cache of `datasets` cannot be written.
    """
    folder, revision = Path(source).expanduser(), None
    name = str(folder.absolute())
    if not folder.is_dir():
        patterns = [*spec.splits.values(), *([spec.archive] if spec.archive else [])]
        try:
            folder = Path(huggingface_hub.snapshot_download(source, repo_type="dataset", allow_patterns=patterns))
        except (HFValidationError, OSError) as error:
            raise ValueError(
                f"--source {source}: neither a folder nor a dataset that can be downloaded from the hub "
                f"({type(error).__name__}): give a folder with a copy of {spec.hub_id}"
            ) from error
        name, revision = source, folder.name
    splits = {}
    for split in spec.splits:
        rows = _open_split(spec, folder, split)
        _check_columns(spec, f"{folder}, split {split}", rows)
        splits[split] = rows.select_columns(spec.column_names).with_format("arrow")
    return Source(name, revision, splits, _image_archive(folder, spec.archive) if spec.archive else None)


def _open_split(spec: DatasetSpec, folder: Path, split: str) -> datasets.Dataset:
    pattern = spec.splits[split]
    with room_for(Path(datasets.config.HF_DATASETS_CACHE)):
        try:
            if any((folder / file).exists() for file in ("dataset_dict.json", "state.json")):
                saved = datasets.load_from_disk(str(folder))
                if isinstance(saved, datasets.Dataset):  # one created in memory has no split name
                    saved = {str(saved.split or next(iter(spec.splits))): saved}
                if split not in saved:
                    raise ValueError(f"there is only the split {', '.join(saved)}")
                return saved[split]
            files = [glob.escape(str(file)) for file in sorted(folder.glob(pattern))]
            if not files:
                raise ValueError("no such file")
            return datasets.Dataset.from_parquet(files, split, batch_size=1000)  # default: a row group
        except (OSError, ValueError, LookupError, datasets.exceptions.DatasetGenerationError) as error:
            cause = error.__cause__ or error
            if getattr(cause, "errno", None):  # of the system, such as a full disk; a damaged file has none
                raise cause from None
            raise ValueError(
                f"--source {folder}: split {split} ({pattern}) cannot be read: {cause}: give a copy of {spec.hub_id}, "
                "or a folder written by Dataset.save_to_disk"
            ) from error


def _check_columns(spec: DatasetSpec, place: str, rows: datasets.Dataset) -> None:
    """Raises ValueError if a column is missing or has another type."""
    found = {field.name: str(field.type) for field in rows.features.arrow_schema}
    types = {name: COLUMN_TYPES[kind] for kind, names in spec.columns.items() for name in names}
    if not all(re.fullmatch(pattern, found.get(name, "")) for name, (_, pattern) in types.items()):
        raise ValueError(
            f"--source {place}: does not have the columns of {spec.name}: "
            f"expected {', '.join(f'{name} ({label})' for name, (label, _) in types.items())}; "
            f"found {', '.join(f'{name} ({kind})' for name, kind in found.items())}"
        )


def _image_archive(folder: Path, name: str) -> Path:
    packed = folder / name
    unpacked = packed.with_suffix("")
    if not unpacked.is_dir() and not packed.exists():
        raise ValueError(f"--source {folder}: has neither {name}, which contains the images, nor {unpacked.name}/")
    return unpacked if unpacked.is_dir() else packed


def read_image(archive: Path, path: str) -> bytes | None:
    """Reads an image from the archive of a source; None if the archive does not contain it.

    Raises:
        ValueError: the archive or the image is damaged.
    """
    try:
        image = _archive_root(archive).joinpath(path)
        return image.read_bytes() if image.is_file() else None
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"--source {archive}: {path} cannot be read, download the file again: {error}") from error


@lru_cache(maxsize=1)  # opening a zip file reads the list of all files
def _archive_root(archive: Path) -> Path | zipfile.Path:
    return archive.parent if archive.is_dir() else zipfile.Path(archive)

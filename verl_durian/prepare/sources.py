# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Opens the source of a dataset: a hub repository, a copy of it, or a folder written by `Dataset.save_to_disk`."""

import glob
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import datasets  # type: ignore[import-untyped]
import huggingface_hub
from huggingface_hub.errors import HFValidationError

from verl_durian.prepare.base import DatasetSpec


@dataclass(frozen=True)
class Source:
    """An open source."""

    name: str
    """Hub id, or absolute path of a folder."""
    revision: str | None
    """Commit on the Hub."""
    splits: dict[str, datasets.Dataset]
    """In the format `arrow`."""
    archive: Path | None
    """Zip file with the images, or the folder into which it was unpacked."""

    def digest(self, split: str) -> str:
        """Returns a string that changes when the files of a split change."""
        return f"{self.splits[split]._fingerprint} {self.archive and self.archive.stat().st_mtime_ns}"


def open_source(spec: DatasetSpec, source: str) -> Source:
    """Opens the splits of a dataset from a folder, or a hub id, which huggingface_hub downloads into its cache.

    Raises:
        ValueError: the source does not exist, lacks a file or a column, or has a file that cannot be read.
    """
    folder, archive, revision = Path(source).expanduser(), None, None
    name = str(folder.absolute())
    if not folder.is_dir():
        patterns = [*spec.splits.values(), *([spec.archive] if spec.archive else [])]
        try:
            folder = Path(huggingface_hub.snapshot_download(source, repo_type="dataset", allow_patterns=patterns))
        except (HFValidationError, OSError) as error:
            raise ValueError(
                f"--source {source}: neither a folder nor a dataset that can be downloaded from the hub "
                f"({type(error).__name__}): use a folder with a copy of {spec.hub_id}"
            ) from error
        name, revision = source, folder.name
    splits = {split: _open_split(spec, folder, split) for split in spec.splits}
    if spec.archive:
        packed, unpacked = folder / spec.archive, folder / Path(spec.archive).stem
        archive = unpacked if unpacked.is_dir() else packed
        if not archive.exists():
            raise ValueError(
                f"--source {folder}: has neither {packed.name}, which contains the images, nor {unpacked.name}/"
            )
    return Source(name, revision, splits, archive)


def _open_split(spec: DatasetSpec, folder: Path, split: str) -> datasets.Dataset:
    try:
        if any((folder / file).exists() for file in ("dataset_dict.json", "state.json")):
            rows = datasets.load_from_disk(str(folder))
            if isinstance(rows, datasets.Dataset):  # a dataset that was created in memory has no split name
                rows = {str(rows.split or next(iter(spec.splits))): rows}
            rows = rows[split]
        else:
            files = f"{glob.escape(str(folder))}/{spec.splits[split]}"
            rows = datasets.Dataset.from_parquet(files, split, batch_size=1000)  # default: a row group
        return rows.select_columns([*spec.ids, spec.image, *spec.columns]).with_format("arrow")
    except (OSError, ValueError, LookupError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(
            f"--source {folder}: split {split} ({spec.splits[split]}) cannot be read, or copied to "
            f"{datasets.config.HF_DATASETS_CACHE}: {error.__cause__ or error!r}: use a copy of {spec.hub_id}, or a "
            "folder written by Dataset.save_to_disk"
        ) from error


def read_image(archive: Path, path: str) -> bytes | None:
    """Reads an image from the archive of a source; None if the archive does not contain it.

    Raises:
        ValueError: the archive or the image is damaged.
    """
    try:
        image = _archive_root(archive).joinpath(path)
        return image.read_bytes() if image.is_file() else None
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{archive}: {path} cannot be read, download the file again: {error}") from error


@lru_cache(maxsize=1)  # opening a zip file reads the list of all files
def _archive_root(archive: Path) -> Path | zipfile.Path:
    return archive.parent if archive.is_dir() else zipfile.Path(archive)

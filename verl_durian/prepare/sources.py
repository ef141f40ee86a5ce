# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Where a set's rows come from: a repository on the hub, a copy of it, or what `Dataset.save_to_disk` wrote.

open_source -> a `Split` for each split, whose columns are those of the set -> its rows, a few at a time
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import datasets  # type: ignore[import-untyped]
import huggingface_hub
import pyarrow as pa
from huggingface_hub.errors import HFValidationError

from verl_durian.files import open_parquet, source_id
from verl_durian.prepare.data_set import DataSet


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType, of: Callable[[pa.DataType], bool]) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and of(kind.value_type)


def _is_image(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}


TYPES: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "text": ("text", _is_text),
    "texts": ("list of texts", lambda kind: _is_list(kind, _is_text)),
    "id": ("text or whole number", lambda kind: _is_text(kind) or pa.types.is_integer(kind)),
    "number": ("number", lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind)),
    "image": ("image", _is_image),
    "images": ("list of images", lambda kind: _is_list(kind, _is_image)),
    "record": ("struct", pa.types.is_struct),
    "value": ("any type", lambda kind: True),
}
"""Types of columns: what a person reads, and which Arrow types are meant."""


Batches = Callable[[int], Iterator[list[dict[str, Any]]]]
"""Reads rows, so many at a time."""


@dataclass(frozen=True)
class Split:
    """The rows of one split."""

    name: str
    rows: int
    digest: str
    """Changes when a file of the split does."""
    batches: Batches


@dataclass(frozen=True)
class Source:
    """A source that has what a set needs."""

    name: str
    """Id on the hub, or the absolute path of a folder."""
    revision: str | None
    """Commit on the hub."""
    splits: list[Split]


def open_source(data_set: DataSet, source: str) -> Source:
    """Finds the splits of a set and checks their columns.

    Files are fetched from the hub by huggingface_hub alone, which keeps them in its cache and, with HF_HUB_OFFLINE=1,
    looks nowhere else.

    Args:
        data_set (DataSet): The set.
        source (str): A folder, or an id on the hub.

    Raises:
        ValueError: there is no such source, it lacks files, a file cannot be read, or its columns differ.
    """
    folder, revision = Path(source).expanduser(), None
    name = str(folder.absolute())
    if not folder.is_dir():
        folder, name = _fetch(data_set, source), source
        revision = folder.name
    saved = any((folder / file).exists() for file in ("dataset_dict.json", "state.json"))
    return Source(name, revision, (_saved_splits if saved else _parquet_splits)(data_set, folder))


def _fetch(data_set: DataSet, source: str) -> Path:
    wanted = [*data_set.splits.values(), *([data_set.archive] if data_set.archive else [])]
    try:
        return Path(huggingface_hub.snapshot_download(source, repo_type="dataset", allow_patterns=wanted))
    except (HFValidationError, OSError) as error:
        raise ValueError(
            f"--source {source}: no such folder, and no data set that the hub lets us read ({type(error).__name__}): "
            f"name a folder with a copy of {data_set.hub_id}"
        ) from error


def _parquet_splits(data_set: DataSet, folder: Path) -> list[Split]:
    splits = []
    for name, pattern in data_set.splits.items():
        files = sorted(folder.glob(pattern))
        if not files:
            raise ValueError(
                f"--source {folder}: has no file {pattern}, which holds the split {name} of {data_set.hub_id}: "
                "name a copy of that repository, or what Dataset.save_to_disk wrote"
            )
        rows = 0
        for file in files:
            try:
                with open_parquet(str(file)) as parquet:
                    _check_columns(data_set, f"{file}", parquet.schema_arrow)
                    rows += parquet.metadata.num_rows
            except (OSError, pa.ArrowInvalid) as error:
                raise ValueError(f"--source {file}: cannot be read: {error}") from error
        splits.append(_split(data_set, folder, name, rows, files, _parquet_batches(files, list(data_set.columns))))
    return splits


def _saved_splits(data_set: DataSet, folder: Path) -> list[Split]:
    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--source {folder}: cannot be read: {error}") from error
    if isinstance(saved, datasets.Dataset):
        alone = str(saved.split or next(iter(data_set.splits)))  # a set made in memory has no split's name
        places = {alone: (saved, folder)}
    else:
        places = {name: (rows, folder / name) for name, rows in saved.items()}
    missing = [name for name in data_set.splits if name not in places]
    if missing:
        raise ValueError(
            f"--source {folder}: has no split {missing[0]}, which {data_set.name} has, only: {', '.join(places)}"
        )
    splits = []
    for name in data_set.splits:
        rows, place = places[name]
        _check_columns(data_set, str(place), rows.features.arrow_schema)
        files = sorted(file for file in place.iterdir() if file.is_file())
        stored = rows.select_columns(list(data_set.columns)).with_format("arrow")
        splits.append(_split(data_set, folder, name, len(rows), files, _saved_batches(stored)))
    return splits


def _check_columns(data_set: DataSet, place: str, schema: pa.Schema) -> None:
    """Raises ValueError where a column that is read is missing or of another type."""
    found = {field.name: field.type for field in schema}
    if all(name in found and TYPES[kind][1](found[name]) for name, kind in data_set.columns.items()):
        return
    expected = ", ".join(f"{name} ({TYPES[kind][0]})" for name, kind in data_set.columns.items())
    raise ValueError(
        f"--source {place}: has not the columns of {data_set.name}: expected {expected}; "
        f"found {', '.join(f'{name} ({kind})' for name, kind in found.items())}"
    )


def _split(data_set: DataSet, folder: Path, name: str, rows: int, files: Sequence[Path], batches: Batches) -> Split:
    """A split whose digest is that of its files, and whose images come out of the archive if the set has one."""
    if data_set.archive is None:
        return Split(name, rows, _digest(files), batches)
    packed, unpacked = folder / data_set.archive, (folder / data_set.archive).with_suffix("")
    if not packed.exists() and not unpacked.is_dir():
        raise ValueError(f"--source {folder}: has neither {packed.name}, which holds the images, nor {unpacked.name}/")
    archive = unpacked if unpacked.is_dir() else packed
    try:
        with _reader(folder, archive):
            pass
    except (OSError, BadZipFile) as error:
        raise ValueError(f"--source {archive}: cannot be read: {error}") from error
    return Split(name, rows, _digest([*files, archive]), lambda size: _with_images(batches(size), folder, archive))


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256("".join(source_id(str(file.resolve())) for file in files).encode()).hexdigest()


def _parquet_batches(files: Sequence[Path], columns: list[str]) -> Batches:
    def batches(size: int) -> Iterator[list[dict[str, Any]]]:
        for file in files:
            try:
                with open_parquet(str(file)) as parquet:
                    for batch in parquet.iter_batches(size, columns=columns):
                        yield batch.to_pylist()
            except (OSError, pa.ArrowInvalid) as error:
                raise ValueError(f"--source {file}: cannot be read: {error}") from error

    return batches


def _saved_batches(stored: datasets.Dataset) -> Batches:
    return lambda size: (table.to_pylist() for table in stored.iter(size))


def _with_images(
    batches: Iterator[list[dict[str, Any]]], folder: Path, archive: Path
) -> Iterator[list[dict[str, Any]]]:
    """Puts the images in the place of their paths."""
    with _reader(folder, archive) as read:
        for rows in batches:
            for row in rows:
                row["image"] = [{"bytes": read(path), "path": path} for path in row["image"] or []]
            yield rows


@contextmanager
def _reader(folder: Path, archive: Path) -> Iterator[Callable[[str], bytes | None]]:
    """Reads the file at a path, out of a folder or of a zip, which is not unpacked; None if there is no such file."""
    if archive.is_dir():
        yield lambda path: (folder / path).read_bytes() if (folder / path).is_file() else None
        return
    with ZipFile(archive) as opened:
        members = set(opened.namelist())

        def read(path: str) -> bytes | None:
            try:
                return opened.read(path) if path in members else None
            except (BadZipFile, zlib.error) as error:
                raise ValueError(f"--source {archive}: {path} in it is damaged, fetch it anew: {error}") from error

        yield read

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Reads rows from verl's data files or a loaded training set, and writes scores to data files."""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import datasets  # type: ignore[import-untyped]
import fsspec  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from verl_durian.files import open_parquet, source_id, whole_file

ENTROPY = "visual_entropy"
"""Column with H in nats, float64, null for a row without images and for one that cannot be scored."""
PATCHES = "visual_patches"
"""Column with the number of patches P, int32, null where H is null."""
RESERVED = ("scores.json", "problems.jsonl")
"""File names in the output folder that a data file cannot have."""
_READ_ROWS = 64
"""Rows read at a time: images of several megabytes each still fit in memory."""
_ROW_GROUP_BYTES = 128 << 20
"""Average size of the row groups that are written, in uncompressed bytes."""

Cells = tuple[Any, Any, bool]
"""The arguments of `media.collect`: images and videos of one row as they are stored."""


@dataclass(frozen=True)
class Columns:
    """The columns with the images and videos of a row: verl's `data.image_key` and `data.video_key`."""

    images: str = "images"
    videos: str = "videos"

    def present_in(self, names: Collection[str]) -> list[str]:
        """Those of the two columns that are among `names`."""
        return [name for name in (self.images, self.videos) if name in names]

    def cells(self, rows: Iterable[Mapping[str, Any]], features: Mapping[str, Any]) -> Iterator[Cells]:
        """The cells of each row. `datasets` decodes images of a `datasets.Image` feature for verl."""
        image = getattr(features.get(self.images), "feature", None)
        by_datasets = isinstance(image, datasets.Image) and image.decode
        for row in rows:
            yield row.get(self.images), row.get(self.videos), by_datasets


@dataclass(frozen=True)
class DatasetRows:
    """The rows of a loaded dataset."""

    name: str
    """Name for error messages."""
    dataset: datasets.Dataset
    columns: Columns

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.dataset)

    def cells(self) -> Iterator[Cells]:
        """Reads the images and videos of each row."""
        stored = self.dataset.select_columns(self.columns.present_in(self.dataset.column_names)).with_format("arrow")
        for table in stored.iter(_READ_ROWS):
            yield from self.columns.cells(table.to_pylist(), self.dataset.features)


@dataclass(frozen=True)
class DataFile:
    """A data file of verl, and its output file."""

    name: str
    """Absolute path or fsspec URL."""
    version: str
    """`source_id` at the time it was opened."""
    target: Path
    rows: int
    """Number of rows."""
    columns: Columns

    def cells(self, start: int = 0) -> Iterator[Cells]:
        """Reads the images and videos of each row from row `start` on."""
        if not self.name.endswith(".parquet"):
            yield from self.columns.cells(islice(_json_rows(self.name), start, None), {})
            return
        with open_parquet(self.name) as parquet:
            present = self.columns.present_in(parquet.schema_arrow.names)
            features = datasets.Features.from_arrow_schema(parquet.schema_arrow)
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            first = int(np.searchsorted(np.cumsum(sizes), start, side="right"))
            batches = parquet.iter_batches(_READ_ROWS, range(first, len(sizes)), present)
            rows = chain.from_iterable(batch.to_pylist() for batch in batches)
            yield from self.columns.cells(islice(rows, start - sum(sizes[:first]), None), features)

    def write(self, entropies: np.ndarray, patches: np.ndarray) -> None:
        """Writes the rows with their scores to `target`, atomically and in the format of the source.

        Args:
            entropies: H of each row in nats, NaN for null, `(rows,)`.
            patches: P of each row, `(rows,)`.

        Raises:
            ValueError: the source has changed since it was opened.
        """
        if source_id(self.name) != self.version:
            raise ValueError(f"{self.name} changed while it was scored: run the same command again")
        nulls = np.isnan(entropies)
        scores = {
            ENTROPY: pa.array(entropies, pa.float64(), mask=nulls),
            PATCHES: pa.array(patches, pa.int32(), mask=nulls),
        }
        with whole_file(self.target) as file:
            write = _write_parquet if self.name.endswith(".parquet") else _write_json
            write(self.name, file, pa.table(scores))


def open_files(patterns: Sequence[str], output: Path, columns: Columns) -> list[DataFile]:
    """Finds data files, checks them and counts their rows.

    Args:
        patterns: Paths, fsspec URLs, and patterns with `*`.
        output: Output folder. The folders below the common parent of all files are created in it.
        columns: At least one of them must be in one of the files.

    Raises:
        ValueError: a file is missing, damaged or already scored, has another format or a reserved name; or no file has
            a column of images or videos.
    """
    names = _find(patterns)
    folders = [os.path.dirname(name).split("/") for name in names]
    common = "/".join(os.path.commonprefix(folders))  # of lists: complete names
    files: list[DataFile] = []
    seen: set[str] = set()
    for name in names:
        if not name.endswith((".parquet", ".json", ".jsonl")):
            raise ValueError(f"--data {name}: the name must end in .parquet, .json or .jsonl, the formats of verl")
        version = source_id(name)
        try:
            found, rows = _columns_and_rows(name)
        except (OSError, ValueError) as error:
            raise ValueError(f"--data {name}: cannot be read: {error}") from error
        if scored := sorted(found & {ENTROPY, PATCHES}):
            raise ValueError(f"--data {name}: already has a column {scored[0]!r}: remove it, then score the file")
        if (relative := name[len(common) :].lstrip("/")) in RESERVED:
            raise ValueError(f"--data {name}: {relative} is a file name of the results: rename {name}")
        seen |= found
        files.append(DataFile(name, version, output / relative, rows, columns))
    if not columns.present_in(seen):
        raise ValueError(
            f"no column {columns.images!r} (--image-key) or {columns.videos!r} (--video-key) in the data, "
            f"only: {', '.join(sorted(seen))}"
        )
    return files


def _find(patterns: Sequence[str]) -> list[str]:
    """The absolute paths and URLs of all files that match."""
    files = []
    for pattern in patterns:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        paths = sorted(filesystem.glob(path)) if "*" in pattern else [path]
        found = [name for name in paths if filesystem.isfile(name)]  # reading a pipe may never end
        if not found:
            raise ValueError(f"--data {pattern}: no such file")
        local = isinstance(filesystem, LocalFileSystem)
        files += found if local else [filesystem.unstrip_protocol(name) for name in found]
    return list(dict.fromkeys(files))


def _columns_and_rows(file: str) -> tuple[set[str], int]:
    if file.endswith(".parquet"):
        with open_parquet(file) as parquet:
            return set(parquet.schema_arrow.names), parquet.metadata.num_rows
    names, rows = set[str](), 0
    for row in _json_rows(file):
        if not isinstance(row, dict):
            raise ValueError(f"row {rows} is not a JSON object")
        names |= row.keys()
        rows += 1
    return names, rows


def _write_parquet(source: str, file: IO[bytes], scores: pa.Table) -> None:
    with open_parquet(source) as parquet:
        schema = pa.schema([*parquet.schema_arrow, *scores.schema], parquet.schema_arrow.metadata)
        size = sum(parquet.metadata.row_group(number).total_byte_size for number in range(parquet.num_row_groups))
        rows = max(1, len(scores) * _ROW_GROUP_BYTES // max(size, _ROW_GROUP_BYTES))
        with pq.ParquetWriter(file, schema) as writer:
            for batch in parquet.iter_batches(rows):
                columns = [*batch.columns, *scores[: batch.num_rows].columns]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                scores = scores[batch.num_rows :]


def _write_json(source: str, file: IO[bytes], scores: pa.Table) -> None:
    rows = zip(_json_rows(source), scores.to_pylist(), strict=True)
    lines = (json.dumps({**row, **score}, ensure_ascii=False) for row, score in rows)
    if _is_list(source):
        file.write(("[\n" + ",\n".join(lines) + "\n]\n").encode())
    else:
        file.writelines(f"{line}\n".encode() for line in lines)


def _is_list(file: str) -> bool:
    """Whether a JSON file is a list of rows, and not one row per line."""
    with fsspec.open(file, "rt", encoding="utf-8") as text:
        return text.read(1024).lstrip().startswith("[")


def _json_rows(file: str) -> Iterator[dict[str, Any]]:
    with fsspec.open(file, "rt", encoding="utf-8") as text:
        if _is_list(file):
            yield from json.load(text)
            return
        for number, line in enumerate(text, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Where rows come from: parts of parquet files, of JSON files and of data sets in memory.

A part can be read on its own, in any process that reaches the data.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets  # type: ignore[import-untyped]
import fsspec  # type: ignore[import-untyped]
import pyarrow.parquet as pq

PART_ROWS = 1024
"""Rows of a part, at least; a part of a data set in memory has so many."""
_READ_ROWS = 64
"""Rows read at once: a few with images of some megabytes each."""


class Cells(NamedTuple):
    """The images and videos of one row, as they are stored."""

    row: int
    """In its file or data set, from 0."""
    images: Any
    videos: Any
    by_datasets: bool
    """Whether `datasets` decodes the images: stored with a `datasets.Image` feature."""


@dataclass(frozen=True)
class Columns:
    """The columns with the images and videos of a row; verl's `data.image_key` and `data.video_key`."""

    images: str = "images"
    videos: str = "videos"

    def of(self, names: Sequence[str]) -> list[str]:
        """Those that are among `names`."""
        return [name for name in (self.images, self.videos) if name in names]


@dataclass(frozen=True)
class ParquetPart:
    """Consecutive row groups of a parquet file."""

    file: str
    groups: range
    first: int
    rows: int
    columns: Columns

    def cells(self) -> Iterator[Cells]:
        """Reads the images and videos of each row."""
        with open_parquet(self.file) as parquet:
            present = self.columns.of(parquet.schema_arrow.names)
            by_datasets = _decoded_by_datasets(datasets.Features.from_arrow_schema(parquet.schema_arrow), self.columns)
            row = self.first
            for batch in parquet.iter_batches(_READ_ROWS, row_groups=self.groups, columns=present):
                yield from _cells(batch.to_pydict(), batch.num_rows, row, self.columns, by_datasets)
                row += batch.num_rows


@dataclass(frozen=True)
class DatasetPart:
    """Consecutive rows of a data set."""

    file: str
    """The file it was read from, or what else names it to a person."""
    dataset: datasets.Dataset
    first: int
    rows: int
    columns: Columns

    def cells(self) -> Iterator[Cells]:
        """Reads the images and videos of each row."""
        present = self.columns.of(self.dataset.column_names)
        by_datasets = _decoded_by_datasets(self.dataset.features, self.columns)
        stored = self.dataset.select_columns(present).with_format("arrow")
        for start in range(self.first, self.first + self.rows, _READ_ROWS):
            stop = min(start + _READ_ROWS, self.first + self.rows)
            yield from _cells(stored[start:stop].to_pydict(), stop - start, start, self.columns, by_datasets)


Part = ParquetPart | DatasetPart


def parquet_parts(file: str, columns: Columns) -> list[ParquetPart]:
    """A parquet file in parts of whole row groups, `PART_ROWS` rows or more; none without a column of media.

    Raises:
        OSError, pa.ArrowInvalid: no such file, or none that is parquet.
    """
    with open_parquet(file) as parquet:
        if not columns.of(parquet.schema_arrow.names):
            return []
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    parts, start, first, rows = [], 0, 0, 0
    for group, size in enumerate(sizes):
        rows += size
        if rows >= PART_ROWS or group == len(sizes) - 1:
            parts.append(ParquetPart(file, range(start, group + 1), first, rows, columns))
            start, first, rows = group + 1, first + rows, 0
    return [part for part in parts if part.rows > 0]


def dataset_parts(name: str, dataset: datasets.Dataset, columns: Columns) -> list[DatasetPart]:
    """A data set in parts of `PART_ROWS` rows; none if it has no column of images or videos."""
    if not columns.of(dataset.column_names):
        return []
    return [
        DatasetPart(name, dataset, first, min(PART_ROWS, len(dataset) - first), columns)
        for first in range(0, len(dataset), PART_ROWS)
    ]


@contextmanager
def open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    """Opens a parquet file, local or at an fsspec URL; column by column, so that large row groups stay on disk."""
    with fsspec.open(file, "rb") as stream, pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20) as parquet:
        yield parquet


def _decoded_by_datasets(features: datasets.Features, columns: Columns) -> bool:
    pictures = getattr(features.get(columns.images), "feature", None)
    return isinstance(pictures, datasets.Image) and pictures.decode


def _cells(stored: dict[str, list[Any]], rows: int, first: int, columns: Columns, by_datasets: bool) -> Iterator[Cells]:
    nothing = [None] * rows
    images, videos = stored.get(columns.images, nothing), stored.get(columns.videos, nothing)
    for offset in range(rows):
        yield Cells(first + offset, images[offset], videos[offset], by_datasets)

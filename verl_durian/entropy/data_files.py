# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Where rows come from and go to: verl's data files, and a training set that is already loaded."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

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
"""Largest row group that is written, in uncompressed bytes."""


class Cells(NamedTuple):
    """The images and videos of one row as they are stored; the arguments of `media.collect`."""

    images: Any
    videos: Any
    by_datasets: bool = False


@dataclass(frozen=True)
class Columns:
    """The columns with the images and videos of a row: verl's `data.image_key` and `data.video_key`."""

    images: str = "images"
    videos: str = "videos"

    def present_in(self, names: Sequence[str]) -> list[str]:
        """Those of the two columns that are among `names`."""
        return [name for name in (self.images, self.videos) if name in names]

    def decoded_by_datasets(self, features: datasets.Features) -> bool:
        """Whether the images are stored with a `datasets.Image` feature, so that `datasets` decodes them for verl."""
        image = getattr(features.get(self.images), "feature", None)
        return isinstance(image, datasets.Image) and image.decode

    def cells(self, table: pa.Table | pa.RecordBatch, by_datasets: bool) -> Iterator[Cells]:
        """The cells of each row of a table."""
        stored, nulls = table.to_pydict(), [None] * table.num_rows
        for images, videos in zip(stored.get(self.images, nulls), stored.get(self.videos, nulls), strict=True):
            yield Cells(images, videos, by_datasets)


@dataclass(frozen=True)
class DatasetRows:
    """The rows of a loaded data set."""

    name: str
    """What error messages call it."""
    dataset: datasets.Dataset
    columns: Columns

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.dataset)

    def cells(self) -> Iterator[Cells]:
        """Reads the images and videos of each row."""
        stored = self.dataset.select_columns(self.columns.present_in(self.dataset.column_names)).with_format("arrow")
        by_datasets = self.columns.decoded_by_datasets(self.dataset.features)
        for start in range(0, self.rows, _READ_ROWS):
            yield from self.columns.cells(stored[start : min(start + _READ_ROWS, self.rows)], by_datasets)


@dataclass(frozen=True)
class DataFile:
    """A data file of verl, and the file that is written for it."""

    name: str
    """Absolute path or fsspec URL."""
    version: str
    """`source_id` at the time it was opened."""
    target: Path
    rows: int
    """Number of rows."""
    columns: Columns

    def cells(self, start: int = 0) -> Iterator[Cells]:
        """Reads the images and videos of each row from row `start` on. Skips earlier row groups of a parquet file."""
        if self.name.endswith(".parquet"):
            with open_parquet(self.name) as parquet:
                present = self.columns.present_in(parquet.schema_arrow.names)
                features = datasets.Features.from_arrow_schema(parquet.schema_arrow)
                group = 0
                while group < parquet.num_row_groups and parquet.metadata.row_group(group).num_rows <= start:
                    start -= parquet.metadata.row_group(group).num_rows
                    group += 1
                groups = range(group, parquet.num_row_groups)
                for batch in parquet.iter_batches(_READ_ROWS, row_groups=groups, columns=present):
                    yield from self.columns.cells(batch[start:], self.columns.decoded_by_datasets(features))
                    start = max(0, start - batch.num_rows)
        else:
            with fsspec.open(self.name, "rt", encoding="utf-8") as text:
                for row in islice(_json_rows(text), start, None):
                    yield Cells(row.get(self.columns.images), row.get(self.columns.videos))

    def write(self, entropies: np.ndarray, patches: np.ndarray) -> None:
        """Writes the rows with their scores to `target`, atomically and in the format of the source.

        Args:
            entropies (np.ndarray): H of each row in nats, NaN for null. shape is (rows,)
            patches (np.ndarray): P of each row. shape is (rows,)

        Raises:
            ValueError: the source has changed since it was opened.
            OSError: the file cannot be written; the message names it.
        """
        self._require_unchanged()
        with whole_file(self.target) as file:
            if self.name.endswith(".parquet"):
                _write_parquet(self.name, file, entropies, patches)
            else:
                _write_json(self.name, file, entropies, patches)
            self._require_unchanged()

    def _require_unchanged(self) -> None:
        if source_id(self.name) != self.version:
            raise ValueError(f"{self.name} changed while it was scored: run the same command again")


def find_files(patterns: Sequence[str]) -> list[str]:
    """Finds data files by path, fsspec URL, or pattern with `*`; returns absolute paths and URLs.

    Raises:
        ValueError: a pattern matches no file, or a file has a suffix that verl does not read.
    """
    files = []
    for pattern in patterns:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        found = sorted(filesystem.glob(path)) if "*" in pattern else [path] if filesystem.exists(path) else []
        if not found:
            raise ValueError(f"--data {pattern}: no such file")
        local = isinstance(filesystem, LocalFileSystem)
        files += found if local else [filesystem.unstrip_protocol(name) for name in found]
    for file in files:
        if not file.endswith((".parquet", ".json", ".jsonl")):
            raise ValueError(f"--data {file}: not a format of verl: the name must end in .parquet, .json or .jsonl")
    return list(dict.fromkeys(files))


def open_files(files: Sequence[str], output: Path, columns: Columns) -> list[DataFile]:
    """Checks data files and counts their rows. Targets keep the folders below the common parent of all files.

    Raises:
        ValueError: a file is damaged or already scored, two files have the same target, or no file has a column of
            images or videos.
    """
    folders = [os.path.dirname(file) for file in files]
    common = "/".join(os.path.commonprefix([folder.split("/") for folder in folders]))  # of lists: complete names
    opened: list[DataFile] = []
    seen: set[str] = set()
    taken = {output / name for name in RESERVED}
    for file in files:
        version = source_id(file)
        try:
            names, rows = _columns_and_rows(file)
        except (OSError, pa.ArrowInvalid, ValueError) as error:
            raise ValueError(f"--data {file}: cannot be read: {error}") from error
        for name in (ENTROPY, PATCHES):
            if name in names:
                raise ValueError(
                    f"--data {file}: already has a column {name!r}: remove the column, then score the file"
                )
        seen.update(names)
        target = output / file[len(common) :].lstrip("/")
        if target in taken:
            raise ValueError(f"--data {file}: {target} is the name of another file: rename {file}")
        taken.add(target)
        opened.append(DataFile(file, version, target, rows, columns))
    if not columns.present_in(list(seen)):
        raise ValueError(
            f"no column {columns.images!r} (--image-key) or {columns.videos!r} (--video-key) in the data, "
            f"only: {', '.join(sorted(seen))}"
        )
    return opened


def _columns_and_rows(file: str) -> tuple[set[str], int]:
    if file.endswith(".parquet"):
        with open_parquet(file) as parquet:
            return set(parquet.schema_arrow.names), parquet.metadata.num_rows
    names: set[str] = set()
    rows = 0
    with fsspec.open(file, "rt", encoding="utf-8") as text:
        for row in _json_rows(text):
            names.update(row)
            rows += 1
    if rows == 0:
        raise ValueError("the file has no rows")
    return names, rows


def _json_rows(text: IO[str]) -> Iterator[dict[str, Any]]:
    """The rows of a JSON file, either a list of rows or one row per line."""
    for number, row in enumerate(json.load(text) if _starts_a_list(text) else _json_lines(text)):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not a JSON object")
        yield row


def _json_lines(text: IO[str]) -> Iterator[Any]:
    for number, line in enumerate(text, start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error


def _starts_a_list(text: IO[str]) -> bool:
    start = text.read(1024).lstrip()
    text.seek(0)
    return start.startswith("[")


def _write_parquet(source: str, file: IO[bytes], entropies: np.ndarray, patches: np.ndarray) -> None:
    with open_parquet(source) as parquet:
        groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
        codec = groups[0].column(0).compression if groups else "SNAPPY"
        schema = _schema_with_scores(parquet.schema_arrow)
        with pq.ParquetWriter(file, schema, compression="NONE" if codec == "UNCOMPRESSED" else codec) as writer:
            row = 0
            for number, group in enumerate(groups):
                size = max(1, group.num_rows * _ROW_GROUP_BYTES // max(group.total_byte_size, _ROW_GROUP_BYTES))
                for batch in parquet.iter_batches(size, row_groups=[number]):
                    h, p = entropies[row : row + batch.num_rows], patches[row : row + batch.num_rows]
                    nulls = np.isnan(h)
                    scores = [pa.array(h, pa.float64(), mask=nulls), pa.array(p, pa.int32(), mask=nulls)]
                    writer.write_table(pa.Table.from_arrays([*batch.columns, *scores], schema=schema))
                    row += batch.num_rows


def _schema_with_scores(schema: pa.Schema) -> pa.Schema:
    """Adds the two columns to a schema, and to the features that `datasets` keeps in its metadata."""
    extended = schema.append(pa.field(ENTROPY, pa.float64())).append(pa.field(PATCHES, pa.int32()))
    metadata = dict(schema.metadata or {})
    if b"huggingface" in metadata:
        info = json.loads(metadata[b"huggingface"])
        features = info.get("info", {}).get("features")
        if features is not None:
            features[ENTROPY] = {"dtype": "float64", "_type": "Value"}
            features[PATCHES] = {"dtype": "int32", "_type": "Value"}
        metadata[b"huggingface"] = json.dumps(info).encode()
    return extended.with_metadata(metadata)


def _write_json(source: str, file: IO[bytes], entropies: np.ndarray, patches: np.ndarray) -> None:
    with fsspec.open(source, "rt", encoding="utf-8") as text:
        is_list = _starts_a_list(text)
        start, separator, end = ("[\n", ",\n", "\n]\n") if is_list else ("", "\n", "\n")
        for number, row in enumerate(_json_rows(text)):
            known = bool(np.isfinite(entropies[number]))
            row[ENTROPY] = float(entropies[number]) if known else None
            row[PATCHES] = int(patches[number]) if known else None
            file.write(f"{separator if number else start}{json.dumps(row, ensure_ascii=False)}".encode())
        file.write(end.encode())

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl's data files: read in parts, and written again with the scores of their rows."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import datasets  # type: ignore[import-untyped]
import fsspec  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from verl_durian.entropy.parts import Columns, Part, dataset_parts, open_parquet, parquet_parts
from verl_durian.files import whole_file

ENTROPY = "visual_entropy"
"""Column with H in nats, float64, null where a row has no image or its images cannot be scored."""
PATCHES = "visual_patches"
"""Column with the number of patches P, int32, null where H is."""
RESERVED = ("scores.json", "problems.jsonl")
"""Names in the folder of the results that are not for data files."""
_GROUP_BYTES = 128 << 20
"""Row groups are written of this size at most, as they are held in memory."""


@dataclass(frozen=True)
class Shard:
    """One data file, and the one that is written for it."""

    source: str
    """Absolute path, or fsspec URL."""
    version: str
    """Its `source_id` before it was read."""
    target: Path
    rows: int
    parts: list[Part]
    """None of them where the file has no column of images or videos."""


def find_files(patterns: Sequence[str]) -> list[str]:
    """Absolute paths or fsspec URLs of data files, from paths, URLs and patterns with `*`.

    Raises:
        ValueError: nothing is found, or a file's name ends in something else than verl reads.
    """
    files = []
    for pattern in patterns:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        found = sorted(filesystem.glob(path)) if "*" in pattern else [path] if filesystem.exists(path) else []
        if not found:
            raise ValueError(f"--data {pattern}: there is no such file")
        local = isinstance(filesystem, LocalFileSystem)
        files += found if local else [filesystem.unstrip_protocol(name) for name in found]
    for file in files:
        if not file.endswith((".parquet", ".json", ".jsonl")):
            raise ValueError(f"--data {file}: verl reads files whose names end in .parquet, .json or .jsonl")
    return list(dict.fromkeys(files))


def is_local(file: str) -> bool:
    """Whether a file of `find_files` is one of this machine."""
    return "://" not in file


def open_shards(files: Sequence[str], output: Path, columns: Columns) -> list[Shard]:
    """Takes stock of data files. Files of several folders keep their places in relation to each other.

    Raises:
        ValueError: a file that cannot be read, that is scored already, or none with a column of images or videos.
    """
    folders = [os.path.dirname(file) for file in files]
    common = "/".join(os.path.commonprefix([folder.split("/") for folder in folders]))  # of lists: whole names
    shards, seen, taken = [], set(), {output / name for name in RESERVED}
    for file in files:
        version = source_id(file)
        try:
            if file.endswith(".parquet"):
                with open_parquet(file) as parquet:
                    names, rows = parquet.schema_arrow.names, parquet.metadata.num_rows
                parts: list[Any] = parquet_parts(file, columns)
            else:
                dataset = datasets.load_dataset("json", data_files=file, split="train")
                names, rows = dataset.column_names, len(dataset)
                parts = dataset_parts(file, dataset, columns)
        except (OSError, pa.ArrowInvalid, datasets.exceptions.DatasetGenerationError, StopIteration) as error:
            raise ValueError(f"--data {file}: cannot be read: {error or 'there is nothing in it'}") from error
        scored = [name for name in (ENTROPY, PATCHES) if name in names]
        if scored:
            raise ValueError(f"--data {file}: has a column {scored[0]!r} already: score the file without it")
        seen.update(names)
        target = output / file[len(common) :].lstrip("/")
        if target in taken:
            raise ValueError(
                f"--data {file}: would be written to {target}, which is the name of another file: rename it"
            )
        taken.add(target)
        shards.append(Shard(file, version, target, rows, parts))
    if not columns.of(list(seen)):
        raise ValueError(
            f"no column {columns.images!r} (--image-key) or {columns.videos!r} (--video-key) in the data, "
            f"only: {', '.join(sorted(seen))}"
        )
    return shards


def source_id(file: str) -> str:
    """What changes when a file does: its size, time of change, ...; a hash."""
    filesystem, path = fsspec.core.url_to_fs(file)
    return filesystem.ukey(path)


def size(file: str) -> int:
    """Bytes of a file."""
    filesystem, path = fsspec.core.url_to_fs(file)
    return filesystem.size(path)


def write_shard(shard: Shard, entropies: np.ndarray, patches: np.ndarray) -> None:
    """Writes a shard's rows with their scores, whole or not at all.

    Args:
        shard (Shard): Which.
        entropies (np.ndarray): H in nats of each row, NaN where there is none. shape is (shard.rows,)
        patches (np.ndarray): P of each row. shape is (shard.rows,)

    Raises:
        ValueError: the source is not what it was when stock was taken.
        OSError: there is no room for it.
    """
    _check_unchanged(shard)
    with whole_file(shard.target) as file:
        if shard.source.endswith(".parquet"):
            _write_parquet(shard.source, file, entropies, patches)
        else:
            _write_json(shard.source, file, entropies, patches)
        _check_unchanged(shard)


def _check_unchanged(shard: Shard) -> None:
    if source_id(shard.source) != shard.version:
        raise ValueError(f"{shard.source} changed while it was scored: give the same command again")


def _write_parquet(source: str, file: IO[bytes], entropies: np.ndarray, patches: np.ndarray) -> None:
    with open_parquet(source) as parquet:
        groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
        codec = groups[0].column(0).compression if groups else "SNAPPY"
        schema = _with_scores(parquet.schema_arrow)
        with pq.ParquetWriter(file, schema, compression="NONE" if codec == "UNCOMPRESSED" else codec) as writer:
            row = 0
            for number, group in enumerate(groups):
                at_once = max(1, group.num_rows * _GROUP_BYTES // max(group.total_byte_size, _GROUP_BYTES))
                for batch in parquet.iter_batches(at_once, row_groups=[number]):
                    h, p = entropies[row : row + batch.num_rows], patches[row : row + batch.num_rows]
                    scores = [
                        pa.array(h, pa.float64(), mask=np.isnan(h)),
                        pa.array(p, pa.int32(), mask=np.isnan(h)),
                    ]
                    writer.write_table(pa.Table.from_arrays([*batch.columns, *scores], schema=schema))
                    row += batch.num_rows


def _with_scores(schema: pa.Schema) -> pa.Schema:
    """The schema with the two columns, in the features that `datasets` keeps in its metadata too."""
    extended = schema.append(pa.field(ENTROPY, pa.float64())).append(pa.field(PATCHES, pa.int32()))
    metadata = dict(schema.metadata or {})
    if b"huggingface" in metadata:
        kept = json.loads(metadata[b"huggingface"])
        features = kept.get("info", {}).get("features")
        if features is not None:
            features[ENTROPY] = {"dtype": "float64", "_type": "Value"}
            features[PATCHES] = {"dtype": "int32", "_type": "Value"}
        metadata[b"huggingface"] = json.dumps(kept).encode()
    return extended.with_metadata(metadata)


def _write_json(source: str, file: IO[bytes], entropies: np.ndarray, patches: np.ndarray) -> None:
    """As the source: one list of rows, or one row a line."""
    with fsspec.open(source, "rt", encoding="utf-8") as lines:
        listed = lines.read(1024).lstrip().startswith("[")
        lines.seek(0)
        rows = json.load(lines) if listed else (json.loads(line) for line in lines if line.strip())
        scores = zip(entropies.tolist(), patches.tolist(), strict=True)
        for number, (row, (h, p)) in enumerate(zip(rows, scores, strict=True)):
            known = h == h  # not NaN
            text = json.dumps({**row, ENTROPY: h if known else None, PATCHES: p if known else None}, ensure_ascii=False)
            separator = ("[\n" if number == 0 else ",\n") if listed else "" if number == 0 else "\n"
            file.write(f"{separator}{text}".encode())
        file.write((b"\n]\n" if len(entropies) else b"[]\n") if listed else b"\n")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The parquet file of a split: verl's rows, and in its metadata a summary of how it was made."""

import json
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets  # type: ignore[import-untyped]
import multiprocess  # type: ignore[import-untyped]
import pyarrow.compute as pc
import pyarrow.parquet as pq

from verl_durian.files import room_for, whole_file
from verl_durian.prepare.base import DatasetSpec
from verl_durian.prepare.rows import CONVERTED_SCHEMA, SCHEMA, convert
from verl_durian.prepare.sources import Source

WORK_PREFIX = ".prepare-"
"""Start of the names of temporary folders in the output folder."""
_SUMMARY_KEY = "verl_durian.prepare"
_BATCH_ROWS = 32
"""Source rows that a worker converts at once, and of a row group of the file."""


@dataclass(frozen=True)
class Summary:
    """How a split was made."""

    settings: dict[str, Any]
    """What the result depends on besides the source files."""
    digest: str
    """`Source.digest` of the split."""
    counts: dict[str, int]
    """Number of source rows, rows, images and resized images."""
    answer_types: dict[str, int]
    """Number of rows of each answer type."""
    dropped: list[dict[str, Any]]
    """Index, id, reason and detail of each dropped row."""


def write_split(
    file: Path, spec: DatasetSpec, source: Source, settings: dict[str, Any], workers: int | None
) -> Summary:
    """Converts a split and writes its file atomically.

    Args:
        file (Path): The file, whose name is that of the split.
        spec (DatasetSpec): The dataset.
        source (Source): Its source.
        settings (dict[str, Any]): Stored in the summary.
        workers (int | None): Largest number of processes; None: the number of cores.

    Raises:
        ValueError: a row cannot be converted, no row is usable, or a worker was killed.
        OSError: no space is left on the disk.
    """
    rows, place = source.splits[file.stem], f"{spec.name}, split {file.stem}"
    if not len(rows):
        raise ValueError(f"{place}: the source has no rows")
    processes = min(workers or len(os.sched_getaffinity(0)), math.ceil(len(rows) / _BATCH_ROWS))
    if processes > 1:  # forked workers would hold the lock of the output folder after this process was killed
        multiprocess.set_start_method("spawn", force=True)
    with room_for(file), TemporaryDirectory(prefix=WORK_PREFIX, dir=file.parent, ignore_cleanup_errors=True) as work:
        try:
            converted = rows.with_format("arrow").map(
                convert,
                with_indices=True,
                batched=True,
                batch_size=_BATCH_ROWS,
                features=datasets.Features.from_arrow_schema(CONVERTED_SCHEMA),
                cache_file_name=f"{work}/converted.arrow",
                fn_kwargs={"name": spec.name, "split": file.stem, "archive": source.archive},
                num_proc=processes if processes > 1 else None,
                desc=file.stem,
            )
        except RuntimeError as error:
            raise ValueError(f"{place}: a worker was killed, probably out of memory: give fewer --workers") from error
        summary = _summary(converted, settings, source.digest(file.stem))
        if not summary.counts["rows"]:
            first = "{id}: {reason} {detail}".format(**summary.dropped[0])
            raise ValueError(f"{place}: none of the {len(rows)} rows is usable; the first: {first}")
        with whole_file(file) as stream, pq.ParquetWriter(stream, SCHEMA) as writer:
            for batch in converted.iter(_BATCH_ROWS):
                writer.write_table(batch.filter(pc.is_valid(batch["prompt"])).select(SCHEMA.names))
            writer.add_key_value_metadata({_SUMMARY_KEY: json.dumps(asdict(summary))})
    return summary


def _summary(converted: datasets.Dataset, settings: dict[str, Any], digest: str) -> Summary:
    rows = converted.select_columns(["extra_info", "resized", "reason", "detail"]).to_list()
    answer_types, dropped = Counter[str](), []
    for row in rows:
        extra = row["extra_info"]
        if row["reason"] is None:
            answer_types[extra["answer_type"]] += 1
        else:
            row_id = {"index": extra["index"], "id": extra["id"]}
            dropped.append({**row_id, "reason": row["reason"], "detail": row["detail"]})
    counts = {
        "source_rows": len(rows),
        "rows": len(rows) - len(dropped),
        "images": pc.sum(pc.list_value_length(converted.data.column("images"))).as_py(),
        "resized": sum(row["resized"] or 0 for row in rows),
    }
    return Summary(settings, digest, counts, dict(sorted(answer_types.items())), dropped)


def read_summary(file: Path) -> Summary:
    """Reads the summary of a file.

    Raises:
        ValueError: `write_split` did not write the file.
    """
    try:
        metadata = pq.read_metadata(file).metadata or {}
        return Summary(**json.loads(metadata[_SUMMARY_KEY.encode()]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} was not written by `verl-durian prepare`") from error

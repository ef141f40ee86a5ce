# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The parquet file of a split: verl's rows, and in its metadata how it was made."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_durian.files import whole_file
from verl_durian.prepare.rows import Converted

_SUMMARY = "verl_durian.prepare"
_TEXT = pa.string()
SCHEMA = pa.schema(
    {
        "data_source": _TEXT,
        "prompt": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": _TEXT})),
        "ability": _TEXT,
        "reward_model": pa.struct({"style": _TEXT, "ground_truth": _TEXT}),
        "extra_info": pa.struct(
            {
                "split": _TEXT,
                "index": pa.int64(),
                "id": _TEXT,
                "question": _TEXT,
                "answer_type": _TEXT,
                "choices": pa.list_(_TEXT),
                "decimals": pa.int64(),
                "metadata": _TEXT,
            }
        ),
    }
)
"""The columns of every set. No `datasets.Image`: verl then decodes the images itself, as it does in its examples."""


@dataclass(frozen=True)
class Summary:
    """How a split was made."""

    settings: dict[str, Any]
    """What it depends on, besides its source files."""
    digest: str
    """Of its source files."""
    counts: dict[str, int]
    """Rows of the source, rows, images and resized images."""
    answer_types: dict[str, int]
    dropped: list[dict[str, Any]]
    """Index, id, reason and detail of each row that was left out."""


def write_split(file: Path, settings: dict[str, Any], digest: str, batches: Iterable[list[Converted]]) -> Summary:
    """Writes a split, whole or not at all, one row group a batch.

    Raises:
        ValueError: there is no row to write.
    """
    counts, answer_types = Counter[str](), Counter[str]()
    dropped: list[dict[str, Any]] = []
    with whole_file(file) as stream, pq.ParquetWriter(stream, SCHEMA) as writer:
        for batch in batches:
            rows = [each.row for each in batch if each.row is not None]
            for each in batch:
                counts.update(each.counts)
                if each.row is None:
                    told = {"index": each.index, "id": each.id, "reason": each.reason, "detail": each.detail}
                    dropped.append(told)
            answer_types.update(row["extra_info"]["answer_type"] for row in rows)
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        if not counts["rows"]:
            why = "; the first: {id}: {reason} {detail}".format(**dropped[0]) if dropped else ""
            raise ValueError(f"{file.stem}: none of its {counts['source_rows']} rows can be used{why}")
        summary = Summary(settings, digest, dict(counts), dict(sorted(answer_types.items())), dropped)
        writer.add_key_value_metadata({_SUMMARY: json.dumps(asdict(summary))})
    return summary


def read_summary(file: Path) -> Summary:
    """How the split in a file was made.

    Raises:
        ValueError: it is no file of `write_split`.
    """
    try:
        metadata = pq.read_metadata(file).metadata or {}
        return Summary(**json.loads(metadata[_SUMMARY.encode()]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no file of `verl-durian prepare`") from error

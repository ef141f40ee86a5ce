# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Converts source rows to verl's rows. All datasets get the same columns, so that verl can concatenate their files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import datasets  # type: ignore[import-untyped]
import pyarrow as pa

from verl_durian.prepare.adapters import DATASETS
from verl_durian.prepare.base import Dropped
from verl_durian.prepare.images import IMAGE, fit, place_images
from verl_durian.prepare.sources import read_image

THINKING_PROMPT = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. "
    "The reasoning process MUST BE enclosed within <think> </think> tags. "
    "The final answer MUST BE put in \\boxed{}."
)
"""Precedes the question in the user message; the model's own system prompt stays. The wording is that of the
Geometry3K examples of verl and of the paper's framework."""

_TEXT, _INTEGER = pa.string(), pa.int64()
_EXTRA_INFO = {
    **{"split": _TEXT, "index": _INTEGER, "id": _TEXT, "question": _TEXT, "answer_type": _TEXT},
    **{"choices": pa.list_(_TEXT), "decimals": _INTEGER, "metadata": _TEXT},
}
SCHEMA = pa.schema(
    {
        "data_source": _TEXT,
        "prompt": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": _TEXT})),
        "ability": _TEXT,
        "reward_model": pa.struct({"style": _TEXT, "ground_truth": _TEXT}),
        "extra_info": pa.struct(_EXTRA_INFO),
    }
)
"""Columns of the files. The images are not `datasets.Image`: verl decodes them, as in its own examples."""
BATCH_ROWS = 32
"""Source rows that a worker converts at a time, and that a row group of the file contains."""


class Batch(NamedTuple):
    """Converted rows."""

    table: pa.Table
    counts: Counter[str]
    """Number of `rows`, `images`, `resized` images, and rows of each answer type."""
    dropped: list[dict[str, Any]]
    """Index, id, reason and detail of each dropped row."""


def convert(rows: datasets.Dataset, name: str, split: str, archive: Path | None, start: int) -> Batch:
    """Converts the `BATCH_ROWS` rows of a split from `start` on. `rows` has the format `arrow`.

    Raises:
        ValueError: a row cannot be converted; the message names dataset, split and row.
    """
    spec, converted, counts, dropped = DATASETS[name], [], Counter[str](), []
    for index, row in enumerate(rows[start : start + BATCH_ROWS].to_pylist(), start):
        row_id = "_".join(str(row[column]) for column in spec.ids)
        try:
            problem = spec.problem(row)
            contents = _image_files(row[spec.image], archive)
            images = [fit(content, spec.pixels) for content in contents]
            metadata = json.dumps(spec.metadata(row), ensure_ascii=False)
        except Dropped as error:
            dropped.append({"index": index, "id": row_id, "reason": error.reason, "detail": error.detail})
            continue
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise ValueError(f"{name}, split {split}, row {index} (id {row_id}): {message}") from error
        question = place_images(problem.question, len(images))
        converted.append(
            {
                "data_source": name,
                "prompt": [{"role": "user", "content": f"{THINKING_PROMPT}\n{question}"}],
                "images": [{"bytes": image, "path": None} for image in images],
                "ability": spec.ability,
                "reward_model": {"style": "rule", "ground_truth": problem.answer},
                "extra_info": {
                    "split": split,
                    "index": index,
                    "id": row_id,
                    "question": question.replace(IMAGE, "").strip(),
                    "answer_type": problem.answer_type,
                    "choices": list(problem.choices),
                    "decimals": problem.decimals,
                    "metadata": metadata,
                },
            }
        )
        resized = sum(image is not content for image, content in zip(images, contents, strict=True))
        counts.update({"rows": 1, "images": len(images), "resized": resized, problem.answer_type: 1})
    return Batch(pa.Table.from_pylist(converted, SCHEMA), counts, dropped)


def _image_files(source: Any, archive: Path | None) -> list[bytes]:
    """The image files of a row, from the value of its image column."""
    if not source:
        raise Dropped("no image")
    images = source if isinstance(source, list) else [source]
    contents: list[Any] = [read_image(archive, image) if archive else image and image["bytes"] for image in images]
    if not all(contents):
        raise Dropped("an image is missing", ", ".join(images) if archive else "")
    return contents

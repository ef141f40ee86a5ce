# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Converts source rows to verl's rows. All datasets get the same columns, so that verl can concatenate their files."""

import json
import re
from pathlib import Path
from typing import Any

import multiprocess  # type: ignore[import-untyped]
import pyarrow as pa

from verl_durian.prepare.base import DatasetSpec, Dropped, Row, dataset_spec
from verl_durian.prepare.images import fit
from verl_durian.prepare.sources import read_image

THINKING_PROMPT = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. "
    "The reasoning process MUST BE enclosed within <think> </think> tags. "
    "The final answer MUST BE put in \\boxed{}."
)
"""Precedes the question in the user message; the model's own system prompt stays. The wording is that of the
Geometry3K examples of verl and of the paper's framework."""

_STRING, _INTEGER = pa.string(), pa.int64()
SCHEMA = pa.schema(
    {
        "data_source": _STRING,
        "prompt": pa.list_(pa.struct({"role": _STRING, "content": _STRING})),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": _STRING})),
        "ability": _STRING,
        "reward_model": pa.struct({"style": _STRING, "ground_truth": _STRING}),
        "extra_info": pa.struct(
            {
                "split": _STRING,
                "index": _INTEGER,
                "id": _STRING,
                "question": _STRING,
                "answer_type": _STRING,
                "choices": pa.list_(_STRING),
                "decimals": _INTEGER,
                "metadata": _STRING,
            }
        ),
    }
)
"""Columns of the files. The images are not `datasets.Image`: verl decodes them, as in its own examples."""
CONVERTED_SCHEMA = pa.schema([*SCHEMA, ("resized", _INTEGER), ("reason", _STRING), ("detail", _STRING)])
"""Columns of `convert`: also how many images were resized, and why a row is dropped. A dropped row has only `index` and
`id` in `extra_info`; all else is null."""

IMAGE = "<image>"
_MARK = re.compile(r"<(image)(\d*)>|<(?:video|audio)>")
_LEADING_MARKS = re.compile(r"^(?:<image\d*>\s*)+")


def convert(rows: pa.Table, indices: list[int], name: str, split: str, archive: Path | None) -> pa.Table:
    """Converts a batch of source rows.

    Args:
        rows (pa.Table): The rows.
        indices (list[int]): Their positions in the split.
        name (str): Name of the dataset.
        split (str): Name of the split.
        archive (Path | None): Where the images are, if the column `image` contains paths.

    Returns:
        pa.Table: One row for each source row, with the columns of `CONVERTED_SCHEMA`.

    Raises:
        ValueError: a row cannot be converted; the message names dataset, split and row.
    """
    command = multiprocess.parent_process()
    if command is not None and not command.is_alive():
        raise SystemExit("the command was killed")  # otherwise this worker would go on to the end of its shard
    spec = dataset_spec(name)
    converted = []
    for index, row in zip(indices, rows.to_pylist(), strict=True):
        try:
            if archive is not None:
                row["image"] = [{"bytes": read_image(archive, path), "path": path} for path in row["image"] or []]
            converted.append(_converted_row(spec, split, index, row))
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise ValueError(f"{name}, split {split}, row {index} (id {spec.identify(row)}): {message}") from error
    return pa.Table.from_pylist(converted, CONVERTED_SCHEMA)


def _converted_row(spec: DatasetSpec, split: str, index: int, row: Row) -> dict[str, Any]:
    identity = spec.identify(row)
    try:
        problem = spec.problem(row)
        contents = [_image_bytes(image) for image in problem.images]
        question, order = place_images(problem.question, len(contents))
        images = [fit(contents[number], spec.pixels) for number in order]
    except Dropped as dropped:
        return {"extra_info": {"index": index, "id": identity}, "reason": dropped.reason, "detail": dropped.detail}
    return {
        "data_source": spec.name,
        "prompt": [{"role": "user", "content": f"{THINKING_PROMPT}\n{question}"}],
        "images": [{"bytes": image, "path": None} for image in images],
        "ability": spec.ability,
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {
            "split": split,
            "index": index,
            "id": identity,
            "question": question.replace(IMAGE, "").strip(),
            "answer_type": problem.answer_type,
            "choices": list(problem.choices),
            "decimals": problem.decimals,
            "metadata": json.dumps(problem.metadata, ensure_ascii=False),
        },
        "resized": sum(image is not contents[number] for image, number in zip(images, order, strict=True)),
    }


def _image_bytes(image: Row | None) -> bytes:
    if image is None or not image["bytes"]:
        raise Dropped("an image is missing", (image or {}).get("path") or "")
    return image["bytes"]


def place_images(question: str, images: int) -> tuple[str, list[int]]:
    """Gives a question as many `<image>` as it has images, and no other mark at which verl splits a prompt.

    The first mark stands for the first image, `<image2>` for the second. Images without a mark are placed at the front,
    or after the last mark if they follow the first image that has one. A mark without an image becomes `< image >`; at
    the front of a question without images it is removed. Returns the question and the index of each image in it.
    """
    if images == 0:
        question = _LEADING_MARKS.sub("", question)
    order: list[int] = []

    def replacement(mark: re.Match[str]) -> str:
        free = [number for number in range(images) if number not in order]
        wanted = int(mark[2]) - 1 if mark[2] else free[0] if free else None
        if mark[1] and wanted in free:
            order.append(wanted)
            return IMAGE
        return mark[0] if mark[2] else f"< {mark[0][1:-1]} >"

    placed = _MARK.sub(replacement, question)
    unmarked = [number for number in range(images) if number not in order]
    before = [number for number in unmarked if number < min(order, default=images)]
    after = unmarked[len(before) :]
    end = placed.rindex(IMAGE) + len(IMAGE) if order else 0
    return IMAGE * len(before) + placed[:end] + IMAGE * len(after) + placed[end:], before + order + after

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl's rows: of every set with the same columns, so that verl can put files of several sets together."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verl_durian.prepare.data_set import DataSet, Dropped, Problem, Row
from verl_durian.prepare.images import ImageError, fit
from verl_durian.prepare.sets import SETS

THINKING_PROMPT = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. "
    "The reasoning process MUST BE enclosed within <think> </think> tags. "
    "The final answer MUST BE put in \\boxed{}."
)
"""Stands before the question in the user message; the model's own system prompt stays. The wording is that of the
Geometry3K examples of verl and of the paper's framework."""

IMAGE = "<image>"
_MARK = re.compile(r"<(image)(\d*)>|<(?:video|audio)>")
_LEADING_MARKS = re.compile(r"(?:<image\d*>\s*)+")


@dataclass(frozen=True)
class Converted:
    """What became of a row of the source."""

    index: int
    """In its split, from 0."""
    id: str
    row: dict[str, Any] | None = None
    """verl's row; None if it was dropped."""
    images: int = 0
    resized: int = 0
    reason: str = ""
    """Why it was dropped."""
    detail: str = ""

    @property
    def counts(self) -> Counter[str]:
        """Rows, images and resized images that it adds to a split."""
        return Counter(source_rows=1, rows=int(self.row is not None), images=self.images, resized=self.resized)


def convert(name: str, split: str, rows: Sequence[tuple[int, Row]]) -> list[Converted]:
    """Makes verl's rows of rows of a source, in a worker.

    Args:
        name (str): Of the set.
        split (str): Which split they are of.
        rows (Sequence[tuple[int, Row]]): Index and row.
    """
    return [_convert(SETS[name], split, index, row) for index, row in rows]


def _convert(data_set: DataSet, split: str, index: int, row: Row) -> Converted:
    identity = data_set.identify(row)
    try:
        problem = data_set.problem(row)
        stored = [_content(image) for image in problem.images]
        question, order = place_images(problem.question, len(stored))
        try:
            images = [fit(stored[number], data_set.pixels) for number in order]
        except ImageError as error:
            raise Dropped("an image cannot be used", str(error)) from error
    except Dropped as dropped:
        return Converted(index, identity, reason=dropped.reason, detail=dropped.detail)
    resized = sum(image is not stored[number] for image, number in zip(images, order, strict=True))
    made = verl_row(data_set, split, index, identity, problem, question, images)
    return Converted(index, identity, made, len(images), resized)


def _content(image: Row | None) -> bytes:
    if image is None or not image["bytes"]:
        raise Dropped("an image is not there", (image or {}).get("path") or "")
    return image["bytes"]


def place_images(question: str, images: int) -> tuple[str, list[int]]:
    """Makes a question have as many `<image>` as there are images, and no other mark at which verl parts a prompt.

    The first mark stands for the first image, `<image2>` for the second. Images without a mark stand at the front,
    or behind the last mark if they follow the first marked image. What
    marks no image is taken out at the front, where it is but a place, and else is spaced out: `< image >`.

    Args:
        question (str): The question.
        images (int): Number of its images.

    Returns:
        tuple[str, list[int]]: The question, and the number of the image, from 0, that each `<image>` in it stands for.
    """
    if images == 0:
        question = _LEADING_MARKS.sub("", question, count=1) if _LEADING_MARKS.match(question) else question
    order: list[int] = []

    def place(mark: re.Match[str]) -> str:
        free = [number for number in range(images) if number not in order]
        wanted = int(mark[2]) - 1 if mark[2] else free[0] if free else None
        if mark[1] and wanted in free:
            order.append(wanted)
            return IMAGE
        return mark[0] if mark[2] else f"< {mark[0][1:-1]} >"

    placed = _MARK.sub(place, question)
    without_mark = [number for number in range(images) if number not in order]
    before = [number for number in without_mark if number < min(order, default=images)]
    after = without_mark[len(before) :]
    end = placed.rindex(IMAGE) + len(IMAGE) if order else 0
    return IMAGE * len(before) + placed[:end] + IMAGE * len(after) + placed[end:], before + order + after


def verl_row(
    data_set: DataSet, split: str, index: int, identity: str, problem: Problem, question: str, images: Sequence[bytes]
) -> dict[str, Any]:
    """One row in verl's format; `question` has an `<image>` for each of the images."""
    return {
        "data_source": data_set.name,
        "prompt": [{"role": "user", "content": f"{THINKING_PROMPT}\n{question}"}],
        "images": [{"bytes": image, "path": None} for image in images],
        "ability": data_set.ability,
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
    }

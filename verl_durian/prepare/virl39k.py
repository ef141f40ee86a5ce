# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""ViRL39K: questions of many kinds; the images are in a separate zip file."""

import re

from verl_durian.prepare.base import TRAINING, DatasetSpec, Dropped, Problem, Row, text
from verl_durian.prepare.choices import LETTERS, letter_of, read_choices
from verl_durian.reward import last_boxed

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_CHOICE = re.compile(rf"\(?([{LETTERS}])[.:)]\s*(.+)", re.DOTALL)
_METADATA = ("category", "source", "PassRate_32BTrained", "PassRate_7BBase")


def _problem(row: Row) -> Problem:
    question, boxed = text(row, "question"), text(row, "answer")
    images, metadata = row["image"], {name: row[name] for name in _METADATA}
    if not images:
        raise Dropped("no image")
    content = last_boxed(boxed)
    answer = (boxed if content is None else content).strip()
    if wrapped := _TEXT.fullmatch(answer):
        answer = wrapped[1].strip()
    if not answer:
        raise Dropped("no answer")
    if answer.lower() in ("yes", "no"):
        return Problem(question, images, answer.lower(), "yes_no", metadata=metadata)
    choices = read_choices(question)
    if (named := _CHOICE.fullmatch(answer)) and named[2] in choices:
        return Problem(question, images, named[1], "choice", choices, metadata)
    bare = answer.strip("().")
    if bare not in tuple(LETTERS):
        return Problem(question, images, answer, "number", metadata=metadata)
    letter = letter_of(answer, choices)
    if letter is None:  # the list in the question has other items, such as steps
        return Problem(question, images, bare, "choice", (), metadata)
    return Problem(question, images, letter, "choice", choices, metadata)


SPEC = DatasetSpec(
    name="virl39k",
    title="ViRL39K",
    hub_id="TIGER-Lab/ViRL39K",
    license="MIT",
    splits={"train": "39Krelease.parquet"},
    columns={"text": ["question", "answer"], "value": _METADATA, "id": ["qid"], "texts": ["image"]},
    pixels=TRAINING,
    identify=lambda row: str(row["qid"]),
    problem=_problem,
    treatment=(
        "Rows without an image are dropped: verl 0.9 can crash on a micro batch of such rows. The pass rates are in "
        "the metadata (-1: none).",
        "The answer is the content of its last `\\boxed{}`. A capital letter A to J, alone or before the text of that "
        "choice, becomes a choice, yes or no becomes yes_no, all else is a value. Choices are parsed from the question "
        "if it lists them.",
    ),
    archive="images.zip",
)

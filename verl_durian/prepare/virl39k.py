# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""ViRL39K: questions of many kinds; the images are in an archive of their own."""

import re

from verl_durian.prepare.choices import LETTERS, letter_of, read_choices
from verl_durian.prepare.data_set import AnswerType, DataSet, Dropped, Problem, Row, text
from verl_durian.prepare.images import TRAINING
from verl_durian.reward import last_boxed

_WORDS = re.compile(r"\\text\{([^{}]*)\}")
_CHOICE = re.compile(rf"\(?([{LETTERS}])[.:)]\s*(.+)", re.DOTALL)


def _problem(row: Row) -> Problem:
    question, boxed = text(row, "question"), text(row, "answer")
    if not row["image"]:
        raise Dropped("no image")
    content = last_boxed(boxed)
    answer = (boxed if content is None else content).strip()
    if words := _WORDS.fullmatch(answer):
        answer = words[1].strip()
    if not answer:
        raise Dropped("no answer")
    answer_type: AnswerType = "number"
    choices: list[str] = []
    if answer.lower() in ("yes", "no"):
        answer, answer_type = answer.lower(), "yes_no"
    elif (named := _CHOICE.fullmatch(answer)) and named[2] in read_choices(question):
        answer, answer_type, choices = named[1], "choice", read_choices(question)
    elif answer.strip("().") in tuple(LETTERS):
        choices = read_choices(question)
        letter = letter_of(answer, choices)
        if letter is None:  # a list of something else, such as steps
            choices, letter = [], answer.strip("().")
        answer, answer_type = letter, "choice"
    return Problem(
        question=question,
        images=row["image"],
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        metadata={name: row[name] for name in ("category", "source", "PassRate_32BTrained", "PassRate_7BBase")},
    )


VIRL39K = DataSet(
    name="virl39k",
    title="ViRL39K",
    hub_id="TIGER-Lab/ViRL39K",
    licence="MIT",
    splits={"train": "39Krelease.parquet"},
    columns={
        "question": "text",
        "answer": "text",
        "PassRate_32BTrained": "value",
        "PassRate_7BBase": "value",
        "category": "value",
        "source": "value",
        "qid": "id",
        "image": "texts",
    },
    pixels=TRAINING,
    identify=lambda row: str(row["qid"]),
    problem=_problem,
    treatment=(
        "Rows without image are dropped: verl 0.9 can crash on a micro batch of such rows. The pass rates are in the "
        "metadata (-1: none).",
        "The answer is what its last `\\boxed{}` holds. A capital letter A to J, alone or before the text of that "
        "choice, is a choice, yes or no is that, all else a value; choices are read out of the question where it lists "
        "them.",
    ),
    archive="images.zip",
)

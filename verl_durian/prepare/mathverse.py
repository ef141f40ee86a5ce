# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""MathVerse: each problem in five versions, which move its text into the picture step by step."""

from verl_durian.prepare.choices import letter_of, read_choices, write_choices
from verl_durian.prepare.data_set import DataSet, Dropped, Problem, Row, picture, text
from verl_durian.prepare.images import EVALUATION

_IN_THE_PICTURE = "Answer the question in the image."


def _problem(row: Row) -> Problem:
    image, answer, kind = picture(row, "image"), text(row, "answer"), text(row, "question_type")
    about = {name: row[name] for name in ("problem_index", "problem_version", "question_type")}
    metadata = {**(row["metadata"] or {}), **about}
    question = (row["question"] or "").strip()
    if kind == "free-form":
        return Problem(question or _IN_THE_PICTURE, [image], answer, "number", metadata=metadata)
    if kind != "multi-choice":
        raise Dropped("unknown question_type", kind)
    choices = read_choices(row["question_for_eval"] or "")
    letter = letter_of(answer, choices)
    if letter is None:
        raise Dropped("the answer is none of the choices", f"{answer} of {choices}")
    if question and choices and not read_choices(question):
        question = f"{question}\n{write_choices(choices)}"
    return Problem(question or _IN_THE_PICTURE, [image], letter, "choice", choices, metadata)


MATHVERSE = DataSet(
    name="mathverse",
    title="MathVerse",
    hub_id="AI4Math/MathVerse",
    licence="MIT",
    splits={"testmini": "testmini.parquet"},
    columns={
        "sample_index": "id",
        "problem_index": "id",
        "problem_version": "text",
        "question": "text",
        "image": "image",
        "answer": "text",
        "question_type": "text",
        "metadata": "record",
        "question_for_eval": "text",
    },
    pixels=EVALUATION,
    identify=lambda row: str(row["sample_index"]),
    problem=_problem,
    treatment=(
        f"A question that is in the picture alone (version Vision Only) reads: {_IN_THE_PICTURE}",
        "The choices, also those in a picture, are read out of `question_for_eval`; they are written out where a "
        "question with text does not list them.",
    ),
)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""MathVerse: each problem in five versions, which move its text step by step into the image."""

from verl_durian.prepare.base import EVALUATION, DatasetSpec, Dropped, Problem, Row, picture, text
from verl_durian.prepare.choices import letter_of, read_choices, write_choices

_QUESTION_IN_IMAGE = "Answer the question in the image."


def _problem(row: Row) -> Problem:
    image, answer, kind = picture(row, "image"), text(row, "answer"), text(row, "question_type")
    version = {name: row[name] for name in ("problem_index", "problem_version", "question_type")}
    metadata = {**(row["metadata"] or {}), **version}
    question = (row["question"] or "").strip()
    if kind == "free-form":
        return Problem(question or _QUESTION_IN_IMAGE, [image], answer, "number", metadata=metadata)
    if kind != "multi-choice":
        raise Dropped("unknown question_type", kind)
    choices = read_choices(row["question_for_eval"] or "")
    letter = letter_of(answer, choices)
    if letter is None:
        raise Dropped("the answer is none of the choices", f"{answer} of {choices}")
    if question and choices and not read_choices(question):
        question = f"{question}\n{write_choices(choices)}"
    return Problem(question or _QUESTION_IN_IMAGE, [image], letter, "choice", choices, metadata)


SPEC = DatasetSpec(
    name="mathverse",
    title="MathVerse",
    hub_id="AI4Math/MathVerse",
    license="MIT",
    splits={"testmini": "testmini.parquet"},
    columns={
        "id": ["sample_index", "problem_index"],
        "text": ["problem_version", "question", "answer", "question_type", "question_for_eval"],
        "image": ["image"],
        "record": ["metadata"],
    },
    pixels=EVALUATION,
    identify=lambda row: str(row["sample_index"]),
    problem=_problem,
    treatment=(
        f"A question that is only in the image (version Vision Only) becomes: {_QUESTION_IN_IMAGE}",
        "The choices, also those in an image, are parsed from `question_for_eval`. They are appended to a question "
        "that has text but does not list them.",
    ),
)

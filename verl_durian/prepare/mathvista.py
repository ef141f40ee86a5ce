# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""MathVista: questions about figures, charts and photographs."""

import math

from verl_durian.prepare.base import EVALUATION, DatasetSpec, Dropped, Problem, Row, picture, text
from verl_durian.prepare.choices import letter_of_text, write_choices


def _problem(row: Row) -> Problem:
    question, answer, kind = text(row, "question"), text(row, "answer"), text(row, "question_type")
    image = picture(row, "decoded_image")
    answer_format = {name: row[name] for name in ("question_type", "answer_type", "unit", "precision")}
    metadata = {**(row["metadata"] or {}), **answer_format}
    if row["unit"]:
        question = f"{question} (Unit: {row['unit']})"
    if kind == "free_form":
        decimals = _decimals(row)
        question = f"{question}{_format_hint(row, decimals)}"
        return Problem(question, [image], answer, "number", metadata=metadata, decimals=decimals)
    if kind != "multi_choice":
        raise Dropped("unknown question_type", kind)
    choices = row["choices"] or []
    letter = letter_of_text(answer, choices)
    if letter is None:
        raise Dropped("the answer is none of the choices", f"{answer} of {choices}")
    return Problem(f"{question}\n{write_choices(choices)}", [image], letter, "choice", choices, metadata)


def _decimals(row: Row) -> int | None:
    precision = row["precision"]
    return int(precision) if row["answer_type"] == "float" and precision and not math.isnan(precision) else None


def _format_hint(row: Row, decimals: int | None) -> str:
    """Describes the expected form of the answer, as the dataset's own `query` does."""
    kind = row["answer_type"]
    if kind == "integer":
        return "\nThe answer is an integer."
    if decimals:
        return f"\nThe answer is a number with {decimals} decimal place{'s' if decimals > 1 else ''}."
    return "\nThe answer is a list, such as [1, 2, 3]." if kind == "list" else ""


SPEC = DatasetSpec(
    name="mathvista",
    title="MathVista",
    hub_id="AI4Math/MathVista",
    license="CC-BY-SA-4.0",
    splits={"testmini": "data/testmini-*.parquet"},
    columns={
        "id": ["pid"],
        "text": ["question", "unit", "answer", "question_type", "answer_type"],
        "image": ["decoded_image"],
        "texts": ["choices"],
        "number": ["precision"],
        "record": ["metadata"],
    },
    pixels=EVALUATION,
    identify=lambda row: str(row["pid"]),
    problem=_problem,
    treatment=(
        "The choices are appended to the question, and the letter of the choice with the answer's text is graded.",
        "Other questions state the form of the answer, as the dataset's own `query` does: an integer, the number of "
        "decimal places, a list; and the unit if there is one. A number is right if it rounds to the ground truth at "
        "these decimal places.",
    ),
)

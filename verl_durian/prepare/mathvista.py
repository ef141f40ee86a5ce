# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""MathVista: questions about figures, charts and photographs."""

import math

from verl_durian.prepare.choices import letter_of_text, write_choices
from verl_durian.prepare.data_set import DataSet, Dropped, Problem, Row, picture, text
from verl_durian.prepare.images import EVALUATION


def _problem(row: Row) -> Problem:
    question, answer, kind = text(row, "question"), text(row, "answer"), text(row, "question_type")
    image = picture(row, "decoded_image")
    metadata = {
        **(row["metadata"] or {}),
        **{name: row[name] for name in ("question_type", "answer_type", "unit", "precision")},
    }
    if row["unit"]:
        question = f"{question} (Unit: {row['unit']})"
    if kind == "free_form":
        decimals = _decimals(row)
        asked = f"{question}{_form(row, decimals)}"
        return Problem(asked, [image], answer, "number", metadata=metadata, decimals=decimals)
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


def _form(row: Row, decimals: int | None) -> str:
    """The form of an answer that no choice tells, as the set's own `query` has it."""
    kind = row["answer_type"]
    if kind == "integer":
        return "\nThe answer is an integer."
    if decimals:
        return f"\nThe answer is a number with {decimals} decimal place{'s' if decimals > 1 else ''}."
    return "\nThe answer is a list, such as [1, 2, 3]." if kind == "list" else ""


MATHVISTA = DataSet(
    name="mathvista",
    title="MathVista",
    hub_id="AI4Math/MathVista",
    licence="CC-BY-SA-4.0",
    splits={"testmini": "data/testmini-*.parquet"},
    columns={
        "pid": "id",
        "question": "text",
        "decoded_image": "image",
        "choices": "texts",
        "unit": "text",
        "precision": "number",
        "answer": "text",
        "question_type": "text",
        "answer_type": "text",
        "metadata": "record",
    },
    pixels=EVALUATION,
    identify=lambda row: str(row["pid"]),
    problem=_problem,
    treatment=(
        "The choices are written out; of a choice the letter is graded, where the set has its text.",
        "Of other questions the form of the answer is told, as in the set's own `query`: an integer, the number of "
        "decimal places, a list; and the unit where there is one. A number is right if it rounds to the truth at these "
        "decimal places.",
    ),
)

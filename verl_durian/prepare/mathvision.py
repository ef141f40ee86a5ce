# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""MathVision (MATH-V): problems of mathematics competitions."""

import re

from verl_durian.prepare.base import EVALUATION, DatasetSpec, Dropped, Problem, Row, picture, text
from verl_durian.prepare.choices import LETTERS, letter_of, read_choices, write_choices

_UNIT = re.compile(r"\{(?:square|cubic)?(?:degrees?|inch(?:es)?|feet|foot|(?:centi|milli|kilo)?meters?|units?)\}$")


def corrected_answer(answer: str) -> str:
    r"""Removes a unit in braces, as in `69{degrees}`, and restores `\frac` whose `\f` was read as a form feed."""
    return _UNIT.sub("", answer.replace("\f", r"\f"))


def _problem(row: Row) -> Problem:
    question, answer = text(row, "question"), corrected_answer(text(row, "answer"))
    image = picture(row, "decoded_image")
    metadata = {"subject": row["subject"], "level": row["level"]}
    options = [option.strip() for option in row["options"] or []]
    if not options:
        return Problem(question, [image], answer, "number", metadata=metadata)
    letter = letter_of(answer, options)
    if letter is None:
        raise Dropped("the answer is none of the choices", f"{answer} of {options}")
    if not read_choices(question):
        question = f"{question}\n{write_choices(options)}"
    in_image = options == list(LETTERS[: len(options)])
    return Problem(question, [image], letter, "choice", [] if in_image else options, metadata)


SPEC = DatasetSpec(
    name="mathvision",
    title="MathVision",
    hub_id="MathLLMs/MathVision",
    license="MIT",
    splits={"test": "data/test-*.parquet"},
    columns={
        "id": ["id"],
        "text": ["question", "answer"],
        "texts": ["options"],
        "image": ["decoded_image"],
        "value": ["level", "subject"],
    },
    pixels=EVALUATION,
    identify=lambda row: str(row["id"]),
    problem=_problem,
    treatment=(
        "`<image1>` becomes `<image>`.",
        "The options are appended as choices. Options that are only letters, which mark parts of the image, are "
        "written on one line.",
    ),
)

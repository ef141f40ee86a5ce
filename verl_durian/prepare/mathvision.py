# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""MathVision (MATH-V): problems of mathematics competitions."""

import re

from verl_durian.prepare.choices import LETTERS, letter_of, read_choices, write_choices
from verl_durian.prepare.data_set import DataSet, Dropped, Problem, Row, picture, text
from verl_durian.prepare.images import EVALUATION

_UNIT = re.compile(r"\{(?:square|cubic)?(?:degrees?|inch(?:es)?|feet|foot|(?:centi|milli|kilo)?meters?|units?)\}$")


def _sound(answer: str) -> str:
    """Without the set's own slips: a unit in braces, `69{degrees}`, and `\\f` of a `\\frac` read as a form feed."""
    return _UNIT.sub("", answer.replace("\f", r"\f"))


def _problem(row: Row) -> Problem:
    question, answer = text(row, "question"), _sound(text(row, "answer"))
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
    pictured = options == list(LETTERS[: len(options)])
    return Problem(question, [image], letter, "choice", [] if pictured else options, metadata)


MATHVISION = DataSet(
    name="mathvision",
    title="MathVision",
    hub_id="MathLLMs/MathVision",
    licence="MIT",
    splits={"test": "data/test-*.parquet"},
    columns={
        "id": "id",
        "question": "text",
        "options": "texts",
        "decoded_image": "image",
        "answer": "text",
        "level": "value",
        "subject": "value",
    },
    pixels=EVALUATION,
    identify=lambda row: str(row["id"]),
    problem=_problem,
    treatment=(
        "`<image1>` becomes `<image>`.",
        "The options are written out as choices; options that are but letters, which mark parts of the picture, as one "
        "line.",
    ),
)

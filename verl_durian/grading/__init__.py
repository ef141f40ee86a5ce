# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Whether an answer is right: one grader for each type of answer."""

from collections.abc import Sequence

from verl_durian.grading.options import grade_choice, grade_yes_no
from verl_durian.grading.values import grade_value

LONGEST_ANSWER = 1000
"""Characters; real answers have less than a hundred. A longer one must equal the truth as text."""


def grade(
    answer: str, gold: str, answer_type: str = "number", choices: Sequence[str] = (), decimals: int | None = None
) -> bool:
    """Whether an answer is right.

    Args:
        answer: What the response's box holds.
        gold: The right answer.
        answer_type: `number` (a number, LaTeX, an expression or words), `choice` (gold is a letter) or `yes_no`.
        choices: The options' texts in the order A, B, C..., for `choice`; empty if they are not known.
        decimals: The decimal places that the question asks for, for `number`: an answer with more is rounded.

    Raises:
        ValueError: the answer type is none of these, or gold does not fit it.
    """
    if len(answer) > LONGEST_ANSWER:
        return answer.strip() == gold.strip()
    match answer_type:
        case "number":
            return grade_value(answer, gold, decimals)
        case "choice":
            return grade_choice(answer, gold, choices)
        case "yes_no":
            return grade_yes_no(answer, gold)
    raise ValueError(f"extra_info.answer_type {answer_type!r}: must be number, choice or yes_no")

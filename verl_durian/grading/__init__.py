# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Decides whether an answer is correct, with one grader per answer type."""

from collections.abc import Sequence

from verl_durian.grading.choices import grade_choice, grade_yes_no
from verl_durian.grading.values import grade_value

LONGEST_ANSWER = 1000
"""Characters. Real answers have fewer than a hundred; a longer answer must equal the gold answer as text."""


def grade(
    answer: str, gold: str, answer_type: str = "number", choices: Sequence[str] = (), decimals: int | None = None
) -> bool:
    """Decides whether an answer is correct.

    Args:
        answer: The content of the response's box.
        gold: The gold answer.
        answer_type: `number` (a number, LaTeX, an expression or words), `choice` (gold is a letter) or `yes_no`.
        choices: For `choice`: the texts of options A, B, C...; empty if unknown.
        decimals: For `number`: the decimal places that the question asks for; an answer with more is rounded.

    Raises:
        ValueError: The answer type is unknown, or gold does not fit it.
    """
    if len(answer) > LONGEST_ANSWER:
        return answer.strip() == gold.strip()
    try:
        match answer_type:
            case "number":
                return grade_value(answer, gold, decimals)
            case "choice":
                return grade_choice(answer, gold, choices)
            case "yes_no":
                return grade_yes_no(answer, gold)
    except TimeoutError:  # logged; other comparisons with this answer would also time out
        return False
    raise ValueError(f"extra_info.answer_type {answer_type!r}: must be number, choice or yes_no")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Reward of a text answer: 0.9 * accuracy + 0.1 * format (Eq. 22-24 of the Durian paper).

Set `reward.custom_reward_function.path=pkg://verl_durian.reward`. verl logs the three returned numbers, and DAPO's
`algorithm.filter_groups.metric=acc` reads `acc`.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real

import numpy as np

from verl_durian.grading import grade

ACCURACY_WEIGHT = 0.9
FORMAT_WEIGHT = 0.1

_BOX = "\\boxed{"
_BRACE = re.compile(r"(?P<box>\\boxed\s*\{)|\\[{}]|(?P<open>\{)|(?P<close>\})")  # an escaped brace is text
_SPACED_TAG_MARK = re.compile(r"(?<!\s)\s+(?=[<>/])|(?<=[<>/])\s+")


def last_boxed(text: str) -> str | None:
    r"""Returns the content of the last `\boxed{...}` with balanced braces, or None; takes linear time."""
    open_braces: list[int] = []  # start of a box's content, or 0 for a plain brace
    start, end = 0, 0
    for brace in _BRACE.finditer(text):
        if brace["box"]:
            open_braces.append(brace.end())
        elif brace["open"]:
            open_braces.append(0)
        elif brace["close"] and open_braces:
            opened = open_braces.pop()
            if opened > start:
                start, end = opened, brace.start()
    return text[start:end] if start else None


def has_format(text: str) -> bool:
    r"""Whether the response is `<think>...</think>...\boxed{...}...`, ignoring spaces around `<`, `>` and `/`.

    Equivalent to a full match of `<think>.*</think>.*\\boxed\{.*\}.*`, but in linear time.
    """
    text = _SPACED_TAG_MARK.sub("", text).strip()
    if not text.startswith("<think>"):
        return False
    thought_end = text.find("</think>", len("<think>"))
    box = text.find(_BOX, thought_end) if thought_end >= 0 else -1
    return box >= 0 and text.find("}", box) >= 0


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | float,
    extra_info: dict | None = None,
    **kwargs: object,
) -> dict[str, float]:
    """Scores one response, with the signature that verl expects of a reward function.

    Args:
        data_source: Name of the dataset, for error messages.
        solution_str: The response, decoded without special tokens.
        ground_truth: The gold answer, a string or a number.
        extra_info: The row's `extra_info`. Its keys `answer_type` (default `number`), `choices` and `decimals` are
            passed to `grading.grade`; `id` or `index` names the row in error messages.
        **kwargs: Other arguments of verl; ignored.

    Returns:
        `acc` (0 or 1), `format` (0 or 1) and `score`, their weighted sum.

    Raises:
        ValueError: The row cannot be graded; the message names the row, the key and its value.
    """
    row = extra_info or {}
    if not isinstance(row, Mapping):
        raise ValueError(f"extra_info={row!r} (data_source={data_source}): must be a mapping; correct the row")
    answer = last_boxed(solution_str)
    try:
        gold, choices, decimals = _answer_key(ground_truth, row)
        correct = grade(answer or "", gold, row.get("answer_type") or "number", choices, decimals)
    except ValueError as error:
        name = next((f", extra_info.{key}={row[key]}" for key in ("id", "index") if row.get(key) is not None), "")
        raise ValueError(f"{error}; correct the row or remove it (data_source={data_source}{name})") from error
    accuracy = float(correct and answer is not None)
    formatted = float(has_format(solution_str))
    return {"score": ACCURACY_WEIGHT * accuracy + FORMAT_WEIGHT * formatted, "acc": accuracy, "format": formatted}


def _answer_key(ground_truth: object, row: Mapping) -> tuple[str, list[str], int | None]:
    """Ground truth, choices and decimals of a row, in the types that `grade` expects."""
    choices, decimals = row.get("choices"), row.get("decimals")
    if not isinstance(choices, list | tuple | np.ndarray | None):
        raise ValueError(f"extra_info.choices: {choices!r} must be a list")
    if decimals is not None and not re.fullmatch(r"\d{1,3}(\.0*)?", str(decimals)):
        raise ValueError(f"extra_info.decimals: {decimals!r} must be an integer from 0 to 999, or null")
    texts = [] if choices is None else [_as_text("extra_info.choices", choice) for choice in choices]
    gold = _as_text("reward_model.ground_truth", ground_truth)
    return gold, texts, None if decimals is None else int(float(decimals))


def _as_text(field: str, value: object) -> str:
    """Converts an answer to text: a string, number or bool, of Python or NumPy."""
    if isinstance(value, str | np.bool_) or (isinstance(value, Real | Decimal) and value - value == 0):  # finite
        return str(value)
    raise ValueError(f"{field}: {value!r} cannot be an answer: must be a string or a finite number")

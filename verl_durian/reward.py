# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Reward of a text answer: 0.9 * accuracy + 0.1 * format (Eq. 22-24 of the Durian paper).

Named in verl as `reward.custom_reward_function.path`; the three returned numbers are logged by verl, and DAPO's
`algorithm.filter_groups.metric=acc` reads `acc`.
"""

import re

ACCURACY_WEIGHT = 0.9
FORMAT_WEIGHT = 0.1

_BOX = "\\boxed{"
_BRACE = re.compile(r"\\boxed\{|[{}]")
_SPACED_TAG_MARK = re.compile(r"(?<!\s)\s+(?=[<>/])|(?<=[<>/])\s+")


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` whose braces balance; a box that is never closed does not count.

    One pass over the text, so that its time is linear whatever a policy writes.

    Args:
        text: A response.

    Returns:
        The content, or None if no box is ever closed.
    """
    open_braces: list[int] = []  # where a box's content begins, or 0 for a plain brace
    start, end = 0, 0
    for brace in _BRACE.finditer(text):
        if brace.group() == _BOX:
            open_braces.append(brace.end())
        elif brace.group() == "{":
            open_braces.append(0)
        elif open_braces and open_braces[-1] <= start:
            open_braces.pop()
        elif open_braces:
            start, end = open_braces.pop(), brace.start()
    return text[start:end] if start else None


def has_format(text: str) -> bool:
    r"""Whether the response reads `<think>...</think>...\boxed{...}...`, blanks around `<`, `>` and `/` aside.

    Equal to a full match of `<think>.*</think>.*\\boxed\{.*\}.*`, written as four searches because that pattern
    backtracks through long hostile texts.
    """
    text = _SPACED_TAG_MARK.sub("", text).strip()
    if not text.startswith("<think>"):
        return False
    thought_end = text.find("</think>", len("<think>"))
    box = text.find(_BOX, thought_end) if thought_end >= 0 else -1
    return box >= 0 and text.find("}", box) >= 0


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None, **kwargs: object
) -> dict[str, float]:
    """Scores one response, with the signature that verl expects of a reward function.

    Args:
        data_source: Name of the data set; every data set is graded alike.
        solution_str: The response, decoded without special tokens.
        ground_truth: The right answer, a text.
        extra_info: The row's `extra_info`, not used.
        **kwargs: Whatever else verl passes, not used.

    Returns:
        `acc` (0 or 1), `format` (0 or 1) and `score`, their weighted sum.
    """
    answer = last_boxed(solution_str)
    accuracy = float(answer is not None and answer.strip().lower() == ground_truth.strip().lower())
    formatted = float(has_format(solution_str))
    return {
        "score": ACCURACY_WEIGHT * accuracy + FORMAT_WEIGHT * formatted,
        "acc": accuracy,
        "format": formatted,
    }

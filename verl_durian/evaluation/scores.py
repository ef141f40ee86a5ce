# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of a benchmark, from the verdict on each of its questions."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

_KEY = re.compile(r"(?P<steps>\d+)steps_(?P<step>\d+|multi)")


def accuracy(right: Sequence[bool]) -> float:
    """Share of right answers."""
    return sum(right) / len(right)


def wemath(right: Sequence[bool], metadata: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """WeMath's own score: does whoever solves a problem solve its sub-steps, and the other way round?

    A problem of n steps is n + 1 questions: each step alone, and all of them at once (`multi`). It counts as

    - IK, insufficient knowledge: a step wrong, and multi wrong;
    - IG, inadequate generalization: all steps right, but multi wrong;
    - RM, rote memorization: multi right, but a step wrong (strict), or every step wrong (loose);
    - CM, complete mastery: everything else.

    The score is (N - IG / 2 - RM - IK) / N, N the number of problems: 525 in the published set.

    Args:
        right: Verdicts.
            shape is (questions,)
        metadata: `problem`, and `key` such as `2steps_1`, `2steps_2`, `2steps_multi`, of each question.

    Returns:
        `strict` and `loose`, the scores; and the numbers `problems`, `IK`, `IG`, `RM_strict`, `RM_loose`.

    Raises:
        ValueError: the questions of a problem are not complete, as in a part of the set.
    """
    problems: dict[tuple[str, int], dict[str, bool]] = defaultdict(dict)
    for verdict, question in zip(right, metadata, strict=True):
        key = _KEY.fullmatch(question["key"])
        if key is None:
            raise ValueError(f"wemath: problem {question['problem']}: unknown key {question['key']!r}")
        problem = problems[str(question["problem"]), int(key["steps"])]  # 2 and 3 steps are numbered apart
        if key["step"] in problem:
            raise ValueError(f"wemath: problem {question['problem']} has {question['key']} twice")
        problem[key["step"]] = verdict

    kinds: Counter[str] = Counter()
    for (name, steps), questions in problems.items():
        wanted = [*map(str, range(1, steps + 1)), "multi"]
        if sorted(questions) != wanted:
            raise ValueError(f"wemath: problem {name} of {steps} steps has only {', '.join(sorted(questions))}")
        multi = questions.pop("multi")
        if not multi:
            kinds["IG" if all(questions.values()) else "IK"] += 1
        elif not all(questions.values()):
            kinds["RM_strict"] += 1
            kinds["RM_loose"] += not any(questions.values())
    counts = {kind: kinds[kind] for kind in ("IK", "IG", "RM_strict", "RM_loose")}
    lost = 0.5 * counts["IG"] + counts["IK"]
    return {
        "strict": 1 - (lost + counts["RM_strict"]) / len(problems),
        "loose": 1 - (lost + counts["RM_loose"]) / len(problems),
        "problems": len(problems),
        **counts,
    }


def hallusionbench(right: Sequence[bool], metadata: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """HallusionBench's scores: the share of questions (aAcc), of figures (fAcc), of questions over all figures (qAcc).

    A figure is right if all questions about it are; a question of a set is right if it is for every figure that it is
    asked about.

    Args:
        right: Verdicts.
            shape is (questions,)
        metadata: `category`, `subcategory`, `set_id`, `figure_id` and `question_id` of each question.

    Returns:
        `aAcc`, `fAcc`, `qAcc` and their `mean`.
    """

    def share_of_groups(name: str) -> float:
        groups: dict[tuple[str, ...], bool] = defaultdict(lambda: True)
        for verdict, question in zip(right, metadata, strict=True):
            groups[tuple(str(question[key]) for key in ("category", "subcategory", "set_id", name))] &= verdict
        return accuracy(list(groups.values()))

    scores = {
        "aAcc": accuracy(right),
        "fAcc": share_of_groups("figure_id"),
        "qAcc": share_of_groups("question_id"),
    }
    return {**scores, "mean": sum(scores.values()) / len(scores)}

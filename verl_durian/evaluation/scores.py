# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own scores, computed from the verdict on each question."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean

from verl_durian.evaluation.verdicts import Verdict

_KEY = re.compile(r"(?P<steps>\d+)steps_(?P<step>\d+|multi)")


def wemath(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """WeMath: does a model that solves a problem also solve its steps, and the other way round?

    A problem of n steps is n + 1 questions: each step alone, and all of them at once (`multi`). It is one of

    - IK, insufficient knowledge: a step wrong, and multi wrong;
    - IG, inadequate generalization: all steps correct, but multi wrong;
    - RM, rote memorization: multi correct, but a step wrong (strict), or all steps wrong (loose);
    - CM, complete mastery: everything else.

    The score is (N - IG / 2 - RM - IK) / N for N problems, 525 in the published set.

    Args:
        verdicts: On questions with metadata `problem` and `key`: `2steps_1`, `2steps_2`, `2steps_multi`.

    Returns:
        The scores `strict` and `loose`, and the numbers `problems`, `IK`, `IG`, `RM_strict` and `RM_loose`.

    Raises:
        ValueError: A question of a problem is missing, as in a subset of the benchmark.
    """
    problems: dict[tuple[str, int], dict[str, bool]] = defaultdict(dict)
    for verdict in verdicts:
        name, key = verdict.question.metadata["problem"], verdict.question.metadata["key"]
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"wemath: problem {name}: unknown key {key!r}")
        steps = problems[str(name), int(match["steps"])]  # problems of 2 and of 3 steps have separate numbers
        if match["step"] in steps:
            raise ValueError(f"wemath: problem {name} has {key} twice")
        steps[match["step"]] = verdict.correct

    kinds = Counter(IK=0, IG=0, RM_strict=0, RM_loose=0)
    for (name, count), steps in problems.items():
        if sorted(steps) != [*map(str, range(1, count + 1)), "multi"]:
            raise ValueError(f"wemath: problem {name} of {count} steps has only {', '.join(sorted(steps))}")
        multi = steps.pop("multi")
        if not multi:
            kinds["IG" if all(steps.values()) else "IK"] += 1
        elif not all(steps.values()):
            kinds["RM_strict"] += 1
            kinds["RM_loose"] += not any(steps.values())
    lost = 0.5 * kinds["IG"] + kinds["IK"]
    return {
        "strict": 1 - (lost + kinds["RM_strict"]) / len(problems),
        "loose": 1 - (lost + kinds["RM_loose"]) / len(problems),
        "problems": len(problems),
        **kinds,
    }


def hallusionbench(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """HallusionBench: the accuracy over questions (aAcc), figures (fAcc), and questions across figures (qAcc).

    A figure is correct if all questions about it are; a question is correct if it is for every figure of its set.

    Args:
        verdicts: On questions with metadata `category`, `subcategory`, `set_id`, `figure_id` and `question_id`.

    Returns:
        `aAcc`, `fAcc`, `qAcc` and their `mean`.
    """

    def share_of_correct_groups(name: str) -> float:
        groups: dict[tuple[str, ...], bool] = defaultdict(lambda: True)
        for verdict in verdicts:
            metadata = verdict.question.metadata
            groups[tuple(str(metadata[key]) for key in ("category", "subcategory", "set_id", name))] &= verdict.correct
        return fmean(groups.values())

    scores = {
        "aAcc": fmean(verdict.correct for verdict in verdicts),
        "fAcc": share_of_correct_groups("figure_id"),
        "qAcc": share_of_correct_groups("question_id"),
    }
    return {**scores, "mean": fmean(scores.values())}

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own scores, computed from the verdict on each question."""

import pandas as pd  # type: ignore[import-untyped]

_KEYS = {n: [*(f"{n}steps_{step}" for step in range(1, int(n) + 1)), f"{n}steps_multi"] for n in "23"}
"""The questions of a WeMath problem of 2 and of 3 steps."""


def wemath(verdicts: pd.DataFrame) -> dict[str, float]:
    """WeMath: does a model that solves a problem also solve its steps, and vice versa?

    A problem of n steps is n + 1 questions: each step alone, and all of them at once (`multi`). It is one of

    - IK, insufficient knowledge: a step wrong, and multi wrong;
    - IG, inadequate generalization: all steps correct, but multi wrong;
    - RM, rote memorization: multi correct, but a step wrong (strict), or all steps wrong (loose);
    - CM, complete mastery: everything else.

    The score is (N - IG / 2 - RM - IK) / N for N problems, 525 in the published set.

    Args:
        verdicts: `correct`, and of the question's metadata `problem` and `key`: `2steps_1`, `2steps_2`, `2steps_multi`.

    Raises:
        ValueError: A question of a problem is missing, as in a subset of the benchmark.
    """
    # Problems of 2 and of 3 steps are both numbered from 1.
    problem = [verdicts["problem"], verdicts["key"].str[0].rename("steps")]
    for (name, steps), keys in verdicts["key"].groupby(problem):
        if sorted(keys) != _KEYS.get(steps):
            raise ValueError(f"problem {name} of {steps} steps has the questions {', '.join(sorted(keys))}")
    is_multi = verdicts["key"].str.endswith("multi")
    multi = verdicts["correct"][is_multi].groupby(problem).first()
    steps = verdicts["correct"][~is_multi].groupby(problem)
    kinds = {
        "IK": ~multi & ~steps.all(),
        "IG": ~multi & steps.all(),
        "RM_strict": multi & ~steps.all(),
        "RM_loose": multi & ~steps.any(),
    }
    numbers = {"problems": len(multi), **{kind: int(found.sum()) for kind, found in kinds.items()}}
    scored = len(multi) - numbers["IG"] / 2 - numbers["IK"]
    return {kind: (scored - numbers[f"RM_{kind}"]) / len(multi) for kind in ("strict", "loose")} | numbers


def hallusionbench(verdicts: pd.DataFrame) -> dict[str, float]:
    """HallusionBench: the accuracy over questions (aAcc), figures (fAcc), and questions across figures (qAcc).

    A figure is correct if all questions about it are; a question is correct if it is for every figure of its set.

    Args:
        verdicts: `correct`, and the question's metadata.
    """
    figures = ["category", "subcategory", "set_id"]
    scores = {"aAcc": float(verdicts["correct"].mean())}
    for name, key in (("fAcc", "figure_id"), ("qAcc", "question_id")):
        scores[name] = float(verdicts.groupby([*figures, key])["correct"].all().mean())
    return {**scores, "mean": sum(scores.values()) / 3}

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own scores, against cases worked out by hand."""

import itertools

import pandas as pd
import pytest

from verl_durian.evaluation.scores import hallusionbench, wemath

PLACE = ["category", "subcategory", "set_id", "figure_id", "question_id"]


def problem(name: str, *steps: bool, multi: bool) -> list[dict]:
    """The questions of a WeMath problem."""
    keys = [*range(1, len(steps) + 1), "multi"]
    return [
        {"correct": correct, "problem": name, "key": f"{len(steps)}steps_{key}"}
        for key, correct in zip(keys, (*steps, multi), strict=True)
    ]


@pytest.mark.parametrize(
    ("questions", "counts", "strict", "loose"),
    [
        (problem("a", True, True, multi=True), {}, 1, 1),
        (problem("a", True, True, multi=False), {"IG": 1}, 0.5, 0.5),
        (problem("a", True, False, multi=False), {"IK": 1}, 0, 0),
        (problem("a", False, False, multi=False), {"IK": 1}, 0, 0),
        (problem("a", True, False, multi=True), {"RM_strict": 1}, 0, 1),
        (problem("a", False, False, multi=True), {"RM_strict": 1, "RM_loose": 1}, 0, 0),
        (problem("a", False, False, False, multi=True), {"RM_strict": 1, "RM_loose": 1}, 0, 0),
        # Problems of 2 and of 3 steps have separate numbers.
        (
            [*problem("1", True, True, multi=False), *problem("1", True, True, True, multi=True)],
            {"IG": 1, "problems": 2},
            0.75,
            0.75,
        ),
    ],
)
def test_wemath_by_hand(questions, counts, strict, loose):
    expected = {"problems": 1, "IK": 0, "IG": 0, "RM_strict": 0, "RM_loose": 0, **counts}
    assert wemath(pd.DataFrame(questions)) == {"strict": strict, "loose": loose, **expected}


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (problem("17", True, True, multi=True)[1:], "problem 17 of 2 steps has the questions 2steps_2, 2steps_multi"),
        (problem("17", True, True, multi=True)[:-1], "problem 17 of 2 steps has the questions 2steps_1, 2steps_2"),
        (2 * problem("17", True, True, multi=True), "problem 17 of 2 steps has the questions 2steps_1, 2steps_1"),
    ],
)
def test_wemath_needs_complete_problems(questions, message):
    with pytest.raises(ValueError, match=message):
        wemath(pd.DataFrame(questions))


def test_hallusionbench_by_hand():
    """Two figures and two questions, each asked about each figure, in two sets with the same numbers: one is wrong."""
    questions = [("VD", "chart", *place, place != (0, 1, 1)) for place in itertools.product((0, 1), repeat=3)]
    scores = hallusionbench(pd.DataFrame(questions, columns=[*PLACE, "correct"]))
    assert scores == {"aAcc": 0.875, "fAcc": 0.75, "qAcc": 0.75, "mean": 2.375 / 3}

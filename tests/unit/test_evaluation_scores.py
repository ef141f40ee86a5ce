# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own scores, against cases worked out by hand and a direct implementation of their definitions."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_durian.evaluation.scores import hallusionbench, wemath

SEEDED = settings(deadline=None, derandomize=True)
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
        (problem("a", False, False, True, multi=True), {"RM_strict": 1}, 0, 1),
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


verdicts = st.lists(st.tuples(st.lists(st.booleans(), min_size=2, max_size=3), st.booleans()), min_size=1, max_size=12)


@SEEDED
@given(verdicts, st.randoms(use_true_random=False))
def test_wemath_is_its_definition(problems, rng):
    questions = [each for n, (steps, multi) in enumerate(problems) for each in problem(str(n), *steps, multi=multi)]
    rng.shuffle(questions)
    total = len(problems)
    ik = sum(not multi and not all(steps) for steps, multi in problems)
    ig = sum(not multi and all(steps) for steps, multi in problems)
    strict = sum(multi and not all(steps) for steps, multi in problems)
    loose = sum(multi and not any(steps) for steps, multi in problems)
    assert wemath(pd.DataFrame(questions)) == {
        "strict": pytest.approx((total - 0.5 * ig - strict - ik) / total),
        "loose": pytest.approx((total - 0.5 * ig - loose - ik) / total),
        **{"problems": total, "IK": ik, "IG": ig, "RM_strict": strict, "RM_loose": loose},
    }


def test_hallusionbench_by_hand():
    """Two figures and two questions, each asked about each figure: one is wrong."""
    questions = [
        ("VD", "chart", 0, figure, question, (figure, question) != (1, 1)) for figure in (0, 1) for question in (0, 1)
    ]
    scores = hallusionbench(pd.DataFrame(questions, columns=[*PLACE, "correct"]))
    assert scores == {"aAcc": 0.75, "fAcc": 0.5, "qAcc": 0.5, "mean": 1.75 / 3}


@SEEDED
@given(st.dictionaries(st.tuples(*(st.integers(0, 1) for _ in PLACE)), st.booleans(), min_size=1))
def test_hallusionbench_is_its_definition(correct):
    """Also for figures and questions of the same number in other sets."""
    scores = hallusionbench(
        pd.DataFrame([(*place, each) for place, each in correct.items()], columns=[*PLACE, "correct"])
    )
    assert scores["aAcc"] == pytest.approx(sum(correct.values()) / len(correct))
    for name, key in (("fAcc", lambda place: place[:4]), ("qAcc", lambda place: place[:3] + place[4:])):
        groups = {key(place) for place in correct}
        right_groups = sum(all(each for place, each in correct.items() if key(place) == group) for group in groups)
        assert scores[name] == pytest.approx(right_groups / len(groups))
    assert scores["mean"] == pytest.approx((scores["aAcc"] + scores["fAcc"] + scores["qAcc"]) / 3)

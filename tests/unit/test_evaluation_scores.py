# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The scores, against cases worked out by hand and against a plain reading of their definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_durian.evaluation.scores import accuracy, hallusionbench, wemath


def problem(name: str, *steps: bool, multi: bool) -> list[tuple[bool, dict]]:
    """The questions of a problem of WeMath with their verdicts."""
    keys = [*range(1, len(steps) + 1), "multi"]
    return [
        (right, {"problem": name, "key": f"{len(steps)}steps_{key}"})
        for key, right in zip(keys, (*steps, multi), strict=True)
    ]


def scored(score, questions: list[tuple[bool, dict]]) -> dict[str, float]:
    right, metadata = zip(*questions, strict=True)
    return score(right, metadata)


def test_accuracy():
    assert accuracy([True, False, True, True]) == 0.75


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
        # Problems of 2 and of 3 steps are numbered apart.
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
    assert scored(wemath, questions) == {"strict": strict, "loose": loose, **expected}


def test_wemath_of_the_published_size():
    """525 problems: 100 IK, 50 IG, 40 RM of which 15 have every step wrong."""
    questions = []
    for number in range(525):
        name = f"p{number}"
        if number < 100:
            questions += problem(name, False, True, multi=False)
        elif number < 150:
            questions += problem(name, True, True, multi=False)
        elif number < 165:
            questions += problem(name, False, False, False, multi=True)
        elif number < 190:
            questions += problem(name, False, True, True, multi=True)
        else:
            questions += problem(name, True, True, multi=True)
    scores = scored(wemath, questions)
    assert scores["strict"] == pytest.approx((525 - 0.5 * 50 - 40 - 100) / 525)
    assert scores["loose"] == pytest.approx((525 - 0.5 * 50 - 15 - 100) / 525)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (problem("17", True, True, multi=True)[1:], "problem 17 of 2 steps has only 2, multi"),
        (problem("17", True, True, multi=True)[:-1], "problem 17 of 2 steps has only 1, 2"),
        (2 * problem("17", True, True, multi=True), "problem 17 has 2steps_1 twice"),
        ([(True, {"problem": "17", "key": "multi"})], "problem 17: unknown key 'multi'"),
    ],
)
def test_wemath_needs_whole_problems(questions, message):
    with pytest.raises(ValueError, match=message):
        scored(wemath, questions)


verdicts = st.lists(st.tuples(st.lists(st.booleans(), min_size=2, max_size=3), st.booleans()), min_size=1, max_size=12)


@given(verdicts, st.randoms())
def test_wemath_is_its_definition(problems, rng):
    questions = [each for n, (steps, multi) in enumerate(problems) for each in problem(str(n), *steps, multi=multi)]
    rng.shuffle(questions)
    total = len(problems)
    ik = sum(not multi and not all(steps) for steps, multi in problems)
    ig = sum(not multi and all(steps) for steps, multi in problems)
    strict = sum(multi and not all(steps) for steps, multi in problems)
    loose = sum(multi and not any(steps) for steps, multi in problems)
    assert scored(wemath, questions) == {
        "strict": pytest.approx((total - 0.5 * ig - strict - ik) / total),
        "loose": pytest.approx((total - 0.5 * ig - loose - ik) / total),
        "problems": total,
        "IK": ik,
        "IG": ig,
        "RM_strict": strict,
        "RM_loose": loose,
    }


def asked(right: bool, figure: int, question: int, **others: object) -> tuple[bool, dict]:
    place = {"category": "VD", "subcategory": "chart", "set_id": "0", **others}
    return right, {**place, "figure_id": str(figure), "question_id": str(question)}


def test_hallusionbench_by_hand():
    """Two figures and two questions, each asked of each figure: one is wrong."""
    questions = [asked(True, 0, 0), asked(True, 0, 1), asked(True, 1, 0), asked(False, 1, 1)]
    assert scored(hallusionbench, questions) == {"aAcc": 0.75, "fAcc": 0.5, "qAcc": 0.5, "mean": 1.75 / 3}


@pytest.mark.parametrize("place", ["category", "subcategory", "set_id"])
def test_hallusionbench_groups_end_with_their_set(place):
    """Figure 0 and question 0 of another set are others."""
    questions = [asked(True, 0, 0), asked(False, 0, 0, **{place: "other"})]
    assert scored(hallusionbench, questions) == {"aAcc": 0.5, "fAcc": 0.5, "qAcc": 0.5, "mean": 0.5}


places = st.tuples(*(st.integers(0, 1) for _ in range(5)))


@given(st.dictionaries(places, st.booleans(), min_size=1))
def test_hallusionbench_is_its_definition(rights):
    names = ("category", "subcategory", "set_id", "figure_id", "question_id")
    questions = [(right, dict(zip(names, place, strict=True))) for place, right in rights.items()]
    figures = {place[:4] for place in rights}
    asked_of_all = {place[:3] + place[4:] for place in rights}
    right_figures = sum(all(right for place, right in rights.items() if place[:4] == each) for each in figures)
    right_questions = sum(
        all(right for place, right in rights.items() if place[:3] + place[4:] == each) for each in asked_of_all
    )
    scores = scored(hallusionbench, questions)
    assert scores["aAcc"] == sum(rights.values()) / len(rights)
    assert scores["fAcc"] == right_figures / len(figures)
    assert scores["qAcc"] == right_questions / len(asked_of_all)
    assert scores["mean"] == pytest.approx((scores["aAcc"] + scores["fAcc"] + scores["qAcc"]) / 3)

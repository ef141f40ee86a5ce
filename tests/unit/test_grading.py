# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Verdicts of the graders: the table answer_pairs.tsv, and properties that hold for all answers."""

import csv
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recipes.quickstart.data import COLORS, SHAPES
from verl_durian.grading import LONGEST_ANSWER, grade
from verl_durian.reward import compute_score

SETS = {"geometry3k", "virl39k", "mathverse", "mathvision", "mathvista", "wemath", "hallusionbench", "quickstart"}
SEEDED = settings(deadline=None, derandomize=True)


def test_verdicts_of_the_table():
    with open(Path(__file__).parents[1] / "helpers/answer_pairs.tsv", newline="") as file:
        _, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    rows = [row for row in rows if not row[0].startswith("# ")]
    assert len(rows) >= 150 and {row[0] for row in rows} == SETS
    different = []
    for row in rows:
        data_set, answer_type, choices, gold, response, correct = row
        extra = {"answer_type": answer_type, "choices": choices.split(" | ") if choices else []}
        score = compute_score(data_set, f"<think>Let me see.</think> {response}", gold, extra)
        if score["acc"] != {"yes": 1, "no": 0}[correct]:
            different.append(row)
    assert different == []


def test_quickstart_rows_are_graded_as_equal_texts():
    golds = (*COLORS, *SHAPES, "yes", "no")
    row = {"split": "train", "index": 0, "kind": "color", "background": "flat", "image": "x/1.png", "thing": "red box"}
    for gold in golds:
        accepted = [answer for answer in golds if compute_score("easy_vqa", f"\\boxed{{{answer}}}", gold, row)["acc"]]
        assert accepted == [gold]


@pytest.mark.parametrize(
    ("gold", "answer", "decimals", "correct"),
    [
        ("1.2", "1.23", None, False),
        ("1.2", "1.23", 1, True),
        ("1.2", "x = 1.23 cm", 1, True),
        ("x = 1.2", "x = 1.23", 1, True),
        ("x = 1.2", "y = 1.23", 1, False),
        ("1.2 m", "123 cm", 1, True),
        ("1.2", "1.15", 1, True),
        ("1.2", "1.25", 1, True),
        ("1.2", "1.251", 1, False),
        ("1.2", "1", 1, False),
        ("0.33", r"\frac{1}{3}", 2, True),
        ("0.33", "0.34", 2, False),
        ("0.33", "0.33, 0.34", 2, False),
        ("3.1", r"\pi", 1, False),
        ("red", "1.2", 1, False),
    ],
)
def test_an_answer_may_have_more_decimals_than_the_question_asks_for(gold, answer, decimals, correct):
    row = {"answer_type": "number", "choices": [], "decimals": decimals}
    assert compute_score("mathvista", f"\\boxed{{{answer}}}", gold, row)["acc"] == correct


def test_a_long_answer_must_equal_gold():
    long = "x" * (LONGEST_ANSWER + 1)
    assert grade(long, long) and not grade(f"\\text{{{long}}}", long)
    assert grade("\\text{" + long[8:] + "}", long[8:])


values = st.one_of(
    st.integers(-10_000, 10_000).map(str),
    st.decimals(-100, 100, places=2).map(str),
    st.tuples(st.integers(-50, 50), st.integers(2, 50)).map(lambda pair: f"\\frac{{{pair[0]}}}{{{pair[1]}}}"),
    st.tuples(st.integers(2, 30), st.sampled_from([2, 3, 5, 7])).map(lambda pair: f"{pair[0]}\\sqrt{{{pair[1]}}}"),
    st.integers(2, 30).map(lambda number: f"{number}\\pi"),
)
WRAPPERS = [
    "{}", " {} ", "\n{}\n", "${}$", "\\({}\\)", "\\text{{{}}}", "\\mathrm{{ {} }}", "\\boxed{{{}}}", "**{}**", "{}.",
    "{} cm", "{}\\text{{ cm}}", "{}\\,\\mathrm{{m}}^2", "{} square units", "{}^\\circ", "{}°", "x = {}", "AB={}",
    "\\displaystyle {}", "The answer is {}",
]  # fmt: skip


@SEEDED
@given(gold=values, answer=values, wrapper=st.sampled_from(WRAPPERS))
def test_text_around_a_value_is_ignored(gold, answer, wrapper):
    assert grade(gold, gold)
    assert grade(wrapper.format(gold), gold) and grade(gold, wrapper.format(gold))
    assert grade(wrapper.format(answer), gold) == grade(answer, gold)


CHOICES = [
    "{0}", "({0})", "{0}.", "\\text{{{0}}}", "Option {0}", "{1}", "${1}$", "{1} cm", "{0}. {1}", "({0}) {1}",
    "{0}: {1}",
]  # fmt: skip


@SEEDED
@given(
    texts=st.lists(st.integers(0, 10_000).map(str), min_size=2, max_size=6, unique=True),
    place=st.integers(0, 5),
    other=st.integers(0, 5),
    form=st.sampled_from(CHOICES),
)
def test_a_choice_is_given_by_letter_or_text(texts, place, other, form):
    assume(place < len(texts) and other < len(texts))
    answer = form.format("ABCDEF"[other], texts[other])
    assert grade(answer, "ABCDEF"[place], "choice", texts) == (place == other)


LATEX = st.lists(
    st.sampled_from(
        "0 1 2 9 x a . , : ; + - * / ^ _ = < > ! % $ ( ) [ ] { } \\ ° √ ² ½ \\frac \\sqrt \\text \\boxed \\sin \\pi "
        "\\pm \\circ \\cup \\infty \\left \\right and or cm is yes A B".split()
    ),
    max_size=20,
).map("".join)


@SEEDED
@given(answer=st.one_of(st.text(max_size=60), LATEX), gold=st.one_of(st.text(max_size=20), LATEX), further=st.text())
def test_any_text_can_be_graded(answer, gold, further):
    for answer_type, truth in (("number", gold), ("choice", "B"), ("yes_no", "no")):
        row = {"answer_type": answer_type, "choices": [gold, "5"]}
        result = compute_score("any", f"{further}\\boxed{{{answer}}}", truth, row)
        assert result["acc"] in (0.0, 1.0) and result["format"] in (0.0, 1.0)
    assert grade(gold, gold) == (gold.strip() != "")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Verdicts of the graders; answer_pairs.tsv tells too where mathruler or math-verify alone would be wrong."""

import csv
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from math_verify import parse, verify
from mathruler.grader import extract_boxed_content, grade_answer

from recipes.quickstart.data import COLORS, SHAPES
from verl_durian.grading import LONGEST_ANSWER, grade
from verl_durian.reward import compute_score


class Pair(NamedTuple):
    """A line of answer_pairs.tsv."""

    data_set: str
    answer_type: str
    choices: list[str]
    gold: str
    response: str
    right: bool
    wrong_alone: list[str]
    """Which of mathruler and math-verify gives the other verdict."""


def read_pairs() -> dict[str, list[Pair]]:
    """The table's pairs by their class."""
    classes: dict[str, list[Pair]] = defaultdict(list)
    with open(Path(__file__).parents[1] / "helpers/answer_pairs.tsv", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert header == ["set", "answer_type", "choices", "gold", "response", "right", "wrong alone"]
    for row in rows:
        if row[0].startswith("# "):
            name = row[0]
            continue
        data_set, answer_type, choices, gold, response, right, wrong = row
        assert right in ("yes", "no")
        options = choices.split(" | ") if choices else []
        marks = [] if wrong == "-" else wrong.split()
        classes[name].append(Pair(data_set, answer_type, options, gold, response, right == "yes", marks))
    return classes


CLASSES = read_pairs()
PAIRS = [pair for pairs in CLASSES.values() for pair in pairs]
SETS = {"geometry3k", "virl39k", "mathverse", "mathvision", "mathvista", "wemath", "hallusionbench", "quickstart"}


def test_table_is_complete():
    assert len(PAIRS) >= 150
    assert len({str(pair) for pair in PAIRS}) == len(PAIRS)
    assert {pair.data_set for pair in PAIRS} == SETS
    for name, pairs in CLASSES.items():
        assert {pair.right for pair in pairs} == {True, False}, name


def test_verdicts_of_the_table():
    wrong = []
    for pair in PAIRS:
        response = f"<think>Let me see.</think> {pair.response}"
        row = {"answer_type": pair.answer_type, "choices": pair.choices}
        if compute_score(pair.data_set, response, pair.gold, row)["acc"] != pair.right:
            wrong.append(pair)
    assert wrong == []


def mathruler_alone(pair: Pair) -> bool:
    return grade_answer(extract_boxed_content(pair.response), pair.gold)


def math_verify_alone(pair: Pair) -> bool:
    return verify(parse(f"\\boxed{{{pair.gold}}}"), parse(pair.response))


def test_where_a_library_alone_is_wrong():
    alone = {"mathruler": mathruler_alone, "math-verify": math_verify_alone}
    for pair in PAIRS:
        wrong = [name for name, verdict in alone.items() if verdict(pair) != pair.right]
        assert wrong == pair.wrong_alone, pair


def test_quickstart_rows_are_graded_as_equal_texts():
    golds = (*COLORS, *SHAPES, "yes", "no")
    row = {"split": "train", "index": 0, "kind": "color", "background": "flat", "image": "x/1.png", "thing": "red box"}
    for gold in golds:
        right = [answer for answer in golds if compute_score("easy_vqa", f"\\boxed{{{answer}}}", gold, row)["acc"]]
        assert right == [gold]


def test_score_of_every_type():
    parts = {"score": pytest.approx(1.0), "acc": 1.0, "format": 1.0}
    for answer_type, gold, choices in (
        ("number", "5", []),
        ("choice", "B", np.array(["4", "5"])),
        ("yes_no", "no", []),
    ):
        box = "no" if answer_type == "yes_no" else "5"
        row = {"answer_type": answer_type, "choices": choices}
        result = compute_score("any", f"<think></think>\\boxed{{{box}}}", gold, row, further="unused")
        assert result == parts
        assert [type(value) for value in result.values()] == [float, float, float]


@pytest.mark.parametrize(
    ("gold", "answer", "decimals", "right"),
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
def test_an_answer_may_have_more_decimals_than_asked_for(gold, answer, decimals, right):
    row = {"answer_type": "number", "choices": [], "decimals": decimals}
    assert compute_score("mathvista", f"\\boxed{{{answer}}}", gold, row)["acc"] == right


@pytest.mark.parametrize(
    ("answer_type", "gold", "choices", "message"),
    [
        ("letter", "A", [], "extra_info.answer_type 'letter': must be number, choice or yes_no"),
        ("choice", "C", ["1", "2"], "ground truth 'C' of a row with answer_type choice: must be the letter of one of"),
        ("choice", "30", [], "ground truth '30' of a row with answer_type choice"),
        ("choice", "", [], "ground truth '' of a row with answer_type choice"),
        ("yes_no", "1", [], 'ground truth \'1\' of a row with answer_type yes_no: must be "yes" or "no"'),
    ],
)
def test_rows_that_cannot_be_graded(answer_type, gold, choices, message):
    with pytest.raises(ValueError, match="(?s)^" + message.replace("(", r"\(")):
        compute_score("any", "\\boxed{A}", gold, {"answer_type": answer_type, "choices": choices})


def test_long_answers_must_be_the_truth_itself():
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


@settings(deadline=None)
@given(gold=values, answer=values, wrapper=st.sampled_from(WRAPPERS))
def test_what_is_around_a_value_does_not_count(gold, answer, wrapper):
    assert grade(gold, gold)
    assert grade(wrapper.format(gold), gold) and grade(gold, wrapper.format(gold))
    assert grade(wrapper.format(answer), gold) == grade(answer, gold)


@settings(deadline=None)
@given(
    texts=st.lists(st.integers(0, 10_000).map(str), min_size=2, max_size=6, unique=True),
    place=st.integers(0, 5),
    other=st.integers(0, 5),
    form=st.sampled_from(
        [
            "{0}",
            "({0})",
            "{0}.",
            "\\text{{{0}}}",
            "Option {0}",
            "{1}",
            "${1}$",
            "{1} cm",
            "{0}. {1}",
            "({0}) {1}",
            "{0}: {1}",
        ]
    ),
)
def test_a_choice_is_named_by_letter_or_text(texts, place, other, form):
    assume(place < len(texts) and other < len(texts))
    answer = form.format("ABCDEF"[other], texts[other])
    assert grade(answer, "ABCDEF"[place], "choice", texts) == (place == other)


LATEX = st.lists(
    st.sampled_from(
        "0 1 2 9 x a . , : ; + - * / ^ _ = < > ! % $ ( ) [ ] { } \\ ° √ ² ½ \\frac \\sqrt \\text \\boxed \\sin \\pi "
        "\\circ \\cup \\infty \\left \\right and or cm is yes A B".split()
    ),
    max_size=20,
).map("".join)


@settings(deadline=None)
@given(answer=st.one_of(st.text(max_size=60), LATEX), gold=st.one_of(st.text(max_size=20), LATEX), further=st.text())
def test_no_text_is_too_odd(answer, gold, further):
    for answer_type, truth in (("number", gold), ("choice", "B"), ("yes_no", "no")):
        row = {"answer_type": answer_type, "choices": [gold, "5"]}
        result = compute_score("any", f"{further}\\boxed{{{answer}}}", truth, row)
        assert result["acc"] in (0.0, 1.0) and result["format"] in (0.0, 1.0)
    assert grade(gold, gold) == (gold.strip() != "")

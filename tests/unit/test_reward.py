# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The reward of a text answer, in cases worked out by hand."""

import re
from decimal import Decimal

import numpy as np
import pytest

from verl_durian.reward import compute_score, has_format, last_boxed

GOOD = "<think> a red circle</think>\\boxed{red}"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{red}", "red"),
        ("\\boxed{red} or \\boxed{blue}", "blue"),
        ("\\boxed{red} or \\boxed{blue", "red"),
        ("\\boxed{a \\boxed{b}}", "b"),
        ("\\boxed{\\boxed{b} c", "b"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("} \\boxed{} {", ""),
        ("\\boxed{x} {y}", "x"),
        ("{\\boxed{x}}", "x"),
        ("\\boxed red", None),
        ("\\boxed{red", None),
        ("red", None),
        ("", None),
    ],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        (GOOD, True),
        ("  < think > a < / think >\n so \\boxed{red}.\n", True),
        ("<think></think>\\boxed{}", True),
        ("<think>a\nb</think>c\\boxed{d}", True),
        ("\\boxed{red}", False),
        ("so <think>a</think>\\boxed{red}", False),
        ("<think>a\\boxed{red}</think>", False),
        ("<think>a</think>red", False),
        ("<think>a</think>\\boxed{red", False),
        ("<think>\\boxed{red}", False),
        ("<think>", False),
        ("", False),
    ],
)
def test_format(text, formatted):
    assert has_format(text) is formatted
    pattern = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
    assert bool(pattern.fullmatch(re.sub(r"\s*([<>/])\s*", r"\1", text))) is formatted


@pytest.mark.parametrize(
    ("text", "truth", "score", "acc", "formatted"),
    [
        (GOOD, "red", 1.0, 1.0, 1.0),
        ("<think>x</think>\\boxed{ Red }", "red ", 1.0, 1.0, 1.0),
        ("\\boxed{red}", "red", 0.9, 1.0, 0.0),
        (GOOD, "blue", 0.1, 0.0, 1.0),
        ("<think>x</think>red", "red", 0.0, 0.0, 0.0),
        ("red", "red", 0.0, 0.0, 0.0),
        ("", "", 0.0, 0.0, 0.0),
    ],
)
def test_score(text, truth, score, acc, formatted):
    result = compute_score("easy_vqa_color", text, truth, extra_info={"index": 0})
    assert result == {"score": pytest.approx(score), "acc": acc, "format": formatted}


@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        (5, "5", "6"),
        (5, "5.0", "5.1"),
        (5.0, "5", "5.1"),
        (2.5, "\\frac{5}{2}", "3"),
        (np.int64(5), "5", "6"),
        (np.float32(0.1), "0.1", "0.2"),
        (np.float64(-1e22), "-10^{22}", "10^{22}"),
        (Decimal("1.50"), "1.5", "1.6"),
        (10**400, str(10**400), "1"),
        (True, "true", "false"),
        (np.False_, "False", "0"),
    ],
)
def test_a_numeric_ground_truth_is_used_as_text(truth, right, wrong):
    assert compute_score("mine", f"\\boxed{{{right}}}", truth)["acc"] == 1.0
    assert compute_score("mine", f"\\boxed{{{wrong}}}", truth)["acc"] == 0.0


@pytest.mark.parametrize("choices", [[30, 45], [30.0, 45.0], np.array([30, 45]), [np.int64(30), "45"]])
def test_choices_may_be_numbers(choices):
    row = {"answer_type": "choice", "choices": choices}
    for answer, accuracy in (("B", 1.0), ("45", 1.0), ("A", 0.0), ("30", 0.0)):
        assert compute_score("mine", f"\\boxed{{{answer}}}", "B", row)["acc"] == accuracy


@pytest.mark.parametrize("decimals", [1, "1", 1.0, "1.0", np.int64(1), np.float64(1)])
def test_decimals_may_be_any_form_of_an_integer(decimals):
    row = {"decimals": decimals}
    assert compute_score("mine", "\\boxed{1.23}", 1.2, row)["acc"] == 1.0
    assert compute_score("mine", "\\boxed{1.26}", 1.2, row)["acc"] == 0.0


@pytest.mark.parametrize("extra", ["text", [1]])
def test_extra_info_must_be_a_mapping(extra):
    with pytest.raises(ValueError, match=r"extra_info=.*data_source=mine.*must be a mapping"):
        compute_score("mine", "\\boxed{5}", "5", extra)


@pytest.mark.parametrize("answer", ["\\boxed{5}", "no box"])
@pytest.mark.parametrize(
    ("truth", "extra", "message"),
    [
        (None, {"index": 7}, "reward_model.ground_truth: None cannot be an answer"),
        (b"5", {"index": 7}, "reward_model.ground_truth: b'5' cannot be an answer"),
        (float("nan"), {"index": 7}, "reward_model.ground_truth: nan cannot be an answer"),
        ("A", {"index": 7, "choices": [1, None]}, "extra_info.choices: None cannot be an answer"),
        ("A", {"index": 7, "choices": 5}, "extra_info.choices: 'int' object is not iterable"),
        ("A", {"index": 7, "choices": "5, 6"}, "extra_info.choices: '5, 6' must be a list"),
        ("5", {"index": 7, "decimals": 2.5}, "extra_info.decimals: 2.5 must be an integer, 0 or more, or null"),
        ("5", {"index": 7, "decimals": "two"}, "extra_info.decimals: could not convert string to float: 'two'"),
        ("5", {"index": 7, "decimals": [2]}, "extra_info.decimals: float() argument must be"),
        ("5", {"index": 7, "answer_type": "letter"}, "extra_info.answer_type 'letter': must be"),
    ],
)
def test_a_row_that_cannot_be_graded_is_named(answer, truth, extra, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)) as error:
        compute_score("mine", answer, truth, extra)
    assert str(error.value).endswith("(data_source=mine, extra_info.index=7)")
    with pytest.raises(ValueError, match=r"\(data_source=mine, extra_info.id=q3\)$"):
        compute_score("mine", answer, truth, extra | {"id": "q3"})
    with pytest.raises(ValueError, match=r"\(data_source=mine\)$"):
        compute_score("mine", answer, truth, extra | {"index": None})


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "{" * 10_000 + "}" * 10_000,
        "\\boxed{" * 10_000 + "}" * 10_000,
        "\\boxed{" * (MEGABYTE // 7),
        "<think>" * (MEGABYTE // 7),
        "<think></think>" * (MEGABYTE // 15),
        "<think></think>" + "\\boxed{" * (MEGABYTE // 7),
        "<think>" + " " * MEGABYTE,
        "< " * (MEGABYTE // 2),
        "}" * MEGABYTE,
        GOOD + "x" * MEGABYTE,
    ],
)
def test_hostile_texts_take_linear_time(text):
    """Quadratic time would be hours."""
    assert compute_score("easy_vqa_color", text, "red")["acc"] == float(GOOD in text)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The reward of a text answer, in cases worked out by hand."""

import re
from decimal import Decimal

import numpy as np
import pytest

from verl_durian.reward import compute_score, has_format, last_boxed

GOOD = "<think> a red circle</think>\\boxed{red}"
MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("text", "content"),
    [
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
        ("red", "red", 0.0, 0.0, 0.0),
        ("", "", 0.0, 0.0, 0.0),
    ],
)
def test_score(text, truth, score, acc, formatted):
    result = compute_score("easy_vqa_color", text, truth, extra_info={"index": 0}, further="unused")
    assert result == {"score": pytest.approx(score), "acc": acc, "format": formatted}
    assert [type(value) for value in result.values()] == [float, float, float]


def choice(choices: object) -> dict[str, object]:
    return {"answer_type": "choice", "choices": choices}


@pytest.mark.parametrize(
    ("truth", "extra", "right", "wrong"),
    [
        (5, None, ["5", "5.0"], ["6", "5.1"]),
        (5.0, None, ["5"], ["5.1"]),
        (2.5, None, ["\\frac{5}{2}"], ["3"]),
        (np.int64(5), None, ["5"], ["6"]),
        (np.float32(0.1), None, ["0.1"], ["0.2"]),
        (np.float64(-1e22), None, ["-10^{22}"], ["10^{22}"]),
        (Decimal("1.50"), None, ["1.5"], ["1.6"]),
        (10**400, None, [str(10**400)], ["1"]),
        (True, None, ["true"], ["false"]),
        (np.False_, None, ["False"], ["0"]),
        ("no", {"answer_type": "yes_no", "choices": None}, ["no"], ["yes"]),
        *(
            ("B", choice(texts), ["B", "45"], ["A", "30"])
            for texts in ([30, 45], [30.0, 45.0], np.array([30, 45]), [np.int64(30), "45"])
        ),
        *((1.2, {"decimals": one}, ["1.23"], ["1.26"]) for one in (1, "1", 1.0, "1.0", np.int64(1), np.float64(1))),
    ],
)
def test_answers_choices_and_decimals_may_have_other_types(truth, extra, right, wrong):
    for answers, accuracy in ((right, 1.0), (wrong, 0.0)):
        for answer in answers:
            assert compute_score("mine", f"\\boxed{{{answer}}}", truth, extra)["acc"] == accuracy


@pytest.mark.parametrize(
    ("truth", "extra", "message"),
    [
        (None, {}, "reward_model.ground_truth: None cannot be an answer"),
        (b"5", {}, "reward_model.ground_truth: b'5' cannot be an answer"),
        (float("nan"), {}, "reward_model.ground_truth: nan cannot be an answer"),
        ("A", choice([1, None]), "extra_info.choices: None cannot be an answer"),
        ("A", choice(5), "extra_info.choices: 5 must be a list"),
        ("A", choice("5, 6"), "extra_info.choices: '5, 6' must be a list"),
        ("5", {"decimals": 2.5}, "extra_info.decimals: 2.5 must be an integer from 0 to 999, or null"),
        ("5", {"decimals": 10**7}, "extra_info.decimals: 10000000 must be an integer from 0 to 999"),
        ("5", {"decimals": "two"}, "extra_info.decimals: 'two' must be an integer"),
        ("5", {"decimals": [2]}, "extra_info.decimals: [2] must be an integer"),
        ("5", {"answer_type": "letter"}, "extra_info.answer_type 'letter': must be number, choice or yes_no"),
        ("C", choice(["1", "2"]), "ground truth 'C' of a row with answer_type choice: must be the letter of one of"),
        ("30", choice(None), "ground truth '30' of a row with answer_type choice"),
        ("", choice([]), "ground truth '' of a row with answer_type choice"),
        ("1", {"answer_type": "yes_no"}, 'ground truth \'1\' of a row with answer_type yes_no: must be "yes" or "no"'),
    ],
)
def test_a_row_that_cannot_be_graded_is_named(truth, extra, message):
    for answer, row, name in (
        ("\\boxed{5}", {"index": 7}, ", extra_info.index=7"),
        ("no box", {"index": 7, "id": "q3"}, ", extra_info.id=q3"),
        ("", {"index": None}, ""),
    ):
        with pytest.raises(ValueError, match="^" + re.escape(message)) as error:
            compute_score("mine", answer, truth, extra | row)
        assert str(error.value).endswith(f"; correct the row or remove it (data_source=mine{name})")


def test_extra_info_must_be_a_mapping():
    with pytest.raises(ValueError, match=r"extra_info='text' .*data_source=mine.*must be a mapping"):
        compute_score("mine", "\\boxed{5}", "5", "text")


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

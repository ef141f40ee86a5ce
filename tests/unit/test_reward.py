# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Tests of the text reward, by hand-made cases."""

import re
import time

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
    pattern = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
    assert has_format(text) is formatted
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
def test_hostile_texts_are_quick(text):
    begun = time.perf_counter()
    compute_score("easy_vqa_color", text, "red")
    assert time.perf_counter() - begun < 2.0

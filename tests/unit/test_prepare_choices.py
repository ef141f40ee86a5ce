# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of choices and letters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_durian.prepare.choices import letter_of, letter_of_text, read_choices, write_choices


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("A. 30; B. 40; C. 50", ["30", "40", "50"]),
        ("A. 1.5 cm; B. x; y; C. No correct answer", ["1.5 cm", "x; y", "No correct answer"]),
        ("A．30；B．40", ["30", "40"]),
        ("Find it.\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°", ["40°", "60°", "120°", "140°"]),
        ("Is it (A) 30 (B) 40 or (C) 50?", ["30", "40 or", "50?"]),
        ("In triangle ABC, A: the top.\nA. 3\nB. 4\nAnswer with a letter.", ["3", "4"]),
        ("A)\nfirst\nline\nB)\nsecond\nline", ["first\nline", "second\nline"]),
        ("The points A, B and C", []),
        ("A. 30", []),
        ("A. B. C. D.", []),
        ("", []),
    ],
)
def test_lists_of_choices(text, choices):
    assert read_choices(text) == choices


@settings(deadline=None, derandomize=True)
@given(st.lists(st.from_regex(r"[a-z0-9][a-z0-9 ]*[a-z0-9]", fullmatch=True), min_size=2, max_size=10))
def test_written_choices_can_be_read(choices):
    assert read_choices(f"Which is it?\n{write_choices(choices)}") == choices


@pytest.mark.parametrize(
    ("find", "answer", "choices", "letter"),
    [
        (letter_of, "B", ["1", "2"], "B"),
        (letter_of, "(B).", ["1", "2"], "B"),
        (letter_of, "2", ["1", "2"], "B"),
        (letter_of, "E", ["1", "2"], None),
        (letter_of, "E", [], "E"),
        (letter_of, "b", [], None),
        (letter_of, "No", ["yes", "no "], "B"),
        (letter_of, "", ["1", "2"], None),
        (letter_of_text, "A", ["B", "A"], "B"),
        (letter_of_text, "C", ["1", "2", "3"], None),
    ],
)
def test_letters_of_answers(find, answer, choices, letter):
    assert find(answer, choices) == letter

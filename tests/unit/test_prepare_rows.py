# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Image marks, lists of choices and letters."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_durian.prepare.choices import letter_of, letter_of_text, read_choices, write_choices
from verl_durian.prepare.rows import place_images

MARKS = ["<image>", "<image1>", "<image2>", "<image9>", "<image0>", "<video>", "<audio>", "a", " ", "\n", "<", ">"]


@given(st.lists(st.sampled_from(MARKS)).map("".join), st.integers(0, 3))
def test_a_question_has_as_many_marks_as_images_and_no_other(question, images):
    placed, order = place_images(question, images)
    assert sorted(order) == list(range(images))
    # verl splits a prompt at this pattern.
    assert re.findall("<image>|<video>|<audio>", placed) == ["<image>"] * images


@pytest.mark.parametrize(
    ("question", "images", "placed", "order"),
    [
        ("Find x.", 1, "<image>Find x.", [0]),
        ("Find x.", 0, "Find x.", []),
        ("<image>Find x.", 1, "<image>Find x.", [0]),
        ("<image1> or <image2>?", 2, "<image> or <image>?", [0, 1]),
        ("<image2> or <image1>?", 2, "<image> or <image>?", [1, 0]),
        ("Is <image1> here? <image1>", 1, "Is <image> here? <image1>", [0]),
        ("Is <image2> here?", 2, "<image>Is <image> here?", [0, 1]),
        ("<image>Which?", 2, "<image><image>Which?", [0, 1]),
        ("<image><image>Which?", 1, "<image>< image >Which?", [0]),
        ("<image>\nFind x.", 0, "Find x.", []),
        ("The tags <image> and <video>", 0, "The tags < image > and < video >", []),
        ("<video>Find x.", 1, "<image>< video >Find x.", [0]),
    ],
)
def test_marks_of_images(question, images, placed, order):
    assert place_images(question, images) == (placed, order)


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


@given(st.lists(st.from_regex(r"[a-z0-9][a-z0-9 ]*[a-z0-9]", fullmatch=True), min_size=2, max_size=10))
def test_written_choices_can_be_read(choices):
    assert read_choices(f"Which is it?\n{write_choices(choices)}") == choices


def test_choices_that_mark_parts_of_a_picture():
    assert write_choices(["A", "B", "C"]) == "Choices: A, B, C"


@pytest.mark.parametrize(
    ("answer", "choices", "letter"),
    [
        ("B", ["1", "2"], "B"),
        ("(B).", ["1", "2"], "B"),
        ("2", ["1", "2"], "B"),
        ("E", ["1", "2"], None),
        ("E", [], "E"),
        ("b", [], None),
        ("No", ["yes", "no "], "B"),
        ("3", ["1", "2"], None),
        ("", ["1", "2"], None),
    ],
)
def test_letters_of_answers(answer, choices, letter):
    assert letter_of(answer, choices) == letter


def test_an_answer_text_is_not_read_as_a_letter():
    assert letter_of_text("A", ["B", "A"]) == "B"
    assert letter_of_text("C", ["1", "2", "3"]) is None

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Choices of a question: read out of a text, written out for the model, and matched with the answer."""

import re
import string
from collections.abc import Sequence

LETTERS = string.ascii_uppercase[:10]


def write_choices(choices: Sequence[str]) -> str:
    """The choices as lines for the model; one line where they are but letters, which then mark parts of the picture."""
    if list(choices) == list(LETTERS[: len(choices)]):
        return f"Choices: {', '.join(choices)}"
    return "\n".join(["Choices:", *(f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False))])


def read_choices(text: str) -> list[str]:
    """The texts of the choices that a text lists, such as `A. 30; B. 40`, `(A) 30 (B) 40` or lines `A:30`, `B:40`.

    The list is the last one in the text. One line is taken of the last choice, if each of the others is one line.

    Args:
        text (str): A question, or a list of choices.

    Returns:
        list[str]: The choices from A on; empty where there are not at least two.
    """
    for first in reversed(list(_label("A").finditer(text))):
        labels = [first]
        for letter in LETTERS[1:]:
            label = _label(letter).search(text, labels[-1].end())
            if label is None:
                break
            labels.append(label)
        if len(labels) > 1:
            ends = [label.start() for label in labels[1:]] + [len(text)]
            choices = [text[label.end() : end].strip(" \t\n;；") for label, end in zip(labels, ends, strict=True)]
            if not any("\n" in choice for choice in choices[:-1]):
                choices[-1] = choices[-1].partition("\n")[0].rstrip(" \t;；")
            return choices if all(choices) else []
    return []


def _label(letter: str) -> re.Pattern[str]:
    """`A.`, `A:`, `A)` or `(A)` at the start or after a blank, semicolon or comma."""
    return re.compile(rf"(?:(?<=[\s;；,，])|^)(?:[(（]{letter}[)）]|{letter}\s?[.．、:：)）])\s*")


def letter_of_text(answer: str, choices: Sequence[str]) -> str | None:
    """The letter of the choice that reads as the answer does; None if none does."""
    texts = [choice.strip().casefold() for choice in choices]
    wanted = answer.strip().casefold()
    return LETTERS[texts.index(wanted)] if wanted in texts else None


def letter_of(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer names, such as `B` or `(B)`, or that of the choice which reads as it does.

    Args:
        answer (str): The answer of a multiple-choice question.
        choices (Sequence[str]): Its choices; empty where they are not known, as in a picture.

    Returns:
        str | None: None for an answer that is no letter of a choice and no choice.
    """
    letter = answer.strip(" ().")
    if len(letter) == 1 and letter in LETTERS[: len(choices) or len(LETTERS)]:
        return letter
    return letter_of_text(answer, choices)

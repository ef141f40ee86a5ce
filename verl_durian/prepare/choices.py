# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Choices of a question: parse them, write them for the model, and match them with the answer."""

import re
import string
from collections.abc import Sequence

LETTERS = string.ascii_uppercase[:10]


def write_choices(choices: Sequence[str]) -> str:
    """Writes one line per choice; a single line if the choices are only letters, which mark parts of the image."""
    if list(choices) == list(LETTERS[: len(choices)]):
        return f"Choices: {', '.join(choices)}"
    return "\n".join(["Choices:", *(f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False))])


def add_choices(question: str, choices: Sequence[str]) -> str:
    """Appends the choices to a question, unless it lists them."""
    return f"{question}\n{write_choices(choices)}" if choices and not read_choices(question) else question


def read_choices(text: str) -> list[str]:
    """Parses the last list of choices in a text: `A. 30; B. 40`, `(A) 30 (B) 40` or lines `A:30`, `B:40`.

    Returns the choices from A on, or an empty list if there are fewer than two. If each choice but the last is a single
    line, the last one ends at its first line break.
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
    """Matches `A.`, `A:`, `A)` or `(A)` at the start or after whitespace, a semicolon or a comma."""
    return re.compile(rf"(?:(?<=[\s;；,，])|^)(?:[(（]{letter}[)）]|{letter}\s?[.．、:：)）])\s*")


def letter_of_text(answer: str, choices: Sequence[str]) -> str | None:
    """Returns the letter of the choice whose text equals the answer, or None."""
    texts = [choice.strip().casefold() for choice in choices]
    wanted = answer.strip().casefold()
    return LETTERS[texts.index(wanted)] if wanted in texts else None


def letter_of(answer: str, choices: Sequence[str]) -> str | None:
    """Returns the letter that an answer names (`B`, `(B)`), or that of the choice with the answer's text, or None.

    `choices` is empty if they are unknown, for example because they are in the image.
    """
    letter = answer.strip(" ().")
    if len(letter) == 1 and letter in LETTERS[: len(choices) or len(LETTERS)]:
        return letter
    return letter_of_text(answer, choices)

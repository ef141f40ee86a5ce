# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Grades multiple choice, and yes or no."""

import re
from collections.abc import Sequence

from verl_durian.grading.normalize import normalize, same_text
from verl_durian.grading.values import grade_value

_LEAD = r"(?:(?:so |thus |hence )?(?:the )?(?:final |correct |right |best )*(?:answer|option|choice)(?: is)?:? ?)*"
# `B`, `(b)`, `B.`, `Option B`, `the answer is (B)`; with the option's text: `B. 30`, `(B) 30`, `B: 30`
_LETTER = re.compile(
    rf"{_LEAD}(?:[(\[](?P<in>[a-z])[)\]]|(?P<bare>[a-z])(?![a-z0-9])) *(?P<mark>[.):,、]+ *|- +)?(?P<text>.*)",
    re.IGNORECASE,
)
_ANOTHER = re.compile(r"(?:\b(?:or|and)\b|/)\s*[(\[]?[A-Z]\b")
_LETTERS = re.compile(r"[\s,;.&、(\[{]*[A-Z](?:(?:[\s,;.&、(){}\[\]]|\band\b)*[A-Z])*[)\]}]*")
_YES_NO = re.compile(
    rf"{_LEAD}(?:(?P<yes>yes|true)|no(?! idea\b)|false)\b(?!\s*(?:/|,|or\b|and\b)\s*(?:yes|no|true|false)\b)",
    re.IGNORECASE,
)


def grade_choice(answer: str, gold: str, choices: Sequence[str]) -> bool:
    """Whether the answer names the correct option, by its letter, its text, or both.

    An answer with a letter and the text of another option is wrong. If the options' texts are letters, as in "which
    point?", a single letter is read as the letter of an option, as the prompt asks.

    Raises:
        ValueError: Gold is neither a letter nor a sequence of letters, or there is no such option.
    """
    gold = gold.strip().strip("()").upper()
    places = [ord(letter) - ord("A") for letter in gold]
    if not gold.isascii() or not gold.isalpha() or (len(choices) and max(places) >= len(choices)):
        raise ValueError(
            f"ground truth {gold!r} of a row with answer_type choice: must be the letter of one of its "
            f"{len(choices)} choices, such as A"
        )
    answer = normalize(answer)
    if len(gold) > 1:
        return _LETTERS.fullmatch(answer) is not None and "".join(re.findall("[A-Z]", answer)) == gold

    texts = [normalize(choice) for choice in choices]
    spelled_out = [place for place, text in enumerate(texts) if len(answer) > 1 and same_text(answer, text)]
    if spelled_out:
        return places[0] in spelled_out
    letter = _chosen_letter(answer, texts)
    if letter is not None:
        return letter == gold
    return len(texts) > 0 and grade_value(answer, texts[places[0]])


def _chosen_letter(answer: str, texts: Sequence[str]) -> str | None:
    """The letter in an answer: None without a letter, "" if the letter and the text after it contradict each other."""
    match = _LETTER.fullmatch(answer)
    if match is None:
        return None
    letter, text = (match["in"] or match["bare"]).upper(), match["text"]
    place = ord(letter) - ord("A")
    if texts and place >= len(texts):  # "I", where the options are I, II and III
        return None
    if not text or (texts and grade_value(text, texts[place])):
        return letter
    if not match["mark"] and not match["in"]:  # "a circle"
        return None
    contradicts = _LETTERS.fullmatch(text) or _ANOTHER.search(text) or any(grade_value(text, other) for other in texts)
    return "" if contradicts else letter


def grade_yes_no(answer: str, gold: str) -> bool:
    """Whether the answer is the gold yes or no, judged by its first word, as in `No, there is none`.

    Raises:
        ValueError: The gold answer is neither.
    """
    if gold not in ("yes", "no"):
        raise ValueError(f'ground truth {gold!r} of a row with answer_type yes_no: must be "yes" or "no"')
    match = _YES_NO.match(normalize(answer))
    return match is not None and bool(match["yes"]) == (gold == "yes")

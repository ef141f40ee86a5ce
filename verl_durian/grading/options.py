# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Grades the choice among options, and yes or no."""

import re
from collections.abc import Sequence

from verl_durian.grading.text import normal, same_text
from verl_durian.grading.values import grade_value, settled

_LEAD = r"(?:(?:so |thus |hence )?(?:the )?(?:final |correct |right |best )*(?:answer|option|choice)(?: is)?:? ?)*"
# `B`, `(b)`, `B.`, `Option B`, `the answer is (B)`; then, behind a mark, the option's text: `B. 30`, `(B) 30`, `B: 30`
_LETTER = re.compile(rf"{_LEAD}(?:[(\[](?P<in>[a-z])[)\]]|(?P<bare>[a-z])(?![a-z0-9]))(?P<rest>.*)", re.IGNORECASE)
_MARK = re.compile(r"[.):,、]+\s*|-\s+")
_ANOTHER = re.compile(r"(?:\b(?:or|and)\b|/)\s*[(\[]?[A-Z]\b")
_LETTERS = re.compile(r"[\s,;.&、(\[{]*[A-Z](?:(?:[\s,;.&、(){}\[\]]|\band\b)*[A-Z])*[)\]}]*")
_YES_NO = re.compile(
    rf"{_LEAD}(?P<word>yes|no(?! idea\b)|true|false)\b(?!\s*(?:/|,|or\b|and\b)\s*(?:yes|no|true|false)\b)",
    re.IGNORECASE,
)
_MEANING = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}


def grade_choice(answer: str, gold: str, choices: Sequence[str]) -> bool:
    """Whether the answer names the right option, by its letter, its text, or both.

    An answer with a letter and the text of another option is wrong. Where an option's text is itself a letter, as in
    "which point?", an answer of one letter names the option, as the prompt asks.

    Args:
        answer: What the response's box holds, of limited length.
        gold: The right letter, or letters, whose order counts.
        choices: The options' texts in the order A, B, C...; empty if they are not known.

    Raises:
        ValueError: the gold letter is none, or beyond the choices.
    """
    gold = gold.strip().strip("()").upper()
    places = [ord(letter) - ord("A") for letter in gold]
    if not gold.isascii() or not gold.isalpha() or (len(choices) and max(places) >= len(choices)):
        raise ValueError(
            f"ground truth {gold!r} of a row with answer_type choice: must be the letter of one of its "
            f"{len(choices)} choices, as A"
        )
    answer = normal(answer)
    if len(gold) > 1:
        return _LETTERS.fullmatch(answer) is not None and "".join(re.findall("[A-Z]", answer)) == gold

    texts = [normal(choice) for choice in choices]
    spelled = [place for place, text in enumerate(texts) if len(answer) > 1 and same_text(answer, text)]
    if spelled:
        return places[0] in spelled
    named = _letter(answer, texts)
    if named is not None:
        return named == gold
    return len(texts) > 0 and grade_value(answer, texts[places[0]])


def _letter(answer: str, texts: Sequence[str]) -> str | None:
    """The letter that an answer names, "" if its letter and its text contradict each other, None if it names none."""
    match = _LETTER.fullmatch(answer)
    if match is None:
        return None
    letter, rest = (match["in"] or match["bare"]).upper(), match["rest"].strip()
    place = ord(letter) - ord("A")
    if texts and place >= len(texts):  # "I", where the options are I, II and III
        return None
    if not rest:
        return letter
    mark = _MARK.match(rest)
    text = rest[mark.end() :] if mark else rest
    if texts and grade_value(text, texts[place]):
        return letter
    if mark is None and not match["in"]:  # "a circle"
        return None
    another = _LETTERS.fullmatch(rest) or _ANOTHER.search(rest) or any(settled(text, other) for other in texts)
    return "" if another else letter


def grade_yes_no(answer: str, gold: str) -> bool:
    """Whether the answer says yes or no as the gold one does: by its first word, as in `No, there is none`.

    Raises:
        ValueError: the gold answer is neither.
    """
    if gold not in ("yes", "no"):
        raise ValueError(f'ground truth {gold!r} of a row with answer_type yes_no: must be "yes" or "no"')
    match = _YES_NO.match(normal(answer))
    return match is not None and _MEANING[match["word"].lower()] == gold

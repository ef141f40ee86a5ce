# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Grades numbers, LaTeX, expressions, lists and words.

Normalize; compare as text; split lists into elements and names (`x = 5`) from values; compare numbers with units and
words exactly. Everything else is left to math-verify, in a separate process.
"""

import re
from itertools import accumulate
from typing import NamedTuple

from verl_durian.grading.math_process import compare
from verl_durian.grading.normalize import normalize, same_text
from verl_durian.grading.numbers import same_numbers
from verl_durian.grading.units import read_quantity, unit_factors

_EQUALS = re.compile(r"(?<![<>!=:])=+|\\approx(?![a-zA-Z])|\b(?:is|are|equals?)\b|(?<=[a-z]{3}): ")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_FIGURE = re.compile(
    r"\\(?:angle|triangle|odot|overline|overrightarrow|parallel|perp|cong|sim|square|Delta)(?![a-zA-Z])"
)
# `x`, `\angle 1`, `S_{\triangle ABC}`, `f(2)`, `the area of ABC`
_NAME = re.compile(
    r"(?:[A-Za-z' ]|\\angle ?\{?\d|_ ?(?:\w|\{[^{}]*\})|\\(?!(?:frac|sqrt|pm|in|le|ge|lt|gt|ne|cup|cap|times"
    r"|cdot|div)(?![a-zA-Z]))[a-zA-Z]+(?![a-zA-Z])|[{}])+(?:\(\w\))?"
)
_COMPUTED = re.compile(r"(?:[\d\s+\-*/^(){}.,°%]|\\(?:frac|sqrt|times|cdot|div|pi)(?![a-zA-Z]))*")
_FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan log exp lim max min gcd lcm mod det".split())
_SEPARATOR = re.compile(r"[,;]|\b(?:and|or)\b")
_OUTER_SEPARATOR = re.compile(r",(?!(?<=\d,)\d{3}(?!\d))|;|\b(?:and|or)\b")  # 1,000 or 2,000
_MAX_ELEMENTS = 50


def grade_value(answer: str, gold: str, decimals: int | None = None) -> bool:
    """Whether a human would accept the answer; the arguments are those of `grade`. Raises TimeoutError."""
    if answer.strip() == gold.strip():
        return answer.strip() != ""
    answer, gold = normalize(answer), normalize(gold)
    if not answer or not gold:
        return False
    if same_text(answer, gold):
        return True
    (brackets, elements), (gold_brackets, gold_elements) = _read_list(answer), _read_list(gold)
    number = len(gold_elements)
    if number + len(elements) > 2 * _MAX_ELEMENTS:
        return False
    if number != len(elements):
        # `1 < x < 2` is `(1, 2)`, but `5, 5` is not 5.
        return not all(_is_plain(each.value) for each in (*gold_elements, *elements)) and compare(gold, answer)
    both_brackets = {brackets, gold_brackets}
    # The ends of an interval matter, the brackets of a longer list do not.
    if number == 2 and len(both_brackets) == 2 and ("" not in both_brackets or both_brackets & {"[)", "(]"}):
        return False
    # Roots match in any order, but `2, 1` does not match `x = 1, y = 2`.
    names, gold_names = ({each.name for each in some} for some in (elements, gold_elements))
    same_names = names == gold_names or len(names) == len(gold_names) == 1
    any_order = same_names and both_brackets <= {"", "{}"}
    for wanted in gold_elements:
        candidates = elements if any_order else elements[:1]
        found = next((each for each in candidates if _same_elements(each, wanted, decimals)), None)
        if found is None:
            return False
        elements.remove(found)
    return True


class _Element(NamedTuple):
    """A value and its name, as in `x = 5`; the name may be empty."""

    text: str
    name: str
    value: str


def _read_list(text: str) -> tuple[str, list[_Element]]:
    """The brackets and elements of `1, 2`, `(1, 2)` or `x = 1 or x = 2`; a single value is its only element."""
    bare = text.replace(r"\{", "{").replace(r"\}", "}")
    depths = _bracket_depths(bare)
    # The last bracket closes the first; `[` and `)` also match, as in an interval.
    if len(bare) > 2 and bare[0] in "([{" and depths[-1] == 0 and 0 not in depths[:-1]:
        brackets, parts = bare[0] + bare[-1], _split_outside_brackets(bare[1:-1], _SEPARATOR)
    else:
        brackets, parts = "", [text] if read_quantity(text).number else _split_outside_brackets(text, _OUTER_SEPARATOR)
    if len(parts) < 2:
        return "", [_read_element(text)]
    elements = [_read_element(part) for part in parts]
    stems = {element.name.partition("_")[0] for element in elements}
    if len(stems) == 1:  # roots: `x_1 = 1, x_2 = 2`
        elements = [element._replace(name=min(stems)) for element in elements]
    return brackets, elements


def _bracket_depths(text: str) -> list[int]:
    """The number of open brackets after each character."""
    return list(accumulate((character in "([{") - (character in ")]}") for character in text))


def _split_outside_brackets(text: str, separator: re.Pattern[str]) -> list[str]:
    r"""The parts of a list; a part with `\pm` becomes two."""
    depths = _bracket_depths(text)
    cuts = [match.span() for match in separator.finditer(text) if depths[match.start()] == 0]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    parts = []
    for part in filter(None, (text[start:end].strip() for start, end in zip(starts, ends, strict=True))):
        signs = [("+", "-"), ("-", "+")] if r"\pm" in part else [(r"\pm", r"\mp")]
        parts += [part.replace(r"\pm", plus).replace(r"\mp", minus) for plus, minus in signs]
    return parts


def _read_element(text: str) -> _Element:
    first, *others = _EQUALS.split(text)
    name, value = first.strip(), others[-1].strip() if others else ""
    if value and _COMPUTED.fullmatch(name):
        return _Element(text, "", value)
    if value and _NAME.fullmatch(name):
        return _Element(text, re.sub(r"^m(?=\\angle)|^the ", "", name), value)
    return _Element(text, "", text)


def _same_elements(answer: _Element, gold: _Element, decimals: int | None) -> bool:
    if answer.name and gold.name and not same_text(answer.name, gold.name):
        # Different names are different answers, except for equations: `y = 2x + 1`, `2x - y + 1 = 0`.
        return not _is_plain(answer.value) and not _is_plain(gold.value) and _same_values(answer.text, gold.text)
    if _EQUALS.search(answer.value) and not _EQUALS.search(gold.text):
        return False  # `2x + z = 1` is not 1
    if _EQUALS.search(answer.value) or _EQUALS.search(gold.value):
        return _same_values(answer.text, gold.text, decimals)
    return _same_values(answer.value, gold.value, decimals)


def _is_plain(text: str) -> bool:
    return _is_words(text) or read_quantity(text).number is not None


def _is_words(text: str) -> bool:
    r"""Whether it is words or points, such as `red`, `BA` or `\triangle ABC`: the order of letters matters."""
    letters = re.findall("[A-Za-z]+", _COMMAND.sub(" ", text))
    if any(len(run) > 2 and run not in _FUNCTIONS for run in letters):
        return True
    points = re.fullmatch("[A-Za-z' ]+", _FIGURE.sub(" ", text))
    return points is not None and len("".join(letters)) + text.count("'") > 1


def _same_values(answer_text: str, gold_text: str, decimals: int | None = None) -> bool:
    if same_text(answer_text, gold_text):
        return True
    answer, gold = read_quantity(answer_text), read_quantity(gold_text)
    factors = unit_factors(gold.unit, answer.unit)
    if answer.number and gold.number:
        return any(same_numbers(gold.number, answer.number.times(factor), decimals) for factor in factors)
    if not factors or _is_words(answer.text) or _is_words(gold.text):
        return False
    return compare(gold.text, answer.text, factors[0])

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Grades numbers, LaTeX, expressions and words.

normal text -> the same text? -> names (`x = 5`) and units off -> exact numbers, lists of them, words: settled here
-> everything else: math-verify, in a process of its own
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from verl_durian.grading import symbolic
from verl_durian.grading.quantities import Number, read_number, same_numbers, split_unit, unit_factors
from verl_durian.grading.text import normal, same_text
from verl_durian.grading.units import Unit

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
_COMPUTED = re.compile(r"(?:[\d\s+\-*/^(){}.,°%]|\\(?:frac|sqrt|times|cdot|div|pi)(?![a-zA-Z]))+")
_FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan log exp lim max min gcd lcm mod det".split())
_SEPARATOR = re.compile(r"[,;]|\b(?:and|or)\b")
_OUTER_SEPARATOR = re.compile(r",(?!(?<=\d,)\d{3}(?!\d))|;|\b(?:and|or)\b")  # 1,000 or 2,000
_MOST_ELEMENTS = 50


def grade_value(answer: str, gold: str, decimals: int | None = None) -> bool:
    """Whether a person would take the answer for the gold value.

    Args:
        answer: What the response's box holds, of limited length.
        gold: The right answer.
        decimals: The decimal places that the question asks for: a number with more is right if it rounds to gold.
    """
    if answer.strip() == gold.strip():
        return answer.strip() != ""
    answer, gold = normal(answer), normal(gold)
    if not answer or not gold:
        return False
    answer_parts, gold_parts = _parted(answer), _parted(gold)
    if decimals is not None and _rounds(answer_parts, gold_parts, decimals):
        return True
    return _same(answer_parts, gold_parts)


@dataclass(frozen=True)
class _Named:
    """A value with what it is said to be the value of: `x = 5`."""

    text: str
    name: str
    value: str


@dataclass(frozen=True)
class _List:
    """Several values: `1, 2`, `(1, 2)`, `x = 1 or x = 2`."""

    text: str
    brackets: str
    elements: tuple[_Named, ...]

    @property
    def ordered(self) -> bool:
        """Whether the order counts: not for roots and sets."""
        return self.brackets not in ("", "{}")

    @property
    def names(self) -> set[str]:
        """What the elements are said to be, without index: one name, or "", for roots such as `x_1 = 1, x_2 = 2`."""
        return {element.name.partition("_")[0] for element in self.elements}

    @property
    def formula(self) -> str:
        """LaTeX, in which roots have no name."""
        if len(self.elements) == 1:
            return self.text
        left, right = (rf"\{side}" if side in ("{", "}") else side for side in self.brackets or ("", ""))
        parts = (element.value if len(self.names) == 1 else element.text for element in self.elements)
        return f"{left}{', '.join(parts)}{right}"


def _parted(text: str) -> _List:
    """The elements of a list, or the text as the only one."""
    inner, brackets = text, ""
    bare = text.replace(r"\{", "{").replace(r"\}", "}")
    if len(bare) > 2 and bare[0] in "([{" and bare[-1] in ")]}" and _closes_at_end(bare):
        inner, brackets = bare[1:-1], bare[0] + bare[-1]
    if not brackets and read_number(split_unit(text)[0]) is not None:  # 1,000
        return _List(text, "", (_named(text),))
    parts = _split(inner, _SEPARATOR if brackets else _OUTER_SEPARATOR)
    if len(parts) < 2:
        return _List(text, "", (_named(text),))
    return _List(text, brackets, tuple(_named(part) for part in parts))


def _closes_at_end(text: str) -> bool:
    """Whether the first bracket is closed by the last; `[` and `(` may close each other, as of an interval."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts between separators that are in no brackets."""
    parts, depth, start = [], 0, 0
    cuts = {match.start(): match.end() for match in separator.finditer(text)}
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and place in cuts and place >= start:
            parts.append(text[start:place])
            start = cuts[place]
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _named(text: str) -> _Named:
    first, *others = _EQUALS.split(text)
    if not others or not others[-1].strip():
        return _Named(text, "", text)
    name = first.strip()
    if _NAME.fullmatch(name):
        return _Named(text, re.sub(r"^m(?=\\angle)|^the ", "", name), others[-1].strip())
    if not name or _COMPUTED.fullmatch(name):
        return _Named(text, "", others[-1].strip())
    return _Named(text, "", text)


def _same(answer: _List, gold: _List) -> bool:
    if same_text(answer.text, gold.text):
        return True
    if len(answer.elements) == len(gold.elements) == 1:
        return _same_named(answer.elements[0], gold.elements[0])
    verdict = _same_elements(answer, gold)
    return symbolic.compare(gold.formula, answer.formula).equal if verdict is None else verdict


def _same_elements(answer: _List, gold: _List) -> bool | None:
    """The verdict on two lists; None if their elements alone do not tell."""
    every = (*answer.elements, *gold.elements)
    if len(every) > 2 * _MOST_ELEMENTS:
        return False
    if not all(_is_plain(element.value) for element in every):
        return None
    if len(answer.elements) != len(gold.elements):
        return False
    if gold.brackets != answer.brackets and not _alike(gold, answer):
        return False
    left = list(answer.elements)
    # Roots come in any order; `1, 2` for `x = 1, y = 2` does not.
    alike_names = answer.names == gold.names or len(answer.names) == len(gold.names) == 1
    any_order = alike_names and not gold.ordered and not answer.ordered
    for wanted in gold.elements:
        found = next((each for each in (left if any_order else left[:1]) if _same_named(each, wanted)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _alike(gold: _List, answer: _List) -> bool:
    """Whether lists in these brackets may be the same: an interval's ends count, a list's brackets do not."""
    if not gold.brackets or not answer.brackets:
        return "[)" not in (gold.brackets, answer.brackets) and "(]" not in (gold.brackets, answer.brackets)
    return len(gold.elements) > 2 and gold.ordered == answer.ordered


def _same_named(answer: _Named, gold: _Named) -> bool:
    if answer.name and gold.name and not same_text(answer.name, gold.name):
        # Other names are other answers, unless both are equations: `y = 2x + 1`, `2x - y + 1 = 0`.
        return not _is_plain(answer.value) and not _is_plain(gold.value) and _same_value(answer.text, gold.text)
    if _EQUALS.search(answer.value) and not _EQUALS.search(gold.text):
        return False  # `2x + z = 1` is not 1
    if _EQUALS.search(answer.value) or _EQUALS.search(gold.value):
        return _same_value(answer.text, gold.text)
    return _same_value(answer.value, gold.value)


def _is_plain(text: str) -> bool:
    """Whether it is a number or words, of which no mathematics is needed to compare."""
    return _is_words(text) or read_number(split_unit(text)[0]) is not None


def _is_words(text: str) -> bool:
    r"""Whether it is words or points, such as `red`, `BA` or `\triangle ABC`, in which the order of letters counts."""
    letters = re.findall("[A-Za-z]+", _COMMAND.sub(" ", text))
    if any(len(run) > 2 and run not in _FUNCTIONS for run in letters):
        return True
    return (
        len("".join(letters) + "'" * text.count("'")) > 1
        and re.fullmatch(r"[A-Za-z' ]+", _FIGURE.sub(" ", text)) is not None
    )


@dataclass(frozen=True)
class _Measure:
    """A value with its unit."""

    text: str
    unit: Unit | None
    number: Number | None


def _measure(text: str) -> _Measure:
    number, unit = split_unit(text)
    return _Measure(number, unit, read_number(number))


def settled(answer_text: str, gold_text: str) -> bool | None:
    """The verdict on two values in `normal` form where it needs no mathematics, else None."""
    if same_text(answer_text, gold_text):
        return True
    answer, gold = _measure(answer_text), _measure(gold_text)
    factors = unit_factors(gold.unit, answer.unit)
    if answer.number and gold.number:
        return any(same_numbers(gold.number, answer.number.times(factor)) for factor in factors)
    return False if not factors or _is_words(answer.text) or _is_words(gold.text) else None


def _rounds(answer: _List, gold: _List, decimals: int) -> bool:
    """Whether both are one number and the answer's rounds to gold's; a half may be rounded up or down."""
    if len(answer.elements) != 1 or len(gold.elements) != 1:
        return False
    (given_name, given), (wanted_name, wanted) = (
        (only.name, _measure(only.value)) for only in (answer.elements[0], gold.elements[0])
    )
    if given_name and wanted_name and not same_text(given_name, wanted_name):
        return False
    if given.number is None or wanted.number is None:
        return False
    furthest = Fraction(1, 2 * 10**decimals)
    exact = (given.number.value * factor for factor in unit_factors(wanted.unit, given.unit))
    return any(abs(value - wanted.number.value) <= furthest for value in exact)


def _same_value(answer_text: str, gold_text: str) -> bool:
    verdict = settled(answer_text, gold_text)
    return _same_by_mathematics(answer_text, gold_text) if verdict is None else verdict


def _same_by_mathematics(answer_text: str, gold_text: str) -> bool:
    answer, gold = _measure(answer_text), _measure(gold_text)
    factor = unit_factors(gold.unit, answer.unit)[0]
    scaled = answer.text if factor == 1 else rf"({answer.text})\cdot\frac{{{factor.numerator}}}{{{factor.denominator}}}"
    verdict = symbolic.compare(gold.text, scaled)
    if verdict.equal:
        return True
    if gold.number and verdict.answer is not None:
        return same_numbers(gold.number, Number(verdict.answer))
    if answer.number and verdict.gold is not None:
        return same_numbers(Number(verdict.gold), answer.number.times(factor))
    return False

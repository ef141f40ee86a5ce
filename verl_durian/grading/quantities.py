# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers with units, read exactly, and when two of them are the same answer."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from verl_durian.grading.units import PERCENT, Unit, read_unit

SIGNIFICANT_DIGITS = 3
"""A decimal stands for the exact value that rounds to it only if it has as many digits: then it is within half a
percent of it, the accuracy that textbooks ask for. With fewer digits too many wrong values round to it as well."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?: \d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]? ?)(?:"
    rf"(?P<whole>\d+ ?)?\\frac ?\{{ ?(?P<over>[+-]?{_DIGITS}) ?\}} ?\{{ ?(?P<under>{_DIGITS}) ?\}}"
    rf"|(?P<mixed>\d+) (?P<part>\d+) ?/ ?(?P<parts>\d+)"
    rf"|(?P<left>{_DIGITS}) ?[/:] ?(?P<right>{_DIGITS})"  # a ratio is its quotient
    rf"|(?:(?P<digits>{_DIGITS}) ?(?:\\times|\\cdot|\*) ?)?"
    rf"(?P<ten>10 ?\^ ?(?:\{{ ?(?P<power>[+-]? ?\d{{1,3}}) ?\}}|(?P<digit>\d)))"
    rf"|(?P<plain>{_DIGITS})"
    rf")"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_LETTER = re.compile(r"[a-zA-Z]")
_ANGLE_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_LONGEST_UNIT = 40


@dataclass(frozen=True)
class Number:
    """A rational number as it was written."""

    value: Fraction
    step: Fraction | None = None
    """For a decimal, what a one in its last place is worth."""
    digits: int = 0
    """For a decimal, its significant digits."""

    def times(self, factor: Fraction) -> "Number":
        """The number in another unit."""
        return replace(self, value=self.value * factor, step=self.step and self.step * factor)

    def rounds(self, exact: Fraction) -> bool:
        """Whether this is a decimal to which the exact value rounds, with enough digits to stand for it."""
        return (
            self.step is not None
            and self.digits >= SIGNIFICANT_DIGITS
            and abs(exact - self.value) <= abs(self.step) / 2
        )


def read_number(text: str) -> Number | None:
    """Reads an integer, a decimal, a fraction, a mixed number, a ratio or a power of ten.

    Args:
        text: In `normal` form, the whole of it a number.
    """
    text = _without_brackets(text)
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign = -1 if match["sign"].startswith("-") else 1
    if match["over"]:
        over, under = _fraction(match["over"]), _fraction(match["under"])
        return Number(sign * (int(match["whole"] or 0) + over / under)) if under else None
    if match["mixed"]:
        parts = int(match["parts"])
        return Number(sign * (int(match["mixed"]) + Fraction(int(match["part"]), parts))) if parts else None
    if match["left"]:
        right = _fraction(match["right"])
        return Number(sign * _fraction(match["left"]) / right) if right else None
    ten = Fraction(10) ** int((match["power"] or match["digit"]).replace(" ", "")) if match["ten"] else Fraction(1)
    digits = (match["plain"] or match["digits"] or "1").replace(",", "").replace(" ", "")
    _, point, places = digits.partition(".")
    number = Number(sign * Fraction(digits if digits[-1] != "." else digits[:-1]))
    if places:
        number = replace(number, step=Fraction(1, 10 ** len(places)), digits=len(digits.replace(".", "").lstrip("0")))
    return number.times(ten)


def same_numbers(gold: Number, answer: Number) -> bool:
    """Whether a person would take the answer for the gold number.

    They are equal, or one is a decimal and the other, which is exact or a longer decimal, rounds to it. An answer may
    not be rounded further than a gold decimal is.
    """
    return gold.value == answer.value or gold.rounds(answer.value) or (gold.step is None and answer.rounds(gold.value))


def unit_factors(gold: Unit | None, answer: Unit | None) -> list[Fraction]:
    """By what an answer's number may be multiplied to be compared with the gold number.

    A unit that only one of them has does not count. A percent sign that only one of them has may count or not: `50%`
    is 50 and 0.5.

    Returns:
        Factors; none if the units measure different things.
    """
    if gold is None or answer is None or not gold.dimension or not answer.dimension:
        has_percent = [unit is not None and unit.dimension == ((PERCENT, 1),) for unit in (gold, answer)]
        if has_percent[0] != has_percent[1]:
            return [Fraction(1), Fraction(100) if has_percent[0] else Fraction(1, 100)]
        return [Fraction(1)]
    return [answer.factor / gold.factor] if gold.dimension == answer.dimension else []


def split_unit(text: str) -> tuple[str, Unit | None]:
    """Parts `5\\sqrt{2} cm` into the number and its unit; a text with variables keeps all of itself.

    Args:
        text: In `normal` form.
    """
    for cut in range(max(1, len(text) - _LONGEST_UNIT), len(text)):
        number = text[:cut]
        if text[cut - 1] in " 0123456789})." and not text[cut].isdigit() and _is_numeric(number):
            unit = read_unit(text[cut:])
            if unit is not None:
                return number.strip(), unit
    return text, None


def _is_numeric(text: str) -> bool:
    bare = _COMMAND.sub("", text)
    return (
        bare != ""
        and _LETTER.search(bare) is None
        and _ANGLE_FUNCTION.search(text) is None
        and (any(character.isdigit() for character in bare) or r"\pi" in text)
    )


def _without_brackets(text: str) -> str:
    while len(text) > 2 and text[0] + text[-1] in ("()", "{}") and not any(mark in text[1:-1] for mark in "(){},"):
        text = text[1:-1].strip()
    return text


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", "").rstrip("."))

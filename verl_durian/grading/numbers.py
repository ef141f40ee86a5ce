# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Reads rational numbers exactly and decides when two of them are the same answer."""

import re
from fractions import Fraction
from typing import NamedTuple

SIGNIFICANT_DIGITS = 3
"""A rounded decimal must have this many digits to be accepted for an exact value. It is then within half a percent, the
accuracy that textbooks ask for. With fewer digits, too many wrong values would round to it."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?: \d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_FRACTION = re.compile(rf"\\frac ?\{{ ?([+-]?{_DIGITS}) ?\}} ?\{{ ?({_DIGITS}) ?\}}$")
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?) *(?:"
    rf"(?:(?P<whole>\d+) +(?![+-]))?(?P<over>[+-]?{_DIGITS}) ?[/:] ?(?P<under>{_DIGITS})"  # a ratio is its quotient
    rf"|(?:(?P<factor>{_DIGITS}) ?(?:\\times|\\cdot|\*) ?)?"
    rf"10 ?\^ ?(?:\{{ ?(?P<power>[+-]? ?\d{{1,3}}) ?\}}|(?P<digit>\d))"
    rf"|(?P<plain>{_DIGITS})"
    rf")"
)


class Number(NamedTuple):
    """A rational number as it was written."""

    value: Fraction
    is_decimal: bool = False
    tolerance: Fraction = Fraction(0)
    """For a decimal with enough digits: maximum distance of the exact values that round to it."""

    def times(self, factor: Fraction) -> "Number":
        """The number in another unit."""
        return Number(self.value * factor, self.is_decimal, self.tolerance * abs(factor))


def read_number(text: str) -> Number | None:
    """Reads an integer, decimal, fraction, mixed number, ratio or power of ten in normalized text; None otherwise."""
    while len(text) > 2 and text[0] + text[-1] in ("()", "{}") and not any(mark in text[1:-1] for mark in "(){},"):
        text = text[1:-1].strip()
    match = _NUMBER.fullmatch(_FRACTION.sub(r" \1/\2", text).strip())
    if match is None:
        return None
    sign = Fraction(-1 if match["sign"] == "-" else 1)
    if match["under"]:
        over, under = (Fraction(_plain_digits(match[name])) for name in ("over", "under"))
        return Number(sign * (int(match["whole"] or 0) + over / under)) if under else None
    power = (match["power"] or match["digit"] or "0").replace(" ", "")
    digits = _plain_digits(match["plain"] or match["factor"] or "1")
    _, point, decimals = digits.partition(".")
    significant = len(digits.replace(".", "").lstrip("0")) >= SIGNIFICANT_DIGITS
    tolerance = Fraction(1 if point and significant else 0, 2 * 10 ** len(decimals))
    return Number(Fraction(digits), bool(point), tolerance).times(sign * Fraction(10) ** int(power))


def _plain_digits(digits: str) -> str:
    return digits.replace(",", "").replace(" ", "").rstrip(".")


def same_numbers(gold: Number, answer: Number, decimals: int | None = None) -> bool:
    """Whether the answer's number is accepted for the gold number.

    They are equal, or one is a decimal and the other, which is exact or a longer decimal, rounds to it. An answer must
    not be rounded further than a gold decimal. If the question asks for a number of decimals, the answer may have more.
    """
    asked = Fraction(1, 2 * 10**decimals) if decimals is not None else Fraction(0)
    rounded = answer.tolerance if not gold.is_decimal else Fraction(0)
    return abs(answer.value - gold.value) <= max(asked, gold.tolerance, rounded)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Reads rational numbers exactly and decides when two of them are the same answer."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

SIGNIFICANT_DIGITS = 3
"""A rounded decimal must have this many digits to be accepted for an exact value: then it is within half a percent, the
accuracy that textbooks ask for. With fewer digits, too many wrong values round to it as well."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?: \d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_FRACTION = re.compile(rf"\\frac ?\{{ ?([+-]?{_DIGITS}) ?\}} ?\{{ ?({_DIGITS}) ?\}}")
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?) ?(?:"
    rf"(?:(?P<whole>\d+) +)?(?P<over>[+-]?{_DIGITS}) ?[/:] ?(?P<under>{_DIGITS})"  # a ratio is its quotient
    rf"|(?:(?P<factor>{_DIGITS}) ?(?:\\times|\\cdot|\*) ?)?"
    rf"10 ?\^ ?(?:\{{ ?(?P<power>[+-]? ?\d{{1,3}}) ?\}}|(?P<digit>\d))"
    rf"|(?P<plain>{_DIGITS})"
    rf")"
)


@dataclass(frozen=True)
class Number:
    """A rational number as it was written."""

    value: Fraction
    step: Fraction | None = None
    """For a decimal: the value of one unit in its last place."""
    digits: int = 0
    """For a decimal: the number of significant digits."""

    def times(self, factor: Fraction) -> "Number":
        """The number in another unit."""
        return replace(self, value=self.value * factor, step=self.step and self.step * factor)

    def rounds(self, exact: Fraction) -> bool:
        """Whether the exact value rounds to this decimal, and the decimal has enough digits to be accepted for it."""
        return (
            self.step is not None
            and self.digits >= SIGNIFICANT_DIGITS
            and abs(exact - self.value) <= abs(self.step) / 2
        )


def read_number(text: str) -> Number | None:
    """Reads an integer, a decimal, a fraction, a mixed number, a ratio or a power of ten.

    Args:
        text: Normalized.

    Returns:
        The number, or None if the text is anything else.
    """
    while len(text) > 2 and text[0] + text[-1] in ("()", "{}") and not any(mark in text[1:-1] for mark in "(){},"):
        text = text[1:-1].strip()
    match = _NUMBER.fullmatch(_FRACTION.sub(r" \1/\2", text).strip())
    if match is None:
        return None
    sign = Fraction(-1 if match["sign"] == "-" else 1)
    if match["under"]:
        under = _fraction(match["under"])
        return Number(sign * (int(match["whole"] or 0) + _fraction(match["over"]) / under)) if under else None
    power = (match["power"] or match["digit"] or "0").replace(" ", "")
    digits = (match["plain"] or match["factor"] or "1").replace(",", "").replace(" ", "")
    places = len(digits.partition(".")[2])
    number = Number(_fraction(digits))
    if places:
        number = replace(number, step=Fraction(1, 10**places), digits=len(digits.replace(".", "").lstrip("0")))
    return number.times(sign * Fraction(10) ** int(power))


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", "").rstrip("."))


def same_numbers(gold: Number, answer: Number, decimals: int | None = None) -> bool:
    """Whether the answer's number is accepted for the gold number.

    They are equal, or one is a decimal and the other, which is exact or a longer decimal, rounds to it. An answer must
    not be rounded further than a gold decimal.

    Args:
        gold: The gold number.
        answer: The answer, in the unit of gold.
        decimals: The decimal places that the question asks for; the answer may round to gold at that place.
    """
    if decimals is not None and abs(answer.value - gold.value) <= Fraction(1, 2 * 10**decimals):
        return True
    return gold.value == answer.value or gold.rounds(answer.value) or (gold.step is None and answer.rounds(gold.value))

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Splits a quantity into number and unit, and converts between units."""

import re
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

from verl_durian.grading.numbers import Number, read_number

PERCENT = "%"

# Names of each unit and its factor, by dimension: a base dimension and its power, so that 1 L equals 1000 cm^3.
_KNOWN = {
    "length": "mm 1/1000|cm centimeter centimetre 1/100|dm decimeter 1/10|m meter metre 1|km kilometer kilometre 1000"
    "|in inch inche 127/5000|ft foot feet 381/1250|yd yard 1143/1250|mi mile 201168/125",
    "length^3": "ml milliliter millilitre 1/1000000|cl 1/100000|L l liter litre 1/1000",
    "mass": "mg milligram 1/1000000|g gram 1/1000|kg kilogram 1|ton tonne 1000",
    "time": "ms millisecond 1/1000|s sec second 1|min minute 60|h hr hour 3600|day 86400|week 604800",
    **{"angle": "° deg degree 1", "radian": "rad radian 1", "celsius": "°C 1", "fahrenheit": "°F 1", PERCENT: "% 1"},
    **{"money": "cent ¢ 1|dollar buck usd 100", "yuan": "yuan rmb 1", "pound": "lb lbs pound 1|oz ounce 1/16"},
    **{"force": "N newton 1|kN 1000", "energy": "J joule 1|kJ 1000", "power": "W watt 1|kW 1000", "": "unit 1"},
    **{"voltage": "V volt 1", "current": "mA 1/1000|A amp ampere 1", "resistance": "Ω ohm 1|kΩ 1000"},
    **{"pressure": "Pa pascal 1|kPa 1000", "frequency": "Hz hertz 1"},
}
_UNITS = {
    form: (dimension, Fraction(factor))
    for dimension, group in _KNOWN.items()
    for *names, factor in (entry.split() for entry in group.split("|"))
    for name in names
    for form in ((name,) if len(name) == 1 else (name, f"{name}s"))
}

_SPELLINGS = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"^\((.*)\)$", r"\1"),
        (r"(?:square|sq\.?) +([a-z]+)|([a-z]+) +squared", r"\1\2^2"),
        (r"(?:cubic|cu\.?) +([a-z]+)|([a-z]+) +cubed", r"\1\2^3"),
        (r" *\bper\b *", "/"),
        (r"^mph$", "mi/h"),
        (r"(?:°|\bdegrees?) *(?:Celsius|C)\b", "°C"),
        (r"(?:°|\bdegrees?) *(?:Fahrenheit|F)\b", "°F"),
    )
]
_FACTOR = re.compile(r"(?:[ /*]|\\cdot ?)*(°[CF]?|%|[A-Za-z¢Ω]+)\.?(?: ?\^ ?\{? ?(-?\d) ?\}?|([23])(?!\d))?")
_NOUN = re.compile(r"[A-Za-z]{3,}(?: [A-Za-z]{3,})?")
_NO_NOUN = re.compile(r"\b(?:or|and|not|but|pi|sin|cos|tan|log|left|right)\b|sqrt|frac", re.IGNORECASE)

ANGLE_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
# Before a unit: digits, signs and LaTeX commands, with a digit or pi; no variables, no functions of angles.
_BEFORE_UNIT = re.compile(
    rf"(?!.*{ANGLE_FUNCTION.pattern})(?=.*(?:\d|\\pi))(?:[^a-zA-Z\\]|\\[a-zA-Z]+|\\)*(?<=[ 0-9}}).])", re.DOTALL
)
_LONGEST_UNIT = 40


class Unit(NamedTuple):
    dimension: dict[str, int]
    """Powers of base dimensions, such as length^2. An unknown noun is its own dimension; empty: a count."""
    factor: Fraction
    """The unit in base units."""


class Quantity(NamedTuple):
    """A value and its unit."""

    text: str
    """The value as it was written, without the unit."""
    unit: Unit | None
    number: Number | None
    """The value, if it is a plain number."""


def read_quantity(text: str) -> Quantity:
    r"""Splits normalized text such as `5\sqrt{2} cm` into value and unit; a text with variables has no unit."""
    for cut in range(max(1, len(text) - _LONGEST_UNIT), len(text)):
        number = text[:cut].strip()
        if not text[cut].isdigit() and _BEFORE_UNIT.fullmatch(text, 0, cut) and (unit := _read_unit(text[cut:])):
            return Quantity(number, unit, read_number(number))
    return Quantity(text, None, read_number(text))


def _read_unit(text: str) -> Unit | None:
    """Reads `cm`, `m/s^{2}`, `square feet`, `°`, `%`, or a noun such as `apples`; None for a variable."""
    text = text.strip()
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text).strip()
    dimension, factor, end, sign = Counter[str](), Fraction(1), 0, 1
    while (part := _FACTOR.match(text, end)) and (known := _known_unit(part[1])):
        sign = -1 if "/" in text[end : part.start(1)] else sign
        end = part.end()
        base, _, base_power = known[0].partition("^")
        power = sign * int(part[2] or part[3] or 1)
        dimension[base] += power * int(base_power or 1)
        factor *= known[1] ** power
    if text and not text[end:].strip():
        return Unit({base: power for base, power in dimension.items() if base and power}, factor)
    if _NOUN.fullmatch(text) and not _NO_NOUN.search(text):
        return Unit({text.lower().removesuffix("s"): 1}, Fraction(1))
    return None


def _known_unit(name: str) -> tuple[str, Fraction] | None:
    return _UNITS.get(name) or _UNITS.get(name.lower() if len(name) > 1 else "")


def unit_factors(gold: Unit | None, answer: Unit | None) -> list[Fraction]:
    """The factors that convert an answer to the unit of gold; none if their dimensions differ.

    A unit that only one of them has is ignored. A percent sign that only one of them has gives two factors: `50%` is
    accepted for both 50 and 0.5.
    """
    if gold and answer and gold.dimension and answer.dimension:
        return [answer.factor / gold.factor] if gold.dimension == answer.dimension else []
    gold_percent, answer_percent = (unit is not None and unit.dimension == {PERCENT: 1} for unit in (gold, answer))
    if gold_percent == answer_percent:
        return [Fraction(1)]
    return [Fraction(1), Fraction(100) if gold_percent else Fraction(1, 100)]

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Units of measurement behind a number: which of them measure the same, and by which factor they differ."""

import re
from dataclasses import dataclass
from fractions import Fraction

PERCENT = "%"

_KNOWN = {
    "length": "mm 1/1000|cm centimeter centimetre 1/100|dm decimeter 1/10|m meter metre 1|km kilometer kilometre 1000"
    "|in inch inche 127/5000|ft foot feet 381/1250|yd yard 1143/1250|mi mile 201168/125",
    "volume": "ml milliliter millilitre 1/1000000|cl 1/100000|L l liter litre 1/1000",
    "mass": "mg milligram 1/1000000|g gram 1/1000|kg kilogram 1|ton tonne 1000",
    "pound": "lb lbs pound 1|oz ounce 1/16",
    "time": "ms millisecond 1/1000|s sec second 1|min minute 60|h hr hour 3600|day 86400|week 604800",
    "angle": "° deg degree 1",
    "radian": "rad radian 1",
    "celsius": "°C 1",
    "fahrenheit": "°F 1",
    PERCENT: "% 1",
    "money": "cent ¢ 1|dollar buck usd 100",
    "yuan": "yuan rmb 1",
    "force": "N newton 1|kN 1000",
    "energy": "J joule 1|kJ 1000",
    "power": "W watt 1|kW 1000",
    "voltage": "V volt 1",
    "current": "mA 1/1000|A amp ampere 1",
    "resistance": "Ω ohm 1|kΩ 1000",
    "pressure": "Pa pascal 1|kPa 1000",
    "frequency": "Hz hertz 1",
    "speed": "mph 1397/3125",
    "": "unit 1",
}
_UNITS = {
    name: (dimension, Fraction(factor))
    for dimension, group in _KNOWN.items()
    for *names, factor in (entry.split() for entry in group.split("|"))
    for name in names
}
# As powers of a length, so that 1 L is 1000 cm^3.
_COMPOSED = {"volume": {"length": 3}, "speed": {"length": 1, "time": -1}}

_POWER_WORDS = [
    (re.compile(r"(?:square|sq\.?) +([A-Za-z]+)", re.IGNORECASE), r"\1^2"),
    (re.compile(r"(?:cubic|cu\.?) +([A-Za-z]+)", re.IGNORECASE), r"\1^3"),
    (re.compile(r"([A-Za-z]+) +squared", re.IGNORECASE), r"\1^2"),
    (re.compile(r"([A-Za-z]+) +cubed", re.IGNORECASE), r"\1^3"),
    (re.compile(r" *\bper\b *", re.IGNORECASE), "/"),
    (re.compile(r"° *(?:Celsius|C)\b|\bdegrees? +(?:Celsius|C)\b", re.IGNORECASE), "°C"),
    (re.compile(r"° *(?:Fahrenheit|F)\b|\bdegrees? +(?:Fahrenheit|F)\b", re.IGNORECASE), "°F"),
]
_FACTOR = re.compile(r"([ /*]|\\cdot ?)*(°[CF]?|%|[A-Za-z¢Ω]+)\.?(?: ?\^ ?\{? ?(-?\d) ?\}?|([23])(?!\d))?")
_NOUN = re.compile(r"[A-Za-z]{3,}(?: [A-Za-z]{3,})?")
_NO_NOUN = re.compile(r"\b(?:or|and|not|but|pi|sin|cos|tan|log|left|right)\b|sqrt|frac", re.IGNORECASE)


@dataclass(frozen=True)
class Unit:
    """What a number is counted in."""

    dimension: tuple[tuple[str, int], ...]
    """Powers of what is measured, such as length^2; a noun that is no known unit measures itself; empty: just units."""
    factor: Fraction
    """How many base units it holds."""


def read_unit(text: str) -> Unit | None:
    """Reads what stands behind a number: `cm`, `m/s^{2}`, `square feet`, `°`, `%`, or a noun such as `apples`.

    Args:
        text: In `normal` form.

    Returns:
        The unit, or None if it is something else, such as a variable.
    """
    text = text.strip()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    for pattern, replacement in _POWER_WORDS:
        text = pattern.sub(replacement, text)
    powers: dict[str, int] = {}
    factor, end, sign = Fraction(1), 0, 1
    while part := _FACTOR.match(text, end):
        known = _look_up(part.group(2))
        if known is None:
            break
        sign = -1 if "/" in text[end : part.start(2)] else sign
        end = part.end()
        dimension, size = known
        power = sign * int(part.group(3) or part.group(4) or 1)
        factor *= size**power
        for base, exponent in _COMPOSED.get(dimension, {dimension: 1}).items():
            powers[base] = powers.get(base, 0) + exponent * power
    if text and not text[end:].strip():
        powers.pop("", None)
        return Unit(tuple(sorted((base, power) for base, power in powers.items() if power)), factor)
    if _NOUN.fullmatch(text) and not _NO_NOUN.search(text):
        return Unit(((_singular(text.lower()), 1),), Fraction(1))
    return None


def _look_up(name: str) -> tuple[str, Fraction] | None:
    for spelling in (name, name.lower() if len(name) > 1 else name):
        for form in (spelling, _singular(spelling) if len(spelling) > 2 else spelling):
            if form in _UNITS:
                return _UNITS[form]
    return None


def _singular(noun: str) -> str:
    return noun[:-1] if noun.endswith("s") else noun

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
r"""Converts the many spellings of an answer to one: `$\dfrac12$`, `½`, `**1/2**`, `\text{ 1/2 }.`."""

import re
import unicodedata

_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒", "-"),  # noqa: RUF001
        **dict.fromkeys("°º˚", "°"),
        **dict.fromkeys("′’", "'"),  # noqa: RUF001
        **dict.fromkeys("·⋅∙•", r"\cdot "),
        **{fraction: rf"\frac{{{over}}}{{{under}}}" for fraction, over, under in ("½12", "⅓13", "⅔23", "¼14", "¾34")},
        **{"℃": "°C", "℉": "°F", "×": r"\times ", "✕": r"\times ", "÷": r"\div ", "±": r"\pm ", "∞": r"\infty "},
        **{"≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∈": r"\in "},
        **{"∪": r"\cup ", "∩": r"\cap ", "∠": r"\angle ", "△": r"\triangle ", "Δ": r"\Delta ", "∥": r"\parallel "},
        **{"π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "φ": r"\phi "},
    }
)
_DOLLARS = re.compile(r"\\?[$€£¥₹]|(?<!\\)\\[()\[\]]")
_GROUP = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"  # braces three deep
_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf|tt|bb|cal)|mbox|hbox|operatorname|bm|boldsymbol"
    r"|emph|underline)\s*" + _GROUP
)
# Applied in this order. The result is LaTeX that math-verify can parse, except for "°".
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|rm|bf)(?![a-zA-Z])", ""),
        (r"\{,\}", ","),  # 1{,}000
        (r"(?<=\d)(?<!\\)\\[,;:](?=\d{3}(?!\d))", ""),  # 1\,000
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[,;:> ]|\\q?quad(?![a-zA-Z])|~", " "),
        (r"\\%|\bper ?cent\b", "%"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degrees?(?![a-zA-Z])", "°"),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(?<=[\d)\]}a-z])\s*\*\*\s*(?=[\d({a-z-])", "^"),  # Python's power; other asterisks are Markdown
        (r"\*\*", ""),
        (r"^\s*'(.*)'\s*$", r"\1"),
        (r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)|√\s*\(([^()]*)\)", r"\\sqrt{\1\2}"),
        (r"(?:(?<![a-zA-Z\\])sqrt|√)\s*(\d+(?:\.\d+)?|[a-z])", r"\\sqrt{\1}"),
        (r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi "),
        (r"<=|\\leq(?:slant)?(?![a-zA-Z])", r"\\le "),
        (r">=|\\geq(?:slant)?(?![a-zA-Z])", r"\\ge "),
        (r"!=|\\neq(?![a-zA-Z])", r"\\ne "),
        (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times "),
        (r"(?<=\d)[eE]([+-]?\d{1,3})(?![\d.a-zA-Z])", r"\\times 10^{\1}"),
        (r"(?<=\d)\s*thousand\b", r"\\times 10^{3}"),
        (r"(?<=\d)\s*million\b", r"\\times 10^{6}"),
        (r"(?<=\d)\s*billion\b", r"\\times 10^{9}"),
        (r"\s+", " "),
    )
]
_ARTICLE = re.compile(r"^(?:the|an?) (?=[a-z]{3})")
_AROUND = ' \t\n"`“”‘’.,;:。，；：'  # noqa: RUF001


def normalize(text: str) -> str:
    """Normalizes Unicode and LaTeX in an answer, and removes layout, wrappers, currency signs and quotes."""
    text = _SUPERSCRIPTS.sub(r"^{\g<0>}", text)  # NFKC makes plain digits of them
    text = unicodedata.normalize("NFKC", text.translate(_UNICODE)).translate(_UNICODE)
    text = _DOLLARS.sub("", text)
    unwrapped = ""
    while unwrapped != text:
        unwrapped, text = text, _WRAPPER.sub(r" \1 ", text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    # A leading point belongs to a decimal: ".5".
    return text.rstrip(_AROUND).lstrip(_AROUND.replace(".", ""))


def same_text(one: str, other: str) -> bool:
    """Whether two normalized texts are equal, ignoring case, spaces and a leading article."""
    one, other = (_ARTICLE.sub("", text.casefold()).replace(" ", "") for text in (one, other))
    return one == other

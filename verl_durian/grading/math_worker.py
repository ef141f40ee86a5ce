# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The program that `math_process` starts: compares expressions with math-verify until its input is closed."""

import logging
import re
import resource
import signal
import sys
from contextlib import suppress
from fractions import Fraction
from multiprocessing.connection import Connection

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Float, MatrixBase

from verl_durian.grading.numbers import Number, read_number, same_numbers
from verl_durian.grading.units import ANGLE_FUNCTION

CPU_SECONDS = 3  # per comparison; a real answer takes less than one
MEMORY_BYTES = 1 << 30  # the libraries take 60 MB of it
_DIGITS = 30
_SMALLEST, _LARGEST = Float("1e-30"), Float("1e30")

# The entire text is a formula, not a response that contains boxes.
_CONFIG = (LatexExtractionConfig(boxed_match_priority=-1),)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?) ?°")
_FUNCTION = re.compile(r"(?<![a-zA-Z\\])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp)(?![a-z])")


def _parse(text: str) -> list[Basic | MatrixBase]:
    text = _FUNCTION.sub(r"\\\1 ", text)
    if ANGLE_FUNCTION.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    # With the ANTLR version that verl requires, math-verify cannot parse percent signs.
    text = text.replace("°", "").replace("%", "")
    return parse(f"${text}$", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None)


def _number(expressions: list[Basic | MatrixBase]) -> Number | None:
    """The value of a real number of realistic size. An exact 1e1000000000 would exhaust the memory."""
    for expression in expressions:
        if isinstance(expression, Basic) and not expression.free_symbols:
            value = expression.evalf(_DIGITS)
            if isinstance(value, sympy.Number) and (value == 0 or _SMALLEST < abs(value) < _LARGEST):
                return Number(Fraction(str(value)))
    return None


def _compare(gold: str, answer: str, factor: Fraction) -> bool:
    plain_gold, plain_answer = read_number(gold), read_number(answer)
    if factor != 1:
        answer = rf"({answer})\cdot\frac{{{factor.numerator}}}{{{factor.denominator}}}"
    golds, answers = _parse(gold), _parse(answer)
    # verify is not symmetric: gold is the first argument.
    if verify(golds, answers, timeout_seconds=None, allow_set_relation_comp=True):
        return True
    if plain_gold and (number := _number(answers)):
        return same_numbers(plain_gold, number)
    if plain_answer and (number := _number(golds)):
        return same_numbers(number, plain_answer.times(factor))
    return False


def main() -> None:
    """Answers the questions of one process."""
    logging.disable()  # math-verify warns that its own time limits are off
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    # The default action of SIGPROF ends the process even inside C code, and even if the parent is gone.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(sys.stdin.fileno())
    with suppress(EOFError):  # the connection is closed
        while True:
            question = connection.recv()
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            try:
                verdict = _compare(*question)
            except Exception:  # sympy raises exceptions of any type
                verdict = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send(verdict)


if __name__ == "__main__":
    main()

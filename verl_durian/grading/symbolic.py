# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""math-verify's verdicts, from helper processes that may be killed.

math-verify ends what takes too long by signal.alarm, which works in the main thread only, and verl grades in threads.
It may also hang in C code, where no signal handler is run, or ask for all memory. So it works in a process of its own,
which the kernel kills after some seconds of CPU time; the next question starts another. The processes are plain
subprocesses: those of `multiprocessing` cannot be had in daemonic processes, and import the main module again.
"""

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

logger = logging.getLogger(__name__)

HELPERS = 4  # at most, in each process that grades; as many threads are served at once
CPU_SECONDS = 3  # for an answer; a verdict on a real one takes under a second
WALL_SECONDS = 60  # only a stopped process or a machine on its knees takes that long for them
START_SECONDS = 120
_TOLD_CHARACTERS = 200


@dataclass(frozen=True)
class Comparison:
    """What math-verify says of two expressions."""

    equal: bool
    gold: Fraction | None = None
    """If they are not equal: the gold one's value, where it is a real number."""
    answer: Fraction | None = None
    """The same of the answer."""


def compare(gold: str, answer: str) -> Comparison:
    """Compares two expressions. What takes too long, or too much memory, is not equal.

    Args:
        gold: LaTeX without dollar signs, in `normal` form.
        answer: The same.

    Raises:
        RuntimeError: no helper process can be started.
    """
    with _slots:  # around the memory, so that threads with the same question do not all ask it
        return _compare(gold, answer)


@lru_cache(maxsize=10_000)
def _compare(gold: str, answer: str) -> Comparison:
    helper = _take_helper()
    try:
        reply = helper.ask(gold, answer)
    except BaseException as error:
        code = helper.end()
        if not isinstance(error, (EOFError, OSError, TimeoutError)):
            raise
        logger.warning(
            "counted as wrong, math-verify took too long or too much memory (exit code %s): %r against the truth %r",
            code,
            answer[:_TOLD_CHARACTERS],
            gold[:_TOLD_CHARACTERS],
        )
        return Comparison(False)
    _idle.append(helper)
    equal, gold_value, answer_value = reply
    return Comparison(equal, *(None if value is None else Fraction(value) for value in (gold_value, answer_value)))


class _Helper:
    """A process that runs `math_process`; it ends when this end of the connection is closed."""

    def __init__(self) -> None:
        self._connection, other = multiprocessing.Pipe()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "verl_durian.grading.math_process", str(other.fileno()), str(CPU_SECONDS)],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            )
        try:
            self._receive(START_SECONDS)
        except (EOFError, OSError, TimeoutError) as error:
            raise RuntimeError(
                f"the process that runs math-verify did not start (exit code {self.end()}): its own message stands "
                "above; is math-verify installed?"
            ) from error

    def lives(self) -> bool:
        return self._process.poll() is None

    def ask(self, gold: str, answer: str) -> tuple[bool, str | None, str | None]:
        self._connection.send((gold, answer))
        return self._receive(WALL_SECONDS)

    def _receive(self, seconds: float) -> tuple[bool, str | None, str | None]:
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv()

    def end(self) -> int:
        self._connection.close()
        self._process.kill()
        return self._process.wait()


_idle: list[_Helper] = []
_slots = threading.BoundedSemaphore(HELPERS)


def _take_helper() -> _Helper:
    """One that waits for a question, or a new one."""
    while True:
        try:
            helper = _idle.pop()
        except IndexError:
            return _Helper()
        if helper.lives():
            return helper
        helper.end()  # something else has ended it, such as a machine short of memory


def _forget_helpers() -> None:
    """A forked process would read the answers to its parent's questions: it starts helpers of its own."""
    global _slots
    _idle.clear()
    _slots = threading.BoundedSemaphore(HELPERS)


os.register_at_fork(after_in_child=_forget_helpers)

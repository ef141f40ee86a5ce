# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Compares expressions with math-verify, in processes that can be killed.

math-verify limits its time with signal.alarm, which works only in the main thread, and verl grades in threads. sympy
can also hang in C code, where no signal handler runs, or allocate all memory. So math-verify runs in processes that the
kernel kills after a few seconds of CPU time. They are plain subprocesses: `multiprocessing` cannot start any from a
daemonic process, and imports the main module again.
"""

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

logger = logging.getLogger(__name__)

MAX_PROCESSES = 4  # per grading process; as many threads are served at the same time
CPU_SECONDS = 3  # per comparison; a real answer takes less than one
WALL_SECONDS = 60  # reached only if the process is stopped or the machine overloaded
START_SECONDS = 120
_LOGGED_CHARACTERS = 200


class Comparison(NamedTuple):
    """What math-verify says about two expressions."""

    equal: bool
    gold: Fraction | None = None
    """The value of the gold expression, if they differ and it is a real number."""
    answer: Fraction | None = None
    """The same for the answer."""


def compare(gold: str, answer: str) -> Comparison:
    """Compares two expressions.

    Args:
        gold: LaTeX without dollar signs, normalized.
        answer: LaTeX without dollar signs, normalized.

    Raises:
        TimeoutError: The comparison takes too long or too much memory; logged the first time.
        RuntimeError: No process can be started.
    """
    with _slots:  # outside the cache, so that several threads with the same question compute it once
        comparison = _compare(gold, answer)
    if comparison is None:
        raise TimeoutError("math-verify took too long or too much memory")
    return comparison


@lru_cache(maxsize=10_000)
def _compare(gold: str, answer: str) -> Comparison | None:
    process = _idle_or_new_process()
    try:
        equal, *values = process.ask(gold, answer)
    except BaseException as error:
        exit_code = process.kill()
        if not isinstance(error, (EOFError, OSError)):
            raise
        logger.warning(
            "counted as wrong, math-verify took too long or too much memory (exit code %s): %r against gold %r",
            exit_code,
            answer[:_LOGGED_CHARACTERS],
            gold[:_LOGGED_CHARACTERS],
        )
        return None
    _idle.append(process)
    return Comparison(equal, *(None if value is None else Fraction(value) for value in values))


class _MathProcess:
    """A process that runs `math_worker`; it exits when this end of the connection is closed."""

    def __init__(self) -> None:
        self._connection, other = multiprocessing.Pipe()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "verl_durian.grading.math_worker", str(other.fileno()), str(CPU_SECONDS)],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            )
        try:
            self._receive(START_SECONDS)
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"the process that runs math-verify did not start (exit code {self.kill()}), see its output above; "
                "is math-verify installed?"
            ) from error

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, gold: str, answer: str) -> tuple[bool, str | None, str | None]:
        self._connection.send((gold, answer))
        return self._receive(WALL_SECONDS)

    def _receive(self, seconds: float) -> tuple[bool, str | None, str | None]:
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv()

    def kill(self) -> int:
        self._connection.close()
        self._process.kill()
        return self._process.wait()


_idle: list[_MathProcess] = []
_slots = threading.BoundedSemaphore(MAX_PROCESSES)


def _idle_or_new_process() -> _MathProcess:
    while True:
        try:
            process = _idle.pop()
        except IndexError:
            return _MathProcess()
        if process.is_alive():
            return process
        process.kill()  # killed by the system, for example out of memory


def _forget_processes() -> None:
    """A fork must not read the replies to its parent's questions: it starts its own processes."""
    global _slots
    _idle.clear()
    _slots = threading.BoundedSemaphore(MAX_PROCESSES)


os.register_at_fork(after_in_child=_forget_processes)

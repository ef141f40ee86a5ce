# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Compares expressions with math-verify, in processes that can be killed.

math-verify limits its time with signal.alarm, which works only in the main thread, and verl grades in threads. sympy
can also hang in C code, where no signal handler runs, or allocate all memory. So math-verify runs in processes that the
kernel kills after a few seconds of CPU time. They are plain subprocesses, because `multiprocessing` imports the main
module again, and cannot start a process from a daemonic one.
"""

import logging
import multiprocessing
import os
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from functools import cache, lru_cache
from queue import LifoQueue

logger = logging.getLogger(__name__)

MAX_PROCESSES = 4  # per grading process; as many threads are served at the same time
WALL_SECONDS = 120  # reached only if the process is stopped or the machine is overloaded


def compare(gold: str, answer: str, factor: Fraction = Fraction(1)) -> bool:
    """Whether two expressions are equal, or one is a number that is accepted for the other (see `same_numbers`).

    Args:
        gold: LaTeX without dollar signs, normalized.
        answer: LaTeX without dollar signs, normalized.
        factor: Converts the answer to the unit of gold.

    Raises:
        TimeoutError: The comparison takes too long or too much memory; logged the first time.
        RuntimeError: The process cannot be started.
    """
    verdict = _compare(gold, answer, factor)
    if verdict is None:
        raise TimeoutError("math-verify took too long or too much memory")
    return verdict


@lru_cache(maxsize=10_000)
def _compare(gold: str, answer: str, factor: Fraction) -> bool | None:
    workers, verdict = _workers(os.getpid()), None
    worker = workers.get()
    try:
        if worker is None or worker.process.poll() is not None:  # killed by the system, for example out of memory
            worker = _Worker()
        with suppress(EOFError, OSError):  # the process has ended
            worker.connection.send((gold, answer, factor))
            if worker.connection.poll(WALL_SECONDS):
                verdict = worker.connection.recv()
    finally:
        if worker and verdict is None:
            worker.process.kill()
        workers.put(None if verdict is None else worker)
    if verdict is not None:
        return verdict
    exit_code = worker.process.wait()
    if exit_code >= 0:  # not killed by a signal
        text = f"the process of math-verify did not start (exit code {exit_code}), see its output above"
        raise RuntimeError(f"{text}; is math-verify installed?")
    text = "counted as wrong: %.200r against gold %.200r; math-verify took too long or too much memory (exit code %s)"
    logger.warning(text, answer, gold, exit_code)
    return None


class _Worker:
    """A process that runs `math_worker`; it ends when this end of the connection is closed."""

    def __init__(self) -> None:
        self.connection, other = multiprocessing.Pipe()
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        command = [sys.executable, "-m", "verl_durian.grading.math_worker"]
        with other:
            self.process = subprocess.Popen(
                command, stdin=other.fileno(), stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
            )


@cache
def _workers(grading_process: int) -> LifoQueue[_Worker | None]:
    """The workers and empty slots of one process: a fork must not read the replies to its parent's questions."""
    workers = LifoQueue[_Worker | None]()
    for _ in range(MAX_PROCESSES):
        workers.put(None)
    return workers

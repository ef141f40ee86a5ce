# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""math-verify in separate processes: off the main thread, in Ray, with hostile answers."""

import asyncio
import inspect
import logging
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import ray

import verl_durian.reward
from verl_durian.grading import grade, math_process
from verl_durian.grading.math_worker import MEMORY_BYTES
from verl_durian.reward import compute_score

MEGABYTE = 1_000_000


def processes() -> list[subprocess.Popen]:
    """The processes that wait for a question."""
    return [worker.process for worker in math_process._workers(os.getpid()).queue if worker]


def run_python(code: str, *arguments: str, **options) -> subprocess.Popen:
    """Runs code in a process of its own that has `grade`, `compute_score`, `math_process` and `processes`."""
    head = """
        import multiprocessing, os, subprocess, sys, threading
        from verl_durian.grading import grade, math_process
        from verl_durian.reward import compute_score
    """
    program = textwrap.dedent(head) + inspect.getsource(processes) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program, *arguments], text=True, **options)


def test_verdicts_off_the_main_thread():
    sums = [(f"x+{number}", f"\\frac{{{2 * number}}}{{2}}+x") for number in range(20)]
    with ThreadPoolExecutor(16) as threads:
        same = list(threads.map(lambda pair: grade(pair[0], pair[1]), sums))
        different = list(threads.map(lambda pair: grade(pair[0] + "+1", pair[1]), sums))
    assert same == [True] * 20 and different == [False] * 20
    assert 1 <= len(processes()) <= math_process.MAX_PROCESSES


def test_other_answers_are_graded_while_one_hangs():
    grade("y+1", "1+y")  # starts a process
    with ThreadPoolExecutor(2) as threads:
        hanging = threads.submit(grade, "7^{7^{7^{7^7}}}", "\\sqrt{2}")
        for number in range(5):
            assert grade(f"y+{number}+1", f"{number}+y+1")
        assert not hanging.done()
        assert hanging.result() is False


HOSTILE = [
    "9^{9^{9^9}}", "(10^{9})!", "1" + "0" * 300 + "!", "10^{10^{10}}-10^{10^{10}}+x", "x^{99999999999}-1",
    "1e999999999", "1e999", "1e-999999999", "\\sum_{n=1}^{10^{9}} n^{n}", "9" * MEGABYTE, "½" * MEGABYTE,
    "{" * 400 + "1" + "}" * 400, "{" * 10_000 + "1" + "}" * 10_000, "\\sqrt{" * 150 + "2" + "}" * 150,
    "\\frac{1}{" * 150 + "2" + "}" * 150, "\\text{" * 150 + "5" + "}" * 150, "\ufdfa" * 900,
    "\ud800\u202e\x00é\U0001f600" * 100, "1," * 450 + "x", "A. " * 300,
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: ascii(answer[:12]))
def test_hostile_answers_are_wrong(answer):
    for gold, row in (
        ("5\\sqrt{2}", {}),
        ("B", {"answer_type": "choice", "choices": ["3\\pi", "5\\sqrt{2}", "7"]}),
    ):
        assert compute_score("any", f"\\boxed{{{answer}}}", gold, row)["acc"] == 0.0
    assert grade("\\sqrt{50}", "5\\sqrt{2}")


def test_a_timeout_ends_the_grading_is_logged_once_and_remembered(caplog):
    with caplog.at_level(logging.WARNING, logger="verl_durian"):
        for _ in range(2):
            assert not grade("6^{6^{6^6}}, 6^{6^{6^7}}, 6^{6^{6^8}}", "\\sqrt{2}, \\sqrt{3}, \\sqrt{5}")
    (record,) = caplog.records
    assert "6^{6^{6^6}}" in record.message and "\\sqrt{2}" in record.message


def test_memory_is_limited_and_a_killed_or_stopped_process_is_replaced(monkeypatch):
    assert grade("w+1", "1+w")
    for process in processes():
        assert resource.prlimit(process.pid, resource.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES)
        process.kill()
        process.wait()
    assert grade("w+2", "2+w")
    process = processes()[-1]
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(math_process, "WALL_SECONDS", 1)
    assert not grade("w+3", "3+w")
    monkeypatch.undo()
    assert process.poll() is not None and grade("w+4", "4+w")


def test_a_process_that_cannot_start_is_an_error(monkeypatch):
    for process in processes():
        process.kill()
        process.wait()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"did not start \(exit code 1\).*is math-verify installed\?"):
        grade("u+1", "1+u")
    monkeypatch.undo()
    assert grade("u+1", "1+u")


def test_plain_answers_need_no_process():
    plain = r"""
        for gold, answer, acc in (("5", "x = 5.0 cm", 1), ("0.5", "50\%", 1), (r"5\sqrt{2}", r"$5 \sqrt { 2 }$", 1),
                                  ("5", "6", 0), ("red", "Red", 1), ("red", "blue", 0), ("1,2", "2, 1", 1)):
            assert compute_score("", f"\\boxed{{{answer}}}", gold)["acc"] == acc, answer
        assert compute_score("", r"\boxed{B. 7}", "B", {"answer_type": "choice", "choices": ["6", "7"]})["acc"] == 1
        assert processes() == [] and "sympy" not in sys.modules
    """
    assert run_python(plain).wait() == 0


def test_a_forked_daemonic_process_starts_its_own():
    """In a process without threads: forking the process of the tests may hang."""
    grading = """
        def grade_in_daemon(results):
            results.put([grade("a+b", "b+a"), grade("a-b", "b-a"), [process.pid for process in processes()]])

        assert grade("a+b+c", "b+a+c")
        ours = [process.pid for process in processes()]
        for _ in range(math_process.MAX_PROCESSES):
            math_process._workers(os.getpid()).get()  # as if other threads were comparing
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        process = context.Process(target=grade_in_daemon, args=(results,), daemon=True)
        process.start()
        same, other, theirs = results.get()
        process.join()
        assert same and not other and process.exitcode == 0
        assert ours and theirs and not {*ours} & {*theirs}
    """
    assert run_python(grading).wait() == 0


@pytest.mark.parametrize("answer", ["p+1", "9^{9^{9^9}}"], ids=["idle", "busy"])
def test_it_ends_with_the_process_that_grades(answer):
    """Also in the middle of a hopeless comparison, because the kernel counts its CPU time."""
    grading = """
        assert grade("p+q", "q+p")
        print(processes()[0].pid, flush=True)
        grade(sys.argv[1], "1+p")
        threading.Event().wait()
    """
    with run_python(grading, answer, stdout=subprocess.PIPE) as process:
        worker = psutil.Process(int(process.stdout.readline()))
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGKILL)
    worker.wait()


def worker_class() -> type:
    """Defined in a function, so that Ray pickles it by value."""

    class Worker:
        """Grades as verl's reward workers do: loads the function from its file, in threads of an async actor."""

        def __init__(self, file: str):
            from verl.utils.import_utils import load_extern_object

            self.function, again = (load_extern_object(file, "compute_score") for _ in range(2))
            # The file is loaded again, its imports are not: the processes are shared.
            assert again is not self.function and again.__globals__["grade"] is self.function.__globals__["grade"]

        async def grade(self, answers: list[str], gold: str) -> list[float]:
            loop = asyncio.get_running_loop()
            boxes = [f"<think></think>\\boxed{{{answer}}}" for answer in answers]
            tasks = [loop.run_in_executor(None, lambda box=box: self.function("any", box, gold)) for box in boxes]
            return [result["acc"] for result in await asyncio.gather(*tasks)]

    return Worker


def test_in_a_ray_actor(local_ray):
    worker = ray.remote(worker_class()).remote(str(Path(verl_durian.reward.__file__).resolve()))
    answers = ["\\sqrt{50}", "\\sqrt{49}", "9^{9^{9^9}}", "5\\sqrt2", "\\frac{10}{\\sqrt{2}}", "{" * 300, "7.07"]
    assert ray.get(worker.grade.remote(answers, "5\\sqrt{2}")) == [1, 0, 0, 1, 1, 0, 1]

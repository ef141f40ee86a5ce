# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The watchdog, with real processes."""

import os
import signal
import subprocess
import sys
import textwrap
from multiprocessing import shared_memory
from pathlib import Path

import psutil
import pytest

from recipes.quickstart.watchdog import DEATH, EXIT_STALLED, EXIT_WORKER_DIED

# The death of a worker as vLLM and Ray print it, with colors and prefixes, in a command that then waits forever.
ENGINE_DEATH = r"""
    print("\x1b[36m(vLLMHttpServer pid=7)\x1b[0m Traceback (most recent call last):")
    print("\x1b[36m(WorkerDict pid=9)\x1b[0m still here")
    print('\x1b[36m(vLLMHttpServer pid=7)\x1b[0m   File "core.py", line 1, in step')
    print("\x1b[36m(vLLMHttpServer pid=7)\x1b[0m vllm.v1.engine.exceptions.EngineDeadError: the engine died")
    time.sleep(1000)
"""
# vLLM also prints the traceback after the message.
ENGINE_ERROR = """
    print("(EngineCore pid=5) ERROR 11-22 19:35:01 [core.py:1348] EngineCore encountered a fatal error.")
    print("(EngineCore pid=5) ERROR 11-22 19:35:01 [core.py:1348] Traceback (most recent call last):", flush=True)
    time.sleep(1.5)
    print("(EngineCore pid=5) ERROR 11-22 19:35:01 [core.py:1348] KeyError: 'weight'")
    print("(Other pid=6) still here\\n" * 1000, flush=True)
    time.sleep(1000)
"""
LOST_ENGINE = """
    print("its last words")
    engine = "import setproctitle, time; setproctitle.setproctitle('VLLM::EngineCore'); time.sleep(4)"
    subprocess.Popen([sys.executable, "-c", engine])
    time.sleep(1000)
"""


PROGRAMS = {
    "good": ("print('hello')", []),
    "exit code": ("print('hello'); sys.exit(3)", []),
    "shown": ("print('(Trainer pid=3) noise step:1 - loss:0.1\\nchatter')", ["--show", "step:[0-9]+"]),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", []),
    "exception": ("print('still here', flush=True); raise ValueError('bad setting')", []),
    "engine death": (ENGINE_DEATH, []),
    "engine error": (ENGINE_ERROR, []),
    "lost engine": (LOST_ENGINE, []),
    "stall": ("print('last words'); time.sleep(1000)", ["--stall-minutes=0.1"]),
    "death at shutdown": ("print('EngineDeadError at shutdown')", []),
}


def start(code: str, *options: object) -> subprocess.Popen:
    """The watchdog with a Python program as its command."""
    program = "import os, subprocess, sys, time, signal\n" + textwrap.dedent(code)
    watchdog = [sys.executable, "-m", "recipes.quickstart.watchdog", "--grace", "2", *map(str, options), "--"]
    return subprocess.Popen(
        [*watchdog, sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, tuple[int, str, str, Path]]:
    """Exit code, output, errors and log of all programs, which run at the same time."""
    logs = {name: tmp_path_factory.mktemp("watchdog") / "logs" / "run.log" for name in PROGRAMS}
    processes = {name: start(code, "--log", logs[name], *options) for name, (code, options) in PROGRAMS.items()}
    output = {name: process.communicate() for name, process in processes.items()}
    return {name: (process.returncode, *output[name], logs[name]) for name, process in processes.items()}


def test_exit_code_and_output_pass_through(finished) -> None:
    for name, expected in (("good", 0), ("exit code", 3)):
        code, output, errors, log = finished[name]
        assert (code, output, log.read_text()) == (expected, "hello\n", "hello\n")
        assert ("exit code 3" in errors and str(log) in errors) == (code == 3)


def test_only_what_matches_is_shown_and_the_log_has_everything(finished) -> None:
    code, output, errors, log = finished["shown"]
    assert (code, output, errors) == (0, "step:1\n", "")
    assert log.read_text() == "(Trainer pid=3) noise step:1 - loss:0.1\nchatter\n"


@pytest.mark.parametrize(
    ("name", "code", "shown"),
    [
        ("killed", 128 + signal.SIGKILL, []),
        ("exception", 1, ["ValueError: bad setting"]),
        ("engine death", EXIT_WORKER_DIED, ["EngineDeadError: the engine died", 'File "core.py"']),
        ("engine error", EXIT_WORKER_DIED, ["KeyError: 'weight'"]),
        ("lost engine", EXIT_WORKER_DIED, ["vLLM process", "its last words"]),
        ("stall", EXIT_STALLED, ["no output", "last words"]),
        ("death at shutdown", 0, []),  # a message before a good end is no failure
    ],
)
def test_a_failed_run_ends_with_its_error(finished, name: str, code: int, shown: list[str]) -> None:
    found, _, errors, _ = finished[name]
    assert found == code
    assert all(text in errors for text in shown) and "still here" not in errors


SLEEPER = """
    sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print(sleeper.pid, flush=True)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    time.sleep({seconds})
"""


def test_everything_that_was_started_is_ended() -> None:
    signals = (None, signal.SIGINT, signal.SIGTERM)
    processes = [start(SLEEPER.format(seconds=1000 if number else 0)) for number in signals]
    for process, number in zip(processes, signals, strict=True):
        sleeper = int(process.stdout.readline())
        if number:
            process.send_signal(number)
        process.communicate()
        assert process.returncode == (128 + number if number else 0)
        assert not psutil.pid_exists(sleeper)


def test_only_shared_memory_of_the_run_is_removed() -> None:
    process = start("""
        from multiprocessing import resource_tracker, shared_memory
        for given in (None, "verl_weights_watchdog_test"):
            segment = shared_memory.SharedMemory(given, create=True, size=4096)
            resource_tracker.unregister(segment._name, "shared_memory")
            print(segment.name, flush=True)
        time.sleep(3)  # the other segment is made now
        os._exit(0)
    """)
    names = [process.stdout.readline().strip() for _ in range(2)]
    of_another_run = shared_memory.SharedMemory(create=True, size=4096)
    process.communicate()
    try:
        assert names[0].startswith("psm_") and not any(os.path.exists(f"/dev/shm/{name}") for name in names)
        assert os.path.exists(f"/dev/shm/{of_another_run.name}")
    finally:
        of_another_run.close()
        of_another_run.unlink()


def test_death_is_recognized() -> None:
    deaths = [
        "(EngineCore pid=5) ERROR 11-22 19:35:01 [core.py:1348] EngineCore encountered a fatal error.",
        "RuntimeError: Engine core process EngineCore_DP0 died unexpectedly.",
        "Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor.",
        "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.",
    ]
    others = ["ray.exceptions.RayTaskError(ValueError): too long", "step:3 - actor/loss:0.1"]
    assert [text for text in deaths + others if DEATH.search(text)] == deaths

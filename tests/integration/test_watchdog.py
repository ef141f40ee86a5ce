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


def start(code: str, *options: str) -> subprocess.Popen:
    """The watchdog with a Python program as its command."""
    program = "import os, subprocess, sys, time, signal\n" + textwrap.dedent(code)
    watchdog = [sys.executable, "-m", "recipes.quickstart.watchdog", "--grace", "2", *options, "--"]
    return subprocess.Popen(
        [*watchdog, sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(code: str, *options: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the watchdog with a Python program as its command."""
    process = start(code, *options)
    output, errors = process.communicate()
    return process.returncode, output, errors


@pytest.mark.parametrize("code", [0, 3])
def test_exit_code_and_output_pass_through(tmp_path: Path, code: int) -> None:
    log = tmp_path / "logs" / "run.log"
    result, output, errors = finish(f"print('hello'); sys.exit({code})", "--log", str(log))
    assert (result, output, log.read_text()) == (code, "hello\n", "hello\n")
    assert ("exit code 3" in errors and str(log) in errors) == (code == 3)


def test_only_what_matches_is_shown_and_the_log_has_everything(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    text = "(Trainer pid=3) noise step:1 - loss:0.1\\nchatter\\n"
    assert finish(f"print('{text}', end='')", "--log", str(log), "--show", "step:[0-9]+") == (0, "step:1\n", "")
    assert log.read_text() == "(Trainer pid=3) noise step:1 - loss:0.1\nchatter\n"


@pytest.mark.parametrize(
    ("program", "options", "code", "shown"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", [], 128 + signal.SIGKILL, []),
        ("print('still here', flush=True); raise ValueError('bad setting')", [], 1, ["ValueError: bad setting"]),
        (ENGINE_DEATH, [], EXIT_WORKER_DIED, ["EngineDeadError: the engine died", 'File "core.py"']),
        (ENGINE_ERROR, [], EXIT_WORKER_DIED, ["KeyError: 'weight'"]),
        (LOST_ENGINE, [], EXIT_WORKER_DIED, ["vLLM process", "its last words"]),
        ("print('last words'); time.sleep(1000)", ["--stall-minutes=0.05"], EXIT_STALLED, ["no output", "last words"]),
    ],
)
def test_a_failed_run_ends_with_its_error(program: str, options: list[str], code: int, shown: list[str]) -> None:
    found, _, errors = finish(program, *options)
    assert found == code
    assert all(text in errors for text in shown) and "still here" not in errors


def test_death_message_before_a_good_end_is_no_failure() -> None:
    assert finish("print('EngineDeadError at shutdown')")[0] == 0


SLEEPER = """
    sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print(sleeper.pid, flush=True)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    time.sleep({seconds})
"""


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM])
def test_everything_that_was_started_is_ended(number: signal.Signals | None) -> None:
    process = start(SLEEPER.format(seconds=1000 if number else 0))
    assert process.stdout is not None
    sleeper = int(process.stdout.readline())
    if number:
        process.send_signal(number)
    process.communicate()
    assert process.returncode == (128 + number if number else 0)
    assert not psutil.pid_exists(sleeper)


@pytest.mark.parametrize("given", [None, "verl_weights_watchdog_test"])
def test_only_shared_memory_of_the_run_is_removed(given: str | None) -> None:
    process = start(f"""
        from multiprocessing import resource_tracker, shared_memory
        segment = shared_memory.SharedMemory({given!r}, create=True, size=4096)
        resource_tracker.unregister(segment._name, "shared_memory")
        print(segment.name, flush=True)
        time.sleep(3)  # the other segment is made now
        os._exit(0)
    """)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    of_another_run = shared_memory.SharedMemory(create=True, size=4096)
    process.communicate()
    try:
        assert name.startswith(given or "psm_") and not os.path.exists(f"/dev/shm/{name}")
        assert os.path.exists(f"/dev/shm/{of_another_run.name}")
    finally:
        of_another_run.close()
        of_another_run.unlink()


@pytest.mark.parametrize(
    ("text", "is_death"),
    [
        ("(EngineCore pid=5) ERROR 11-22 19:35:01 [core.py:1348] EngineCore encountered a fatal error.", True),
        ("RuntimeError: Engine core process EngineCore_DP0 died unexpectedly.", True),
        ("Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor.", True),
        ("ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.", True),
        ("ray.exceptions.RayTaskError(ValueError): too long", False),
        ("step:3 - actor/loss:0.1", False),
    ],
)
def test_death_is_recognized(text: str, is_death: bool) -> None:
    assert bool(DEATH.search(text)) == is_death

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The watchdog, with real processes."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from multiprocessing import shared_memory
from pathlib import Path

import psutil
import pytest

from recipes.quickstart.watchdog import DEATH, EXIT_STALLED, EXIT_WORKER_DIED, Line, Watchdog, last_traceback, read_line

# A worker's death as vLLM and Ray print it, colours and prefixes included, from a command that then waits for ever.
ENGINE_DEATH = r"""
    print("\x1b[36m(vLLMHttpServer pid=7)\x1b[0m Traceback (most recent call last):")
    print("\x1b[36m(WorkerDict pid=9)\x1b[0m still here")
    print('\x1b[36m(vLLMHttpServer pid=7)\x1b[0m   File "core.py", line 1, in step')
    print("\x1b[36m(vLLMHttpServer pid=7)\x1b[0m vllm.v1.engine.exceptions.EngineDeadError: the engine died")
    time.sleep(1000)
"""


def start(code: str, *options: str) -> subprocess.Popen:
    """The watchdog over a Python program."""
    program = "import os, subprocess, sys, time, signal\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "recipes.quickstart.watchdog",
            "--grace",
            "1",
            *options,
            "--",
            sys.executable,
            "-c",
            program,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(code: str, *options: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the watchdog over a Python program."""
    process = start(code, *options)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def wait_for(path: Path) -> str:
    """The content of a file, as soon as there is some."""
    for _ in range(300):
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.1)
    raise TimeoutError(path)


@pytest.mark.parametrize("code", [0, 3])
def test_exit_code_and_output_pass_through(tmp_path: Path, code: int) -> None:
    log = tmp_path / "logs" / "run.log"
    result, output, errors = finish(f"print('hello'); sys.exit({code})", "--log", str(log))
    assert (result, output) == (code, "hello\n")
    assert log.read_text() == "hello\n"
    assert ("exit code 3" in errors) == (code == 3)
    assert (str(log) in errors) == (code == 3)


def test_only_what_matches_is_shown_and_the_log_has_everything(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    text = "(Trainer pid=3) noise step:1 - loss:0.1\\nchatter\\n"
    assert finish(f"print('{text}', end='')", "--log", str(log), "--show", "step:[0-9]+") == (0, "step:1\n", "")
    assert log.read_text() == "(Trainer pid=3) noise step:1 - loss:0.1\nchatter\n"


def test_signal_death_of_the_command_becomes_a_shell_exit_code() -> None:
    assert finish("os.kill(os.getpid(), signal.SIGKILL)")[0] == 128 + signal.SIGKILL


def test_error_of_a_failed_command_is_shown() -> None:
    code, _, errors = finish("print('noise'); sys.stdout.flush(); raise ValueError('bad setting')")
    assert code == 1
    assert "ValueError: bad setting" in errors and "noise" not in errors


def test_death_that_the_command_survives_by_hanging_ends_it() -> None:
    began = time.monotonic()
    code, _, errors = finish(ENGINE_DEATH)
    assert code == EXIT_WORKER_DIED
    assert time.monotonic() - began < 30
    assert "EngineDeadError: the engine died" in errors
    assert 'File "core.py"' in errors and "still here" not in errors


def test_traceback_that_follows_the_message_is_shown() -> None:
    _, _, errors = finish(
        """
        print("(EngineCore pid=5) ERROR 11-22 19:35:01 [core.py:1348] EngineCore encountered a fatal error.")
        print("(EngineCore pid=5) ERROR 11-22 19:35:01 [core.py:1348] Traceback (most recent call last):", flush=True)
        time.sleep(0.2)
        print("(EngineCore pid=5) ERROR 11-22 19:35:01 [core.py:1348] KeyError: 'weight'")
        print("(Other pid=6) chatter\\n" * 10000, flush=True)
        time.sleep(1000)
        """
    )
    assert "KeyError: 'weight'" in errors


def test_death_message_before_a_good_end_is_no_failure() -> None:
    assert finish("print('EngineDeadError at shutdown')")[0] == 0


def test_lost_vllm_process_ends_the_command() -> None:
    code, _, errors = finish(
        """
        import setproctitle
        engine = "import setproctitle, time; setproctitle.setproctitle('VLLM::EngineCore'); time.sleep(4)"
        subprocess.Popen([sys.executable, "-c", engine])
        time.sleep(1000)
        """
    )
    assert code == EXIT_WORKER_DIED
    assert "vLLM's process" in errors


def test_silence_ends_the_command() -> None:
    code, _, errors = finish("print('last words'); time.sleep(1000)", "--stall-minutes", "0.03")
    assert code == EXIT_STALLED
    assert "no output" in errors and "last words" in errors


def test_grandchild_in_a_session_of_its_own_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    finish(
        f"""
        sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        open({str(file)!r}, "w").write(str(sleeper.pid))
        """
    )
    assert not psutil.pid_exists(int(file.read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "pid"
    process = start(
        f"""
        sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        open({str(file)!r}, "w").write(str(sleeper.pid))
        signal.signal(signal.SIGINT, lambda *_: None)
        while True:
            time.sleep(1)
        """
    )
    sleeper = int(wait_for(file))
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert not psutil.pid_exists(sleeper)


@pytest.mark.parametrize("given", [None, "verl_weights_watchdog_test"])
def test_only_own_shared_memory_is_removed(given: str | None) -> None:
    foreign = shared_memory.SharedMemory(create=True, size=4096)
    make = f"""
        from multiprocessing import resource_tracker, shared_memory
        segment = shared_memory.SharedMemory({given!r}, create=True, size=4096)
        resource_tracker.unregister(segment._name, "shared_memory")
        print(segment.name, flush=True)
        os._exit(0)
    """
    try:
        _, output, _ = finish(make)
        name = output.strip()
        assert name.startswith(given or "psm_") and not os.path.exists(f"/dev/shm/{name}")
        assert os.path.exists(f"/dev/shm/{foreign.name}")
    finally:
        foreign.close()
        foreign.unlink()


def test_segment_that_another_run_maps_stays() -> None:
    process = start("print('up', flush=True); time.sleep(2)")
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    segment = shared_memory.SharedMemory(create=True, size=4096)
    try:
        process.communicate(timeout=30)
        assert os.path.exists(f"/dev/shm/{segment.name}")
    finally:
        segment.close()
        segment.unlink()


@pytest.mark.parametrize(
    "text",
    [
        "(EngineCore pid=5) ERROR 11-22 19:35:01 [core.py:1348] EngineCore encountered a fatal error.",
        "RuntimeError: Engine core process EngineCore_DP0 died unexpectedly.",
        "Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor.",
        "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.",
    ],
)
def test_death_is_recognised(text: str) -> None:
    assert DEATH.search(text)


@pytest.mark.parametrize("text", ["ray.exceptions.RayTaskError(ValueError): too long", "step:3 - actor/loss:0.1"])
def test_what_a_run_survives_is_no_death(text: str) -> None:
    assert not DEATH.search(text)


def test_line_is_parted_from_its_worker() -> None:
    text = "\x1b[36m(Server pid=1)\x1b[0m (EngineCore pid=2) ERROR 11-22 19:35:01 [core.py:1348] KeyError: 'x'"
    assert read_line(text) == Line("(Server pid=1) (EngineCore pid=2)", "KeyError: 'x'")


def test_traceback_ends_where_other_output_begins() -> None:
    texts = ["old", "Traceback (most recent call last):", "  File 'a.py'", "KeyError: 'x'", "and on it goes"]
    assert last_traceback([Line("", text) for text in texts]) == texts[1:4]


def test_a_workers_own_words_say_more_than_its_absence():
    watched = Watchdog(["true"])
    watched._blame("vLLM's process 7 is gone", EXIT_WORKER_DIED)
    watched._lines.append(Line("(EngineCore pid=8)", "RuntimeError: Executor failed."))
    watched._blame("Worker proc VllmWorker-0 died unexpectedly", EXIT_WORKER_DIED, "(EngineCore pid=8)")
    watched._blame("another death", EXIT_WORKER_DIED, "(AgentLoop pid=9)")
    assert watched._cause.startswith("Worker proc") and watched._story[0].text == "RuntimeError: Executor failed."

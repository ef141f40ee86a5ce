# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a training command. When one of its workers dies, ends it and shows the error.

    python -m recipes.quickstart.watchdog [OPTIONS] -- COMMAND...

verl can wait forever for a vLLM engine or a Ray actor that has died, for instance during a weight sync. The watchdog
ends the command when one of its vLLM processes disappears, when its output contains a fatal error, or when it prints
nothing for a long time. When the command ends, so does every process that it started, and the shared memory that these
leave in /dev/shm is removed. The exit code is that of the command, 70 after a worker died, 75 after a stall, or
128 + N after signal N. Linux only.
"""

import argparse
import codecs
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

import psutil

EXIT_WORKER_DIED = 70  # EX_SOFTWARE
EXIT_STALLED = 75  # EX_TEMPFAIL

DEATH = re.compile(
    # vLLM 0.28: v1/engine/exceptions.py, v1/engine/core.py, v1/engine/utils.py, v1/executor/multiproc_executor.py
    r"EngineDeadError|(?:EngineCore|WorkerProc) (?:encountered a fatal error|failed to start)"
    r"|Engine core initialization failed|(?:[Pp]roc|process) .{0,80}died unexpectedly"
    # Ray 2.60: exceptions.py. RayTaskError is not listed: verl survives failed rollouts.
    r"|ActorDiedError|WorkerCrashedError|ray\.exceptions\.OutOfMemoryError"
)
COLOR = re.compile(r"\x1b\[[0-9;]*m")
WORKER = re.compile(r"(?:\s*\([^()]*\bpid=\d+[^()]*\))+")  # the prefix of Ray and vLLM, such as "(Worker pid=123)"

SHOWN_LINES = 25
POLL_SECONDS = 1.0
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Output:
    """Shows what a command writes to a file, and finds the first fatal error in it (`death`)."""

    def __init__(self, file: IO[bytes], show: re.Pattern[str] | None) -> None:
        self.file, self.show = file, show
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may arrive in two parts
        self.lines: deque[str] = deque(maxlen=5000)
        self.partial_line = self.death = ""
        self.last_output = time.monotonic()

    def read(self) -> None:
        """Reads and shows what is new."""
        if text := self.decoder.decode(self.file.read()):
            self.last_output = time.monotonic()
            if self.show is None:
                print(text, end="", flush=True)
        *lines, self.partial_line = re.split(r"[\r\n]", self.partial_line + COLOR.sub("", text))
        self.lines += lines
        for line in lines:
            if self.show is not None and (match := self.show.search(line)):
                print(match.group(), flush=True)
            if not self.death and DEATH.search(line):
                self.death = line

    def error(self) -> list[str]:
        """The last lines of the worker that died, or of the command itself, from the last traceback on."""
        lines = [*self.lines, self.partial_line]
        if worker := WORKER.match(self.death):
            lines = [line[worker.end() :] for line in lines if line.startswith(worker.group())]
        else:
            lines = [line for line in lines if not WORKER.match(line)]
        start = max((number for number, line in enumerate(lines) if "Traceback" in line), default=0)
        return lines[start:][-SHOWN_LINES:]


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def watch(process: subprocess.Popen[bytes], output: Output, grace: float, stall: float) -> tuple[int, str]:
    """Follows a command until it ends or must be ended; returns the exit code and the cause, if a worker died."""
    engines: set[psutil.Process] = set()
    cause, deadline = "", float("inf")
    while (code := process.poll()) is None:
        time.sleep(POLL_SECONDS)
        output.read()
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.name().startswith("VLLM::"):
                    engines.add(child)
        lost = [f"vLLM process {engine.pid} is gone (out of memory?)" for engine in engines if not is_alive(engine)]
        cause = output.death or cause or "".join(lost[:1])
        if cause:  # the command may still end by itself
            deadline = min(deadline, time.monotonic() + grace)
        if time.monotonic() > deadline:
            return EXIT_WORKER_DIED, cause
        if stall and time.monotonic() > output.last_output + stall:
            return EXIT_STALLED, f"no output for {stall:.0f} seconds"
    output.read()
    return code if code >= 0 else 128 - code, output.death or cause


def shared_memory() -> set[Path]:
    """Segments with the names that verl's weight sync and Python's multiprocessing use."""
    return {*Path("/dev/shm").glob("verl_weights_*"), *Path("/dev/shm").glob("psm_*")}


def mapped(segments: set[Path]) -> set[Path]:
    """Those segments that a living process has mapped."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            text = maps.read_text()
            found |= {segment for segment in segments if str(segment) in text}
    return found


def end_all(segments: set[Path]) -> None:
    """Ends all processes below this one, and removes the segments that are new and belong to no other run."""
    while processes := psutil.Process().children(recursive=True):  # a dying process may still start another
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=5)
    new = shared_memory() - segments
    for segment in new - mapped(new):
        with suppress(OSError):  # another user's
            segment.unlink()


def raise_interrupt(number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def run(command: list[str], log: Path | None, show: re.Pattern[str] | None, grace: float, stall: float) -> int:
    """Runs a command, ends all processes that it started, and shows the error if it failed; returns the exit code.

    The arguments are those of the command line, `stall` in seconds.
    """
    # Processes whose parent has died become children of the watchdog.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    segments = shared_memory()
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") if log else tempfile.NamedTemporaryFile() as file:
        output = Output(open(file.name, "rb"), show)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, raise_interrupt)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
            try:
                code, cause = watch(process, output, grace, stall)
            except KeyboardInterrupt as interrupt:
                number = interrupt.args[0]
                code, cause = 128 + number, f"received {signal.Signals(number).name}"
                with suppress(KeyboardInterrupt, ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(grace)  # a second signal ends it at once
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            end_all(segments)
        output.read()
    if code != 0:
        head = f"The run ended with exit code {code}: {cause or 'the command failed'}"
        tail = [f"The full output is in {log}"] if log else []
        print("=" * 100, head, *output.error(), *tail, "=" * 100, sep="\n", file=sys.stderr, flush=True)
    return code


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.quickstart.watchdog",
        description="Run a training command; when one of its workers dies, end it and show the error.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--log", type=Path, help="write the output of the command to this file")
    parser.add_argument("--show", type=re.compile, metavar="REGEX", help="print only what matches in each line")
    parser.add_argument(
        "--grace", type=float, default=30, help="seconds in which the command may end by itself after a death or Ctrl-C"
    )
    parser.add_argument("--stall-minutes", type=float, default=30, help="minutes without output; 0 for no limit")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the command, after --")
    arguments = parser.parse_args()
    sys.exit(run(arguments.command, arguments.log, arguments.show, arguments.grace, 60 * arguments.stall_minutes))


if __name__ == "__main__":
    main()

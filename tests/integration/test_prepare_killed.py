# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""`verl-durian prepare` with worker processes: a killed worker, a killed command, and the run that finishes it."""

import subprocess
import sys
import time
from pathlib import Path

import datasets
import prepare_fixtures
import psutil
import pyarrow.parquet as pq
from typer.testing import CliRunner

from verl_durian.cli import app


def start(source: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "verl_durian.cli", "prepare", "geometry3k"]
    command += ["--source", str(source), "--output", "data", "--workers", "2"]
    return subprocess.Popen(command, cwd=source.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def workers(run: subprocess.Popen, part: Path) -> list[psutil.Process]:
    """Waits until the file of a split has its first rows; returns the workers."""
    while not part.exists() or part.stat().st_size < 1000:
        assert run.poll() is None, run.stdout.read()
        time.sleep(0.01)
    return [child for child in psutil.Process(run.pid).children() if "spawn_main" in " ".join(child.cmdline())]


def test_the_same_command_finishes_a_killed_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source, output, reference = tmp_path / "source", tmp_path / "data", tmp_path / "reference"
    prepare_fixtures.geometry3k(source)
    for split, repeats in (("train", 8), ("validation", 60)):
        (file,) = (source / "data").glob(f"{split}-*")
        rows = datasets.Dataset(pq.read_table(file))
        pq.write_table(datasets.concatenate_datasets([rows] * repeats).data.table, file)
    arguments = ["prepare", "geometry3k", "--source", str(source), "--workers", "1"]
    assert CliRunner().invoke(app, [*arguments, "--output", str(reference)]).exit_code == 0
    expected = {file.name: file.read_bytes() for file in reference.iterdir()}
    assert len(expected["dropped.jsonl"].splitlines()) == 8 * 4

    run = start(source)
    workers(run, output / ".train.parquet.part")[0].kill()
    log, _ = run.communicate()
    assert run.returncode == 2 and "geometry3k, split train: a worker was killed" in log, log
    assert not list(output.iterdir())

    run = start(source)
    working = workers(run, output / ".validation.parquet.part")
    run.kill()
    run.wait()
    _, orphans = psutil.wait_procs(working, timeout=60)
    assert len(working) == 2 and not orphans
    assert sorted(file.name for file in output.iterdir()) == [".validation.parquet.part", "train.parquet"]
    finished = (output / "train.parquet").stat().st_mtime_ns

    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, [*arguments, "--output", "data"]).exit_code == 0
    assert (output / "train.parquet").stat().st_mtime_ns == finished
    expected["README.md"] = expected["README.md"].replace(str(reference).encode(), b"data")
    assert {file.name: file.read_bytes() for file in output.iterdir()} == expected

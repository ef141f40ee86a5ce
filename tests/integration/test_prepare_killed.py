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
import pytest
from typer.testing import CliRunner

from verl_durian.cli import app


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A copy of Geometry3K with more rows."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    prepare_fixtures.geometry3k(tmp_path / "source")
    for split, repeats in (("train", 8), ("validation", 60)):
        (file,) = (tmp_path / "source/data").glob(f"{split}-*")
        rows = datasets.Dataset(pq.read_table(file))
        pq.write_table(datasets.concatenate_datasets([rows] * repeats).data.table, file)
    return tmp_path / "source"


def start(source: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "verl_durian.cli", "prepare", "geometry3k"]
    command += ["--source", str(source), "--output", "data", "--workers", "2"]
    return subprocess.Popen(command, cwd=source.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def working_children(run: subprocess.Popen, output: Path, finished: str | None = None) -> list[psutil.Process]:
    """Waits until a worker converts rows of the split after `finished`; returns two workers and their manager."""
    while (finished and not (output / finished).exists()) or not list(output.glob(".prepare-*/tmp*")):
        assert run.poll() is None, run.stdout.read()
        time.sleep(0.01)
    children = [child for child in psutil.Process(run.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    return sorted(children, key=psutil.Process.create_time)


def test_the_same_command_finishes_a_killed_run(source, monkeypatch):
    output, reference = source.parent / "data", source.parent / "reference"
    arguments = ["prepare", "geometry3k", "--source", str(source), "--workers", "1"]
    assert CliRunner().invoke(app, [*arguments, "--output", str(reference)]).exit_code == 0
    expected = {file.name: file.read_bytes() for file in reference.iterdir()}
    assert len(expected["dropped.jsonl"].splitlines()) == 8 * 4

    run = start(source)
    working_children(run, output)[0].kill()
    log, _ = run.communicate()
    assert run.returncode == 2 and "geometry3k, split train: a worker was killed" in log, log
    assert not list(output.iterdir())

    run = start(source)
    *workers, manager = working_children(run, output, "train.parquet")
    run.kill()
    run.wait()
    _, orphans = psutil.wait_procs(workers, timeout=60)
    manager.kill()
    assert not orphans
    assert sorted(file.name for file in output.iterdir())[1:] == ["train.parquet"]  # and a temporary folder
    finished = (output / "train.parquet").stat().st_mtime_ns

    monkeypatch.chdir(source.parent)
    assert CliRunner().invoke(app, [*arguments, "--output", "data"]).exit_code == 0
    assert (output / "train.parquet").stat().st_mtime_ns == finished
    expected["README.md"] = expected["README.md"].replace(str(reference).encode(), b"data")
    assert {file.name: file.read_bytes() for file in output.iterdir()} == expected

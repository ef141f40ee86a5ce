# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian prepare`: its sources, what it refuses, and runs that are killed."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import prepare_fixtures
import psutil
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from verl_durian.cli import app
from verl_durian.prepare.data_set import DataSet
from verl_durian.prepare.sets import SETS


class Prepare:
    """Runs the command in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder, self.output = folder, folder / "out"

    def source(self, name: str) -> Path:
        prepare_fixtures.FIXTURES[name](self.folder / name)
        return self.folder / name

    def __call__(self, name: str, source: Path | str, *options: str) -> tuple[int, str]:
        arguments = ["prepare", name, "--source", source, "--output", self.output, "--workers", "1", *options]
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, " ".join(result.output.split())

    def refused(self, name: str, source: Path | str, *options: str) -> str:
        """The message of what is refused, in which no file is written."""
        before = sorted(self.output.rglob("*")) if self.output.exists() else []
        code, told = self(name, source, *options)
        assert code == 2, told
        assert (sorted(self.output.rglob("*")) if self.output.exists() else []) == before
        return told


@pytest.fixture
def prepare(tmp_path) -> Prepare:
    return Prepare(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_data_set_that_was_saved_to_disk_gives_the_same_rows(prepare):
    source = prepare.source("geometry3k")
    assert prepare("geometry3k", source)[0] == 0
    before = pq.read_table(prepare.output / "train.parquet")
    saved = datasets.load_dataset(str(source), cache_dir=str(prepare.folder / "cache"))
    saved.save_to_disk(prepare.folder / "saved")
    prepare.output = prepare.folder / "other"
    code, told = prepare("geometry3k", prepare.folder / "saved")
    assert code == 0, told
    assert pq.read_table(prepare.output / "train.parquet").equals(before)

    for split in ("train", "nowhere"):
        shutil.rmtree(prepare.output)
        lacking = datasets.DatasetDict({split: saved["train"], "validation": saved["validation"]})
        lacking.save_to_disk(prepare.folder / f"lacking {split}")
        told = prepare.refused("geometry3k", prepare.folder / f"lacking {split}")
        assert "has no split" in told and f"only: {split}, validation" in told
        prepare.output.mkdir(exist_ok=True)
    saved["train"].save_to_disk(prepare.folder / "alone")
    assert "has no split validation, which geometry3k has, only: train" in prepare.refused(
        "geometry3k", prepare.folder / "alone"
    )


def test_a_single_saved_split_and_unpacked_images(prepare):
    source = prepare.source("virl39k")
    assert prepare("virl39k", source)[0] == 0
    before = pq.read_table(prepare.output / "train.parquet")
    rows = datasets.Dataset(pq.read_table(source / "39Krelease.parquet"))
    rows.save_to_disk(prepare.folder / "saved")
    prepare.output = prepare.folder / "other"
    assert "has neither images.zip, which holds the images, nor images/" in prepare.refused(
        "virl39k", prepare.folder / "saved"
    )
    shutil.unpack_archive(source / "images.zip", prepare.folder / "saved")
    code, told = prepare("virl39k", prepare.folder / "saved")
    assert code == 0, told
    assert pq.read_table(prepare.output / "train.parquet").equals(before)


def test_the_hub_is_read_from_its_cache_when_offline(prepare, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(prepare.folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = prepare.refused("geometry3k", "hiyouga/geometry3k")
    assert "hiyouga/geometry3k: no such folder, and no data set that the hub lets us read" in told
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = prepare.folder / "hub/datasets--hiyouga--geometry3k"
    prepare_fixtures.geometry3k(cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    arguments = ["prepare", "geometry3k", "--output", str(prepare.output), "--workers", "1"]
    result = CliRunner().invoke(app, arguments)  # the set's own id
    assert result.exit_code == 0, result.output
    card = (prepare.output / "README.md").read_text()
    assert f"`hiyouga/geometry3k` at revision `{commit}`" in card
    assert "prepare geometry3k --source hiyouga/geometry3k" in card

    shutil.rmtree(cached / "snapshots" / commit / "data")
    assert "has no file data/train-*.parquet" in prepare.refused("geometry3k", "hiyouga/geometry3k")


def test_sources_that_are_not_there_or_not_readable_are_named(prepare):
    told = prepare.refused("mathverse", prepare.folder / "absent")
    assert "absent: no such folder" in told and "a copy of AI4Math/MathVerse" in told
    (prepare.folder / "empty").mkdir()
    assert "has no file testmini.parquet, which holds the split testmini of AI4Math/MathVerse" in prepare.refused(
        "mathverse", prepare.folder / "empty"
    )
    (prepare.folder / "empty/testmini.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    assert "testmini.parquet: cannot be read: " in prepare.refused("mathverse", prepare.folder / "empty")
    source = prepare.source("virl39k")
    archive = (source / "images.zip").read_bytes()
    (source / "images.zip").write_bytes(archive[: len(archive) // 2])
    assert "images.zip: cannot be read: " in prepare.refused("virl39k", source)
    (source / "images.zip").write_bytes(archive.replace(b"\x89PNG", b"\x00PNG"))
    assert "in it is damaged, fetch it anew" in prepare.refused("virl39k", source)


@pytest.mark.parametrize("data_set", SETS.values(), ids=SETS)
def test_columns_that_differ_are_named(prepare, data_set: DataSet):
    source = prepare.source(data_set.name)
    pattern = next(iter(data_set.splits.values()))
    (file,) = source.glob(pattern)
    table = pq.read_table(file)
    name = next(reversed(data_set.columns))
    pq.write_table(table.rename_columns([f"{each}_2" if each == name else each for each in table.column_names]), file)
    told = prepare.refused(data_set.name, source)
    assert f"{file}: has not the columns of {data_set.name}: expected {next(iter(data_set.columns))} (" in told
    assert f"{name} (" in told.split("; found ")[0] and f"{name}_2 (" in told.split("; found ")[1]
    asked = table.column_names.index("problem" if data_set.name == "geometry3k" else "question")
    numbers = table.set_column(asked, table.column_names[asked], [list(range(len(table)))])
    pq.write_table(numbers, file)
    assert "(int64)" in prepare.refused(data_set.name, source)


def test_a_set_without_a_row_that_can_be_used_is_refused(prepare):
    source = prepare.source("virl39k")
    table = pq.read_table(source / "39Krelease.parquet")
    pq.write_table(
        table.filter([path == ["images/lost.png"] for path in table["image"].to_pylist()]),
        source / "39Krelease.parquet",
    )
    told = prepare.refused("virl39k", source)
    assert "train: none of its 1 rows can be used; the first: Fixture-22: an image is not there images/lost.png" in told
    pq.write_table(table.slice(0, 0), source / "39Krelease.parquet")
    assert "train: none of its 0 rows can be used" in prepare.refused("virl39k", source)


def test_a_finished_split_stays_until_its_source_changes(prepare):
    source = prepare.source("geometry3k")
    assert prepare("geometry3k", source)[0] == 0
    before = contents(prepare.output)
    times = {file.name: file.stat().st_mtime_ns for file in prepare.output.glob("*.parquet")}
    assert prepare("geometry3k", source)[0] == 0
    assert contents(prepare.output) == before
    assert {file.name: file.stat().st_mtime_ns for file in prepare.output.glob("*.parquet")} == times

    (file,) = (source / "data").glob("train-*")
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 8), file)
    assert prepare("geometry3k", source)[0] == 0
    assert pq.read_table(prepare.output / "train.parquet").num_rows == 8
    assert not (prepare.output / "dropped.jsonl").exists()
    assert (prepare.output / "test.parquet").stat().st_mtime_ns == times["test.parquet"]


def test_other_settings_and_other_folders_are_refused(prepare):
    source = prepare.source("wemath")
    prepare.output.mkdir()
    (prepare.output / "README.md").write_text("mine")
    assert "holds something else than results of this command (README.md)" in prepare.refused("wemath", source)
    (prepare.output / "README.md").unlink()
    shutil.copy(next((source / "data").glob("*")), prepare.output / "testmini.parquet")
    assert "testmini.parquet is no file of `verl-durian prepare`): name a new one" in prepare.refused("wemath", source)
    (prepare.output / "testmini.parquet").unlink()
    (prepare.output / ".testmini.parquet.part").write_text("of a run that was killed")
    assert prepare("wemath", source)[0] == 0
    assert sorted(contents(prepare.output)) == ["README.md", "testmini.parquet"]

    other = shutil.copytree(source, prepare.folder / "other")
    told = prepare.refused("wemath", other)
    assert f"holds results of other settings (source was {source}, is now {other}): name another folder" in told
    assert "(name was wemath, is now mathverse; " in prepare.refused("mathverse", prepare.source("mathverse"))
    (prepare.output / "notes.txt").write_text("mine")
    assert "something else than results of this command (notes.txt)" in prepare.refused("wemath", source)


def test_two_runs_do_not_write_to_one_folder(prepare):
    source = prepare.source("wemath")
    prepare.output.mkdir()
    folder = os.open(prepare.output, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        assert "another run writes to this folder" in prepare.refused("wemath", source)
    finally:
        os.close(folder)


def test_options_that_cannot_be_are_named(prepare):
    assert "'geo3k' is not one of 'geometry3k', 'virl39k'" in prepare.refused("geo3k", ".").replace("│ ", "")
    assert "Invalid value for '--workers'" in prepare.refused("geometry3k", ".", "--workers", "0")


def start(source: Path, folder: Path) -> subprocess.Popen:
    """Prepares geometry3k in `folder`/data."""
    command = [sys.executable, "-m", "verl_durian.cli", "prepare", "geometry3k"]
    command += ["--source", str(source), "--output", "data", "--workers", "2"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def workers_writing(run: subprocess.Popen, file: Path) -> list[psutil.Process]:
    """Waits until a run writes a file; returns its worker processes."""
    while not file.exists() or not file.stat().st_size:
        assert run.poll() is None, run.stdout.read()
        time.sleep(0.01)
    workers = [child for child in psutil.Process(run.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    return workers


def test_a_killed_run_is_finished_by_the_same_command(prepare, tmp_path):
    source = prepare.source("geometry3k")
    for split, repeats in (("train", 8), ("validation", 60)):
        (file,) = (source / "data").glob(f"{split}-*")
        table = pq.read_table(file)
        pq.write_table(datasets.concatenate_datasets([datasets.Dataset(table)] * repeats).data.table, file)
    assert prepare("geometry3k", source)[0] == 0
    expected = contents(prepare.output)
    assert len(expected["dropped.jsonl"].splitlines()) == 8 * 4
    output = tmp_path / "data"

    run = start(source, tmp_path)
    worker, _ = workers_writing(run, output / ".train.parquet.part")
    worker.kill()
    told, _ = run.communicate()
    assert run.returncode == 2 and "a worker was killed" in told, told
    assert not list(output.iterdir())

    run = start(source, tmp_path)
    workers = workers_writing(run, output / ".validation.parquet.part")
    run.kill()
    run.wait()
    assert sorted(file.name for file in output.iterdir()) == [".validation.parquet.part", "train.parquet"]
    finished = (output / "train.parquet").stat().st_mtime_ns
    _, orphans = psutil.wait_procs(workers, timeout=60)
    assert not orphans

    run = start(source, tmp_path)
    told, _ = run.communicate()
    assert run.returncode == 0, told
    assert (output / "train.parquet").stat().st_mtime_ns == finished
    found = contents(output)
    expected["README.md"] = expected["README.md"].replace(str(prepare.output).encode(), b"data")
    assert found == expected

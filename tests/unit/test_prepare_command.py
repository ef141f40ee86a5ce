# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian prepare`: its sources, its error messages, and repeated runs."""

import shutil
from pathlib import Path

import datasets
import prepare_fixtures
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from verl_durian.cli import app
from verl_durian.files import output_folder


class Prepare:
    """Runs the command in a temporary folder."""

    def __init__(self, folder: Path):
        self.folder, self.output = folder, folder / "out"

    def source(self, name: str) -> Path:
        prepare_fixtures.FIXTURES[name](self.folder / name)
        return self.folder / name

    def __call__(self, name: str, source: Path | str | None) -> tuple[int, str]:
        arguments = ["prepare", name, "--output", self.output, "--workers", "1"]
        arguments += ["--source", source] if source else []
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, " ".join(result.output.split())

    def table(self, name: str, source: Path | str):
        """The rows of the split train, after a run that succeeds."""
        code, log = self(name, source)
        assert code == 0, log
        return pq.read_table(self.output / "train.parquet")

    def error(self, name: str, source: Path | str) -> str:
        """The message of a run that fails and writes no file."""
        before = sorted(self.output.rglob("*"))
        code, log = self(name, source)
        assert code == 2, log
        assert sorted(self.output.rglob("*")) == before
        return log


@pytest.fixture
def prepare(tmp_path, monkeypatch) -> Prepare:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return Prepare(tmp_path)


def test_a_dataset_saved_to_disk_gives_the_same_rows(prepare):
    source = prepare.source("geometry3k")
    before = prepare.table("geometry3k", source)
    saved = datasets.load_dataset(str(source))
    saved.save_to_disk(prepare.folder / "saved")
    prepare.output = prepare.folder / "other"
    assert prepare.table("geometry3k", prepare.folder / "saved").equals(before)

    saved["train"].save_to_disk(prepare.folder / "alone")
    message = prepare.error("geometry3k", prepare.folder / "alone")
    assert "split validation (data/validation-*.parquet) cannot be read" in message
    assert "KeyError('validation')" in message and "a copy of hiyouga/geometry3k" in message


def test_a_single_saved_split_and_unpacked_images(prepare):
    source = prepare.source("virl39k")
    before = prepare.table("virl39k", source)
    datasets.Dataset(pq.read_table(source / "39Krelease.parquet")).save_to_disk(prepare.folder / "saved")
    prepare.output = prepare.folder / "other"
    message = prepare.error("virl39k", prepare.folder / "saved")
    assert "has neither images.zip, which contains the images, nor images/" in message
    shutil.unpack_archive(source / "images.zip", prepare.folder / "saved")
    assert prepare.table("virl39k", prepare.folder / "saved").equals(before)


def test_the_hub_is_read_from_its_cache_when_offline(prepare, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(prepare.folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = prepare.error("geometry3k", "hiyouga/geometry3k")
    assert "hiyouga/geometry3k: neither a folder nor a dataset that can be downloaded from the hub" in message
    assert "a copy of hiyouga/geometry3k" in message
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = prepare.folder / "hub/datasets--hiyouga--geometry3k"
    prepare_fixtures.geometry3k(cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    assert prepare("geometry3k", None)[0] == 0  # the dataset's own id
    card = (prepare.output / "README.md").read_text()
    assert f"`hiyouga/geometry3k` at revision `{commit}`" in card
    assert "prepare geometry3k --source hiyouga/geometry3k" in card


def test_missing_and_damaged_sources_are_named(prepare):
    folder = prepare.folder / "a [1]*"
    folder.mkdir()
    missing, split = prepare.error("mathverse", folder), "split testmini (testmini.parquet) cannot be read"
    assert f"--source {folder}: {split}" in missing and "At least one valid data file must be specified" in missing
    content = bytearray((prepare.source("mathverse") / "testmini.parquet").read_bytes())
    content[1000:3000] = bytes(2000)
    (folder / "testmini.parquet").write_bytes(content)
    damaged = prepare.error("mathverse", folder)
    assert split in damaged and "Corrupt" in damaged

    source = prepare.source("virl39k")
    archive = (source / "images.zip").read_bytes()
    for damaged in (archive[: len(archive) // 2], archive.replace(b"\x89PNG", b"\x00PNG")):
        (source / "images.zip").write_bytes(damaged)
        message = prepare.error("virl39k", source)
        assert "virl39k, split train, row 0 (id Fixture-0): ValueError: " in message
        assert "images.zip: images/shape-0.png cannot be read, download the file again: " in message


def test_columns_that_differ_are_named(prepare):
    source = prepare.source("hallusionbench")
    (file,) = (source / "data").iterdir()
    table = pq.read_table(file).replace_schema_metadata(None)
    pq.write_table(table.rename_columns({"set_id": "set"}), file)
    message = prepare.error("hallusionbench", source)
    assert "['set_id'] not in the dataset. Current columns in the dataset: ['category', " in message
    numbers = table.set_column(table.column_names.index("question"), "question", [range(1, 1 + len(table))])
    pq.write_table(numbers, file)
    message = prepare.error("hallusionbench", source)
    assert "hallusionbench, split image, row 0 (id VS_chart_0_0_0): AttributeError: 'int' object has no" in message


def test_a_dataset_without_usable_rows_is_an_error(prepare):
    source = prepare.source("virl39k")
    table = pq.read_table(source / "39Krelease.parquet")
    lost = [path == ["images/lost.png"] for path in table["image"].to_pylist()]
    pq.write_table(table.filter(lost), source / "39Krelease.parquet")
    message = prepare.error("virl39k", source)
    assert "virl39k, split train: none of the 1 rows is usable; the first: " in message
    assert "'id': 'Fixture-22', 'reason': 'an image is missing'" in message
    datasets.Dataset(table.slice(0, 0)).save_to_disk(source, num_shards=1)
    assert "virl39k, split train: none of the 0 rows is usable" in prepare.error("virl39k", source)


def test_a_finished_split_is_kept_until_its_source_changes(prepare):
    source = prepare.source("geometry3k")

    def written() -> dict[str, tuple[bytes, int]]:
        """Content of each file; the time of the parquet files."""
        files = prepare.output.iterdir()
        return {each.name: (each.read_bytes(), each.suffix == ".parquet" and each.stat().st_mtime_ns) for each in files}

    assert prepare("geometry3k", source)[0] == 0
    before = written()
    assert prepare("geometry3k", source)[0] == 0
    assert written() == before

    (file,) = (source / "data").glob("train-*")
    pq.write_table(pq.read_table(file).slice(0, 8), file)
    assert prepare.table("geometry3k", source).num_rows == 8
    after = written()
    assert "dropped.jsonl" in before and "dropped.jsonl" not in after
    assert after["test.parquet"] == before["test.parquet"]


def test_folders_of_others_are_rejected(prepare):
    source = prepare.source("wemath")
    with output_folder(prepare.output):
        assert "another run writes to this folder" in prepare.error("wemath", source)
    (prepare.output / "README.md").write_text("mine")
    shutil.copy(next((source / "data").glob("*")), prepare.output / "testmini.parquet")
    message = prepare.error("wemath", source)
    assert "contains files that this command did not write (README.md, testmini.parquet): name a new folder" in message
    for file in prepare.output.iterdir():
        file.unlink()
    (prepare.output / ".testmini.parquet.part").write_text("of a killed run")
    assert prepare("wemath", source)[0] == 0
    assert sorted(file.name for file in prepare.output.iterdir()) == ["README.md", "testmini.parquet"]

    other = shutil.copytree(source, prepare.folder / "other")
    message = prepare.error("wemath", other)
    assert f"has results of other settings (source was {source}, is now {other}): name a new folder" in message
    (prepare.output / "notes.txt").write_text("mine")
    assert "contains files that this command did not write (notes.txt)" in prepare.error("wemath", source)

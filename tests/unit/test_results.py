# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import multiprocessing
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verl_durian.entropy.cache import EntropyCache, Entry
from verl_durian.files import output_folder, whole_file

BYTES = 10_000


def test_a_whole_file_appears_only_when_it_is_written(tmp_path):
    with whole_file(tmp_path / "a" / "b.txt") as file:
        file.write(b"text")
        assert not (tmp_path / "a" / "b.txt").exists()
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"text"


def test_what_fails_leaves_the_file_that_was_there(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a.txt") as file:
        file.write(b"after")
        raise ZeroDivisionError
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("a.txt", b"before")]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--output .*/file/x: no folder can be made there"):
        with output_folder(tmp_path / "file" / "x"):
            pass


def write_bytes(folder: Path) -> None:
    with whole_file(folder / "file") as file:
        file.write(bytes(2 * BYTES))


def write_table(folder: Path) -> None:
    with whole_file(folder / "file") as file:
        pq.write_table(pa.table({"number": range(BYTES)}), file)


def write_scores(folder: Path) -> None:
    for number in range(BYTES):
        EntropyCache(folder).add([Entry(f"{number:032x}", 1.0, 9)] * 200)


def in_little_room(write: Callable[[Path], None], folder: Path, told: "multiprocessing.Queue[str]") -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, BYTES))
    try:
        write(folder)
    except OSError as error:
        told.put(str(error))


@pytest.mark.parametrize("write", [write_bytes, write_table, write_scores])
def test_the_file_without_room_is_named(tmp_path, write):
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[str] = context.Queue()
    process = context.Process(target=in_little_room, args=(write, tmp_path, told))
    process.start()
    message = told.get(timeout=60)
    process.join()
    assert message.startswith(f"no room to write {tmp_path}/") and "make room, then give the same command" in message
    left = list(tmp_path.iterdir())
    assert [file.suffix for file in left] == ([".jsonl"] if write is write_scores else [])

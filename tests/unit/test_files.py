# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from full_disk import full_disk

from verl_durian.entropy.cache import EntropyCache, Score
from verl_durian.files import whole_file

BYTES = 10_000


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "a" / "b.txt"
    with whole_file(target) as file:
        file.write(b"text")
        assert not target.exists()
    with pytest.raises(ZeroDivisionError), whole_file(target) as file:
        file.write(b"after")
        raise ZeroDivisionError
    assert [(each.name, each.read_bytes()) for each in target.parent.iterdir()] == [("b.txt", b"text")]


def write_bytes(folder: Path) -> None:
    with whole_file(folder / "file") as file:
        file.write(bytes(2 * BYTES))


def write_table(folder: Path) -> None:
    with whole_file(folder / "file") as file:
        pq.write_table(pa.table({"number": range(BYTES)}), file)


def write_scores(folder: Path) -> None:
    EntropyCache(folder).add([Score("0" * 32, 1.0, 9)] * BYTES)


@pytest.mark.parametrize("write", [write_bytes, write_table, write_scores])
def test_the_file_that_does_not_fit_on_the_disk_is_named(tmp_path, write: Callable[[Path], None]):
    message = f"no space left to write {tmp_path}/.*free some space, then run the same"
    with pytest.raises(OSError, match=message), full_disk(BYTES):
        write(tmp_path)
    assert [file.suffix for file in tmp_path.iterdir()] == ([".jsonl"] if write is write_scores else [])

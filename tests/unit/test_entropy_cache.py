# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from verl_durian.entropy.cache import EntropyCache, Score, default_cache_dir

ONE = Score("1" * 32, 1.25, 16)
TWO = Score("2" * 32, 0.0, 1)


def test_scores_are_read_as_written(tmp_path):
    assert list(EntropyCache(tmp_path / "new" / "folder").scores()) == []
    score = Score("a" * 32, math.nextafter(2.0, 3.0), 9)
    EntropyCache(tmp_path / "new" / "folder").add([ONE, TWO, Score("b" * 32, math.nan, 0, "not a picture"), score])
    assert list(EntropyCache(tmp_path / "new" / "folder").scores()) == [ONE, TWO, score]


@pytest.mark.parametrize(
    "line", [b'{"key": "3333', b"", b"\xff\xfe\x00", b"[]", b"12", b'{"key": "3333", "entropy": 1.0}', b'{"a": 1}']
)
def test_a_damaged_line_is_reported_and_the_others_are_read(tmp_path, caplog, line):
    cache = EntropyCache(tmp_path)
    cache.add([ONE])
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes() + line + b"\n" + file.read_bytes().replace(b"1" * 32, b"4" * 32))
    with caplog.at_level(logging.WARNING):
        assert list(cache.scores()) == [ONE, ONE._replace(key="4" * 32)]
    assert f"{file} line 2 is damaged" in caplog.text


def test_the_file_of_another_user_is_skipped(tmp_path, caplog, monkeypatch):
    EntropyCache(tmp_path).add([ONE])
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError))
    assert list(EntropyCache(tmp_path).scores()) == [] and "belongs to another user" in caplog.text


def test_several_writers_do_not_interfere(tmp_path):
    caches = [EntropyCache(tmp_path) for _ in range(3)]
    scores = [Score(f"{number:032x}", 1.0, 16) for number in range(600)]
    with ThreadPoolExecutor(9) as threads:
        list(threads.map(lambda number: caches[number % 3].add([scores[number]]), range(600)))
    assert sorted(EntropyCache(tmp_path).scores()) == scores
    assert len(list(tmp_path.glob("*.jsonl"))) == 3


def test_the_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("VERL_DURIAN_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("VERL_DURIAN_CACHE")
    assert default_cache_dir() == Path.home() / ".cache" / "verl_durian"


def test_the_scores_of_a_training_set_are_kept_by_its_identity(tmp_path, caplog):
    cache, entropies = EntropyCache(tmp_path / "new"), np.array([1.5, np.nan, math.nextafter(2.0, 3.0)])
    assert cache.column("one", 3) is None
    cache.keep_column("one", entropies)
    np.testing.assert_array_equal(cache.column("one", 3), entropies)
    assert cache.column("one", 2) is None and cache.column("other", 3) is None
    file = tmp_path / "new" / "one.npy"
    for damaged in (b"", b"text", file.read_bytes()[:-1]):
        file.write_bytes(damaged)
        caplog.clear()
        assert cache.column("one", 3) is None and f"{file} is damaged" in caplog.text
    assert list(cache.scores()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "cache", Path("/proc/cache")):
        for use in (EntropyCache(folder).require_writable, lambda folder=folder: EntropyCache(folder).add([ONE])):
            with pytest.raises(ValueError, match=f"cache folder {folder} is not writable .*: set another one"):
                use()
    EntropyCache(tmp_path / "new").require_writable()
    assert list((tmp_path / "new").iterdir()) == []

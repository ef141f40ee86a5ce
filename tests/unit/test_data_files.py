# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import json
import os
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded
from PIL import Image

from verl_durian.entropy import data_files
from verl_durian.entropy.data_files import Columns, DataFile, DatasetRows, open_files

ENTROPIES = np.array([1.5, np.nan, 0.0])
PATCHES = np.array([16, 0, 1], np.int32)
SCORES = ("visual_entropy", "visual_patches")
RED = encoded(Image.new("RGB", (28, 28), "red"))
SCORED = [(1.5, 16), (None, None), (0.0, 1)]


def open_one(file: Path, output: Path) -> DataFile:
    (opened,) = open_files([str(file)], output, Columns())
    return opened


def test_parquet_rows_are_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "_ROW_GROUP_BYTES", 40_000)
    images = [[{"bytes": bytes(30_000)}], None, [{"bytes": RED}, {"bytes": np.random.default_rng(0).bytes(90_000)}]]
    columns = {
        "images": images,
        "prompt": [[{"role": "user", "content": "<image>What?"}]] * 3,
        "extra_info": [{"index": 0, "answer": None}, None, {"index": 2, "answer": "ä"}],
        "large": pa.array(["a", None, "c"], pa.large_string()),
    }
    table = pa.table(columns).replace_schema_metadata({"made": "here"})
    pq.write_table(table, tmp_path / "train.parquet", use_dictionary=False, row_group_size=2)
    open_one(tmp_path / "train.parquet", tmp_path / "out").write(ENTROPIES, PATCHES)

    written = pq.read_table(tmp_path / "out" / "train.parquet")
    assert written.select(table.column_names).equals(table)
    assert written.schema.metadata[b"made"] == b"here"
    assert list(zip(*(written[name].to_pylist() for name in SCORES), strict=True)) == SCORED
    assert written.schema.field("visual_entropy").type == pa.float64()
    assert pq.ParquetFile(tmp_path / "out" / "train.parquet").num_row_groups == 3  # no large piece in memory


def test_datasets_reads_its_own_files_with_their_features(tmp_path):
    images = [[Image.new("RGB", (4, 4))], [], [Image.new("RGB", (2, 2))]]
    features = datasets.Features({"images": datasets.List(datasets.Image()), "n": datasets.Value("int8")})
    datasets.Dataset.from_dict({"images": images, "n": [1, 2, 3]}, features).to_parquet(tmp_path / "train.parquet")
    open_one(tmp_path / "train.parquet", tmp_path / "out").write(ENTROPIES, PATCHES)

    written = datasets.load_dataset("parquet", data_files=str(tmp_path / "out" / "train.parquet"), split="train")
    scores = {"visual_entropy": datasets.Value("float64"), "visual_patches": datasets.Value("int32")}
    assert written.features == {**features, **scores}
    assert list(zip(*(written[name] for name in SCORES), strict=True)) == SCORED
    assert [[picture.size for picture in row] for row in written["images"]] == [[(4, 4)], [], [(2, 2)]]


ROWS = [{"images": ["a.png"], "n": 1.0, "text": "ü\n"}, {"images": None, "n": 2, "text": ""}, {"images": [], "n": 3}]
LINES = "\n".join(json.dumps(row) for row in ROWS)


@pytest.mark.parametrize(
    ("name", "text"),
    [("train.jsonl", f"{LINES}\n\n"), ("train.json", LINES), ("train.json", json.dumps(ROWS, indent=2))],
)
def test_json_rows_and_their_form_are_unchanged(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    file = open_one(tmp_path / name, tmp_path / "out")
    assert file.rows == 3
    assert [images for images, _, _ in file.cells()] == [["a.png"], None, []]
    file.write(ENTROPIES, PATCHES)
    written = (tmp_path / "out" / name).read_text()
    rows = json.loads(written) if text.startswith("[") else [json.loads(line) for line in written.splitlines()]
    assert rows == [{**row, "visual_entropy": h, "visual_patches": p} for row, (h, p) in zip(ROWS, SCORED, strict=True)]


def test_files_of_several_folders_and_at_a_url_keep_their_relative_paths(tmp_path):
    for name in ("a/train.parquet", "b/c/train.parquet"):
        (tmp_path / name).parent.mkdir(parents=True)
        pq.write_table(pa.table({"images": [[b""]]}), tmp_path / name)
    files = open_files([str(tmp_path / "**" / "*.parquet")], Path("out"), Columns())
    assert [file.target for file in files] == [Path("out/a/train.parquet"), Path("out/b/c/train.parquet")]

    memory = fsspec.filesystem("memory")
    with memory.open("/data/train.parquet", "wb") as file:
        pq.write_table(pa.table({"images": [[{"bytes": RED}]] * 3}), file)
    (opened,) = open_files(["memory://data/train.parquet", "memory://data/*.parquet"], tmp_path / "out", Columns())
    assert opened.target == tmp_path / "out" / "train.parquet"
    assert [images for images, _, _ in opened.cells()] == [[{"bytes": RED}]] * 3
    opened.write(ENTROPIES, PATCHES)
    assert pq.read_table(tmp_path / "out" / "train.parquet").num_rows == 3


def test_every_row_is_read_once_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "_READ_ROWS", 5)
    rows = datasets.Dataset.from_dict({"images": [[{"bytes": bytes([row])}] for row in range(18)]})
    rows.to_parquet(tmp_path / "a.parquet", batch_size=4)
    shuffled = rows.select([*range(9, 18), *range(9)])
    for source, order in (
        (open_one(tmp_path / "a.parquet", tmp_path), range(18)),
        (DatasetRows("rows", rows, Columns()), range(18)),
        (DatasetRows("rows", shuffled, Columns()), [*range(9, 18), *range(9)]),
    ):
        assert source.rows == 18
        assert list(source.cells()) == [([{"bytes": bytes([row])}], None, False) for row in order]
    parquet = open_one(tmp_path / "a.parquet", tmp_path)
    for start in range(19):
        assert list(parquet.cells(start)) == list(parquet.cells())[start:]
    pq.write_table(pa.table({"videos": [["a.mp4"], None]}), tmp_path / "video.parquet")
    assert list(open_one(tmp_path / "video.parquet", tmp_path).cells()) == [
        (None, ["a.mp4"], False),
        (None, None, False),
    ]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("train.parquet", {"image": ["a"], "text": ["b"]}, "no column 'images' .*--image-key.*only: image, text"),
        ("train.parquet", {"images": [[b""]], "visual_entropy": [1.0]}, "already has a column 'visual_entropy'"),
        ("train.parquet", {"images": [[b""]], "visual_patches": [1]}, "already has a column 'visual_patches'"),
        ("scores.json", LINES.encode(), "scores.json is a file name of the results"),
        ("data.csv", b"", "data.csv: .*the name must end in .parquet, .json or .jsonl"),
        ("train.jsonl", b'{"images": []}\n\n{"images": [}\n', "cannot be read: line 3, column 13"),
        ("train.parquet", b"", "cannot be read: ."),
        *((f"train.{form}", b"", "only: $") for form in ("jsonl", "json")),
        *(
            (f"train.{form}", content, "cannot be read: .")
            for form in ("parquet", "jsonl", "json")
            for content in (b"no data", b"[1, 2]", b"\xff")
        ),
    ],
)
def test_files_that_cannot_be_scored_are_named(tmp_path, name, content, problem):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        pq.write_table(pa.table(content), tmp_path / name)
    with pytest.raises(ValueError, match=problem):
        open_one(tmp_path / name, tmp_path / "out")


def test_missing_files_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.parquet")
    for name in ("absent.parquet", "*.parquet"):
        with pytest.raises(ValueError, match=f"--data .*{name.strip('*')}: no such file"):
            open_one(tmp_path / name, tmp_path / "out")


def test_a_source_that_changes_is_not_written_with_the_scores_of_another(tmp_path):
    table = pa.table({"images": [[b""], None, []]})
    pq.write_table(table, tmp_path / "t.parquet")
    file = open_one(tmp_path / "t.parquet", tmp_path / "out")
    pq.write_table(table.slice(1), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="t.parquet changed while it was scored: run the same command again"):
        file.write(ENTROPIES, PATCHES)
    assert not (tmp_path / "out").exists()

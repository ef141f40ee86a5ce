# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import json
import resource
import signal
from io import BytesIO
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from verl_durian.entropy import parts as parts_module
from verl_durian.entropy import shards as shards_module
from verl_durian.entropy.parts import Columns
from verl_durian.entropy.shards import find_files, is_local, open_shards, size, source_id, write_shard

ENTROPIES = np.array([1.5, np.nan, 0.0])
PATCHES = np.array([16, 0, 1], np.int32)
SCORED = [(1.5, 16), (None, None), (0.0, 1)]


def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (28, 28), "red").save(buffer, "PNG")
    return buffer.getvalue()


def open_one(file: Path, output: Path):
    (shard,) = open_shards(find_files([str(file)]), output, Columns())
    return shard


def test_parquet_rows_come_out_as_they_were(tmp_path):
    columns = {
        "images": [[{"bytes": png()}], None, [{"bytes": png()}, {"bytes": b""}]],
        "prompt": [[{"role": "user", "content": "<image>What?"}]] * 3,
        "extra_info": [{"index": 0, "answer": None}, None, {"index": 2, "answer": "ä"}],
        "large": pa.array(["a", None, "c"], pa.large_string()),
    }
    table = pa.table(columns).replace_schema_metadata({"made": "here"})
    pq.write_table(table, tmp_path / "train.parquet", compression="zstd", row_group_size=2)
    write_shard(open_one(tmp_path / "train.parquet", tmp_path / "out"), ENTROPIES, PATCHES)

    written = pq.read_table(tmp_path / "out" / "train.parquet")
    assert written.select(table.column_names).equals(table)
    assert written.schema.metadata[b"made"] == b"here"
    assert (
        list(zip(written["visual_entropy"].to_pylist(), written["visual_patches"].to_pylist(), strict=True)) == SCORED
    )
    assert written.schema.field("visual_entropy").type == pa.float64()
    with pq.ParquetFile(tmp_path / "out" / "train.parquet") as file:
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [2, 1]
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_what_datasets_wrote_it_reads_again_with_its_features(tmp_path):
    images = [[Image.new("RGB", (4, 4))], [], [Image.new("RGB", (2, 2))]]
    features = datasets.Features({"images": datasets.List(datasets.Image()), "n": datasets.Value("int8")})
    datasets.Dataset.from_dict({"images": images, "n": [1, 2, 3]}, features).to_parquet(tmp_path / "train.parquet")
    write_shard(open_one(tmp_path / "train.parquet", tmp_path / "out"), ENTROPIES, PATCHES)

    written = datasets.load_dataset("parquet", data_files=str(tmp_path / "out" / "train.parquet"), split="train")
    assert written.features == {
        **features,
        "visual_entropy": datasets.Value("float64"),
        "visual_patches": datasets.Value("int32"),
    }
    assert list(zip(written["visual_entropy"], written["visual_patches"], strict=True)) == SCORED
    assert [[picture.size for picture in row] for row in written["images"]] == [[(4, 4)], [], [(2, 2)]]


ROWS = [{"images": ["a.png"], "n": 1.0, "text": "ü\n"}, {"images": None, "n": 2, "text": ""}, {"images": [], "n": 3}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.jsonl", "\n".join(json.dumps(row) for row in ROWS) + "\n\n"),
        ("train.json", "\n".join(json.dumps(row) for row in ROWS)),
        ("train.json", json.dumps(ROWS, indent=2)),
    ],
)
def test_json_rows_come_out_as_they_were_and_in_the_same_form(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    shard = open_one(tmp_path / name, tmp_path / "out")
    assert shard.rows == 3
    write_shard(shard, ENTROPIES, PATCHES)
    written = (tmp_path / "out" / name).read_text()
    rows = json.loads(written) if text.startswith("[") else [json.loads(line) for line in written.splitlines()]
    assert rows == [{**row, "visual_entropy": h, "visual_patches": p} for row, (h, p) in zip(ROWS, SCORED, strict=True)]


def test_files_of_several_folders_keep_their_places(tmp_path):
    for name in ("a/train.parquet", "b/c/train.parquet"):
        (tmp_path / name).parent.mkdir(parents=True)
        pq.write_table(pa.table({"images": [[b""]]}), tmp_path / name)
    shards = open_shards(find_files([str(tmp_path / "**" / "*.parquet")]), Path("out"), Columns())
    assert [shard.target for shard in shards] == [Path("out/a/train.parquet"), Path("out/b/c/train.parquet")]


def test_parts_cover_every_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(parts_module, "PART_ROWS", 5)
    pq.write_table(pa.table({"images": [[b""]] * 18}), tmp_path / "a.parquet", row_group_size=4)
    parts = open_one(tmp_path / "a.parquet", tmp_path).parts
    assert [(part.groups, part.first, part.rows) for part in parts] == [
        (range(0, 2), 0, 8),
        (range(2, 4), 8, 8),
        (range(4, 5), 16, 2),
    ]
    assert [cells.row for part in parts for cells in part.cells()] == list(range(18))
    (tmp_path / "a.jsonl").write_text('{"images": ["x"]}\n' * 6)
    parts = open_one(tmp_path / "a.jsonl", tmp_path).parts
    assert [(part.first, part.rows) for part in parts] == [(0, 5), (5, 1)]
    assert [cells.row for part in parts for cells in part.cells()] == list(range(6))


def test_a_file_at_a_url(tmp_path):
    memory = fsspec.filesystem("memory")
    with memory.open("/data/train.parquet", "wb") as file:
        pq.write_table(pa.table({"images": [[{"bytes": png()}]] * 3}), file)
    for url in ("memory://data/train.parquet", "memory://data/*.parquet"):
        (shard,) = open_shards(find_files([url]), tmp_path / "out", Columns())
        assert not is_local(shard.source)
        assert shard.target == tmp_path / "out" / "train.parquet"
        assert [cells.images for cells in shard.parts[0].cells()] == [[{"bytes": png()}]] * 3
        write_shard(shard, ENTROPIES, PATCHES)
        assert pq.read_table(tmp_path / "out" / "train.parquet").num_rows == 3


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("absent.parquet", "no such file"),
        ("*.parquet2", "no such file"),
        ("data.csv", "names end in .parquet, .json or .jsonl"),
    ],
)
def test_files_that_are_not_there_or_not_of_verl(tmp_path, name, problem):
    (tmp_path / "data.csv").touch()
    with pytest.raises(ValueError, match=f"--data .*{name.strip('*')}.*{problem}"):
        find_files([str(tmp_path / name)])


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"image": ["a"], "text": ["b"]}, "no column 'images' .*--image-key.*only: image, text"),
        ({"images": [[b""]], "visual_entropy": [1.0]}, "train.parquet: has a column 'visual_entropy' already"),
        ({"images": [[b""]], "visual_patches": [1]}, "train.parquet: has a column 'visual_patches' already"),
    ],
)
def test_columns_that_are_missing_or_there_already(tmp_path, columns, problem):
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=problem):
        open_one(tmp_path / "train.parquet", tmp_path / "out")


@pytest.mark.parametrize("content", [b"no data", b""])
@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl", "train.json"])
def test_a_file_of_something_else_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: cannot be read"):
        open_one(tmp_path / name, tmp_path / "out")


def test_a_changed_source_has_another_id(tmp_path):
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"images": [[b""]]}), file)
    before = source_id(str(file))
    assert before == source_id(str(file))
    pq.write_table(pa.table({"images": [[b"longer"]]}), file)
    assert source_id(str(file)) != before
    assert size(str(file)) == file.stat().st_size


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, there):
    """A limit on the size of files stands for the full disk: a write fails with an OSError half-way too."""
    pq.write_table(
        pa.table({"images": [[{"bytes": np.random.bytes(100_000)}] for _ in range(3)]}), tmp_path / "t.parquet"
    )
    shard = open_one(tmp_path / "t.parquet", tmp_path / "out")
    (tmp_path / "out").mkdir()
    if there:
        shard.target.write_bytes(b"as it was")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_shard(shard, ENTROPIES, PATCHES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [file.name for file in (tmp_path / "out").iterdir()] == (["t.parquet"] if there else [])
    assert not there or shard.target.read_bytes() == b"as it was"


def test_large_row_groups_are_written_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "_GROUP_BYTES", 40_000)
    table = pa.table({"images": [[{"bytes": np.random.bytes(30_000)}] for _ in range(3)]})
    pq.write_table(table, tmp_path / "t.parquet")
    write_shard(open_one(tmp_path / "t.parquet", tmp_path / "out"), ENTROPIES, PATCHES)
    with pq.ParquetFile(tmp_path / "out" / "t.parquet") as file:
        assert file.num_row_groups == 3
        assert file.read(["images"]).equals(table)


def test_a_source_that_changes_is_not_written_with_the_scores_of_another(tmp_path):
    table = pa.table({"images": [[{"bytes": png()}], None, []]})
    pq.write_table(table, tmp_path / "t.parquet")
    shard = open_one(tmp_path / "t.parquet", tmp_path / "out")
    pq.write_table(table.slice(1), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="t.parquet changed while it was scored: give the same command again"):
        write_shard(shard, ENTROPIES, PATCHES)
    assert not (tmp_path / "out").exists()


def test_names_of_results_are_not_for_data(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(ROWS))
    with pytest.raises(ValueError, match="scores.json.*the name of another file"):
        open_one(tmp_path / "scores.json", tmp_path / "out")

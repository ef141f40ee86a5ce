# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""`verl-durian score` with odd pictures, damaged files, wrong options, full disks and Ctrl-C."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import click.testing
import datasets
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from verl_durian.cli import app

COMMAND = str(Path(sys.executable).with_name("verl-durian"))
PHOTOGRAPH = Image.fromarray(data.astronaut()).crop((100, 50, 228, 150))
STORED = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def encode(picture: Image.Image, form: str = "PNG", **settings: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **settings)
    return buffer.getvalue()


def opened(file: bytes) -> Image.Image:
    return Image.open(BytesIO(file))


def faded() -> Image.Image:
    """A picture whose upper part is transparent."""
    picture = PHOTOGRAPH.convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PNG, JPEG = encode(PHOTOGRAPH), encode(PHOTOGRAPH.rotate(20), "JPEG")
ODD = {
    "1 x 1": encode(PHOTOGRAPH.resize((1, 1))),
    "CMYK": encode(PHOTOGRAPH.convert("CMYK"), "JPEG"),
    "16 bit": encode(Image.fromarray(np.asarray(PHOTOGRAPH.convert("L")).astype(np.uint16) * 257)),
    "palette": encode(PHOTOGRAPH.quantize(16)),
    "animated": encode(PHOTOGRAPH, "GIF", save_all=True, append_images=[PHOTOGRAPH.rotate(90)]),
    "alpha": encode(faded()),
    "EXIF": encode(PHOTOGRAPH, "JPEG", exif=turned()),
}
WHITE = Image.new("RGBA", PHOTOGRAPH.size, "white")
# As a training run with verl sees them: of stored bytes, and through a feature of datasets.
SEEN = {name: opened(file).convert("RGB") for name, file in ODD.items()}
SEEN_AS_BYTES = SEEN | {"alpha": Image.alpha_composite(WHITE, faded()).convert("RGB")}
SEEN_BY_DATASETS = SEEN | {"EXIF": opened(ODD["EXIF"]).convert("RGB").transpose(Image.Transpose.ROTATE_270)}
BROKEN = {
    "corrupt": (b"GIF89a and then nothing of the kind", "not a picture"),
    "truncated": (PNG[: len(PNG) // 2], "truncated"),
    "zero bytes": (b"", "not a picture"),
    "bomb": (encode(Image.new("1", (20_000, 20_000))), "decompression bomb"),
    "line": (encode(Image.new("L", (1, 1000))), "aspect ratio"),
}


def write(file: Path, column: str, rows: list[Any], kind: pa.DataType = STORED) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: pa.array(rows, kind), "number": range(len(rows))}), file, row_group_size=4)


def stored(*files: bytes) -> list[dict[str, Any]]:
    return [{"bytes": file, "path": None} for file in files]


def scores(file: Path) -> list[float | None]:
    if file.suffix == ".parquet":
        return pq.read_table(file)["visual_entropy"].to_pylist()
    text = file.read_text()
    rows = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
    return [row["visual_entropy"] for row in rows]


def times(folder: Path) -> dict[str, int]:
    """When each data file below a folder was written."""
    files = [file for form in ("*.parquet", "*.json", "*.jsonl") for file in folder.glob(f"*/{form}")]
    return {file.name: file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Every kind of data file, in two folders, and pictures beside them."""
    folder = tmp_path_factory.mktemp("faults")
    broken = [stored(file) for file, _ in BROKEN.values()]
    odd = [stored(file) for file in ODD.values()]
    write(folder / "data/odd/bytes.parquet", "images", odd + broken)
    features = datasets.Features({"images": datasets.List(datasets.Image()), "number": datasets.Value("int64")})
    table = pq.read_table(folder / "data/odd/bytes.parquet").cast(features.arrow_schema)
    pq.write_table(table, folder / "data/odd/features.parquet")
    for name, seen in (("seen_as_bytes", SEEN_AS_BYTES), ("seen_by_datasets", SEEN_BY_DATASETS)):
        write(folder / f"data/odd/{name}.parquet", "images", [stored(encode(picture)) for picture in seen.values()])

    (folder / "pictures").mkdir()
    (folder / "pictures/ä 1.png").write_bytes(PNG)
    (folder / "pictures/2.jpg").write_bytes(JPEG)
    one, two = "pictures/ä 1.png", "pictures/2.jpg"
    rows = [[one], [str(folder / one)], [f"file://{folder / one}"], [one, two], [], None, ["pictures/3.png"]]
    text = json.dumps([*({"images": row, "text": "ü\u2028"} for row in rows), {"text": "none"}], ensure_ascii=False)
    (folder / "data/other").mkdir()
    (folder / "data/other/paths.json").write_text(text)
    forms = [{"image": one}, {"image": one, "max_pixels": 6272}, one]
    lines = [json.dumps({"images": [image]}) for image in forms]
    (folder / "data/other/forms.jsonl").write_text("\n".join(lines))
    frames = [stored(PNG, JPEG), stored(PNG, JPEG), stored(PNG, b"broken")]
    write(folder / "data/other/videos.parquet", "videos", [[video] for video in frames], pa.list_(STORED))
    write(folder / "data/other/text.parquet", "text", ["a", "b"], pa.string())
    write(folder / "data/other/strings.parquet", "images", [one], pa.string())
    write(folder / "data/other/empty.parquet", "images", [])
    return folder


def odd_command(model: Path, folder: Path) -> list[str]:
    files = sorted(str(file.relative_to(folder)) for file in folder.glob("data/*/*"))
    return [COMMAND, "score", "--model", str(model), "--data", *files, "--output", "out", "--cache", "cache"]


@pytest.fixture(scope="module")
def odd(folder, tiny_qwen25vl) -> subprocess.CompletedProcess[str]:
    return subprocess.run(odd_command(tiny_qwen25vl, folder), cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(("name", "seen"), [("bytes", "seen_as_bytes"), ("features", "seen_by_datasets")])
def test_odd_pictures_are_scored_as_in_training(odd, folder, name, seen):
    found, expected = (scores(folder / f"out/odd/{file}.parquet") for file in (name, seen))
    assert dict(zip(ODD, found[: len(ODD)], strict=True)) == dict(zip(ODD, expected, strict=True))
    assert found[len(ODD) :] == [None] * len(BROKEN)
    assert None not in expected


def test_rows_are_read_wherever_they_are(odd, folder):
    relative, absolute, url, both, *others = scores(folder / "out/other/paths.json")
    assert relative == absolute == url
    assert both not in (None, relative)
    assert others == [None] * 4
    source, written = (json.loads((folder / name / "other/paths.json").read_text()) for name in ("data", "out"))
    assert [{key: row.get(key) for key in before} for before, row in zip(source, written, strict=True)] == source
    first, second, broken = scores(folder / "out/other/videos.parquet")
    assert first == second is not None
    assert broken is None
    assert scores(folder / "out/other/text.parquet") == [None, None]
    assert scores(folder / "out/other/empty.parquet") == []


def test_a_json_column_of_several_forms_is_read_as_in_training(odd, folder):
    path = scores(folder / "out/other/paths.json")[0]
    alone, smaller, plain = scores(folder / "out/other/forms.jsonl")
    assert alone == plain == path
    assert smaller not in (None, path)


def test_every_row_that_is_not_scored_is_named(odd, folder):
    assert odd.returncode == 1
    lines = (folder / "out/problems.jsonl").read_text().splitlines()
    problems = {(row["file"], row["row"]): row["reason"] for row in map(json.loads, lines)}
    expected = {("other/paths.json", 6): "pictures/3.png", ("other/strings.parquet", 0): "list of images"}
    expected["other/videos.parquet", 2] = "video 0: frame 1: not a picture"
    for file in ("odd/bytes.parquet", "odd/features.parquet"):
        expected |= {(file, row): reason for row, (_, reason) in enumerate(BROKEN.values(), start=len(ODD))}
    for (file, row), reason in expected.items():
        assert reason in problems[str(folder / "data" / file), row]
    assert {file for file, _ in problems} <= {str(folder / "data" / file) for file, _ in expected} | {
        str(folder / "data/other/forms.jsonl")  # has a test of its own
    }

    summary = json.loads((folder / "out/scores.json").read_text())
    assert summary["rows_with_problems"] == len(problems)
    assert summary["rows_without_image"] == 5
    assert f"{summary['rows']} rows, 5 without image, {len(problems)} with problems\n" in odd.stdout
    first = str(folder / "data/odd/bytes.parquet")
    assert f"{first} row {len(ODD)}: {problems[first, len(ODD)]}\n" in odd.stdout
    for name in ("scores.json", "problems.jsonl", "visual_entropy.png", "examples.png"):
        assert name in odd.stdout.splitlines()[-1]
        assert (folder / "out" / name).exists()


def test_the_terminal_shows_nothing_but_progress(odd):
    lines = [line for line in re.split(r"[\r\n]+", odd.stderr) if line.strip()]
    assert [line for line in lines if not re.match(r"(reading|visual entropy|writing): ", line)] == []
    assert "Warning" not in odd.stderr and " E " not in odd.stderr


def test_only_what_changed_is_written_again(odd, folder, tiny_qwen25vl, tmp_path):
    copy = tmp_path / "faults"
    shutil.copytree(folder, copy, copy_function=shutil.copy2)
    arguments = [*odd_command(tiny_qwen25vl, copy), "--on-error", "null"]
    # Paths in scores.json are absolute: these results are of the same request only where they were made.
    shutil.move(folder, folder.with_name("before"))
    shutil.move(copy, folder)
    try:
        before, path = times(folder / "out"), scores(folder / "out/other/paths.json")[0]
        (folder / "pictures/ä 1.png").write_bytes(JPEG)
        write(folder / "data/odd/seen_as_bytes.parquet", "images", [stored(JPEG)] * len(ODD))
        finished = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
        assert finished.returncode == 0
        after = times(folder / "out")
        written = {name for name, time in after.items() if time != before[name]}
        assert written - {"forms.jsonl"} == {"paths.json", "seen_as_bytes.parquet"}
        assert scores(folder / "out/other/paths.json")[0] not in (None, path)
    finally:
        shutil.rmtree(folder)
        shutil.move(folder.with_name("before"), folder)

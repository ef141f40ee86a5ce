# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import fcntl
import json
import os
import re
import shutil
import threading
from contextlib import nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_ray import join_local_ray
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from verl_durian.cli import app
from verl_durian.entropy import score as command

CAT = Image.fromarray(data.chelsea()).resize((112, 84))


@pytest.fixture(autouse=True)
def joined(monkeypatch):
    """The command uses the Ray of this process; the tests of the installed command start a Ray of their own."""
    join_local_ray()
    start_or_join = command._ray
    monkeypatch.setattr(command, "_ray", lambda address: start_or_join(address) if address else nullcontext())


def stored(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def write(file: Path, *rows: list[bytes] | None, **columns: list) -> None:
    images = [[{"bytes": content} for content in row] if row is not None else None for row in rows]
    kind = pa.list_(pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"images": pa.array(images, kind), **columns}), file)


class Score:
    """Runs the command in a folder of its own."""

    def __init__(self, folder: Path, model: Path):
        self.folder, self.model = folder, model
        self.output = folder / "out"

    def __call__(self, *options: str, files: str | None = None, model: Path | str | None = None) -> tuple[int, str]:
        arguments = ["--model", model or self.model, "--data", files or self.folder / "*.parquet"]
        arguments += ["--output", self.output, "--cache", self.folder / "cache", "--device", "cpu", *options]
        result = CliRunner().invoke(app, ["score", *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.output

    def refused(self, *options: str, **others) -> str:
        """The message of what is refused, in which nothing is written."""
        before = sorted(self.output.rglob("*")) if self.output.exists() else []
        code, output = self(*options, **others)
        assert code == 2, output
        assert (sorted(self.output.rglob("*")) if self.output.exists() else []) == before
        return " ".join(output.split())


@pytest.fixture
def score(tmp_path, tiny_qwen25vl) -> Score:
    return Score(tmp_path, tiny_qwen25vl)


def frames() -> bytes:
    buffer = BytesIO()
    CAT.save(buffer, "GIF", save_all=True, append_images=[CAT.rotate(90)])
    return buffer.getvalue()


def odd_pictures() -> dict[str, bytes]:
    alpha = CAT.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(CAT.size))
    deep = Image.fromarray(np.asarray(CAT.convert("L")).astype(np.uint16) * 256)
    return {
        "plain": stored(CAT),
        "1 x 1": stored(Image.new("RGB", (1, 1), "red")),
        "CMYK": stored(CAT.convert("CMYK"), "JPEG"),
        "16 bit": stored(deep),
        "palette": stored(CAT.quantize(16)),
        "animated": frames(),
        "alpha": stored(alpha),
        "corrupt": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        "truncated": stored(CAT)[:2000],
        "empty": b"",
        "bomb": stored(Image.new("1", (20_000, 20_000))),
        "text": b"<svg></svg>",
        "strip": stored(Image.new("RGB", (3000, 4))),
    }


BROKEN = ("corrupt", "truncated", "empty", "bomb", "text", "strip")


def test_odd_pictures_are_scored_as_they_are_seen_or_named(score, monkeypatch):
    pictures = odd_pictures()
    write(score.folder / "data.parquet", *([content] for content in pictures.values()), name=list(pictures))
    code, output = score()
    assert code == 1
    rows = {row["name"]: row for row in pq.read_table(score.output / "data.parquet").to_pylist()}
    assert [name for name, row in rows.items() if row["visual_entropy"] is None] == list(BROKEN)
    assert rows["1 x 1"]["visual_entropy"] == 0
    assert rows["animated"]["visual_entropy"] > 0
    problems = [json.loads(line) for line in (score.output / "problems.jsonl").read_text().splitlines()]
    numbers = [list(pictures).index(name) for name in BROKEN]
    file = str(score.folder / "data.parquet")
    assert [(problem["file"], problem["row"]) for problem in problems] == [(file, number) for number in numbers]
    assert all(problem["reason"].startswith("image 0: ") for problem in problems)
    assert f"{file} row {numbers[0]}: image 0" in output and "6 with problems" in output

    # The same command after these rows are replaced: nothing is encoded again, the problems are gone.
    for name in BROKEN:
        pictures[name] = pictures["plain"]
    write(score.folder / "data.parquet", *([content] for content in pictures.values()), text=list(pictures))
    code, output = score()
    assert code == 0 and not (score.output / "problems.jsonl").exists()
    assert json.loads((score.output / "scores.json").read_text())["images_encoded"] == 0
    table = pq.read_table(score.output / "data.parquet").to_pydict()
    assert table["text"] == list(pictures) and len(set(table["visual_entropy"][-6:])) == 1

    message = score.refused("--feature-layer", "blocks")
    assert "the folder has results of other settings (feature_layer was merger, is now blocks" in message


@pytest.mark.parametrize(("problems", "on_error", "code"), [(3, "fail", 1), (3, "null", 0), (0, "fail", 0)])
def test_the_exit_status_depends_on_problems(score, monkeypatch, problems, on_error, code):
    monkeypatch.setattr(command, "score_files", lambda request: problems)
    assert score("--on-error", on_error)[0] == code


class Ranges(SimpleHTTPRequestHandler):
    """Serves files and ranges of bytes of them, as stores of parquet files do."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        start, stop = 0, len(content)
        if requested := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(requested[1]), min(int(requested[2] or stop) + 1, stop)
        self.send_response(206 if requested else 200)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(content[start:stop])


def test_a_file_at_a_url_is_scored(score, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write(score.folder / "data.parquet", [stored(CAT)], text=["a"])
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(score.folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert score(files=f"http://127.0.0.1:{server.server_port}/data.parquet")[0] == 0
        server.shutdown()
    (row,) = pq.read_table(score.output / "data.parquet").to_pylist()
    assert row["text"] == "a" and row["visual_entropy"] > 0


def test_sets_without_a_score(score):
    write(score.folder / "data.parquet", None, [], text=["a", "b"])
    pq.write_table(pa.table({"text": ["c"]}), score.folder / "text.parquet")
    pq.write_table(pa.table({"images": pa.array([], pa.list_(pa.string()))}), score.folder / "none.parquet")
    code, output = score()
    assert code == 0 and "3 rows, 3 without image, 0 with problems" in output
    assert pq.read_table(score.output / "text.parquet")["visual_entropy"].to_pylist() == [None]
    assert pq.read_table(score.output / "none.parquet").num_rows == 0
    assert not list(score.output.glob("*.png"))
    assert json.loads((score.output / "scores.json").read_text())["thresholds"] == {}


def test_other_folders_are_left_alone(score):
    write(score.folder / "data.parquet", [stored(CAT)])
    score.output.mkdir()
    (score.output / "notes.txt").write_text("mine")
    assert "--output" in (output := score.refused()) and "other content than results" in output
    for foreign in ("{}", "no json", "[]", '{"settings": {}}'):
        (score.output / "scores.json").write_text(foreign)
        assert "other content than results" in score.refused()
    assert "other content than results" in Score(score.folder, score.model).refused("--output", str(score.folder))

    shutil.rmtree(score.output)
    score.output.mkdir()
    (score.output / ".scores.json.part").touch()  # of a run that was killed at its first step
    assert score()[0] == 0


def test_two_runs_do_not_write_to_one_folder(score):
    write(score.folder / "data.parquet", [stored(CAT)])
    score.output.mkdir()
    folder = os.open(score.output, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        assert "another run writes to this folder" in score.refused()
    finally:
        os.close(folder)


def test_a_full_disk_is_reported_before_the_work(score, monkeypatch):
    write(score.folder / "data.parquet", [stored(CAT)])
    monkeypatch.setattr(command, "_size", lambda file: 10**15)
    assert "needs about 1,000,000,000.0 MB" in score.refused()
    assert not (score.folder / "cache").exists()


def test_a_cache_folder_that_cannot_be_written_is_named_before_the_work(score, monkeypatch):
    write(score.folder / "data.parquet", [stored(CAT)])
    monkeypatch.setattr(command, "score_rows", None)
    for cache in (score.folder / "data.parquet" / "cache", Path("/proc/cache")):
        output = score.refused("--cache", str(cache))
        assert f"the cache folder {cache}/" in output and "is not writable" in output
        assert "set another one with --cache" in output
        shutil.rmtree(score.output, ignore_errors=True)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--image-key", "image"], "no column 'image' (--image-key)"),
        (["--feature-layer", "patches"], "'patches' is not one of 'merger', 'blocks'"),
        (["--workers", "0"], "Invalid value for '--workers'"),
        (["--max-patches", "0"], "Invalid value for '--max-patches'"),
        (["--address", "ray://localhost:10001"], "must run on a machine of the cluster"),
    ],
)
def test_invalid_options_are_named(score, options, problem):
    write(score.folder / "data.parquet", [stored(CAT)])
    assert problem in score.refused(*options).replace("│ ", "")


def test_invalid_models_are_named(score, tmp_path):
    write(score.folder / "data.parquet", [stored(CAT)])
    assert "no such folder" in score.refused(model="absent/model/folder")
    assert "no such folder" in score.refused(model="some/model")
    other = Path(shutil.copytree(score.model, tmp_path / "other"))
    (other / "config.json").write_text('{"model_type": "llama"}')
    assert "qwen2_5_vl" in score.refused(model=other)
    shutil.copy(score.model / "config.json", other)
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "model.safetensors" in score.refused(model=other)
    (other / "model.safetensors").unlink()
    assert "safetensors" in score.refused(model=other)


def test_missing_data_are_named(score):
    assert f"--data {score.folder}/absent.parquet: no such file" in score.refused(
        files=str(score.folder / "absent.parquet")
    )

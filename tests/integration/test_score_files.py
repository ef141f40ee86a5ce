# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import fcntl
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, picture
from PIL import Image
from typer.testing import CliRunner

from verl_durian.cli import app
from verl_durian.entropy import score as command

CAT = picture("chelsea")


@pytest.fixture(autouse=True)
def joined(local_ray, monkeypatch):
    """The command uses the Ray of this process; the tests of the installed command start a Ray of their own."""
    start_or_join = command._ray
    monkeypatch.setattr(command, "_ray", lambda address: start_or_join(address) if address else nullcontext())


def write(file: Path, *rows: list[bytes] | None, **columns: list) -> None:
    images = [[{"bytes": content} for content in row] if row is not None else None for row in rows]
    kind = pa.list_(pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"images": pa.array(images, kind), **columns}), file)


class Score:
    """Runs the command in a folder of its own."""

    def __init__(self, folder: Path, model: Path):
        self.folder, self.model = folder, model
        self.output = folder / "out"

    def __call__(self, *options: str) -> tuple[int, str]:
        arguments = ["--model", self.model, "--data", self.folder / "*.parquet"]
        arguments += ["--output", self.output, "--cache", self.folder / "cache", "--device", "cpu", *options]
        result = CliRunner().invoke(app, ["score", *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.output

    def refused(self, *options: str) -> str:
        """The error message of a command that writes nothing."""
        before = sorted(self.output.rglob("*"))
        code, output = self(*options)
        assert code == 2, output
        assert sorted(self.output.rglob("*")) == before
        return " ".join(output.split())


@pytest.fixture
def score(tmp_path, tiny_qwen25vl) -> Score:
    return Score(tmp_path, tiny_qwen25vl)


BROKEN = {
    "corrupt": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    "truncated": encoded(CAT)[:2000],
    "empty": b"",
    "bomb": encoded(Image.new("1", (20_000, 20_000))),
    "strip": encoded(Image.new("RGB", (3000, 4))),
}


def test_broken_images_are_named_and_the_others_scored(score):
    pictures = {"plain": encoded(CAT), "1 x 1": encoded(Image.new("RGB", (1, 1), "red")), **BROKEN}
    write(score.folder / "data.parquet", *([content] for content in pictures.values()), name=list(pictures))
    code, output = score()
    assert code == 1 and score("--on-error", "null")[0] == 0
    rows = {row["name"]: row["visual_entropy"] for row in pq.read_table(score.output / "data.parquet").to_pylist()}
    assert [name for name, entropy in rows.items() if entropy is None] == list(BROKEN)
    assert rows["1 x 1"] == 0 < rows["plain"]
    problems = [json.loads(line) for line in (score.output / "problems.jsonl").read_text().splitlines()]
    file = str(score.folder / "data.parquet")
    assert [(problem["file"], problem["row"]) for problem in problems] == [(file, number) for number in range(2, 7)]
    assert all(problem["reason"].startswith("image 0: ") for problem in problems)
    assert f"{file} row 2: image 0" in output and "5 with problems" in output

    # The same command after these rows are replaced: nothing is encoded again, the problems are gone.
    pictures |= dict.fromkeys(BROKEN, pictures["plain"])
    write(score.folder / "data.parquet", *([content] for content in pictures.values()), text=list(pictures))
    assert score()[0] == 0 and not (score.output / "problems.jsonl").exists()
    assert json.loads((score.output / "scores.json").read_text())["images_encoded"] == 0
    table = pq.read_table(score.output / "data.parquet").to_pydict()
    assert table["text"] == list(pictures) and len(set(table["visual_entropy"][-5:])) == 1

    message = score.refused("--feature-layer", "blocks")
    assert "the folder has results of other settings (feature_layer was merger, is now blocks" in message


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


def test_folders_with_other_files_are_not_changed(score):
    write(score.folder / "data.parquet", [encoded(CAT)])
    score.output.mkdir()
    (score.output / "notes.txt").write_text("mine")
    assert "--output" in (output := score.refused()) and "files that this command did not write" in output
    for foreign in ("{}", "no json", "[]", '{"settings": {}}'):
        (score.output / "scores.json").write_text(foreign)
        assert "files that this command did not write" in score.refused()
    assert "files that this command did not write" in Score(score.folder, score.model).refused(
        "--output", str(score.folder)
    )

    shutil.rmtree(score.output)
    score.output.mkdir()
    (score.output / ".scores.json.part").touch()  # of a run that was killed at its first step
    assert score()[0] == 0


def test_what_prevents_writing_is_reported_before_the_work(score, monkeypatch):
    write(score.folder / "data.parquet", [encoded(CAT)])
    monkeypatch.setattr(command, "score_rows", None)
    score.output.mkdir()
    folder = os.open(score.output, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert "another run writes to this folder" in score.refused()
    os.close(folder)
    for cache in (score.folder / "data.parquet" / "cache", Path("/proc/cache")):
        output = score.refused("--cache", str(cache))
        assert f"the cache folder {cache}/" in output and "is not writable" in output
        assert "set another one with --cache" in output


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--image-key", "image"], "no column 'image' (--image-key)"),
        (["--feature-layer", "patches"], "'patches' is not one of 'merger', 'blocks'"),
        (["--workers", "0"], "Invalid value for '--workers'"),
        (["--max-patches", "0"], "Invalid value for '--max-patches'"),
        (["--address", "ray://localhost:10001"], "must run on a machine of the cluster"),
        (["--model", "some/model"], "some/model: no such folder, and no accessible model on the Hub"),
        (["--data", "absent.parquet"], "--data absent.parquet: no such file"),
    ],
)
def test_invalid_options_are_named(score, options, problem):
    write(score.folder / "data.parquet", [encoded(CAT)])
    assert problem in score.refused(*options).replace("│ ", "")

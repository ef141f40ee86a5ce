# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""From verl's dump to the report: matching, errors, tables, picture."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fixtures import SPLITS, write_benchmarks
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from PIL import Image
from typer.testing import CliRunner

from verl_durian.evaluation.__main__ import DUMP, app
from verl_durian.evaluation.named_reward import compute_score
from verl_durian.evaluation.paper import BENCHMARKS, PAPER
from verl_durian.evaluation.picture import FULL, OURS, build_bars


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_benchmarks(folder)
    return folder


def rows_of(data: Path) -> list[dict]:
    return [row for file in sorted(data.glob("*/*.parquet")) for row in pq.read_table(file).to_pylist()]


def dump(output: Path, data: Path, right) -> list[dict]:
    """What verl dumps, with its real reward; `right` says of a row whether the answer is."""
    lines = []
    for row in rows_of(data):
        truth = row["reward_model"]["ground_truth"]
        answer = truth if right(row) else "no idea"
        response = f"<think>so</think>\\boxed{{{answer}}}"
        verdict = compute_score(row["data_source"], response, truth, row["extra_info"])
        lines.append({"input": "...", "output": response, "gts": truth, "step": 0, **verdict, "uid": "x"})
    random.Random(0).shuffle(lines)
    write(output, lines)
    return lines


def write(output: Path, lines: list[dict]) -> None:
    (output / DUMP).parent.mkdir(parents=True, exist_ok=True)
    (output / DUMP).write_text("".join(json.dumps(line) + "\n" for line in lines))


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, " ".join(result.output.split())


def report(output: Path, data: Path, files: list[Path] | None = None) -> tuple[int, str]:
    return run("report", output, "--model", "me/model", *(files or sorted(data.glob("*/*.parquet"))))


def even(row: dict) -> bool:
    return row["extra_info"]["index"] % 2 == 0


def test_each_question_gets_its_own_verdict(tmp_path, data):
    dump(tmp_path, data, even)
    code, told = report(tmp_path, data)
    assert code == 0, told
    found = json.loads((tmp_path / "report.json").read_text())
    expected = {name: [even(row) for row in rows_of(data) if row["data_source"] == name] for name in BENCHMARKS}
    for name, rights in expected.items():
        assert found["benchmarks"][name]["accuracy"] == sum(rights) / len(rights)
        assert found["benchmarks"][name]["questions"] == len(rights)
        assert found["benchmarks"][name]["unanswered"] == []
        assert found["benchmarks"][name]["formatted"] == 1
    assert found["average"] == pytest.approx(sum(sum(each) / len(each) for each in expected.values()) / 5)
    # The keys 2steps_1, 2steps_2, 2steps_multi, 3steps_1, ... twice, of which every other is right.
    problems = {"problems": 4, "IK": 2, "IG": 0, "RM_strict": 2, "RM_loose": 0, "strict": 0, "loose": 0.5}
    assert found["benchmarks"]["wemath"]["problems"] == problems
    # Figures take turns, so that all questions about figure 0 are right, and none about figure 1.
    groups = {"aAcc": 0.5, "fAcc": 0.5, "qAcc": 0, "mean": pytest.approx(1 / 3)}
    assert found["benchmarks"]["hallusionbench"]["groups"] == groups


def test_markdown_is_what_json_says(tmp_path, data):
    dump(tmp_path, data, even)
    _, told = report(tmp_path, data)
    text = (tmp_path / "report.md").read_text()
    assert " ".join(text.split()) == told
    assert text.startswith("# me/model\n")
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in text.splitlines() if line.startswith("|"))
    }
    found = json.loads((tmp_path / "report.json").read_text())
    ours = [found["benchmarks"][name]["accuracy"] for name in BENCHMARKS]
    assert rows["**this model**"] == [f"{100 * share:.1f}" for share in (*ours, found["average"])]
    assert rows["paper: Durian on GRPO, Geometry3K"] == ["52.8", "28.8", "72.3", "69.2", "72.9", "59.2"]
    assert "judge is not published" in text and "no single setting reaches" in text
    assert "MathVerse: 8 questions, where the published set has 3,940" in text


def test_averages_are_those_that_the_paper_prints():
    printed = [53.3, 56.9, 59.2, 57.3, 59.3, 58.8, 60.1]
    assert [round(sum(numbers) / 5, 1) for numbers in PAPER.values()] == printed


def test_picture(tmp_path, data):
    dump(tmp_path, data, even)
    report(tmp_path, data)
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.width == 1080 and picture.height > picture.width


def test_bars_are_as_long_as_the_numbers_say():
    def bars(benchmarks: dict) -> list[float]:
        patches = build_bars(benchmarks).findobj(lambda artist: isinstance(artist, Rectangle))
        _, *ours = (patch for patch in patches if patch.get_facecolor() == to_rgba(OURS.face))  # first the legend's
        return [patch.get_width() / FULL for patch in ours]

    shares = dict(zip(BENCHMARKS, (0, 0.25, 0.5, 0.75, 1), strict=True))
    whole = {name: {"accuracy": share, "questions": 1} for name, share in shares.items()}
    assert bars(whole) == pytest.approx([*shares.values(), 0.5])
    some = {name: whole[name] for name in ("mathvision", "wemath")}
    assert bars(some) == pytest.approx([0, 0.25, 0, 0.75, 0, 0])


def test_what_got_no_answer_is_wrong_and_named(tmp_path, data):
    lines = dump(tmp_path, data, lambda row: True)
    lost = next(line for line in lines if line["data_source"] == "mathvista")
    write(tmp_path, [line for line in lines if line is not lost])
    code, told = report(tmp_path, data)
    assert code == 0
    found = json.loads((tmp_path / "report.json").read_text())["benchmarks"]["mathvista"]
    assert found["unanswered"] == [lost["id"]] and found["accuracy"] == 7 / 8
    assert f"MathVista: 1 without an answer, counted as wrong, such as {lost['id']}" in told


def test_some_benchmarks_have_no_average(tmp_path, data):
    lines = dump(tmp_path, data, even)
    write(tmp_path, [line for line in lines if line["data_source"] == "wemath"])
    code, told = report(tmp_path, data, [data / "wemath" / "testmini.parquet"])
    assert code == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["average"] is None and list(found["benchmarks"]) == ["wemath"]
    assert "**this model** | | | | 50.0 | | |" in told


def test_a_part_of_wemath_has_no_strict_score(tmp_path, data):
    table = pq.read_table(data / "wemath" / "testmini.parquet")
    pq.write_table(table.slice(0, 8), tmp_path / "part.parquet")
    known = {row["extra_info"]["id"] for row in table.slice(0, 8).to_pylist()}
    write(tmp_path, [line for line in dump(tmp_path, data, even) if line["id"] in known])
    code, told = report(tmp_path, data, [tmp_path / "part.parquet"])
    assert code == 0
    found = json.loads((tmp_path / "report.json").read_text())["benchmarks"]["wemath"]
    assert found["problems"] is None and found["accuracy"] == 0.5
    assert "No strict and loose score: wemath: problem 1 of 2 steps has only 1." in told


def nothing_written(output: Path) -> bool:
    return not list(output.glob("report.*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:1] + lines, "line 2: a second answer to {data_source} {id}: evaluate with"),
        (lambda lines: [{**lines[0], "id": "x"}], "line 1: the question {data_source} x is not in the data files"),
        (lambda lines: [{"acc": 1, "format": 1}], "line 1: 'data_source' is missing: the dump must be one of recipes"),
        (lambda lines: [], "no question was answered: the errors are in verl's output"),
    ],
)
def test_a_dump_of_something_else_is_refused(tmp_path, data, change, message):
    lines = dump(tmp_path, data, even)
    write(tmp_path, change(lines))
    code, told = report(tmp_path, data)
    assert code == 2 and message.format(**lines[0]) in told and nothing_written(tmp_path)


def test_a_missing_dump_is_refused(tmp_path, data):
    code, told = report(tmp_path, data)
    assert code == 2 and str(tmp_path / DUMP) in told and nothing_written(tmp_path)


def changed(data: Path, name: str, **extra: object) -> pa.Table:
    """A benchmark whose second row has another `extra_info`."""
    table = pq.read_table(data / name / f"{SPLITS[name]}.parquet")
    rows = table.to_pylist()
    rows[1]["extra_info"].update(extra)
    return pa.Table.from_pylist(rows, table.schema)


def test_data_that_could_not_be_scored_are_refused_before(tmp_path, data):
    file = tmp_path / "data.parquet"
    for table, message in {
        "id": (changed(data, "mathvista", id="mathvista-0"), "in the data files more than once: mathvista mathvista-0"),
        "no id": (changed(data, "mathvista", id=None), "row 1: extra_info has no id"),
        "metadata": (changed(data, "wemath", metadata='{"problem": 1}'), "row 1: extra_info.metadata lacks key"),
        "json": (changed(data, "wemath", metadata="{"), "row 1: extra_info.metadata is no JSON object"),
        "columns": (pa.table({"text": ["a"]}), "cannot be read"),
        "empty": (pq.read_table(data / "wemath" / "testmini.parquet").slice(0, 0), "there are no questions"),
    }.values():
        pq.write_table(table, file)
        code, told = run("check", file)
        assert code == 2 and message in told, told
    rows = pq.read_table(data / "mathvista" / "testmini.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([{**row, "data_source": "geometry3k"} for row in rows]), file)
    code, told = run("check", file)
    assert code == 2 and "row 0: data_source 'geometry3k' is none of mathverse, mathvision" in told
    assert run("check", tmp_path / "none.parquet")[0] == 2


def test_check_counts_the_questions(data):
    code, told = run("check", *sorted(data.glob("*/*.parquet")))
    assert code == 0 and "wemath: 14 questions" in told

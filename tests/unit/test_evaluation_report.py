# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""From verl's dump to the report: matching, errors, tables, picture."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fixtures import SPLITS, write_benchmarks
from PIL import Image
from typer.testing import CliRunner

from verl_durian.evaluation.__main__ import DUMP, app
from verl_durian.evaluation.named_reward import compute_score
from verl_durian.evaluation.paper import BENCHMARKS, PAPER
from verl_durian.evaluation.report import draw_bars


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_benchmarks(folder)
    return folder


def rows_of(data: Path) -> list[dict]:
    return [row for file in sorted(data.glob("*/*.parquet")) for row in pq.read_table(file).to_pylist()]


def even(row: dict) -> bool:
    return row["extra_info"]["index"] % 2 == 0


@pytest.fixture(scope="module")
def answers(data) -> list[dict]:
    """What verl dumps with the real reward function; the rows with an even number are answered correctly."""
    lines = []
    for row in rows_of(data):
        gold = row["reward_model"]["ground_truth"]
        response = f"<think>so</think>\\boxed{{{gold if even(row) else 'no idea'}}}"
        score = compute_score(row["data_source"], response, gold, row["extra_info"])
        lines.append({"input": "\u2028", "output": response, "gts": gold, "step": 0, **score, "uid": "x"})
    random.Random(0).shuffle(lines)
    return lines


def write(output: Path, lines: list[dict]) -> None:
    (output / DUMP).parent.mkdir(parents=True)
    (output / DUMP).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def run(*arguments: object) -> str:
    """What a command prints, or its error, on one line."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0 or isinstance(result.exception, ValueError | OSError), result.exc_info
    return " ".join((result.output or str(result.exception)).split())


def report(output: Path, data: Path, *files: Path) -> tuple[dict, str]:
    printed = run("report", output, "--model", "me/model", *(files or sorted(data.glob("*/*.parquet"))))
    return json.loads((output / "report.json").read_text()), printed


def test_each_question_gets_its_own_verdict(tmp_path, data, answers):
    write(tmp_path, answers)
    result, printed = report(tmp_path, data)
    for name in BENCHMARKS:
        correct = [even(row) for row in rows_of(data) if row["data_source"] == name]
        common = {key: result["benchmarks"][name][key] for key in ("accuracy", "questions", "unanswered", "formatted")}
        accuracy = sum(correct) / len(correct)
        assert common == {"accuracy": accuracy, "questions": len(correct), "unanswered": [], "formatted": 1}
    accuracies = [each["accuracy"] for each in result["benchmarks"].values()]
    assert list(result["benchmarks"]) == list(BENCHMARKS) and result["average"] == pytest.approx(sum(accuracies) / 5)
    # The keys 2steps_1, 2steps_2, 2steps_multi, 3steps_1, ... twice; every other answer is correct.
    problems = {"problems": 4, "IK": 2, "IG": 0, "RM_strict": 2, "RM_loose": 0, "strict": 0, "loose": 0.5}
    assert result["benchmarks"]["wemath"]["problems"] == problems
    # All questions about figure 0 are correct, none about figure 1.
    groups = {"aAcc": 0.5, "fAcc": 0.5, "qAcc": 0, "mean": pytest.approx(1 / 3)}
    assert result["benchmarks"]["hallusionbench"]["groups"] == groups

    text = (tmp_path / "report.md").read_text()
    assert " ".join(text.split()) == printed
    assert text.startswith("# me/model\n")
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in text.splitlines() if line.startswith("|"))
    }
    assert rows["**this model**"] == [f"{100 * share:.1f}" for share in (*accuracies, result["average"])]
    averages = ["53.3", "56.9", "59.2", "57.3", "59.3", "58.8", "60.1"]  # as printed in the paper
    assert [row[-1] for name, row in rows.items() if name.startswith("paper: ")] == averages
    assert rows["WeMath"] == ["plain", "strict", "loose", "problems", "IK", "IG", "RM strict", "RM loose"]
    assert "| | 50.0 | 0.0 | 50.0 | 4 | 2 | 0 | 2 | 0 |" in printed
    assert "judge is not published" in text and "no single setting reaches" in text
    assert "MathVerse: 8 questions; the published set has 3,940" in text
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.size == (1080, 1620)


@pytest.mark.parametrize(
    ("shares", "average", "texts"),
    [
        ((0.0, 0.25, 0.5, 0.75, 1.0), 0.5, ["0.0", "25.0", "50.0", "75.0", "100.0", "50.0"]),
        ((None, 0.25, None, None, None), None, ["not evaluated", "25.0", *4 * ["not evaluated"]]),
    ],
)
def test_bars_show_the_accuracies(shares, average, texts):
    measured = {name: share for name, share in zip(BENCHMARKS, shares, strict=True) if share is not None}
    benchmarks = {name: {"accuracy": share, "questions": 1} for name, share in measured.items()}
    paper = {row: dict(enumerate([*numbers, sum(numbers) / 5])) for row, numbers in PAPER.items()}
    (axes,) = draw_bars({"benchmarks": benchmarks, "average": average, "paper": paper}).axes
    ours, *theirs = axes.containers
    assert [bar.get_width() for bar in ours] == pytest.approx([100 * (share or 0) for share in (*shares, average)])
    assert [text.get_text() for text in axes.texts[:6]] == texts
    assert [bar.get_width() for bar in theirs[0]] == pytest.approx([46.2, 25.0, 67.5, 63.1, 64.6, 53.28])
    assert "MathVision\n1 of 3,040\nquestions" in [label.get_text() for label in axes.get_yticklabels()]


def test_an_unanswered_question_is_wrong_and_named(tmp_path, data, answers):
    lost = next(line for line in answers if line["data_source"] == "mathvista" and line["acc"] == 1)
    write(tmp_path, [line for line in answers if line is not lost])
    result, printed = report(tmp_path, data)
    mathvista = result["benchmarks"]["mathvista"]
    assert mathvista["unanswered"] == [lost["id"]]
    assert mathvista["accuracy"] == 3 / 8 and mathvista["formatted"] == 7 / 8
    assert f"MathVista: 1 without an answer, counted as wrong, such as {lost['id']}" in printed


def test_a_subset_has_neither_average_nor_strict_score(tmp_path, data, answers):
    table = pq.read_table(data / "wemath" / "testmini.parquet").slice(0, 8)
    pq.write_table(table, tmp_path / "part.parquet")
    known = {row["extra_info"]["id"] for row in table.to_pylist()}
    write(tmp_path, [line for line in answers if line["id"] in known])
    result, printed = report(tmp_path, data, tmp_path / "part.parquet")
    assert result["average"] is None and list(result["benchmarks"]) == ["wemath"]
    assert "**this model** | | | | 50.0 | | |" in printed
    assert result["benchmarks"]["wemath"]["problems"] is None
    assert "WeMath: no strict and loose score: problem 1 of 2 steps has the questions 2steps_1." in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:1] + lines, "line 2: {data_source} {id} has a second answer: evaluate with"),
        (lambda lines: [{**lines[0], "id": "x"}], "line 1: {data_source} x is not in the data files: pass the files"),
        (
            lambda lines: [{"acc": 1, "format": 1}],
            "['data_source', 'id'] are in the columns\": the dump must come from recipes/",
        ),
        (lambda lines: [], "no question was answered: see the errors in verl's output"),
        (None, "{dump}"),
    ],
)
def test_an_unusable_dump_is_refused(tmp_path, data, answers, change, message):
    if change:
        write(tmp_path, change(answers))
    printed = run("report", tmp_path, "--model", "me/model", *sorted(data.glob("*/*.parquet")))
    assert message.format(**answers[0], dump=tmp_path / DUMP) in printed
    assert not list(tmp_path.glob("report.*"))


def second_row(name: str, data_source: str | None = None, **changes: object) -> Callable[[Path], pa.Table]:
    """A benchmark whose second row has another `data_source` or `extra_info`."""

    def table(data: Path) -> pa.Table:
        original = pq.read_table(data / name / f"{SPLITS[name]}.parquet")
        rows = original.to_pylist()
        rows[1]["data_source"] = data_source or name
        rows[1]["extra_info"] |= changes
        return pa.Table.from_pylist(rows, original.schema)

    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (second_row("mathvista", id="mathvista-0"), "contain 1 questions more than once: mathvista mathvista-0"),
        (second_row("mathvista", id=None), "row 1: ValueError('extra_info has no id'): write the file with `verl-dur"),
        (second_row("mathvista", data_source="geo"), "row 1: KeyError('geo'): write the file with `verl-durian prep"),
        (second_row("wemath", metadata='{"problem": 1}'), "row 1: KeyError('key')"),
        (second_row("wemath", metadata="{"), "row 1: JSONDecodeError("),
        (lambda data: pa.table({"text": ["a"]}), "cannot be read"),
        (lambda data: second_row("wemath")(data).slice(0, 0), "the data files contain no questions"),
        (None, "cannot be read"),
    ],
)
def test_unusable_data_are_refused(tmp_path, data, table, message):
    file = tmp_path / "data.parquet"
    if table:
        pq.write_table(table(data), file)
    assert message in run("check", file)

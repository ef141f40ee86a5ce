# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation next to the paper's numbers: report.json, report.md and report.png."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from verl_durian.evaluation import scores
from verl_durian.evaluation.paper import BASE, BENCHMARKS, CAVEATS, DAPO, DURIAN, PAPER
from verl_durian.evaluation.verdicts import Verdict
from verl_durian.files import whole_file

JSON, MARKDOWN, PICTURE = "report.json", "report.md", "report.png"

_DRAWN = {
    BASE: ("paper: base model", "#BBBBBB"),
    DAPO: ("paper: DAPO", "#DDAA33"),
    DURIAN: ("paper: Durian on DAPO (0.1/0.2/0.7)", "#BB5566"),
}
"""The paper's rows in the picture, with label and colour."""


def write_report(model: str, verdicts: Sequence[Verdict], output: Path) -> None:
    """Writes the report of a model to a folder, as JSON, Markdown and PNG; replaces an existing report."""
    report = make_report(model, verdicts)
    with whole_file(output / JSON) as file:
        file.write(f"{json.dumps(report, indent=2, ensure_ascii=False)}\n".encode())
    with whole_file(output / MARKDOWN) as file:
        file.write(as_markdown(report).encode())
    with whole_file(output / PICTURE) as file:
        draw_bars(report).savefig(file)


def make_report(model: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The content of report.json. Scores are between 0 and 1, the paper's numbers are percent."""
    benchmarks: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for name in BENCHMARKS:
        if of_benchmark := [verdict for verdict in verdicts if verdict.question.benchmark == name]:
            benchmarks[name] = _scores(name, of_benchmark)
            notes += _notes(name, benchmarks[name])
    complete = len(benchmarks) == len(BENCHMARKS)
    return {
        "model": model,
        "benchmarks": benchmarks,
        "average": fmean(each["accuracy"] for each in benchmarks.values()) if complete else None,
        "notes": [*notes, *CAVEATS],
        "paper": {
            row: {**dict(zip(BENCHMARKS, numbers, strict=True)), "average": round(fmean(numbers), 1)}
            for row, numbers in PAPER.items()
        },
    }


def _scores(name: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "accuracy": fmean(verdict.correct for verdict in verdicts),
        "questions": len(verdicts),
        "unanswered": [verdict.question.id for verdict in verdicts if not verdict.answered],
        "formatted": fmean(verdict.formatted for verdict in verdicts),
    }
    if name == "wemath":
        try:
            result["problems"] = scores.wemath(verdicts)
        except ValueError as error:  # a subset of the benchmark still has an accuracy
            result |= {"problems": None, "problems_lack": str(error)}
    if name == "hallusionbench":
        result["groups"] = scores.hallusionbench(verdicts)
    return result


def _notes(name: str, result: Mapping[str, Any]) -> list[str]:
    """Caveats about the numbers of a benchmark."""
    benchmark, notes = BENCHMARKS[name], []
    if result["questions"] != benchmark.questions:
        notes.append(
            f"{benchmark.title}: {result['questions']:,} questions; the published set has {benchmark.questions:,}."
        )
    if unanswered := result["unanswered"]:
        notes.append(
            f"{benchmark.title}: {len(unanswered)} without an answer, counted as wrong, such as {unanswered[0]}: "
            "see verl's output for the reason."
        )
    if "problems_lack" in result:
        notes.append(f"No strict and loose score: {result['problems_lack']}.")
    return notes


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report as text: a table with the paper's rows, then the details of each benchmark."""
    benchmarks = report["benchmarks"]
    ours = [_percent(benchmarks[name]["accuracy"]) if name in benchmarks else "" for name in BENCHMARKS]
    blocks = [
        [f"# {report['model']}"],
        ["Accuracy in percent, greedy decoding."],
        _table(
            ["", *(benchmark.title for benchmark in BENCHMARKS.values()), "average"],
            ["**this model**", *ours, _percent(report["average"])],
            *([f"paper: {row}", *map(str, numbers.values())] for row, numbers in report["paper"].items()),
        ),
        _table(
            ["", "accuracy", "questions", "unanswered", "in the format"],
            *(
                [
                    BENCHMARKS[name].title,
                    _percent(result["accuracy"]),
                    f"{result['questions']:,}",
                    str(len(result["unanswered"])),
                    _percent(result["formatted"]),
                ]
                for name, result in benchmarks.items()
            ),
        ),
    ]
    if problems := benchmarks.get("wemath", {}).get("problems"):
        shares = (benchmarks["wemath"]["accuracy"], problems["strict"], problems["loose"])
        counts = (problems[key] for key in ("problems", "IK", "IG", "RM_strict", "RM_loose"))
        header = ["WeMath", "plain", "strict", "loose", "problems", "IK", "IG", "RM strict", "RM loose"]
        blocks.append(_table(header, ["", *map(_percent, shares), *map(str, counts)]))
    if groups := benchmarks.get("hallusionbench", {}).get("groups"):
        blocks.append(_table(["HallusionBench", *groups], ["", *map(_percent, groups.values())]))
    blocks.append([f"- {note}" for note in report["notes"]])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _table(header: Sequence[str], *rows: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows)]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def draw_bars(report: Mapping[str, Any]) -> Figure:
    """Draws the accuracies next to the paper's, 1080 x 1620 pixels, readable on a phone."""
    benchmarks = report["benchmarks"]
    shares = [*(benchmarks.get(name, {}).get("accuracy") for name in BENCHMARKS), report["average"]]
    series: list[tuple[str, str, list[float | None]]] = [
        ("this model", "#004488", [None if share is None else 100 * share for share in shares]),
        *((label, colour, [*report["paper"][row].values()]) for row, (label, colour) in _DRAWN.items()),
    ]
    figure = Figure(figsize=(7.2, 10.8), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, (label, colour, percents) in enumerate(series):
        centres = [group + 0.2 * (number - 1.5) for group in range(len(percents))]
        bars = axes.barh(centres, [percent or 0 for percent in percents], 0.19, color=colour, label=label)
        texts = ["not evaluated" if percent is None else f"{percent:.1f}" for percent in percents]
        axes.bar_label(bars, texts, padding=4, size=14, weight="bold" if number == 0 else "normal")
    names = []
    for name, benchmark in BENCHMARKS.items():
        questions = benchmarks.get(name, {}).get("questions", benchmark.questions)
        subset = f"\n{questions:,} of {benchmark.questions:,}\nquestions" if questions != benchmark.questions else ""
        names.append(benchmark.title + subset)
    axes.set_yticks(range(len(names) + 1), [*names, "average"], size=14)
    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="x", labelsize=14)
    axes.set_xlabel("accuracy in percent", size=14)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", fontsize=14, frameon=False)
    return figure

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation next to the paper's numbers: report.json, report.md and report.png."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
from matplotlib.figure import Figure

from verl_durian.evaluation import scores
from verl_durian.evaluation.paper import BASE, BENCHMARKS, CAVEATS, DAPO, DURIAN, PAPER
from verl_durian.files import whole_file

_DRAWN = {
    BASE: ("paper: base model", "#BBBBBB"),
    DAPO: ("paper: DAPO", "#DDAA33"),
    DURIAN: ("paper: Durian on DAPO (0.1/0.2/0.7)", "#BB5566"),
}
"""The paper's rows in the figure, with label and color."""


def write_report(model: str, verdicts: pd.DataFrame, output: Path) -> None:
    """Writes the report of a model to a folder, as JSON, Markdown and PNG; replaces an existing report."""
    report = make_report(model, verdicts)
    with whole_file(output / "report.json") as file:
        file.write(json.dumps(report, indent=2, ensure_ascii=False).encode() + b"\n")
    with whole_file(output / "report.md") as file:
        file.write(as_markdown(report).encode())
    with whole_file(output / "report.png") as file:
        draw_bars(report).savefig(file)


def make_report(model: str, verdicts: pd.DataFrame) -> dict[str, Any]:
    """The content of report.json. Scores are between 0 and 1, the paper's numbers are percent."""
    groups = {name: group.droplevel("benchmark") for name, group in verdicts.groupby("benchmark")}
    benchmarks = {name: _scores(name, groups[name]) for name in BENCHMARKS if name in groups}
    complete = len(benchmarks) == len(BENCHMARKS)
    return {
        "model": model,
        "benchmarks": benchmarks,
        "average": fmean(each["accuracy"] for each in benchmarks.values()) if complete else None,
        "notes": [*(note for name, result in benchmarks.items() for note in _notes(name, result)), *CAVEATS],
        "paper": {
            row: {**dict(zip(BENCHMARKS, numbers, strict=True)), "average": round(fmean(numbers), 1)}
            for row, numbers in PAPER.items()
        },
    }


def _scores(name: str, verdicts: pd.DataFrame) -> dict[str, Any]:
    result: dict[str, Any] = {
        "accuracy": float(verdicts["correct"].mean()),
        "questions": len(verdicts),
        "unanswered": list(verdicts.index[~verdicts["answered"]]),
        "formatted": float(verdicts["formatted"].mean()),
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
    benchmark, unanswered, notes = BENCHMARKS[name], result["unanswered"], []
    if result["questions"] != benchmark.questions:
        notes.append(f"{result['questions']:,} questions; the published set has {benchmark.questions:,}.")
    if unanswered:
        notes.append(
            f"{len(unanswered)} without an answer, counted as wrong, such as {unanswered[0]}: see verl's output for "
            "the reason."
        )
    if "problems_lack" in result:
        notes.append(f"no strict and loose score: {result['problems_lack']}.")
    return [f"{benchmark.title}: {note}" for note in notes]


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report as text: a table with the paper's rows, then the details of each benchmark."""
    benchmarks = report["benchmarks"]
    table = {
        "": [*(benchmark.title for benchmark in BENCHMARKS.values()), "average"],
        "**this model**": [*(benchmarks.get(name, {}).get("accuracy") for name in BENCHMARKS), report["average"]],
        **{f"paper: {row}": [str(number) for number in numbers.values()] for row, numbers in report["paper"].items()},
    }
    details = {"": ["accuracy", "questions", "unanswered", "in the format"]} | {
        BENCHMARKS[name].title: [each["accuracy"], each["questions"], len(each["unanswered"]), each["formatted"]]
        for name, each in benchmarks.items()
    }
    blocks = [f"# {report['model']}", "Accuracy in percent, greedy decoding.", _table(table), _table(details)]
    if problems := benchmarks.get("wemath", {}).get("problems"):
        columns = {"plain": benchmarks["wemath"]["accuracy"], **problems}
        blocks.append(_table({"WeMath": [name.replace("_", " ") for name in columns], "": list(columns.values())}))
    if groups := benchmarks.get("hallusionbench", {}).get("groups"):
        blocks.append(_table({"HallusionBench": list(groups), "": list(groups.values())}))
    return "\n\n".join([*blocks, "\n".join(f"- {note}" for note in report["notes"])]) + "\n"


def _table(rows: Mapping[str, Sequence[float | str | None]]) -> str:
    """A table in Markdown, with shares in percent; the first row is the header."""
    header, *lines = [f"| {name} | {' | '.join(map(_cell, values))} |" for name, values in rows.items()]
    return "\n".join([header, f"| --- |{' ---: |' * (header.count('|') - 2)}", *lines])


def _cell(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{100 * value:.1f}"
    return f"{value:,}" if isinstance(value, int) else value or ""


def draw_bars(report: Mapping[str, Any]) -> Figure:
    """Draws the accuracies next to the paper's, 1080 x 1620 pixels, readable on a phone."""
    benchmarks, names = report["benchmarks"], []
    for name, benchmark in BENCHMARKS.items():
        questions = benchmarks.get(name, {}).get("questions", benchmark.questions)
        subset = f"\n{questions:,} of {benchmark.questions:,}\nquestions" if questions != benchmark.questions else ""
        names.append(benchmark.title + subset)
    shares = [*(benchmarks.get(name, {}).get("accuracy") for name in BENCHMARKS), report["average"]]
    percents = pd.DataFrame({"this model": pd.array(shares, dtype=float) * 100}, [*names, "average"])
    for row, (label, _) in _DRAWN.items():
        percents[label] = list(report["paper"][row].values())
    figure = Figure(figsize=(7.2, 10.8), dpi=150, layout="constrained")
    colours = ["#004488", *(colour for _, colour in _DRAWN.values())]
    axes = percents.plot.barh(ax=figure.subplots(), width=0.8, color=colours, legend=False, fontsize=14)
    for label, bars in zip(percents, axes.containers, strict=True):
        texts = ["not evaluated" if pd.isna(percent) else f"{percent:.1f}" for percent in percents[label]]
        axes.bar_label(bars, texts, padding=4, size=14, weight="bold" if label == "this model" else "normal")
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy in percent", size=14)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", fontsize=14, frameon=False)
    return figure

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The table of an evaluation, beside the paper's numbers: report.json, report.md and report.png."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verl_durian.evaluation import scores
from verl_durian.evaluation.paper import BENCHMARKS, CAVEATS, PAPER
from verl_durian.evaluation.picture import draw_bars
from verl_durian.evaluation.verdicts import Verdict
from verl_durian.files import whole_file

JSON, MARKDOWN, PICTURE = "report.json", "report.md", "report.png"


def write_report(model: str, verdicts: Sequence[Verdict], output: Path) -> None:
    """Writes the report as JSON, as Markdown and as a picture.

    Args:
        model: What was evaluated, as the user called it.
        verdicts: On all questions.
        output: Folder; a report that is there is replaced.
    """
    report = make_report(model, verdicts)
    with whole_file(output / JSON) as file:
        file.write(f"{json.dumps(report, indent=2, ensure_ascii=False)}\n".encode())
    with whole_file(output / MARKDOWN) as file:
        file.write(as_markdown(report).encode())
    draw_bars(report["benchmarks"], output / PICTURE)


def make_report(model: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The report as JSON has it. All scores are shares between 0 and 1, the paper's numbers are percent."""
    by_benchmark = {name: [each for each in verdicts if each.question.benchmark == name] for name in BENCHMARKS}
    notes = []
    benchmarks: dict[str, dict[str, Any]] = {}
    for name, of_benchmark in by_benchmark.items():
        if of_benchmark:
            benchmarks[name] = _scores(name, of_benchmark)
            notes += _notes(name, of_benchmark, benchmarks[name])
    accuracies = [each["accuracy"] for each in benchmarks.values()]
    return {
        "model": model,
        "benchmarks": benchmarks,
        "average": sum(accuracies) / len(accuracies) if len(accuracies) == len(BENCHMARKS) else None,
        "notes": [*notes, *CAVEATS],
        "paper": {
            row: {**dict(zip(BENCHMARKS, numbers, strict=True)), "average": _paper_average(numbers)}
            for row, numbers in PAPER.items()
        },
    }


def _paper_average(numbers: Sequence[float]) -> float:
    return round(sum(numbers) / len(numbers), 1)


def _scores(name: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    right = [verdict.right for verdict in verdicts]
    metadata = [verdict.question.metadata for verdict in verdicts]
    common = {
        "accuracy": scores.accuracy(right),
        "questions": len(verdicts),
        "unanswered": [verdict.question.id for verdict in verdicts if not verdict.answered],
        "formatted": scores.accuracy([verdict.formatted for verdict in verdicts]),
    }
    if name == "wemath":
        try:
            return {**common, "problems": scores.wemath(right, metadata)}
        except ValueError as error:  # a part of the set: the plain accuracy stands
            return {**common, "problems": None, "problems_lack": str(error)}
    if name == "hallusionbench":
        return {**common, "groups": scores.hallusionbench(right, metadata)}
    return common


def _notes(name: str, verdicts: Sequence[Verdict], found: dict[str, Any]) -> list[str]:
    """What a reader must know of a benchmark's numbers."""
    benchmark, notes = BENCHMARKS[name], []
    if len(verdicts) != benchmark.questions:
        notes.append(
            f"{benchmark.title}: {len(verdicts):,} questions, where the published set has {benchmark.questions:,}."
        )
    if unanswered := found["unanswered"]:
        notes.append(
            f"{benchmark.title}: {len(unanswered)} without an answer, counted as wrong, such as {unanswered[0]}: "
            "verl's output tells why."
        )
    if "problems_lack" in found:
        notes.append(f"No strict and loose score: {found['problems_lack']}.")
    return notes


def as_markdown(report: dict[str, Any]) -> str:
    """The report as text: the table with the paper's rows, then each benchmark."""
    benchmarks = report["benchmarks"]
    ours = [_percent(benchmarks[name]["accuracy"]) if name in benchmarks else "" for name in BENCHMARKS]
    lines = [
        f"# {report['model']}",
        "",
        "Accuracy in percent, greedy.",
        "",
        _line("", *(each.title for each in BENCHMARKS.values()), "average"),
        _line("---", *["---:"] * (len(BENCHMARKS) + 1)),
        _line("**this model**", *ours, _percent(report["average"])),
        *(
            _line(f"paper: {row}", *(f"{number:.1f}" for number in numbers.values()))
            for row, numbers in report["paper"].items()
        ),
        "",
        _line("", "accuracy", "questions", "unanswered", "in the format"),
        _line("---", *["---:"] * 4),
        *(
            _line(
                BENCHMARKS[name].title,
                _percent(each["accuracy"]),
                f"{each['questions']:,}",
                str(len(each["unanswered"])),
                _percent(each["formatted"]),
            )
            for name, each in benchmarks.items()
        ),
    ]
    if problems := benchmarks.get("wemath", {}).get("problems"):
        lines += [
            "",
            _line("WeMath", "plain", "strict", "loose", "problems", "IK", "IG", "RM strict", "RM loose"),
            _line("---", *["---:"] * 8),
            _line(
                "",
                *map(_percent, (benchmarks["wemath"]["accuracy"], problems["strict"], problems["loose"])),
                *(str(problems[key]) for key in ("problems", "IK", "IG", "RM_strict", "RM_loose")),
            ),
        ]
    if groups := benchmarks.get("hallusionbench", {}).get("groups"):
        lines += [
            "",
            _line("HallusionBench", *groups),
            _line("---", *["---:"] * len(groups)),
            _line("", *map(_percent, groups.values())),
        ]
    return "\n".join([*lines, "", *(f"- {note}" for note in report["notes"])]) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What `recipes/run_eval.sh` runs before and after verl:

python -m verl_durian.evaluation check FILES...                                # can these be scored?
python -m verl_durian.evaluation report OUTPUT --model NAME FILES...           # OUTPUT/report.{json,md,png}
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from verl_durian.evaluation.verdicts import read_questions, read_verdicts

DUMP = Path("answers", "0.jsonl")
"""Where in the output folder verl's validation before the first step, step 0, puts the answers."""

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Scores on the paper's benchmarks.")
Files = Annotated[list[Path], typer.Argument(metavar="FILES...", help="Of `verl-durian prepare`.")]


@app.command()
def check(files: Files) -> None:
    """Refuses data files whose questions could not be scored, before anything is asked."""
    try:
        counts = Counter(question.benchmark for question in read_questions(files))
    except ValueError as error:
        _refuse(error)
    print(", ".join(f"{name}: {count:,} questions" for name, count in counts.items()))


@app.command()
def report(
    output: Annotated[Path, typer.Argument(help="Folder with verl's answers, for the report.")],
    files: Files,
    model: Annotated[str, typer.Option(help="What was evaluated: the head of the table.")],
) -> None:
    """Writes report.json, report.md and report.png from verl's answers, and shows the table."""
    from verl_durian.evaluation.report import MARKDOWN, write_report

    try:
        verdicts = read_verdicts(output / DUMP, read_questions(files))
        write_report(model, verdicts, output)
    except (ValueError, OSError) as error:
        _refuse(error)
    print((output / MARKDOWN).read_text())


def _refuse(error: Exception) -> None:
    print(f"verl_durian.evaluation: {error}", file=sys.stderr)
    raise typer.Exit(code=2) from error


if __name__ == "__main__":
    app()

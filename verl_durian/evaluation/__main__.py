# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The commands that `recipes/run_eval.sh` runs before and after verl.

python -m verl_durian.evaluation check FILES...                                # validate the data files
python -m verl_durian.evaluation checkpoint CHECKPOINT                         # print its Hugging Face folder
python -m verl_durian.evaluation report OUTPUT --model NAME FILES...           # write OUTPUT/report.{json,md,png}
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from verl_durian.evaluation.checkpoint import hugging_face_folder
from verl_durian.evaluation.report import write_report
from verl_durian.evaluation.verdicts import read_questions, read_verdicts

DUMP = Path("answers", "0.jsonl")
"""Path in the output folder to which verl dumps the validation before the first step (step 0)."""

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Scores on the paper's benchmarks.")
Files = Annotated[list[Path], typer.Argument(metavar="FILES...", help="Files written by `verl-durian prepare`.")]


@app.command()
def check(files: Files) -> None:
    """Validates the data files before any question is answered."""
    counts = read_questions(files).groupby("benchmark", sort=False).size()
    print(", ".join(f"{name}: {count:,} questions" for name, count in counts.items()))


@app.command()
def checkpoint(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint of verl, folder, or id on the Hub.")],
) -> None:
    """Prints the folder or id that the rollout engine loads; merges shards first."""
    print(hugging_face_folder(checkpoint))


@app.command()
def report(
    output: Annotated[Path, typer.Argument(help="Folder with verl's answers, to which the report is written.")],
    files: Files,
    model: Annotated[str, typer.Option(help="Name of the evaluated model: the title of the report.")],
) -> None:
    """Writes report.json, report.md and report.png from verl's answers, and prints the table."""
    write_report(model, read_verdicts(output / DUMP, read_questions(files)), output)
    print((output / "report.md").read_text())


if __name__ == "__main__":
    try:
        app()
    except (ValueError, OSError) as error:
        sys.exit(f"verl_durian.evaluation: {error}")

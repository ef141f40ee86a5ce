# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Measures `verl-durian report` on a run of 1,000 steps with 512 prompts x 8 rollouts: time, memory, size of the page.

    python benchmarks/bench_report.py

The records are written first, which takes some minutes; their texts are short.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from synthetic_records import write_run, write_training_set  # noqa: E402


def main(
    steps: Annotated[int, typer.Option(min=1)] = 1000,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of a step, with 8 rollouts each.")] = 512,
) -> None:
    """Writes a run, makes its report in a new process and prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        train_file = write_training_set(Path(folder, "train.parquet"), rows=2000)
        run = write_run(
            Path(folder, "run"), steps=steps, prompts=prompts, train_file=train_file, train_rows=2000, texts=True
        )
        page = Path(folder, "report.html")
        start = time.perf_counter()
        subprocess.run(["verl-durian", "report", str(run), "--output", str(page)], check=True)
        seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        table = Table("", f"{steps:,} steps, {8 * prompts:,} rollouts each")
        table.add_row("wall-clock time", f"{seconds:.1f} s")
        table.add_row("CPU time", f"{used.ru_utime + used.ru_stime:.1f} s")
        table.add_row("peak memory", f"{used.ru_maxrss / 1e6:.2f} GB")  # kB on Linux
        table.add_row("page", f"{page.stat().st_size / 1e6:.1f} MB")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)

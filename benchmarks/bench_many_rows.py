# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Measures time, throughput and memory of `verl-durian score` on many rows, and again with all scores in the cache.

    python benchmarks/bench_many_rows.py [--rows 5000 --rows 20000]

The images are crops of photographs and textures of 60 x 60 to 200 x 200 pixels, in parquet files of 1,000 rows; the
tower is that of the quickstart (`bench_scoring.py`). Memory is the proportional set size (PSS) of the command and all
processes of its Ray, sampled every half second. Several sizes show how memory grows with the rows.

Needs easy-vqa and scikit-image (extra `dev`).
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from bench_scoring import machine, write_rows, write_tower
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from skimage import data

from verl_durian.entropy.score import SUMMARY

PICTURES = ("astronaut", "camera", "chelsea", "coffee", "rocket", "grass", "gravel", "brick")
ROWS = [5000, 20000]
ROWS_OF_A_FILE = 1000
SMALLEST, LARGEST = 60, 200
POLL_SECONDS = 0.5


def jpegs(number: int, rng: np.random.Generator) -> list[bytes]:
    """JPEG files of random crops of random sizes."""
    files = []
    for index in range(number):
        picture = Image.fromarray(getattr(data, PICTURES[index % len(PICTURES)])()).convert("RGB")
        width, height = rng.integers(SMALLEST, LARGEST, 2, endpoint=True).tolist()
        left, top = rng.integers(picture.width - width), rng.integers(picture.height - height)
        file = BytesIO()
        picture.crop((left, top, left + width, top + height)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def bytes_in_use(process: psutil.Process) -> tuple[int, int]:
    """PSS of a process with its descendants, and of the process itself."""
    of_all, of_itself = 0, 0
    for member in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):  # it may be gone
            share = member.memory_full_info().pss
            of_all += share
            of_itself += share if member == process else 0
    return of_all, of_itself


def run(arguments: list[str], log: Path) -> tuple[float, int, int]:
    """Seconds of a command, peak memory with its descendants, and peak memory of itself."""
    start, most, most_of_itself = time.monotonic(), 0, 0
    with log.open("w") as output, subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT) as command:
        while command.poll() is None:
            with suppress(psutil.Error):
                of_all, of_itself = bytes_in_use(psutil.Process(command.pid))
                most, most_of_itself = max(most, of_all), max(most_of_itself, of_itself)
            time.sleep(POLL_SECONDS)
    if command.returncode != 0:
        raise RuntimeError(log.read_text())
    return time.monotonic() - start, most, most_of_itself


def main(rows: Annotated[list[int], typer.Option(help="Can be repeated.")] = ROWS) -> None:
    table = Table("rows", "time", "scoring", "memory with Ray", "command alone", "again: time", "memory with Ray")
    with tempfile.TemporaryDirectory() as temporary:
        folder, rng = Path(temporary), np.random.default_rng(0)
        write_tower(folder / "model", "quickstart")
        for number in rows:
            files = []
            for first in track(range(0, number, ROWS_OF_A_FILE), f"writing {number} rows"):
                files.append(folder / f"{first}_of_{number}.parquet")
                write_rows(files[-1], jpegs(min(ROWS_OF_A_FILE, number - first), rng))
            output, cache = folder / f"scored_{number}", folder / f"cache_{number}"
            command = [str(Path(sys.executable).with_name("verl-durian")), "score", "--model", str(folder / "model")]
            command += ["--data", *map(str, files), "--output", str(output), "--cache", str(cache)]
            seconds, of_all, of_itself = run(command, folder / "log.txt")
            rate = json.loads((output / SUMMARY).read_text())["images_per_second"]
            again, of_all_again, _ = run(command, folder / "log.txt")
            assert json.loads((output / SUMMARY).read_text())["images_encoded"] == 0
            table.add_row(
                f"{number:,}",
                f"{seconds:.0f} s",
                f"{rate:.0f} images/s",
                f"{of_all / 1e9:.1f} GB",
                f"{of_itself / 1e9:.1f} GB",
                f"{again:.0f} s",
                f"{of_all_again / 1e9:.1f} GB",
            )
    console = Console(highlight=False)
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    typer.run(main)

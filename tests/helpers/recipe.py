# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the recipe scripts with the quickstart's model on the CPU, and reads what the runs wrote."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import OmegaConf
from verl.trainer.ppo.utils import create_rl_sampler

from recipes.quickstart.data import make_rows, write_parquet

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = {
    "NGPUS_PER_NODE": "1",
    "TRAIN_BATCH_SIZE": "8",
    "PPO_MINI_BATCH_SIZE": "8",
    "PPO_MICRO_BATCH_SIZE": "8",
    "ROLLOUTS": "2",
    "OVERLONG_BUFFER": "8",
    "MAX_PROMPT_LENGTH": "128",
    "MAX_RESPONSE_LENGTH": "24",
    "TEST_FREQ": "-1",
    "SAVE_FREQ": "-1",
}


def command(name: str, *arguments: object) -> list[str]:
    """The command line of a recipe script."""
    return ["bash", str(RECIPES / name), *map(str, arguments)]


def environment(**variables: object) -> dict[str, str]:
    """The environment of a recipe script, with the interpreter of the tests and small batches."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, **SMALL, "PATH": path, **{name: str(value) for name, value in variables.items()}}


def run(name: str, *arguments: object, **variables: object) -> str:
    """Runs a recipe script, which must succeed, and returns its output."""
    done = subprocess.run(
        command(name, *arguments),
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def metrics(run: Path) -> dict[int, dict[str, float]]:
    """The metrics of each step that a run has logged so far."""
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []  # the last line may be incomplete
    return {entry["step"]: entry["data"] for entry in map(json.loads, lines)}


def write_numbered_questions(file: Path) -> None:
    """Writes questions of the quickstart that end with the number of their row."""
    rows = list(make_rows("train", per_kind=200))
    for number, row in enumerate(rows):
        row["prompt"][0]["content"] += f" ({number})"
    write_parquet(rows, file)


def places_in_order(rollouts: Path, file: Path, seed: int) -> dict[int, list[int]]:
    """The rows of each step in `trainer.rollout_data_dir`, numbered in the file, as places in the sampler's order."""
    sampler = create_rl_sampler(OmegaConf.create({"shuffle": True, "seed": seed}), pq.read_table(file))
    place = {row: place for place, row in enumerate(sampler)}
    steps = {}
    for step in rollouts.glob("*.jsonl"):
        inputs = [json.loads(line)["input"] for line in step.read_text().splitlines()]
        numbers = {int(number) for text in inputs for number in re.findall(r"\((\d+)\)\n", text)}  # padding has no text
        steps[int(step.stem)] = sorted(place[number] for number in numbers)
    return dict(sorted(steps.items()))

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the recipes as they are, with the quickstart's model on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = {
    "NGPUS_PER_NODE": "1",
    "TRAIN_BATCH_SIZE": "8",
    "PPO_MINI_BATCH_SIZE": "8",
    "PPO_MICRO_BATCH_SIZE": "8",
    "ROLLOUTS": "2",
}


def command(name: str, *arguments: object) -> list[str]:
    """Of a recipe."""
    return ["bash", str(RECIPES / name), *map(str, arguments)]


def environment(**variables: object) -> dict[str, str]:
    """Of a recipe that uses the interpreter of the tests."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, **SMALL, "PATH": path, **{name: str(value) for name, value in variables.items()}}


def run(name: str, *arguments: object, **variables: object) -> subprocess.CompletedProcess[str]:
    """Runs a recipe to its end; stdout has what it said on both streams."""
    return subprocess.run(
        command(name, *arguments),
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

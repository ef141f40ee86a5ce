# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
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

#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Makes the environment and runs everything: linters, unit tests, runs of the recipes. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

bash recipes/setup_cpu.sh
export PATH="$PWD/.venv/bin:$PATH"

# What the CPU needs (the one switch), and nothing from a hub.
export VERL_PLATFORM=cpu HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1

ruff check .
ruff format --check .
mypy
# Two files at a time, as a training leaves half of two cores idle; the long ones, tests/e2e, come first.
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"

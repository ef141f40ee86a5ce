#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Installs the environment for machines without a GPU, then runs linters, type checks and tests.
#
#   bash tests/run_tests.sh          # the fast lane: all tests without the marker "slow"
#   bash tests/run_tests.sh --all    # also the slow lane: every trainer, LoRA, patched verl, two nodes
#
# Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

LANE=(-m "not slow")
if [ "${1:-}" = --all ]; then
    LANE=()
    shift
fi

bash recipes/setup_cpu.sh
export PATH="$PWD/.venv/bin:$PATH"
# Run verl without a GPU, download nothing.
export VERL_PLATFORM=cpu HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1

ruff check .
ruff format --check .
mypy
# Two test files at a time, because one training leaves half of two cores idle; the long ones in tests/e2e come first.
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "${LANE[@]}" "$@"

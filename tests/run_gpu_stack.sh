#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Runs every test that needs no vLLM engine in the environment of recipes/setup_gpu.sh, that is, with the releases that
# train on GPUs. Needs no GPU, and hides existing ones. VENV and PYTHON as in setup_gpu.sh; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

export VENV=${VENV:-.venv}
bash recipes/setup_gpu.sh
export PATH="$(realpath "$VENV")/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
python -m pip install --quiet --constraint constraints-gpu.txt --editable ".[gpu,dev]"

unset VERL_PLATFORM
export CUDA_VISIBLE_DEVICES="" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1
# torchcodec, which vLLM requires, needs the libraries of FFmpeg on the machine; decord brings its own.
export FORCE_QWENVL_VIDEO_READER=decord
[ $# -gt 0 ] || set -- tests/unit tests/integration tests/e2e/test_score.py tests/e2e/test_report_page.py
python -m pytest -p no:cacheprovider "$@"

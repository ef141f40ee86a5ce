#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# The controlled comparison of advantage normalizers on a machine without a GPU (Linux, Python 3.11; one run for each core
# at a time, 1.5 GB of memory each). recipes/evidence/PROTOCOL.md says what is compared and how it is decided.
#
#   bash recipes/run_evidence.sh                              # 176 runs. The same command continues after a stop
#   SEEDS=1 ARMS="grpo durian" bash recipes/run_evidence.sh   # 4 runs, minutes
#   PART=robustness bash recipes/run_evidence.sh              # 184 runs with other groups, weights, batches and rates
#   PART=verl bash recipes/run_evidence.sh                    # 4 runs in verl itself, with Ray and vLLM; 10 GB each
#   PART=rate bash recipes/run_evidence.sh                    # the 16 runs that chose the learning rate
#
# FAMILIES="aligned anti"; JOBS=1 for fewer runs at a time. Everything is written to OUT (outputs/evidence): data, model,
# logs, results, tables and figures. The published results are in recipes/evidence/results;
# `python recipes/evidence/analyse.py` analyses those.

set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-outputs/evidence}

bash recipes/setup_cpu.sh
export PATH="$PWD/.venv/bin:$PATH"
export VERL_PLATFORM=cpu HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore
# verl's processes import recipes.evidence.arms and recipes.evidence.reward.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)

# Data and model are generated once. Results of different data, start weights or code must not be mixed.
STAMP=$(cat recipes/evidence/{task,model,train,arms,reward}.py recipes/evidence/start.safetensors \
    recipes/quickstart/model.py verl_durian/algo/*.py | sha256sum)
if [ "$(cat "$OUT/made_by.sha256" 2>/dev/null)" != "$STAMP" ]; then
    if [ -e "$OUT/results" ]; then
        echo "$OUT has results of another task, start or code; name another folder with OUT=..." >&2 && exit 2
    fi
    python -m recipes.evidence.task "$OUT/plain"
    python -m recipes.evidence.model "$OUT/model"
    for family in aligned anti; do # adds the column visual_entropy
        verl-durian score --model "$OUT/model" --feature-layer blocks \
            --data "$OUT/plain/$family/*.parquet" --output "$OUT/data/$family"
    done
    echo "$STAMP" >"$OUT/made_by.sha256"
fi

CHOICE=(--part "${PART:-main}")
if [ -n "${JOBS:-}" ]; then CHOICE+=(--jobs "$JOBS"); fi
if [ -n "${SEEDS:-}" ]; then CHOICE+=(--seeds "$SEEDS"); fi
if [ -n "${ARMS:-}" ]; then CHOICE+=(--arms "$ARMS"); fi
if [ -n "${FAMILIES:-}" ]; then CHOICE+=(--families "$FAMILIES"); fi

STATUS=0
python -m recipes.evidence.run "$OUT" "${CHOICE[@]}" || STATUS=$?
if [ $STATUS != 0 ] && [ $STATUS != 3 ]; then exit $STATUS; fi # 3: some runs failed; the analysis names them
python -m recipes.evidence.analyse "$OUT/results" --output "$OUT/analysis"

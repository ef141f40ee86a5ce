#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# A complete experiment without a GPU (Python 3.11, 2 CPU cores, 12 GB of memory): installs the environment, generates
# image questions and a deliberately degraded tiny Qwen2.5-VL, trains it with Durian on DAPO, and prints a report.
#
#   bash recipes/run_quickstart.sh                                # 10 to 20 minutes the first time
#   bash recipes/run_quickstart.sh algorithm.adv_estimator=grpo   # the baseline; reuses environment, data and model
#
# STEPS sets the number of steps, OUT another folder; every run writes to its own $OUT/runs/TIME. Arguments are settings
# of verl and override those below.

set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-outputs/quickstart}
STEPS=${STEPS:-20}

bash recipes/setup_cpu.sh
export PATH="$PWD/.venv/bin:$PATH"

mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
RUN=$OUT/runs/$(date +%Y%m%d-%H%M%S)
mkdir -p "$RUN"

# Run verl without a GPU (see recipes/cpu_settings.sh), without downloads.
export VERL_PLATFORM=cpu HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1

# Data and model are generated once, and again if their sources change.
STAMP=$(cat recipes/quickstart/{data,model}.py recipes/quickstart/start.safetensors | sha256sum)
if [ "$(cat "$OUT/made_by.sha256" 2>/dev/null)" != "$STAMP" ]; then
    OMP_NUM_THREADS=2 python -m recipes.quickstart.data "$OUT"
    OMP_NUM_THREADS=2 python -m recipes.quickstart.model "$OUT"
    echo "$STAMP" >"$OUT/made_by.sha256"
fi

# Greedy validation, and records of all rollouts for the report.
QUICK=(
    actor_rollout_ref.rollout.val_kwargs.do_sample=False
    actor_rollout_ref.rollout.val_kwargs.temperature=0
    +algorithm.durian.record="$RUN/records"
    +algorithm.durian.record_texts=true
)

echo "Training: verl takes a minute to start and about ten seconds per step; log: $RUN/train.log"
BACKBONE=dapo ESTIMATOR=durian MODEL_PATH=$OUT/model OUTPUT=$RUN \
    TRAIN_FILES=$OUT/train.parquet VAL_FILES=$OUT/test.parquet \
    NGPUS_PER_NODE=1 TRAIN_BATCH_SIZE=16 PPO_MINI_BATCH_SIZE=8 PPO_MICRO_BATCH_SIZE=64 ROLLOUTS=8 \
    MAX_PROMPT_LENGTH=128 MAX_RESPONSE_LENGTH=24 OVERLONG_BUFFER=8 LR=3e-5 EPOCHS=100 TOTAL_STEPS=$STEPS \
    TEST_FREQ=5 SAVE_FREQ=-1 RESUME=disable \
    python -m recipes.quickstart.watchdog --log "$RUN/train.log" --stall-minutes 10 \
    --show 'Training Progress: .*|visual entropy: .*|durian: .*' -- \
    bash recipes/run_qwen25vl_durian.sh "${QUICK[@]}" "$@"

python -m recipes.quickstart.report "$RUN"
verl-durian report "$RUN" --output "$RUN/report.html" || echo "The training is complete; only the report failed."

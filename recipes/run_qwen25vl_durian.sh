#!/usr/bin/env bash
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
# Durian on DAPO (or GRPO) with Qwen2.5-VL-7B-Instruct and Geometry3K on 8 GPUs, as in the paper's main experiment.
#
#   bash recipes/run_qwen25vl_durian.sh                                         # Durian on DAPO
#   BACKBONE=grpo bash recipes/run_qwen25vl_durian.sh                           # Durian on GRPO
#   ESTIMATOR=grpo bash recipes/run_qwen25vl_durian.sh                          # the baseline: DAPO alone
#   bash recipes/run_qwen25vl_durian.sh +algorithm.durian.reasoning.num_groups=8 # any setting of verl's or Durian's
#
# The parquet files are those of verl's examples/data_preprocess/geo3k.py. The visual entropy of the training images is
# computed once, before the first step, and kept on disk. Not as in the paper: those files' prompt and image sizes, and
# the grading of answers, which here must equal the truth as text.

set -euo pipefail

########################### user-adjustable ###########################

BACKBONE=${BACKBONE:-dapo}     # dapo or grpo: the objective around the advantages
ESTIMATOR=${ESTIMATOR:-durian} # any estimator of verl's: durian, grpo, rloo, reinforce_plus_plus_baseline, ...

MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-VL-7B-Instruct}
TRAIN_FILES=${TRAIN_FILES:-$HOME/data/geo3k/train.parquet}
VAL_FILES=${VAL_FILES:-$HOME/data/geo3k/test.parquet}
OUTPUT=${OUTPUT:-outputs/qwen25vl_${BACKBONE}_${ESTIMATOR}} # metrics.jsonl and checkpoints

NNODES=${NNODES:-1}
NGPUS_PER_NODE=${NGPUS_PER_NODE:-8}
ROLLOUT_TP=${ROLLOUT_TP:-1}

TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-512}       # prompts a step
PPO_MINI_BATCH_SIZE=${PPO_MINI_BATCH_SIZE:-128} # prompts an update
PPO_MICRO_BATCH_SIZE=${PPO_MICRO_BATCH_SIZE:-4} # rollouts a GPU holds at once in an update
ROLLOUTS=${ROLLOUTS:-8}                         # rollouts a prompt
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-2048}
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-2048}
LR=${LR:-1e-6}
EPOCHS=${EPOCHS:-15}
TOTAL_STEPS=${TOTAL_STEPS:-null} # null: as many as EPOCHS make
SEED=${SEED:-1}
TEST_FREQ=${TEST_FREQ:-5} # steps between two validations; there is one before the first step and one after the last
SAVE_FREQ=${SAVE_FREQ:-20}
LOGGER=${LOGGER:-[console,file]} # verl's loggers; file writes OUTPUT/metrics.jsonl

# DAPO only. A group is dropped when this number is the same in all its rollouts: `score` is the reward before the
# overlong penalty, the nearest to the paper's framework, which keeps a group while its mean overall reward lies
# between 0.01 and 0.99. `acc` is DAPO's own choice: it also drops the groups that differ in format alone.
FILTER_METRIC=${FILTER_METRIC:-score}
# DAPO only. Over this many last tokens the reward falls linearly by up to 1. 0: no overlong shaping.
OVERLONG_BUFFER=${OVERLONG_BUFFER:-512}

#######################################################################

case $BACKBONE in dapo | grpo) ;; *) echo "BACKBONE=$BACKBONE: must be dapo or grpo" >&2 && exit 2 ;; esac

mkdir -p "$OUTPUT"
OUTPUT=$(cd "$OUTPUT" && pwd)
export VERL_FILE_LOGGER_PATH=${VERL_FILE_LOGGER_PATH:-$OUTPUT/metrics.jsonl}
REWARD_FILE=$(python -c 'import verl_durian.reward; print(verl_durian.reward.__file__)')

DATA=(
    data.train_files="$TRAIN_FILES"
    data.val_files="$VAL_FILES"
    data.train_batch_size="$TRAIN_BATCH_SIZE"
    data.max_prompt_length="$MAX_PROMPT_LENGTH"
    data.max_response_length="$MAX_RESPONSE_LENGTH"
    data.filter_overlong_prompts=True
    data.seed="$SEED"
)

MODEL=(
    actor_rollout_ref.model.path="$MODEL_PATH"
    actor_rollout_ref.model.use_remove_padding=True
    actor_rollout_ref.model.enable_gradient_checkpointing=True
)

ACTOR=(
    actor_rollout_ref.actor.strategy=fsdp2
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$PPO_MINI_BATCH_SIZE"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="$PPO_MICRO_BATCH_SIZE"
    actor_rollout_ref.actor.loss_agg_mode=token-mean
    actor_rollout_ref.actor.clip_ratio_c=3.0
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    # verl's default, dummy, leaves noise in a buffer of vLLM's that normalises images: see verl_durian/preflight.py.
    actor_rollout_ref.rollout.load_format=auto
    actor_rollout_ref.rollout.n="$ROLLOUTS"
    actor_rollout_ref.rollout.temperature=1.0
    actor_rollout_ref.rollout.top_p=1.0
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature=0.6
    actor_rollout_ref.rollout.val_kwargs.top_p=0.95
    actor_rollout_ref.rollout.val_kwargs.n=1
    actor_rollout_ref.rollout.tensor_model_parallel_size="$ROLLOUT_TP"
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6
    actor_rollout_ref.rollout.calculate_log_probs=True
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu="$PPO_MICRO_BATCH_SIZE"
)

ALGO=(
    algorithm.adv_estimator="$ESTIMATOR"
    algorithm.use_kl_in_reward=False
)
if [ "$BACKBONE" = dapo ]; then
    ALGO+=(
        actor_rollout_ref.actor.use_kl_loss=False
        actor_rollout_ref.actor.clip_ratio_low=0.2
        actor_rollout_ref.actor.clip_ratio_high=0.28
        algorithm.filter_groups.enable=True
        algorithm.filter_groups.metric="$FILTER_METRIC"
    )
    if [ "$OVERLONG_BUFFER" != 0 ]; then
        ALGO+=(
            reward.reward_manager.name=dapo
            +reward.reward_kwargs.max_resp_len="$MAX_RESPONSE_LENGTH"
            +reward.reward_kwargs.overlong_buffer_cfg.enable=True
            +reward.reward_kwargs.overlong_buffer_cfg.len="$OVERLONG_BUFFER"
            +reward.reward_kwargs.overlong_buffer_cfg.penalty_factor=1.0
            +reward.reward_kwargs.overlong_buffer_cfg.log=True
        )
    fi
else
    ALGO+=(
        actor_rollout_ref.actor.use_kl_loss=True
        actor_rollout_ref.actor.kl_loss_type=low_var_kl
        actor_rollout_ref.actor.kl_loss_coef=1e-2
        actor_rollout_ref.actor.clip_ratio_low=0.2
        actor_rollout_ref.actor.clip_ratio_high=0.3
        actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu="$PPO_MICRO_BATCH_SIZE"
    )
fi

REWARD=(reward.custom_reward_function.path="$REWARD_FILE")

TRAINER=(
    trainer.nnodes="$NNODES"
    trainer.n_gpus_per_node="$NGPUS_PER_NODE"
    trainer.total_epochs="$EPOCHS"
    trainer.total_training_steps="$TOTAL_STEPS"
    trainer.val_before_train=True
    trainer.test_freq="$TEST_FREQ"
    trainer.save_freq="$SAVE_FREQ"
    trainer.default_local_dir="$OUTPUT/checkpoints"
    trainer.project_name=durian
    trainer.experiment_name="$(basename "$OUTPUT")"
    trainer.logger="$LOGGER"
    hydra.run.dir="$OUTPUT/hydra"
)

SETTINGS=("${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${ALGO[@]}" "${REWARD[@]}" "${TRAINER[@]}" "$@")

python -m verl_durian.preflight "${SETTINGS[@]}"
exec python -m verl.trainer.main_ppo "${SETTINGS[@]}"

#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Evaluates a model on the paper's five benchmarks with verl's validation: prompt and reward of training, greedy decoding.
#
#   bash recipes/run_eval.sh Qwen/Qwen2.5-VL-7B-Instruct                     # a model on the hub, or a folder
#   bash recipes/run_eval.sh outputs/RUN/checkpoints/global_step_60          # a checkpoint of verl; merged first
#   BENCHMARKS="mathvista wemath" bash recipes/run_eval.sh CHECKPOINT        # some of the five
#   bash recipes/run_eval.sh CHECKPOINT actor_rollout_ref.rollout.enforce_eager=True   # any setting of verl
#
# Prepare the data first: verl-durian prepare mathverse --output data/mathverse, and so on. Writes accuracies next to the
# paper's to OUTPUT/report.{json,md,png}, all answers to OUTPUT/answers/0.jsonl. See docs/evaluation.md.

set -euo pipefail
RECIPES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

refuse() { echo "$*" >&2 && exit 2; }

case ${1:--} in -*) refuse "usage: bash recipes/run_eval.sh CHECKPOINT [--dry-run] [OVERRIDES...]" ;; esac
command -v python >/dev/null || refuse "python: not found; activate the environment that verl-durian is installed in"
CHECKPOINT=$1
shift

########################### user-adjustable ###########################

DATA_DIR=${DATA_DIR:-data} # contains the folders written by `verl-durian prepare NAME --output DATA_DIR/NAME`
BENCHMARKS=${BENCHMARKS:-mathverse mathvision mathvista wemath hallusionbench}
OUTPUT=${OUTPUT:-outputs/eval/$(echo "$CHECKPOINT" | sed 's|^[./]*||; s|/*$||; s|/|_|g')}

NNODES=${NNODES:-1}
NGPUS_PER_NODE=${NGPUS_PER_NODE:-8}
ROLLOUT_TP=${ROLLOUT_TP:-1} # GPUs per rollout engine

MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-4096} # a million pixels are 1276 tokens
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-2048}
QUESTIONS_AT_ONCE=${QUESTIONS_AT_ONCE:-1024} # in memory with their decoded images, up to 3 MB each
LOGGER=${LOGGER:-[console,file]}             # loggers of verl; file writes OUTPUT/metrics.jsonl

#######################################################################

FILES=()
MISSING=()
for benchmark in $BENCHMARKS; do
    case $benchmark in
        mathverse | mathvision | mathvista | wemath | hallusionbench) ;;
        *) refuse "BENCHMARKS=$BENCHMARKS: $benchmark is none of mathverse, mathvision, mathvista, wemath, hallusionbench" ;;
    esac
    for file in "$DATA_DIR/$benchmark"/*.parquet; do
        if [ -e "$file" ]; then FILES+=("$(realpath "$file")"); else MISSING+=("$benchmark"); fi
    done
done
for benchmark in "${MISSING[@]}"; do
    echo "$DATA_DIR/$benchmark: no parquet file; create it: verl-durian prepare $benchmark --output $DATA_DIR/$benchmark" >&2
done
if [ ${#MISSING[@]} -gt 0 ]; then exit 2; fi
python -m verl_durian.evaluation check "${FILES[@]}"

MODEL_PATH=$(python -m verl_durian.evaluation checkpoint "$CHECKPOINT")
OUTPUT=$(realpath -m "$OUTPUT")
export VERL_FILE_LOGGER_PATH=$OUTPUT/metrics.jsonl
GPUS=$((NNODES * NGPUS_PER_NODE))
printf -v list '"%s",' "${FILES[@]}"

DATA=(
    data.val_files="[${list%,}]"
    data.val_batch_size="$QUESTIONS_AT_ONCE"
    data.validation_shuffle=False
    data.max_prompt_length="$MAX_PROMPT_LENGTH"
    data.max_response_length="$MAX_RESPONSE_LENGTH"
    # The filter would silently drop questions that are too long. Without it they fail, and the report counts them.
    data.filter_overlong_prompts=False
    # verl reads training data even without training.
    data.train_files="[\"${FILES[0]}\"]"
    data.train_batch_size="$GPUS"
)

MODEL=(
    actor_rollout_ref.model.path="$MODEL_PATH"
    actor_rollout_ref.model.use_remove_padding=True
)

# The actor sends its weights to the rollout engine, and is then offloaded.
ACTOR=(
    actor_rollout_ref.actor.strategy=fsdp2
    actor_rollout_ref.actor.ppo_mini_batch_size="$GPUS"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1
    actor_rollout_ref.actor.fsdp_config.param_offload=True
    actor_rollout_ref.actor.fsdp_config.optimizer_offload=True
    actor_rollout_ref.actor.use_kl_loss=False
)

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    # verl's default, dummy, leaves random values in the buffer with which vLLM normalizes images.
    actor_rollout_ref.rollout.load_format=auto
    actor_rollout_ref.rollout.n=1
    actor_rollout_ref.rollout.val_kwargs.n=1
    actor_rollout_ref.rollout.val_kwargs.do_sample=False
    actor_rollout_ref.rollout.val_kwargs.temperature=0
    actor_rollout_ref.rollout.val_kwargs.top_p=1.0
    actor_rollout_ref.rollout.val_kwargs.top_k=-1
    actor_rollout_ref.rollout.tensor_model_parallel_size="$ROLLOUT_TP"
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1
)

ALGO=(
    algorithm.adv_estimator=grpo # not used, but the default would load a critic
    algorithm.use_kl_in_reward=False
    reward.custom_reward_function.path=pkg://verl_durian.evaluation.named_reward
)

TRAINER=(
    trainer.val_only=True
    trainer.val_before_train=True
    trainer.validation_data_dir="$OUTPUT/answers"
    trainer.resume_mode=disable
    trainer.total_training_steps=1
    trainer.nnodes="$NNODES"
    trainer.n_gpus_per_node="$NGPUS_PER_NODE"
    trainer.default_local_dir="$OUTPUT/checkpoints"
    trainer.project_name=durian
    trainer.experiment_name="$(basename "$OUTPUT")"
    trainer.logger="$LOGGER"
    # The trainer is a Ray actor; on a running cluster it does not inherit this environment.
    +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$OUTPUT/metrics.jsonl"
    hydra.run.dir="$OUTPUT/hydra"
)

CPU=()
if [ "${VERL_PLATFORM:-}" = cpu ]; then source "$RECIPES/cpu_settings.sh"; fi

SETTINGS=("${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${ALGO[@]}" "${TRAINER[@]}" "${CPU[@]}" "$@")

python -m verl_durian.preflight "${SETTINGS[@]}"
case " $* " in *" --dry-run "*) exit ;; esac

mkdir -p "$OUTPUT"
rm -f "$OUTPUT"/answers/0.jsonl "$OUTPUT"/report.{json,md,png} # from an earlier run
python -m verl.trainer.main_ppo "${SETTINGS[@]}"
python -m verl_durian.evaluation report "$OUTPUT" --model "$CHECKPOINT" "${FILES[@]}"

#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Durian on DAPO (or GRPO) with Qwen2.5-VL and Geometry3K (or ViRL39K). The defaults are the paper's main experiment on
# one node with 8 GPUs; recipes/README.md has the variables for every other row of its tables.
#
#   verl-durian prepare geometry3k --output data/geometry3k                       # once: the data
#   bash recipes/run_qwen25vl_durian.sh                                           # Durian on DAPO
#   ESTIMATOR=grpo bash recipes/run_qwen25vl_durian.sh                            # the baseline: DAPO alone
#   BACKBONE=grpo bash recipes/run_qwen25vl_durian.sh                             # Durian on GRPO
#   bash recipes/run_qwen25vl_durian.sh +algorithm.durian.reasoning.num_groups=8  # any setting of verl or Durian
#   bash recipes/run_qwen25vl_durian.sh --dry-run                                 # checks, prints config and command
#
# The same command resumes from the last checkpoint. The visual entropy of the training images is computed before the
# first step and cached on disk.

set -euo pipefail
RECIPES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
refuse() { echo "$*" >&2 && exit 2; }

case " $* " in *" --help "* | *" -h "*) sed -n '/^# Durian on/,/^#####*$/p' "${BASH_SOURCE[0]}" && exit ;; esac
command -v python >/dev/null || refuse "python: not found; activate the environment that verl-durian is installed in"

########################### user-adjustable ###########################

BACKBONE=${BACKBONE:-dapo}     # dapo or grpo: the objective
ESTIMATOR=${ESTIMATOR:-durian} # any advantage estimator of verl: durian, grpo, rloo, reinforce_plus_plus_baseline, ...
ENGINE=${ENGINE:-fsdp}         # fsdp; run_qwen25vl_durian_megatron.sh sets megatron

MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-VL-7B-Instruct} # a folder, or a model on the hub
# flash_attention_2; with FSDP also sdpa, for an environment without flash-attn (slower, see recipes/README.md)
ATTENTION=${ATTENTION:-flash_attention_2}
LORA_RANK=${LORA_RANK:-0} # 0: train all weights; otherwise adapters of this rank in the language model

DATA_DIR=${DATA_DIR:-data} # contains the folders written by `verl-durian prepare NAME --output DATA_DIR/NAME`
DATASET=${DATASET:-geometry3k} # geometry3k or virl39k
TRAIN_FILES=${TRAIN_FILES:-$DATA_DIR/$DATASET/train.parquet}
VAL_FILES=${VAL_FILES:-$DATA_DIR/geometry3k/validation.parquet}
OUTPUT=${OUTPUT:-} # folder for metrics.jsonl and checkpoints; default: outputs/MODEL_DATASET_BACKBONE_ESTIMATOR

# Defaults by the model size in the name, for GPUs with 80 GB: nodes with 8 GPUs, GPUs per rollout engine, rollouts per
# micro-batch, whether weights and optimizer are offloaded during rollouts; for Megatron the tensor and pipeline parallel
# sizes. Estimates, see recipes/README.md.
case $(basename "$MODEL_PATH") in
    *-72B*) preset=(4 8 1 True 8 4) ;;
    *-32B*) preset=(2 4 2 True 4 2) ;;
    *-3B*) preset=(1 1 8 False 2 1) ;;
    *) preset=(1 1 4 False 2 1) ;;
esac
NNODES=${NNODES:-${preset[0]}}
NGPUS_PER_NODE=${NGPUS_PER_NODE:-8}
ROLLOUT_TP=${ROLLOUT_TP:-${preset[1]}}
PPO_MICRO_BATCH_SIZE=${PPO_MICRO_BATCH_SIZE:-${preset[2]}}
OFFLOAD=${OFFLOAD:-${preset[3]}}
ACTOR_TP=${ACTOR_TP:-${preset[4]}}
ACTOR_PP=${ACTOR_PP:-${preset[5]}}

TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-512}       # prompts per step
PPO_MINI_BATCH_SIZE=${PPO_MINI_BATCH_SIZE:-128} # prompts per update
ROLLOUTS=${ROLLOUTS:-8}                         # rollouts per prompt
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-2048}
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-2048}
FILTER_WORKERS=${FILTER_WORKERS:-8} # processes that remove prompts that are too long
LR=${LR:-$([ "$LORA_RANK" = 0 ] && echo 1e-6 || echo 1e-5)} # ten times larger for adapters, as verl recommends
EPOCHS=${EPOCHS:-15}
TOTAL_STEPS=${TOTAL_STEPS:-null} # null: determined by EPOCHS
SEED=${SEED:-1}
TEST_FREQ=${TEST_FREQ:-5} # steps between validations; there is also one before the first and after the last step
SAVE_FREQ=${SAVE_FREQ:-20}
KEEP=${KEEP:-2}                  # number of checkpoints to keep; null: all
RESUME=${RESUME:-auto}           # auto: from the last checkpoint in OUTPUT; disable; or a folder global_step_N
LOGGER=${LOGGER:-[console,file]} # loggers of verl; file writes OUTPUT/metrics.jsonl

# DAPO only. Dynamic sampling drops a group if this metric is equal in all its rollouts. `score`, the reward before the
# overlong penalty, is closest to the paper's framework, which keeps groups with a mean reward between 0.01 and 0.99.
# `acc`, as in DAPO, also drops groups that differ only in format.
FILTER_METRIC=${FILTER_METRIC:-score}
# DAPO only. Within this number of tokens before the limit the reward decreases linearly by up to 1. 0: no penalty.
OVERLONG_BUFFER=${OVERLONG_BUFFER:-512}

#######################################################################

case $BACKBONE in dapo | grpo) ;; *) refuse "BACKBONE=$BACKBONE: must be dapo or grpo" ;; esac
case $ENGINE in fsdp | megatron) ;; *) refuse "ENGINE=$ENGINE: must be fsdp or megatron" ;; esac
case $ENGINE-$ATTENTION in
    *-flash_attention_2 | fsdp-sdpa) ;;
    *) refuse "ATTENTION=$ATTENTION: must be flash_attention_2, or sdpa with FSDP" ;;
esac
case $LORA_RANK in '' | *[!0-9]*) refuse "LORA_RANK=$LORA_RANK: must be an integer, 0 for all weights" ;; esac
if [ "$TRAIN_FILES" = "$DATA_DIR/$DATASET/train.parquet" ]; then
    case $DATASET in
        geometry3k | virl39k) ;;
        *) refuse "DATASET=$DATASET: must be geometry3k or virl39k; TRAIN_FILES=... names your own" ;;
    esac
elif [ -z "$OUTPUT" ]; then
    refuse "OUTPUT: must name a folder for runs on your own TRAIN_FILES"
fi
if [ -z "$OUTPUT" ]; then
    OUTPUT=outputs/$(basename "$MODEL_PATH")_${DATASET}_${BACKBONE}_$ESTIMATOR
    if [ "$LORA_RANK" != 0 ]; then OUTPUT+=_lora$LORA_RANK; fi
fi

# Workers on a cluster have another working directory.
OUTPUT=$(realpath -m "$OUTPUT")
for path in MODEL_PATH TRAIN_FILES VAL_FILES; do
    if [ -e "${!path}" ]; then printf -v "$path" %s "$(realpath "${!path}")"; fi
done

DATA=(
    data.train_files="$TRAIN_FILES"
    data.val_files="$VAL_FILES"
    data.train_batch_size="$TRAIN_BATCH_SIZE"
    data.max_prompt_length="$MAX_PROMPT_LENGTH"
    data.max_response_length="$MAX_RESPONSE_LENGTH"
    data.filter_overlong_prompts=True
    data.filter_overlong_prompts_workers="$FILTER_WORKERS"
    data.seed="$SEED"
)

MODEL=(actor_rollout_ref.model.path="$MODEL_PATH")

ACTOR=(
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$PPO_MINI_BATCH_SIZE"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="$PPO_MICRO_BATCH_SIZE"
    actor_rollout_ref.actor.loss_agg_mode=token-mean
    actor_rollout_ref.actor.clip_ratio_c=3.0
)
if [ "$ENGINE" = fsdp ]; then
    MODEL+=(
        actor_rollout_ref.model.use_remove_padding="$([ "$ATTENTION" = sdpa ] && echo False || echo True)"
        actor_rollout_ref.model.enable_gradient_checkpointing=True
        actor_rollout_ref.model.lora_rank="$LORA_RANK"
        actor_rollout_ref.model.lora_alpha="$((2 * LORA_RANK))"
        actor_rollout_ref.model.exclude_modules='.*visual.*' # vLLM does not support adapters there
    )
    if [ "$ATTENTION" = sdpa ]; then # removing the padding needs flash-attn
        MODEL+=(+actor_rollout_ref.model.override_config.attn_implementation=sdpa)
    fi
    ACTOR+=(
        actor_rollout_ref.actor.strategy=fsdp2
        actor_rollout_ref.actor.fsdp_config.param_offload="$OFFLOAD"
        actor_rollout_ref.actor.fsdp_config.optimizer_offload="$OFFLOAD"
        actor_rollout_ref.ref.fsdp_config.param_offload=True
    )
else
    MODEL+=(
        model_engine=megatron
        actor_rollout_ref.model.lora.rank="$LORA_RANK"
        actor_rollout_ref.model.lora.alpha="$((2 * LORA_RANK))"
    )
    # The reference model takes all other settings from the actor.
    ACTOR+=(
        actor_rollout_ref.actor.megatron.tensor_model_parallel_size="$ACTOR_TP"
        actor_rollout_ref.actor.megatron.pipeline_model_parallel_size="$ACTOR_PP"
        actor_rollout_ref.actor.megatron.param_offload="$OFFLOAD"
        actor_rollout_ref.actor.megatron.optimizer_offload="$OFFLOAD"
        actor_rollout_ref.actor.megatron.override_transformer_config.recompute_granularity=full
        actor_rollout_ref.actor.megatron.override_transformer_config.recompute_method=uniform
        actor_rollout_ref.actor.megatron.override_transformer_config.recompute_num_layers=1
        actor_rollout_ref.ref.megatron.param_offload=True
    )
fi

ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    # The default of verl, dummy, leaves random values in a buffer of vLLM that normalizes images.
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
    reward.custom_reward_function.path=pkg://verl_durian.reward
)
if [ "$BACKBONE" = dapo ]; then
    # DAPO of verl. The paper's framework has no overlong penalty: OVERLONG_BUFFER=0.
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
    # GRPO of the paper's framework, EasyR1. The paper's Eq. 3 has a symmetric clip range and
    # actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean.
    ALGO+=(
        actor_rollout_ref.actor.use_kl_loss=True
        actor_rollout_ref.actor.kl_loss_type=low_var_kl
        actor_rollout_ref.actor.kl_loss_coef=1e-2
        actor_rollout_ref.actor.clip_ratio_low=0.2
        actor_rollout_ref.actor.clip_ratio_high=0.3
        actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu="$PPO_MICRO_BATCH_SIZE"
    )
fi

TRAINER=(
    trainer.nnodes="$NNODES"
    trainer.n_gpus_per_node="$NGPUS_PER_NODE"
    trainer.total_epochs="$EPOCHS"
    trainer.total_training_steps="$TOTAL_STEPS"
    trainer.val_before_train=True
    trainer.test_freq="$TEST_FREQ"
    trainer.save_freq="$SAVE_FREQ"
    trainer.max_actor_ckpt_to_keep="$KEEP"
    trainer.default_local_dir="$OUTPUT/checkpoints"
    trainer.project_name=durian
    trainer.experiment_name="$(basename "$OUTPUT")"
    trainer.logger="$LOGGER"
    # The trainer is a Ray actor; on a running cluster it does not inherit this environment.
    +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$OUTPUT/metrics.jsonl"
    hydra.run.dir="$OUTPUT/hydra"
)
case $RESUME in
    auto | disable) TRAINER+=(trainer.resume_mode="$RESUME") ;;
    *) TRAINER+=(trainer.resume_mode=resume_path trainer.resume_from_path="$(realpath -m "$RESUME")") ;;
esac

CPU=()
if [ "${VERL_PLATFORM:-}" = cpu ] && [ "$ENGINE" = fsdp ]; then source "$RECIPES/cpu_settings.sh"; fi

SETTINGS=("${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${ALGO[@]}" "${TRAINER[@]}" "${CPU[@]}" "$@")

python -m verl_durian.preflight "${SETTINGS[@]}"
case " $* " in *" --dry-run "*) exit ;; esac

mkdir -p "$OUTPUT"
# verl overwrites this file at every start: keep the metrics of an interrupted run under another name.
if [ -e "$OUTPUT/metrics.jsonl" ]; then
    mv "$OUTPUT/metrics.jsonl" "$OUTPUT/metrics-until-$(date +%Y%m%d-%H%M%S).jsonl"
fi
exec python -m verl.trainer.main_ppo "${SETTINGS[@]}"

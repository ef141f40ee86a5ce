#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Settings of verl on a machine without a GPU. The recipes source this file if VERL_PLATFORM=cpu, and append ${CPU[@]}.

# One thread per library, no usage statistics.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TQ_NUM_THREADS=2 TOKENIZERS_PARALLELISM=false
export RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1 RAY_DEDUP_LOGS=0 HYDRA_FULL_ERROR=1

CPU=(
    trainer.device=cpu
    transfer_queue.backend.SimpleStorage.num_data_storage_units=1
    data.dataloader_num_workers=0
    data.filter_overlong_prompts_workers=null # a forked trainer may deadlock, because its threads may hold locks
    ++actor_rollout_ref.model.override_config.attn_implementation=sdpa
    actor_rollout_ref.model.use_remove_padding=False
    actor_rollout_ref.model.enable_gradient_checkpointing=False
    actor_rollout_ref.actor.use_torch_compile=False
    actor_rollout_ref.actor.fsdp_config.use_torch_compile=False
    +actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=fp32
    +actor_rollout_ref.actor.fsdp_config.mixed_precision.reduce_dtype=fp32
    +actor_rollout_ref.actor.fsdp_config.mixed_precision.buffer_dtype=fp32
    actor_rollout_ref.ref.fsdp_config.param_offload=False
    actor_rollout_ref.rollout.dtype=float32
    actor_rollout_ref.rollout.enforce_eager=True
    actor_rollout_ref.rollout.free_cache_engine=False
    +actor_rollout_ref.rollout.enable_sleep_mode=False
    actor_rollout_ref.rollout.max_model_len=$((MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH))
    actor_rollout_ref.rollout.max_num_seqs=64
    actor_rollout_ref.rollout.max_num_batched_tokens=2048
    actor_rollout_ref.rollout.gpu_memory_utilization=0.1
    actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=16
    actor_rollout_ref.rollout.agent.num_workers=1
    reward.num_workers=1
)

# Starts Ray on this machine with one worker slot, which Ray counts as a GPU (see recipes/cpu/verl_cpu/platform.py). A
# running Ray is used as it is; start a suitable one with `ray start --head --num-cpus=16 --num-gpus=1`.
if [ -z "${RAY_ADDRESS:-}" ]; then
    CPU+=(
        ray_kwargs.ray_init.num_cpus=16
        +ray_kwargs.ray_init.num_gpus=1
        +ray_kwargs.ray_init.object_store_memory=500000000
        +ray_kwargs.ray_init.include_dashboard=false
    )
fi

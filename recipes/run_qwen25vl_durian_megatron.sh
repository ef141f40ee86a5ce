#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# run_qwen25vl_durian.sh with Megatron instead of FSDP; same variables and arguments. Also needs megatron-core and
# megatron-bridge.
#
#   bash recipes/run_qwen25vl_durian_megatron.sh                                          # 7B on 8 GPUs
#   MODEL_PATH=Qwen/Qwen2.5-VL-72B-Instruct bash recipes/run_qwen25vl_durian_megatron.sh  # on a cluster with 32
#
# ACTOR_TP and ACTOR_PP are the tensor and pipeline parallel sizes. Megatron shards weights and gradients over fewer GPUs
# than FSDP, so they are offloaded to the machine's memory during rollouts.

set -euo pipefail

export ENGINE=megatron OFFLOAD=${OFFLOAD:-True}
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_qwen25vl_durian.sh" "$@"

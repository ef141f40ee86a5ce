#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# The same as run_qwen25vl_durian.sh, trained by Megatron instead of FSDP: same variables, same settings after it. Needs
# megatron-core and megatron-bridge beside verl.
#
#   bash recipes/run_qwen25vl_durian_megatron.sh                                          # 7B on 8 GPUs
#   MODEL_PATH=Qwen/Qwen2.5-VL-72B-Instruct bash recipes/run_qwen25vl_durian_megatron.sh  # on a cluster with 32
#
# ACTOR_TP and ACTOR_PP are the GPUs that share a layer, and the layers. Gradients and weights of Megatron are shared
# less widely than FSDP's, so that they wait in the machine's memory while rollouts are drawn.

set -euo pipefail

export ENGINE=megatron OFFLOAD=${OFFLOAD:-True}
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_qwen25vl_durian.sh" "$@"

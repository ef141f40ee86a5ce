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

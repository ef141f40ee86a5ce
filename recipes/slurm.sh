#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
#SBATCH --job-name=durian
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --output=slurm-%j.log
# A recipe on nodes that Slurm lends: Ray's head on the first of them, a worker on each other, then the recipe as it is.
#
#   sbatch --nodes=4 recipes/slurm.sh                                                # arguments are settings
#   MODEL_PATH=Qwen/Qwen2.5-VL-72B-Instruct sbatch --nodes=4 recipes/slurm.sh
#
# Submit it from the repository's root, with the environment of verl active; repository, data and output lie on a disk
# that all nodes have. Adapt the lines above to your cluster.

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"

RECIPE=${RECIPE:-recipes/run_qwen25vl_durian.sh}
RAY_PORT=${RAY_PORT:-6379}
export NNODES=$SLURM_JOB_NUM_NODES NGPUS_PER_NODE=${SLURM_GPUS_ON_NODE:-8}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname -I | awk '{ print $1 }')
# srun does not inherit the job's --cpus-per-task.
on() { srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-64}" --nodelist="$@"; }

# Only this job's processes may speak to its Ray; older releases of Ray take no notice.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(head -c 32 /dev/urandom | sha256sum | cut -d " " -f 1)}

# --block: a Ray that ends ends its step, and Slurm ends all steps with the job.
resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-64}" --num-gpus="$NGPUS_PER_NODE" --disable-usage-stats --block)
on "${nodes[0]}" ray start --head --node-ip-address="$head" --port="$RAY_PORT" "${resources[@]}" &
for node in "${nodes[@]:1}"; do
    on "$node" ray start --address="$head:$RAY_PORT" "${resources[@]}" &
done

# verl looks once whether all GPUs are there: wait until every node has joined.
export RAY_ADDRESS=$head:$RAY_PORT
joined() { on "${nodes[0]}" python -c 'import ray; ray.init(); print("nodes", sum(node["Alive"] for node in ray.nodes()))'; }
for attempt in {1..60}; do
    if [ "$(joined 2>/dev/null | tail -n 1)" = "nodes $NNODES" ]; then break; fi
    if [ "$attempt" = 60 ]; then echo "not all of ${nodes[*]} have joined Ray at $RAY_ADDRESS" >&2 && exit 1; fi
    sleep 5
done

on "${nodes[0]}" bash "$RECIPE" "$@"

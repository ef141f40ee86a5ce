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
# Runs a recipe on the nodes of a Slurm job: starts Ray's head on the first node and workers on the others.
#
#   sbatch --nodes=4 recipes/slurm.sh                                                # arguments go to the recipe
#   MODEL_PATH=Qwen/Qwen2.5-VL-72B-Instruct sbatch --nodes=4 recipes/slurm.sh
#
# Submit it from the root of the repository with verl's environment active. All nodes need repository, data and output at
# the same paths. RECIPE sets another script, RAY_PORT another port. Adapt the #SBATCH lines to your cluster.

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"

RECIPE=${RECIPE:-recipes/run_qwen25vl_durian.sh}
RAY_PORT=${RAY_PORT:-6379}
export NNODES=$SLURM_JOB_NUM_NODES NGPUS_PER_NODE=${SLURM_GPUS_ON_NODE:-8}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname -I | awk '{ print $1 }')
# srun does not inherit the job's --cpus-per-task.
on() { srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-64}" --nodelist="$@"; }

# Only processes of this job may connect to its Ray; older releases of Ray ignore these variables.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(head -c 32 /dev/urandom | sha256sum | cut -d " " -f 1)}

# With --block a job step ends when its Ray ends, and Slurm ends Ray with the job.
resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-64}" --num-gpus="$NGPUS_PER_NODE" --disable-usage-stats --block)
on "${nodes[0]}" ray start --head --node-ip-address="$head" --port="$RAY_PORT" "${resources[@]}" &
for node in "${nodes[@]:1}"; do
    on "$node" ray start --address="$head:$RAY_PORT" "${resources[@]}" &
done

# verl checks once that all GPUs are available: wait until every node has joined.
export RAY_ADDRESS=$head:$RAY_PORT
joined() { on "${nodes[0]}" python -c 'import ray; ray.init(); print("nodes", sum(node["Alive"] for node in ray.nodes()))'; }
for attempt in {1..60}; do
    if [ "$(joined 2>/dev/null | tail -n 1)" = "nodes $NNODES" ]; then break; fi
    if [ "$attempt" = 60 ]; then echo "some of ${nodes[*]} have not joined Ray at $RAY_ADDRESS" >&2 && exit 1; fi
    sleep 5
done

on "${nodes[0]}" bash "$RECIPE" "$@"

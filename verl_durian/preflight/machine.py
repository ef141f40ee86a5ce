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
"""GPUs and memory of this machine, or the cluster in their place."""

import psutil
from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight import Finding, memory, note
from verl_durian.preflight.model import Model


def check(config: DictConfig, model: Model | None) -> list[Finding]:
    """Checks the GPUs that the settings ask for.

    Args:
        config: verl's whole config.
        model: The model to train; None where it cannot be read.
    """
    trainer, rollout = config.trainer, config.actor_rollout_ref.rollout
    findings = []
    engine = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    if memory.gpus_of(config) % engine:
        findings.append(
            Finding(
                f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size}: "
                f"{memory.gpus_of(config)} GPUs do not divide into rollout engines of {engine}; change ROLLOUT_TP"
            )
        )
    if trainer.device != "cuda":
        return findings
    address = running_cluster(OmegaConf.select(config, "ray_kwargs.ray_init.address"))
    if address is not None:
        text = f"the Ray cluster at {address} is joined: verl itself looks whether it has "
        return [
            *findings,
            note(f"{text}{trainer.nnodes} x {trainer.n_gpus_per_node} GPUs; their memory is not checked"),
        ]
    if trainer.nnodes > 1:
        findings.append(
            Finding(
                f"trainer.nnodes={trainer.nnodes}: no Ray cluster is running that this machine has joined; start one, "
                "see recipes/README.md, or set NNODES=1"
            )
        )
    gpus = visible_gpus()
    if len(gpus) < trainer.n_gpus_per_node:
        remedy = f"set NGPUS_PER_NODE={len(gpus)}, or look at CUDA_VISIBLE_DEVICES and nvidia-smi"
        if not gpus:
            remedy = "run it where there are; bash recipes/run_quickstart.sh trains a small model without any"
        findings.append(
            Finding(f"trainer.n_gpus_per_node={trainer.n_gpus_per_node}: PyTorch sees {len(gpus)} GPUs here; {remedy}")
        )
    used = gpus[: trainer.n_gpus_per_node]
    for number, (free, total) in enumerate(used):
        if free < rollout.gpu_memory_utilization * total:
            findings.append(
                Finding(
                    f"GPU {number}: {free / 1e9:.0f} of {total / 1e9:.0f} GB are free, less than "
                    f"actor_rollout_ref.rollout.gpu_memory_utilization={rollout.gpu_memory_utilization} asks for; end "
                    "what else runs there (nvidia-smi)"
                )
            )
    if model is not None:
        if used:
            findings += memory.check(config, model, min(total for _, total in used))
        findings += check_host(config, model, psutil.virtual_memory().total)
    return findings


def check_host(config: DictConfig, model: Model, total: float) -> list[Finding]:
    """Compares what waits in a machine's memory with what it has, in bytes."""
    waiting = memory.host_bytes(config, model.parameters)
    if waiting <= total:
        return []
    return [
        Finding(
            f"param_offload and optimizer_offload (OFFLOAD=True) put {waiting / 1e9:.0f} GB into the memory of each "
            f"machine, which has {total / 1e9:.0f} GB; take more nodes (NNODES)"
        )
    ]


def running_cluster(address: str | None) -> str | None:
    """The Ray cluster that verl would join, as Ray itself finds it; None: Ray is started for the run."""
    from ray._private import services

    return services.canonicalize_bootstrap_address(address)  # type: ignore[arg-type]


def visible_gpus() -> list[tuple[int, int]]:
    """Free and total bytes of each GPU that PyTorch sees."""
    import torch

    return [torch.cuda.mem_get_info(number) for number in range(torch.cuda.device_count())]

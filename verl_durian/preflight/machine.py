# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""GPUs and memory of this machine, or the cluster in their place."""

import psutil
from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight import Finding, memory, note, one_line
from verl_durian.preflight.model import Model


def check(config: DictConfig, model: Model | None) -> list[Finding]:
    """Checks the GPUs that the settings ask for.

    Args:
        config: verl's whole config.
        model: The model to train; None where its memory cannot be estimated.
    """
    trainer, rollout, wanted = config.trainer, config.actor_rollout_ref.rollout, memory.gpus_of(config)
    findings = []
    engine = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    if wanted % engine and not _rolls_out_elsewhere(config):
        findings.append(
            Finding(
                f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size}: "
                f"{wanted} GPUs do not divide into rollout engines of {engine}; change ROLLOUT_TP"
            )
        )
    if trainer.device != "cuda":
        return findings
    try:
        address = running_cluster(OmegaConf.select(config, "ray_kwargs.ray_init.address"))
    except ConnectionError as error:
        return [*findings, Finding(f"ray_kwargs.ray_init.address: {one_line(error)}; start the cluster first")]
    if address is not None:
        text = f"the Ray cluster at {address} is joined: verl itself looks whether it has "
        return [
            *findings,
            note(f"{text}{trainer.nnodes} x {trainer.n_gpus_per_node} GPUs; their memory is not checked"),
        ]
    gpus = visible_gpus()
    if len(gpus) < wanted:
        asked, remedy = f"trainer.n_gpus_per_node={trainer.n_gpus_per_node}", f"set NGPUS_PER_NODE={len(gpus)}, or look"
        remedy += " at CUDA_VISIBLE_DEVICES and nvidia-smi"
        if not gpus:
            remedy = "run it where there are; bash recipes/run_quickstart.sh trains a small model without any"
        if trainer.nnodes > 1:
            asked, remedy = f"trainer.nnodes={trainer.nnodes}, {asked}", "set NNODES=1, or start a Ray cluster, see "
            remedy += "recipes/README.md: none is running that this machine has joined"
        findings.append(Finding(f"{asked}: PyTorch sees {len(gpus)} GPUs here; {remedy}"))
    used = gpus[:wanted]
    for number, (free, total) in enumerate(used):
        if free < rollout.gpu_memory_utilization * total:
            findings.append(
                note(
                    f"GPU {number}: {free / 1e9:.0f} of {total / 1e9:.0f} GB are free now, less than "
                    f"actor_rollout_ref.rollout.gpu_memory_utilization={rollout.gpu_memory_utilization} asks for; end "
                    "what else runs there (nvidia-smi)"
                )
            )
    if model is not None:
        if used:
            findings += memory.check(config, model, min(total for _, total in used))
        findings += check_host(config, model, psutil.virtual_memory().total)
    return findings


def _rolls_out_elsewhere(config: DictConfig) -> bool:
    """Whether the rollouts have GPUs of their own and the training GPUs no engine."""
    return (
        config.trainer.use_v1
        and config.trainer.v1.trainer_mode == "separate_async"
        and not config.actor_rollout_ref.hybrid_engine
    )


def check_host(config: DictConfig, model: Model, total: float) -> list[Finding]:
    """Compares what waits in a machine's memory with what it has, in bytes."""
    waiting = memory.host_bytes(config, model)
    if waiting <= total:
        return []
    return [
        note(
            f"param_offload and optimizer_offload (OFFLOAD=True) put by an estimate {waiting / 1e9:.0f} GB into the "
            f"memory of each machine, which has {total / 1e9:.0f} GB; take more nodes (NNODES) if it runs out"
        )
    ]


def running_cluster(address: str | None) -> str | None:
    """The Ray cluster that verl would join, as Ray itself finds it; None: Ray is started for the run.

    Raises:
        ConnectionError: the address is `auto`, and there is none.
    """
    from ray._private import services

    if address is not None and address.startswith("ray://"):  # Ray Client, of which Ray itself knows nothing here
        return address
    return services.canonicalize_bootstrap_address(address)  # type: ignore[arg-type]


def joins_cluster(config: DictConfig) -> bool:
    """Whether the trainer may run on another machine than this one, and find other files there."""
    try:
        return running_cluster(OmegaConf.select(config, "ray_kwargs.ray_init.address")) is not None
    except ConnectionError:
        return False


def visible_gpus() -> list[tuple[int, int]]:
    """Free and total bytes of each GPU that PyTorch sees."""
    import torch

    return [torch.cuda.mem_get_info(number) for number in range(torch.cuda.device_count())]

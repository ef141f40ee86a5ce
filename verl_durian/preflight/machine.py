# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The machine: packages, GPUs and their memory, the Ray cluster, and the disk for checkpoints."""

import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_durian.hooks.known_failures import is_lora, trains
from verl_durian.preflight import Finding, note, one_line
from verl_durian.preflight.model import Model


def check_verl(config: DictConfig) -> Iterator[Finding]:
    """Imports verl and checks its release, and that the plugin is in place for the trainer of this run.

    Other estimators only need a verl that can be imported; for them the rest is a note.
    """
    from verl_durian.hooks import verl_symbols
    from verl_durian.hooks.checks import is_durian
    from verl_durian.hooks.doctor import check_process

    durian = is_durian(config.algorithm.adv_estimator)
    for found in check_process(verl_symbols.trainers_of(config)):
        if found.level == "problem":
            stops = durian or found.subject == "import verl"
            yield Finding(f"{found.subject}: {found.detail}; {found.remedy}", stops)


def check_packages(config: DictConfig) -> Iterator[Finding]:
    """Checks for packages that these settings need and verl does not require."""
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    attention = model.override_config.get("attn_implementation", "flash_attention_2")
    needed = {}
    if config.actor_rollout_ref.rollout.name == "vllm":
        needed["vllm"] = 'pip install "verl[vllm]"'
    if actor.strategy == "megatron":
        needed |= dict.fromkeys(("megatron.core", "megatron.bridge"), 'pip install "verl[megatron]"')
    if actor.strategy in ("fsdp", "fsdp2") and config.trainer.device != "npu" and attention == "flash_attention_2":
        needed["flash_attn"] = "bash recipes/setup_gpu.sh, or train without it: ATTENTION=sdpa, see recipes/README.md"
    for module, remedy in needed.items():
        if not _is_installed(module):
            yield Finding(f"{module}: not installed, and these settings need it; {remedy}")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def running_cluster(config: DictConfig) -> str | None:
    """The address of the Ray cluster that verl would join, as Ray resolves it; None if Ray is started for the run.

    Raises:
        ConnectionError: The address is `auto`, and there is no cluster.
    """
    from ray._private import services

    address = OmegaConf.select(config, "ray_kwargs.ray_init.address")
    if address is not None and address.startswith("ray://"):  # Ray Client, which Ray resolves later
        return address
    return services.canonicalize_bootstrap_address(address)  # type: ignore[arg-type]


def local_problem(config: DictConfig, text: str) -> Finding:
    """A problem with a path on this machine: only a note if the trainer may run on another node of a cluster."""
    try:
        return Finding(text, stops=running_cluster(config) is None)
    except ConnectionError:
        return Finding(text)


def check_gpus(config: DictConfig, model: Model | None) -> Iterator[Finding]:
    """Checks the GPUs of this machine, unless verl joins a cluster and looks for them there."""
    trainer, rollout = config.trainer, config.actor_rollout_ref.rollout
    wanted = trainer.nnodes * trainer.n_gpus_per_node
    engine = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    separate = trainer.use_v1 and trainer.v1.trainer_mode == "separate_async"
    only_other_gpus = separate and not config.actor_rollout_ref.hybrid_engine
    if wanted % engine and not only_other_gpus:
        yield Finding(
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size}: {wanted} GPUs "
            f"are not divisible into rollout engines of {engine}; change ROLLOUT_TP"
        )
    if trainer.device != "cuda":
        return
    try:
        address = running_cluster(config)
    except ConnectionError as error:
        yield Finding(f"ray_kwargs.ray_init.address: {one_line(error)}; start the cluster first")
        return
    asked = f"trainer.nnodes={trainer.nnodes}, trainer.n_gpus_per_node={trainer.n_gpus_per_node}"
    if address is not None:
        yield note(f"{asked}: verl looks for these GPUs in the Ray cluster at {address}; they are not checked here")
        return
    gpus = visible_gpus()
    if len(gpus) < wanted:
        remedy = f"set NNODES=1 and NGPUS_PER_NODE={len(gpus)}, check CUDA_VISIBLE_DEVICES, or start a Ray cluster"
        if not gpus:
            remedy = "run it on a machine with GPUs; without one, bash recipes/run_quickstart.sh trains a small model"
        yield Finding(f"{asked}: PyTorch sees {len(gpus)} GPUs here; {remedy}")
    if gpus and model is not None and trains(config):
        yield from check_memory(config, model, min(gpus[:wanted]))


def visible_gpus() -> list[int]:
    """Memory of each GPU that PyTorch sees, in bytes."""
    import torch

    return [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]


def check_memory(config: DictConfig, model: Model, gpu_bytes: float) -> Iterator[Finding]:
    """Notes a training state that does not fit even if all GPUs, with this memory or more, share it evenly.

    float32 weights, gradients and two Adam moments are 16 bytes per parameter; with LoRA only the weights count.
    """
    actor, trainer = config.actor_rollout_ref.actor, config.trainer
    state = (4 if is_lora(config) else 16) * (model.parameters or 0) / (trainer.nnodes * trainer.n_gpus_per_node)
    if state > gpu_bytes and not (actor.strategy == "fsdp2" and actor.fsdp_config.offload_policy):
        yield note(
            f"trainer.nnodes={trainer.nnodes}, trainer.n_gpus_per_node={trainer.n_gpus_per_node}: weights, gradients "
            f"and optimizer take an estimated {state / 1e9:.0f} GB per GPU, which has {gpu_bytes / 1e9:.0f} GB; use "
            "more nodes (NNODES), or train adapters (LORA_RANK=64)"
        )


def check_checkpoints(config: DictConfig, model: Model | None) -> Iterator[Finding]:
    """Checks the checkpoint to resume from, and the folder and the free disk for new ones."""
    trainer = config.trainer
    if not trains(config):
        return
    resumed = str(trainer.resume_from_path)
    # verl reads the step from the end of the path.
    is_checkpoint = (Path(resumed) / "actor").is_dir() and resumed.split("global_step_")[-1].isdigit()
    if trainer.resume_mode == "resume_path" and not is_checkpoint:
        text = f"trainer.resume_from_path={resumed}: no checkpoint; name a folder global_step_N (RESUME), or"
        yield local_problem(config, f"{text} RESUME=auto for the last one of this run")
    if trainer.save_freq <= 0:
        return
    folder = Path(trainer.default_local_dir).expanduser().absolute()
    try:
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        text = f"trainer.default_local_dir={folder}: {one_line(error)}; name a folder that can be written (OUTPUT)"
        yield local_problem(config, text)
        return
    if model is not None:
        yield from check_disk(config, model, shutil.disk_usage(existing).free)


def check_disk(config: DictConfig, model: Model, free: float) -> Iterator[Finding]:
    """Compares this machine's part of the checkpoints with the free disk, in bytes.

    A parameter takes 4 bytes, and 8 for its Adam moments. verl deletes the oldest checkpoint before it writes another,
    unless it keeps only one.
    """
    trainer, contents = config.trainer, config.actor_rollout_ref.actor.checkpoint.save_contents
    per_parameter = 4 * ("model" in contents) + 8 * ("optimizer" in contents and not is_lora(config))
    size = per_parameter * (model.parameters or 0) / trainer.nnodes
    count = max(2, trainer.max_actor_ckpt_to_keep or 0)
    if count * size > free:
        yield note(
            f"trainer.default_local_dir={trainer.default_local_dir}: {free / 1e9:.0f} GB are free, and this machine "
            f"writes an estimated {count} x {size / 1e9:.0f} GB of checkpoints; use another disk (OUTPUT), keep fewer "
            "(KEEP), or save none (SAVE_FREQ=-1)"
        )

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The machine: packages, GPUs and their memory, the Ray cluster, and the disk for checkpoints."""

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_durian.hooks.known_failures import is_lora
from verl_durian.preflight import Finding, note, one_line
from verl_durian.preflight.model import Model


def check_verl(config: DictConfig) -> list[Finding]:
    """Imports verl and checks its release, and that the plugin is in place for the trainer of this run.

    Other estimators only need a verl that can be imported; for them the rest is a note.
    """
    from verl_durian.hooks import verl_symbols
    from verl_durian.hooks.checks import is_durian
    from verl_durian.hooks.doctor import check_process

    durian = is_durian(config.algorithm.adv_estimator)
    return [
        Finding(f"{found.subject}: {found.detail}; {found.remedy}", stops=durian or found.subject == "import verl")
        for found in check_process(verl_symbols.trainers_of(config))
        if found.level == "problem"
    ]


def check_packages(config: DictConfig) -> list[Finding]:
    """Checks for packages that these settings need and verl does not require."""
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    attention = model.override_config.get("attn_implementation", "flash_attention_2")
    fsdp_on_gpu = actor.strategy in ("fsdp", "fsdp2") and config.trainer.device != "npu"
    needed = {}
    if config.actor_rollout_ref.rollout.name == "vllm":
        needed["vllm"] = 'pip install "verl[vllm]"'
    if actor.strategy == "megatron":
        needed |= dict.fromkeys(("megatron.core", "megatron.bridge"), 'pip install "verl[megatron]"')
    if fsdp_on_gpu and attention == "flash_attention_2":
        needed["flash_attn"] = "bash recipes/setup_gpu.sh, or train without it: ATTENTION=sdpa, see recipes/README.md"
    return [
        Finding(f"{module}: not installed, and these settings need it; {remedy}")
        for module, remedy in needed.items()
        if not _is_installed(module)
    ]


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


def check_gpus(config: DictConfig, model: Model | None) -> list[Finding]:
    """Checks the GPUs of this machine, unless verl joins a cluster and looks for them there.

    Args:
        config: verl's config.
        model: The model to train; None if it is unknown.
    """
    trainer, rollout = config.trainer, config.actor_rollout_ref.rollout
    wanted = trainer.nnodes * trainer.n_gpus_per_node
    findings = []
    engine = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    separate = trainer.use_v1 and trainer.v1.trainer_mode == "separate_async"
    only_other_gpus = separate and not config.actor_rollout_ref.hybrid_engine
    if wanted % engine and not only_other_gpus:
        findings.append(
            Finding(
                f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size}: "
                f"{wanted} GPUs are not divisible into rollout engines of {engine}; change ROLLOUT_TP"
            )
        )
    if trainer.device != "cuda":
        return findings
    try:
        address = running_cluster(config)
    except ConnectionError as error:
        return [*findings, Finding(f"ray_kwargs.ray_init.address: {one_line(error)}; start the cluster first")]
    if address is not None:
        text = f"ray_kwargs.ray_init.address: verl joins the Ray cluster at {address} and looks for {trainer.nnodes} x "
        return [*findings, note(f"{text}{trainer.n_gpus_per_node} GPUs there; they are not checked here")]
    gpus = visible_gpus()
    if len(gpus) < wanted:
        asked = f"trainer.n_gpus_per_node={trainer.n_gpus_per_node}"
        remedy = f"set NGPUS_PER_NODE={len(gpus)}, or check CUDA_VISIBLE_DEVICES and nvidia-smi"
        if not gpus:
            remedy = "run it on a machine with GPUs; without one, bash recipes/run_quickstart.sh trains a small model"
        if trainer.nnodes > 1:
            asked = f"trainer.nnodes={trainer.nnodes}, {asked}"
            remedy = "set NNODES=1, or start a Ray cluster that this machine joins, see recipes/README.md"
        findings.append(Finding(f"{asked}: PyTorch sees {len(gpus)} GPUs here; {remedy}"))
    if gpus and model is not None:
        findings += check_memory(config, model, min(gpus[:wanted]))
    return findings


def visible_gpus() -> list[int]:
    """Memory of each GPU that PyTorch sees, in bytes."""
    import torch

    return [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]


def check_memory(config: DictConfig, model: Model, gpu_bytes: float) -> list[Finding]:
    """Notes a training state that does not fit even if all GPUs, with this memory or more, share it evenly.

    float32 weights, gradients and two Adam moments are 16 bytes per parameter; with LoRA only the weights count.
    """
    actor, trainer = config.actor_rollout_ref.actor, config.trainer
    state = (4 if is_lora(config) else 16) * (model.parameters or 0) / (trainer.nnodes * trainer.n_gpus_per_node)
    if state <= gpu_bytes or (actor.strategy == "fsdp2" and actor.fsdp_config.offload_policy):
        return []
    return [
        note(
            f"trainer.nnodes={trainer.nnodes}, trainer.n_gpus_per_node={trainer.n_gpus_per_node}: weights, gradients "
            f"and optimizer take an estimated {state / 1e9:.0f} GB per GPU, which has {gpu_bytes / 1e9:.0f} GB; use "
            "more nodes (NNODES), or train adapters (LORA_RANK=64)"
        )
    ]


def check_checkpoints(config: DictConfig, model: Model | None) -> list[Finding]:
    """Checks the checkpoint to resume from, and the folder and the free disk for new ones."""
    trainer, findings = config.trainer, []
    resumed = str(trainer.resume_from_path)
    # verl reads the step from the end of the path.
    is_checkpoint = (Path(resumed) / "actor").is_dir() and resumed.split("global_step_")[-1].isdigit()
    if trainer.resume_mode == "resume_path" and not is_checkpoint:
        text = f"trainer.resume_from_path={resumed}: no checkpoint; name a folder global_step_N (RESUME), or"
        findings.append(local_problem(config, f"{text} RESUME=auto for the last one of this run"))
    if trainer.save_freq <= 0:
        return findings
    folder = Path(trainer.default_local_dir).expanduser().absolute()
    existing = folder
    try:
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        reason = f"{existing} is a file" if isinstance(error, NotADirectoryError) else f"{existing}: {error.strerror}"
        text = f"trainer.default_local_dir={folder}: {reason}; name a folder that can be written (OUTPUT)"
        return [*findings, local_problem(config, text)]
    return findings + check_disk(config, model, shutil.disk_usage(existing).free)


def check_disk(config: DictConfig, model: Model | None, free: float) -> list[Finding]:
    """Compares this machine's part of the checkpoints with the free disk, in bytes; an estimate, with float32 weights
    and two Adam moments.

    verl deletes the oldest checkpoint before it writes another, unless it keeps only one; it does not delete those of
    an earlier start.
    """
    trainer, contents = config.trainer, config.actor_rollout_ref.actor.checkpoint.save_contents
    weights = 4 * ((model and model.parameters) or 0)
    optimizer = 0 if is_lora(config) else 2 * weights
    # Each machine writes the shards of its own GPUs, one process the entire model in 16 bits.
    size = (weights * ("model" in contents) + optimizer * ("optimizer" in contents)) / trainer.nnodes
    size += weights / 2 * ("hf_model" in contents)
    keep = trainer.max_actor_ckpt_to_keep
    count = 2 if keep == 1 else keep or 1
    if count * size <= free:
        return []
    return [
        note(
            f"trainer.default_local_dir={trainer.default_local_dir}: {free / 1e9:.0f} GB are free, and this machine "
            f"writes an estimated {count} x {size / 1e9:.0f} GB of checkpoints; use another disk (OUTPUT), keep fewer "
            "(KEEP), or save none (SAVE_FREQ=-1)"
        )
    ]

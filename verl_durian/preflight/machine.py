# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The machine: packages, GPUs, the Ray cluster, and the disk for checkpoints."""

import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_durian.hooks.known_failures import is_lora, trains
from verl_durian.preflight import Finding, note, one_line
from verl_durian.preflight.model import count_parameters


def check_verl(config: DictConfig) -> Iterator[Finding]:
    """Imports verl, and checks its release and the hooks that the trainer of this run needs.

    Other estimators only need a verl that can be imported; for them, all other problems are notes.
    """
    from verl_durian.hooks import verl_symbols
    from verl_durian.hooks.checks import is_durian
    from verl_durian.hooks.doctor import check_process

    durian = is_durian(config.algorithm.adv_estimator)
    for found in check_process(verl_symbols.trainers_of(config)):
        if found.level == "problem":
            stops = durian or found.subject == "import verl"
            yield Finding(f"{found.subject}: {found.detail}; {found.remedy}", stops)


def check_flash_attn(config: DictConfig) -> Iterator[Finding]:
    """Checks for flash-attn, which FSDP uses by default and verl does not require."""
    attention = config.actor_rollout_ref.model.override_config.get("attn_implementation", "flash_attention_2")
    of_fsdp = config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2") and config.trainer.device != "npu"
    if of_fsdp and attention == "flash_attention_2" and find_spec("flash_attn") is None:
        text = "flash_attn: not installed; run recipes/setup_gpu.sh, or set ATTENTION=sdpa, see recipes/README.md"
        yield Finding(text, stops=find_spec("kernels") is None)  # with this package, transformers may download a kernel


def running_cluster(config: DictConfig) -> str | None:
    """The address of the Ray cluster that verl would join, as Ray resolves it; None if the run starts its own Ray.

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


def check_gpus(config: DictConfig) -> Iterator[Finding]:
    """Checks the number of GPUs of this machine, unless verl joins a cluster and checks them there."""
    import torch

    trainer = config.trainer
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
    gpus = torch.cuda.device_count()
    if gpus < trainer.nnodes * trainer.n_gpus_per_node:  # without a cluster, all of them are on this machine
        remedy = f"set NNODES=1 and NGPUS_PER_NODE={gpus}, check CUDA_VISIBLE_DEVICES, or start a Ray cluster"
        if gpus == 0:
            remedy = "use a machine with GPUs; without GPUs, bash recipes/run_quickstart.sh trains a small model"
        yield Finding(f"{asked}: PyTorch sees {gpus} GPUs here; {remedy}")


def check_checkpoints(config: DictConfig, model: Any | None) -> Iterator[Finding]:
    """Checks the checkpoint to resume from, and the folder and the free disk for new ones."""
    trainer = config.trainer
    if not trains(config):
        return
    resumed = str(trainer.resume_from_path)
    if trainer.resume_mode == "resume_path" and not (Path(resumed) / "actor").is_dir():
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
        yield from check_disk(config, count_parameters(model), shutil.disk_usage(existing).free)


def check_disk(config: DictConfig, parameters: int, free: float) -> Iterator[Finding]:
    """Compares this machine's part of the checkpoints with the free disk, in bytes.

    A parameter takes 4 bytes, plus 8 for its Adam moments. verl deletes the oldest checkpoint before it writes a new
    one, unless it keeps only one.
    """
    trainer, contents = config.trainer, config.actor_rollout_ref.actor.checkpoint.save_contents
    per_parameter = 4 * ("model" in contents) + 8 * ("optimizer" in contents and not is_lora(config))
    size = per_parameter * parameters / trainer.nnodes
    count = max(2, trainer.max_actor_ckpt_to_keep or 0)
    if count * size > free:
        yield note(
            f"trainer.default_local_dir={trainer.default_local_dir}: {free / 1e9:.0f} GB are free, and this machine "
            f"writes an estimated {count} x {size / 1e9:.0f} GB of checkpoints; use another disk (OUTPUT), keep fewer "
            "(KEEP), or save none (SAVE_FREQ=-1)"
        )

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A folder and room for checkpoints, and the one to go on from."""

import shutil
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from verl_durian.preflight import Finding, machine, memory, note
from verl_durian.preflight.model import Model

_STEP = "global_step_"


def check(config: DictConfig, model: Model | None) -> list[Finding]:
    """Checks the checkpoint that is named, and folder and free disk for those to come.

    Args:
        config: verl's whole config.
        model: The model to train; None where its size cannot be estimated.
    """
    findings = _check_resume(config)
    if config.trainer.save_freq <= 0:
        return findings
    folder = Path(config.trainer.default_local_dir).expanduser().absolute()
    there = folder
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        reason = f"{there} is a file" if isinstance(error, NotADirectoryError) else f"{there}: {error.strerror}"
        text = f"trainer.default_local_dir={folder}: {reason}; name a folder to write to (OUTPUT)"
        findings.append(Finding(text, stops=not machine.joins_cluster(config)))
    else:
        if model is not None:
            findings += check_room(config, model, shutil.disk_usage(there).free)
    return findings


def check_room(config: DictConfig, model: Model, free: float) -> list[Finding]:
    """Compares this machine's part of the checkpoints that are yet to be written with the free disk, in bytes.

    A checkpoint holds what `save_contents` lists; each machine writes the shards of its own GPUs. verl removes the
    oldest before it writes another, unless only one is to stay; those of an earlier start it does not touch.
    """
    trainer, contents = config.trainer, config.actor_rollout_ref.actor.checkpoint.save_contents
    state = memory.state(config, model)
    size = state.weights * ("model" in contents) + state.optimizer * ("optimizer" in contents)
    size /= trainer.nnodes
    if "hf_model" in contents:  # all of it, by one process
        size += 2 * (model.parameters or 0)
    keep = trainer.max_actor_ckpt_to_keep
    wanted = 2 if keep == 1 else keep or 1
    if wanted * size <= free:
        return []
    return [
        note(
            f"trainer.default_local_dir={trainer.default_local_dir}: {free / 1e9:.0f} GB are free here, and by an "
            f"estimate this machine's part of {wanted} checkpoints takes {size / 1e9:.0f} GB each; name another disk "
            "(OUTPUT), keep fewer (KEEP) or none (SAVE_FREQ=-1)"
        )
    ]


def _check_resume(config: DictConfig) -> list[Finding]:
    trainer = config.trainer
    if trainer.resume_mode != "resume_path":
        return []
    folder = Path(trainer.resume_from_path or "")
    if not ((folder / "actor").is_dir() and str(trainer.resume_from_path).split(_STEP)[-1].isdigit()):
        return [
            Finding(
                f"trainer.resume_from_path={trainer.resume_from_path}: no checkpoint; name a folder {_STEP}N (RESUME), "
                "or RESUME=auto for the last one of this run",
                stops=not machine.joins_cluster(config),
            )
        ]
    return []

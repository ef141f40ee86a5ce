# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that make verl crash without a clear message, or corrupt a run without an error.

Checked before every run of the estimator, with any of verl's trainers.
"""

import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

QWEN2_VL_FAMILY = ("qwen2_vl", "qwen2_5_vl")


def find(config: DictConfig, model_type: str | None) -> list[str]:
    """Finds the settings of verl's config that are certain to crash or corrupt a run, one line each with the fix.

    Args:
        config: verl's config.
        model_type: `model_type` of the model's config.json; None skips the checks that depend on the model.
    """
    problems = []
    manager, kwargs = config.reward.reward_manager, OmegaConf.select(config, "reward.reward_kwargs")
    if (manager.source, manager.name) == ("register", "dapo"):
        longest, length = (OmegaConf.select(kwargs, key) for key in ("max_resp_len", "overlong_buffer_cfg.len"))
        valid = all(isinstance(each, int | float) for each in (longest, length)) and 0 < length <= longest
        # verl's reward manager rejects it in the reward workers, so that every rollout fails.
        if OmegaConf.select(kwargs, "overlong_buffer_cfg.enable") and not valid:
            problems.append(
                f"reward.reward_kwargs.overlong_buffer_cfg.len={length}: must be from 1 to "
                f"reward.reward_kwargs.max_resp_len={longest}, which must be data.max_response_length; change it "
                "(OVERLONG_BUFFER), 0 disables the penalty"
            )
    if model_type in QWEN2_VL_FAMILY and _randomizes_image_normalization(config.actor_rollout_ref.rollout):
        problems.append(
            "actor_rollout_ref.rollout.load_format=dummy: this vLLM would normalize images with random numbers; "
            "set actor_rollout_ref.rollout.load_format=auto"
        )
    return problems


def find_risks(config: DictConfig, model_type: str | None) -> list[str]:
    """Finds the settings that may crash a run. Arguments and result as those of `find`.

    Trainer V1 of verl 0.9.1 pads a step with text-only rows to a multiple of the rows of an update. The lengths of the
    responses decide whether a micro batch contains only such rows.
    """
    batch, update = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    padded = uses_v1(config) and trains(config) and batch % update > 0
    if not (padded and model_type in QWEN2_VL_FAMILY and crashes_without_images(config)):
        return []
    return [
        f"data.train_batch_size={batch}: verl pads each step with text-only rows, and crashes on a micro batch of only "
        f"such rows; make it a multiple of actor_rollout_ref.actor.ppo_mini_batch_size={update}, or patch verl "
        "(patches/README.md)"
    ]


def read_model_type(settings: DictConfig) -> str | None:
    """Reads `model_type` from the config.json of verl's node `actor_rollout_ref.model`; None if it cannot be read."""
    from transformers import PretrainedConfig

    path = settings.get("hf_config_path") or settings.path
    try:
        return PretrainedConfig.get_config_dict(os.path.expanduser(path))[0].get("model_type")
    except Exception:  # a proxy, a missing file, another format: verl may still read it, or it reports the error
        return None


def package_folder(package: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.origin).parent


def uses_v1(config: DictConfig) -> bool:
    """Whether trainer V1 runs. One-step off-policy and fully asynchronous training inherit `use_v1` and ignore it;
    their configs have a node `rollout`."""
    return config.trainer.use_v1 and "rollout" not in config


def trains(config: DictConfig) -> bool:
    """Whether the run trains. verl reads `val_only` only after the validation before training."""
    return not (config.trainer.get("val_only", False) and config.trainer.get("val_before_train", True))


def is_lora(config: DictConfig) -> bool:
    """Whether only LoRA adapters are trained."""
    model = config.actor_rollout_ref.model
    return model.lora_rank > 0 or model.lora.rank > 0 or model.lora_adapter_path is not None


def crashes_without_images(config: DictConfig) -> bool:
    """Whether verl crashes on a micro batch without images, for models of `QWEN2_VL_FAMILY`.

    verl calls `.mean()` on the output of the visual encoder, which is not a tensor since transformers 5. The call is
    looked up in verl's source, because patches/verl-0.9.1/0003 fixes it.
    """
    fsdp = config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2")
    in_source = "image_embeds = model.visual(" in _source("verl", "models/transformers/qwen2_vl.py")
    return fsdp and int(version("transformers").split(".")[0]) >= 5 and in_source


def _randomizes_image_normalization(rollout: DictConfig) -> bool:
    """Whether vLLM would normalize images with random numbers: `load_format=dummy`, which is verl's default.

    verl starts vLLM with dummy weights and then sends the actor's weights. A buffer that is not a weight of the actor
    keeps the noise of the dummy loader. vLLM 0.28 has such a buffer, `FusedInputNorm`; vLLM 0.24 has none. There is no
    error, but the policy sees corrupted images during rollouts.
    """
    engine = OmegaConf.select(rollout, "engine_kwargs.vllm") or {}
    return (
        rollout.name == "vllm"
        and (engine.get("load_format") or rollout.load_format) == "dummy"
        and engine.get("mm_device_do_normalize") is not False
        and "class FusedInputNorm" in _source("vllm", "model_executor/models/vision.py")
        # patches/verl-0.9.1/0004 keeps the buffers
        and "hijack__dummy_load_weights" not in _source("verl", "utils/vllm/utils.py")
    )


def _source(package: str, file: str) -> str:
    """The text of a package's file, read without importing it; empty if it does not exist, as in another release."""
    try:
        return (package_folder(package) / file).read_text()
    except (ModuleNotFoundError, FileNotFoundError):
        return ""

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Settings with which verl crashes without a clear message, or corrupts a run without an error.

Checked before every run of the estimator, with any of verl's trainers.
"""

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

QWEN2_VL_FAMILY = ("qwen2_vl", "qwen2_5_vl")


def find(config: DictConfig, model_type: str | None) -> list[str]:
    """Finds the settings that are certain to crash or corrupt a run.

    Args:
        config: verl's config.
        model_type: `model_type` of the model's config.json; None skips the checks that depend on the model.

    Returns:
        One line per problem, with the fix.
    """
    problems = _invalid_overlong_buffer(config)
    if model_type in QWEN2_VL_FAMILY:
        problems += _random_image_normalization(config)
    return problems


def find_risks(config: DictConfig, model_type: str | None) -> list[str]:
    """Finds the settings that may crash a run. Arguments and result as those of `find`.

    verl 0.9.1 (V1) pads a step with text-only rows to a multiple of the rows of an update. Whether a micro batch holds
    nothing else depends on the lengths of the responses.
    """
    batch, update = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    padded = uses_v1(config) and trains(config) and batch % update > 0
    if not (padded and model_type in QWEN2_VL_FAMILY and crashes_without_images(config)):
        return []
    return [
        f"data.train_batch_size={batch}: verl pads each step with text-only rows, and crashes if a micro batch has no "
        f"others; make it a multiple of actor_rollout_ref.actor.ppo_mini_batch_size={update}, or patch verl "
        "(patches/README.md)"
    ]


def read_model_type(settings: DictConfig) -> str | None:
    """Reads `model_type` from a model's config.json, in a folder or on the Hugging Face hub.

    Args:
        settings: The node `actor_rollout_ref.model` of verl's config.

    Returns:
        The type; None if the file cannot be read. verl may still find it, or reports the error.
    """
    from huggingface_hub import hf_hub_download

    path = settings.get("hf_config_path") or settings.path
    folder = Path(path).expanduser()
    try:
        file = folder / "config.json" if folder.is_dir() else Path(hf_hub_download(path, "config.json"))
        return json.loads(file.read_text()).get("model_type")
    except Exception:  # a proxy, a missing file, another format
        return None


def package_folder(package: str) -> Path:
    """The folder of an installed package, without importing it.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def uses_v1(config: DictConfig) -> bool:
    """Whether trainer V1 runs. One-step off-policy and fully asynchronous training inherit `use_v1` and ignore it;
    their configs have a node `rollout`."""
    return config.trainer.use_v1 and "rollout" not in config


def trains(config: DictConfig) -> bool:
    """Whether the run trains. verl reads `val_only` only after the validation before training."""
    return not (config.trainer.val_only and config.trainer.val_before_train)


def is_lora(config: DictConfig) -> bool:
    """Whether only LoRA adapters are trained."""
    model = config.actor_rollout_ref.model
    return model.lora_rank > 0 or model.lora.rank > 0 or model.lora_adapter_path is not None


def crashes_without_images(config: DictConfig) -> bool:
    """Whether verl crashes on a micro batch without images, for models of `QWEN2_VL_FAMILY`.

    verl calls `.mean()` on the output of the visual encoder, which is not a tensor since transformers 5. The call is
    looked up in verl's source, because patches/verl-0.9.1/0003 fixes it.
    """
    if (
        config.actor_rollout_ref.actor.strategy not in ("fsdp", "fsdp2")
        or int(version("transformers").split(".")[0]) < 5
    ):
        return False
    return "image_embeds = model.visual(" in _source("verl", "models/transformers/qwen2_vl.py")


def _invalid_overlong_buffer(config: DictConfig) -> list[str]:
    """An overlong penalty that verl's reward manager `dapo` rejects in its workers, so that every rollout fails."""
    manager, kwargs = config.reward.reward_manager, OmegaConf.select(config, "reward.reward_kwargs") or {}
    longest, buffer = kwargs.get("max_resp_len"), kwargs.get("overlong_buffer_cfg") or {}
    if (manager.source, manager.name) != ("register", "dapo") or not buffer.get("enable"):
        return []
    length = buffer.get("len")
    if longest and length and 0 < length <= longest:
        return []
    return [
        f"reward.reward_kwargs.overlong_buffer_cfg.len={length}: must be from 1 to "
        f"reward.reward_kwargs.max_resp_len={longest}, which must be data.max_response_length; change it "
        "(OVERLONG_BUFFER), 0 disables the penalty"
    ]


def _random_image_normalization(config: DictConfig) -> list[str]:
    """`load_format=dummy`, verl's default, with a vLLM that would normalize images with random numbers.

    verl starts vLLM with dummy weights and then sends the actor's weights. A buffer that is not a weight of the actor
    keeps the noise of the dummy loader: vLLM 0.28 has one, `FusedInputNorm`, vLLM 0.24 has none. Nothing fails, but the
    policy sees wrong images during rollouts.
    """
    rollout = config.actor_rollout_ref.rollout
    engine = OmegaConf.select(rollout, "engine_kwargs.vllm") or {}
    if rollout.name != "vllm" or (engine.get("load_format") or rollout.load_format) != "dummy":
        return []
    if "hijack__dummy_load_weights" in _source("verl", "utils/vllm/utils.py"):
        return []  # patches/verl-0.9.1/0004 keeps the buffers
    if engine.get("mm_device_do_normalize") is False or not _vllm_normalizes_with_a_buffer():
        return []
    return [
        "actor_rollout_ref.rollout.load_format=dummy: this vLLM would normalize images with random numbers; "
        "set actor_rollout_ref.rollout.load_format=auto"
    ]


def _vllm_normalizes_with_a_buffer() -> bool:
    """Looked up in vLLM's source, because importing vLLM takes many seconds."""
    return "class FusedInputNorm" in _source("vllm", "model_executor/models/vision.py")


def _source(package: str, file: str) -> str:
    """The text of a package's file; empty if it does not exist, as in another release."""
    try:
        return (package_folder(package) / file).read_text()
    except (ModuleNotFoundError, FileNotFoundError):
        return ""

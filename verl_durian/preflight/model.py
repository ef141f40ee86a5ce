# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The model, as verl reads it, without its weights."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight import one_line


def read(settings: DictConfig) -> Any | None:
    """Reads a model as verl's HFModelConfig; None if verl must first copy it from HDFS.

    Args:
        settings: The node `actor_rollout_ref.model` of verl's config.

    Raises:
        ValueError: verl cannot read the model.
    """
    path = settings.path
    if any(str(settings.get(key)).startswith("hdfs:") for key in ("path", "hf_config_path", "tokenizer_path")):
        return None
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import HFModelConfig

    try:
        return omega_conf_to_dataclass(OmegaConf.merge(settings, {"use_shm": False}), HFModelConfig)  # without a copy
    except Exception as error:  # transformers raises many types for missing or damaged files
        remedy = "correct the path (MODEL_PATH), or download the model first if there is no network"
        if "trust_remote_code" in str(error):
            remedy = "it has its own code: if you trust it, set actor_rollout_ref.model.trust_remote_code=True"
        elif Path(path).expanduser().is_dir():
            remedy = "name the folder of a complete checkpoint (MODEL_PATH)"
        raise ValueError(
            f"actor_rollout_ref.model.path={path}: verl cannot read it ({one_line(error)}); {remedy}"
        ) from error


def count_parameters(model: Any) -> int:
    """The number of parameters, without allocating memory; 0 if transformers has no class for the model."""
    import torch
    import transformers

    config = model.hf_config
    try:
        with torch.device("meta"):
            model = getattr(transformers, config.architectures[0])._from_config(config, attn_implementation="eager")
    except Exception:  # no such class, or custom code that reuses the name of one
        return 0
    return sum(parameter.numel() for parameter in model.parameters())

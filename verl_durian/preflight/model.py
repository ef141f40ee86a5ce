# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The model: whether verl can read it, and what other checks need to know without loading its weights."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight import Finding, one_line

_WHERE = "actor_rollout_ref.model.path"


@dataclass(frozen=True)
class Model:
    """A model without its weights."""

    type: str
    """`model_type` of its config.json."""
    parameters: int | None
    """Number of parameters; None if transformers has no class for the model."""
    tokenizer: Any
    processor: Any
    """verl's multimodal processor; None for a model that only takes text."""


def read(settings: DictConfig) -> Model | None:
    """Reads config, tokenizer and processor as verl does.

    Args:
        settings: The node `actor_rollout_ref.model` of verl's config.

    Returns:
        The model; None if verl has yet to copy it from HDFS.

    Raises:
        ValueError: verl cannot read the model.
    """
    path = settings.path
    if any(str(settings.get(key)).startswith("hdfs:") for key in ("path", "hf_config_path", "tokenizer_path")):
        return None
    folder = Path(path).expanduser()
    if folder.is_absolute() and not folder.is_dir():
        raise ValueError(f"{_WHERE}={path}: no such folder; correct the path (MODEL_PATH)")
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import HFModelConfig

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            without_copy = OmegaConf.merge(settings, {"use_shm": False})
            verls = omega_conf_to_dataclass(without_copy, HFModelConfig)
    except Exception as error:  # transformers raises many types for missing or damaged files
        remedy = "correct the path (MODEL_PATH), or download the model first if there is no network"
        if "trust_remote_code" in str(error):
            remedy = "it has its own code: if you trust it, set actor_rollout_ref.model.trust_remote_code=True"
        elif folder.is_dir():
            remedy = "name the folder of a complete checkpoint (MODEL_PATH)"
        raise ValueError(f"{_WHERE}={path}: verl cannot read it ({one_line(error)}); {remedy}") from error
    config = verls.hf_config
    return Model(config.model_type, _count_parameters(config), verls.tokenizer, verls.processor)


def _count_parameters(config: Any) -> int | None:
    """Counts the parameters of a transformers config without allocating memory; None if there is no class for it."""
    import torch
    import transformers

    try:
        with torch.device("meta"):
            model = getattr(transformers, config.architectures[0])._from_config(config, attn_implementation="eager")
    except Exception:  # no such class, or a model with its own code that uses its name
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def check_weights(config: DictConfig) -> Iterator[Finding]:
    """Checks that a local folder has weights. FSDP reads them there; other strategies may have their own format."""
    folder = Path(config.actor_rollout_ref.model.path).expanduser()
    if folder.is_dir() and not any([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        text = f"{_WHERE}={config.actor_rollout_ref.model.path}: the folder has no weights (*.safetensors, *.bin)"
        yield Finding(f"{text}; copy them there", stops=config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2"))

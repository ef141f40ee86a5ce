# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The model: whether verl can read it, and what other checks need to know without loading its weights."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight import Finding, note, one_line

_WHERE = "actor_rollout_ref.model.path"


@dataclass(frozen=True)
class Model:
    """A model without its weights."""

    type: str
    """`model_type` of its config.json."""
    parameters: int | None
    """Number of parameters; None if transformers has no class for the model."""
    context: int | None
    """Maximum length of prompt and response, in tokens."""
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
    text = config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or getattr(text, "max_position_embeddings", None)
    return Model(config.model_type, count_parameters(config), context, verls.tokenizer, verls.processor)


def count_parameters(config: Any) -> int | None:
    """Counts the parameters of the model that a transformers config describes, without allocating memory.

    Returns:
        The number; None if transformers has no class for the model.
    """
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


def check_context(config: DictConfig, model: Model | None) -> Iterator[Finding]:
    """Checks that prompts and responses fit into the model's context: vLLM and SGLang reject a larger
    `max_model_len`, and otherwise truncate responses."""
    rollout, context = config.actor_rollout_ref.rollout, model.context if model else None
    prompt, response, limit = config.data.max_prompt_length, config.data.max_response_length, rollout.max_model_len
    if context is None or (limit or prompt + response) <= context:
        return
    if limit:
        text = f"actor_rollout_ref.rollout.max_model_len={limit}: the model has a context of {context} tokens; lower it"
        yield Finding(text, stops=rollout.name in ("vllm", "sglang"))
        return
    yield note(
        f"data.max_prompt_length={prompt}, data.max_response_length={response}: responses are truncated, as the model "
        f"has a context of {context} tokens; lower their sum (MAX_PROMPT_LENGTH, MAX_RESPONSE_LENGTH)"
    )

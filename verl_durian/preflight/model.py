# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The model's folder or id: whether verl can read it, and what must be known of it before its weights are."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight import Finding, note, one_line

_WHERE = "actor_rollout_ref.model.path"
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Model:
    """A model, without its weights."""

    type: str
    """`model_type` of its config.json."""
    parameters: int | None
    """How many it has; None where transformers has no class for it."""
    layers: int
    """Of the language model, as the two that follow; 0 where the config does not state it."""
    width: int
    vocabulary: int
    context: int | None
    """Tokens of prompt and response that it reads."""
    processor: Any
    """verl's processor of texts and images, or the tokenizer of a model for which it has none."""

    @property
    def takes_images(self) -> bool:
        """Whether its processor knows images."""
        return hasattr(self.processor, "image_processor")


def read_type(settings: DictConfig) -> str | None:
    """`model_type` from the model's config.json, in a folder or on the hub; None where it cannot be read.

    Args:
        settings: The node `actor_rollout_ref.model` of verl's config.
    """
    from huggingface_hub import hf_hub_download

    path = settings.get("hf_config_path") or settings.path
    folder = Path(path).expanduser()
    try:
        file = folder / "config.json" if folder.is_dir() else Path(hf_hub_download(path, "config.json"))
        return json.loads(file.read_text()).get("model_type")
    except Exception:  # verl may find it all the same, or tells what is wrong
        return None


def read(settings: DictConfig) -> Model | None:
    """Reads a model's configuration and processor as verl does; its parameters are counted without their memory.

    Args:
        settings: The node `actor_rollout_ref.model` of verl's config.

    Returns:
        The model; None for what verl has yet to copy.

    Raises:
        ValueError: verl cannot read the model.
    """
    path = settings.path
    if any(
        str(each).startswith("hdfs:") for each in (path, settings.get("hf_config_path"), settings.get("tokenizer_path"))
    ):
        return None
    folder = Path(path).expanduser()
    if folder.is_dir() and not settings.get("hf_config_path") and not (folder / "config.json").exists():
        raise ValueError(f"{_WHERE}={path}: the folder holds no config.json; name the folder of a checkpoint")
    if folder.is_absolute() and not folder.is_dir():
        raise ValueError(f"{_WHERE}={path}: no such folder; correct the path (MODEL_PATH)")
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import HFModelConfig

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Without the copy in shared memory that verl may make.
            own = omega_conf_to_dataclass(OmegaConf.merge(settings, {"use_shm": False}), HFModelConfig)
    except Exception as error:  # transformers raises many types for files that are missing or of another form
        if "trust_remote_code" in str(error):
            remedy = (
                "it comes with code of its own: if you trust it, set actor_rollout_ref.model.trust_remote_code=True"
            )
        elif folder.is_dir():
            remedy = "copy it again"
        else:
            remedy = "correct the path (MODEL_PATH), or download the model first where there is no network"
        raise ValueError(f"{_WHERE}={path}: verl cannot read it ({one_line(error)}); {remedy}") from error
    config = own.hf_config
    text = config.get_text_config()
    layers, width, vocabulary = (
        getattr(text, name, None) or 0 for name in ("num_hidden_layers", "hidden_size", "vocab_size")
    )
    context = getattr(config, "max_position_embeddings", None) or getattr(text, "max_position_embeddings", None)
    return Model(
        config.model_type, count_parameters(config), layers, width, vocabulary, context, own.processor or own.tokenizer
    )


def check_weights(config: DictConfig) -> list[Finding]:
    """Whether there are weights in the model's folder. FSDP reads them there; other strategies may have their own."""
    path = config.actor_rollout_ref.model.path
    folder = Path(path).expanduser()
    if not folder.is_dir() or any(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        return []
    text = f"{_WHERE}={path}: the folder holds no weights ({', '.join(_WEIGHTS)}); copy them there"
    return [Finding(text, stops=config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2"))]


def check_context(config: DictConfig, model: Model) -> list[Finding]:
    """Whether the model reads prompts and responses of the length that the settings allow.

    verl's servers refuse a `max_model_len` beyond it, and else cut responses short.
    """
    rollout, prompt, response = (
        config.actor_rollout_ref.rollout,
        config.data.max_prompt_length,
        config.data.max_response_length,
    )
    if model.context is None:
        return []
    if rollout.max_model_len is not None and rollout.max_model_len > model.context:
        text = (
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len}: the model reads {model.context} tokens"
        )
        return [Finding(f"{text}; lower it", stops=rollout.name in ("vllm", "sglang"))]
    if prompt + response <= model.context:
        return []
    return [
        note(
            f"data.max_prompt_length={prompt} and data.max_response_length={response}: {prompt + response} tokens, and "
            f"the model reads {model.context}; longer responses are cut there (MAX_PROMPT_LENGTH, MAX_RESPONSE_LENGTH)"
        )
    ]


def count_parameters(config: Any) -> int | None:
    """The number of parameters of the model that a configuration of transformers describes; takes no memory.

    Returns:
        The number; None where transformers has no class for the model, as where its code comes with it.
    """
    import torch
    import transformers

    kind = getattr(transformers, config.architectures[0], None)
    if kind is None:
        return None
    try:
        with torch.device("meta"):
            model = kind._from_config(config, attn_implementation="eager")  # the one that needs no package
    except Exception:  # code that comes with the model may call another architecture by this name
        return None
    return sum(parameter.numel() for parameter in model.parameters())

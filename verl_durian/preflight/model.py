# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The model's folder or id: whether it can be read, and what must be known of it before its weights are."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from verl_durian.preflight import Finding, one_line

_WHERE = "actor_rollout_ref.model.path"
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Model:
    """A model, without its weights."""

    type: str
    """`model_type` of its config.json."""
    parameters: int
    """How many it has."""
    layers: int
    """Of the language model, as the two that follow."""
    width: int
    vocabulary: int
    context: int
    """Tokens of prompt and response that it reads."""
    processor: Any
    """transformers' processor of texts and images, or the tokenizer of a model that takes texts alone."""

    @property
    def takes_images(self) -> bool:
        """Whether its processor knows images."""
        return hasattr(self.processor, "image_processor")


def read_type(path: str) -> str | None:
    """`model_type` from the model's config.json, in a folder or on the hub; None for what verl has yet to copy.

    Raises:
        ValueError: there is no such model.
    """
    if path.startswith("hdfs:"):
        return None
    folder = Path(path).expanduser()
    if folder.is_dir():
        file = folder / "config.json"
        if not file.exists():
            raise ValueError(f"{_WHERE}={path}: the folder holds no config.json; name the folder of a checkpoint")
    else:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            file = Path(hf_hub_download(path, "config.json"))
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            if folder.is_absolute():
                raise ValueError(f"{_WHERE}={path}: no such folder; correct the path (MODEL_PATH)") from error
            reason = "not downloaded, and HF_HUB_OFFLINE=1" if constants.HF_HUB_OFFLINE else type(error).__name__
            raise ValueError(
                f"{_WHERE}={path}: no such folder, and no model that the hub lets us read ({reason}); correct the path "
                "(MODEL_PATH), or download the model first where there is no network"
            ) from error
    return json.loads(file.read_text()).get("model_type")


def read(settings: DictConfig) -> Model | None:
    """Reads a model's configuration and processor; its parameters are counted without their memory.

    Args:
        settings: The node `actor_rollout_ref.model` of verl's config.

    Returns:
        The model; None for what verl has yet to copy.

    Raises:
        ValueError: the model cannot be read, or has no weights.
    """
    import transformers

    path = settings.path
    model_type = read_type(path)
    if model_type is None:
        return None
    folder = Path(path).expanduser()
    if folder.is_dir() and not any(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        raise ValueError(f"{_WHERE}={path}: the folder holds no weights ({', '.join(_WEIGHTS)}); copy them there")
    try:
        config = transformers.AutoConfig.from_pretrained(folder if folder.is_dir() else path)
        tokenizer = settings.get("tokenizer_path") or (folder if folder.is_dir() else path)
        processor = transformers.AutoProcessor.from_pretrained(tokenizer)
        parameters = count_parameters(config)
    except Exception as error:  # transformers raises many types for files that are missing or of another form
        raise ValueError(f"{_WHERE}={path}: transformers cannot read it ({one_line(error)}); copy it again") from error
    text = config.get_text_config()
    return Model(
        model_type,
        parameters,
        text.num_hidden_layers,
        text.hidden_size,
        text.vocab_size,
        text.max_position_embeddings,
        processor,
    )


def check_context(config: DictConfig, model: Model) -> list[Finding]:
    """Whether the model reads prompts and responses of the length that the settings allow; vLLM refuses others."""
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    wanted = config.actor_rollout_ref.rollout.max_model_len or prompt + response
    if wanted <= model.context:
        return []
    return [
        Finding(
            f"data.max_prompt_length={prompt} and data.max_response_length={response}: {wanted} tokens, and the model "
            f"reads {model.context}; lower them (MAX_PROMPT_LENGTH, MAX_RESPONSE_LENGTH)"
        )
    ]


def count_parameters(config: Any) -> int:
    """The number of parameters of the model that a configuration of transformers describes; takes no memory."""
    import torch
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, config.architectures[0])._from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())

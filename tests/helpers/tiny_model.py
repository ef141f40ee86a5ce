# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny real checkpoints with random weights (seed 0), tokenizer and processors, for tests."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from recipes.quickstart.model import make_config, make_processor

PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 140 * 140}
"""Least and most pixels of a picture."""


def make_tiny_qwen25vl(folder: Path | str, max_shard_size: str = "5GB") -> Path:
    """Writes the quickstart's Qwen2.5-VL with random weights to `folder`.

    Its attention windows are smaller than the pictures, as those of the real model are.
    """
    processor = make_processor()
    processor.image_processor.size = PIXELS
    config = make_config(processor.tokenizer)
    config.vision_config.window_size = 56
    return _write(folder, Qwen2_5_VLForConditionalGeneration, config, processor, max_shard_size)


def make_tiny_qwen2vl(folder: Path | str) -> Path:
    """Writes a Qwen2-VL with random weights to `folder`."""
    parts = make_processor()
    parts.image_processor.size = PIXELS
    processor = Qwen2VLProcessor(
        parts.image_processor, parts.tokenizer, parts.video_processor, chat_template=parts.chat_template
    )
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 4, "num_heads": 2}
    config = Qwen2VLConfig(text_config=_text(parts.tokenizer), vision_config=vision, **_token_ids(parts.tokenizer))
    return _write(folder, Qwen2VLForConditionalGeneration, config, processor)


def make_tiny_qwen3vl(folder: Path | str, experts: bool = False) -> Path:
    """Writes a Qwen3-VL with random weights to `folder`, dense or with a mixture of experts.

    Its patches have 16 pixels a side, and its MLP a width that is no multiple of a vector register, as the real ones.
    """
    parts = make_processor()
    patches = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16}
    image_processor = type(parts.image_processor)(size=PIXELS, **patches)
    pixels = {"shortest_edge": 4 * 64 * 64, "longest_edge": 4 * 160 * 160}
    video_processor = Qwen3VLVideoProcessor(size=pixels, **patches)
    processor = Qwen3VLProcessor(image_processor, parts.tokenizer, video_processor, chat_template=parts.chat_template)
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 108,
        "num_heads": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    text, config_class, model_class = _text(parts.tokenizer), Qwen3VLConfig, Qwen3VLForConditionalGeneration
    text["head_dim"] = 16
    if experts:
        text |= {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
        config_class, model_class = Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration
    config = config_class(text_config=text, vision_config=vision, **_token_ids(parts.tokenizer))
    return _write(folder, model_class, config, processor)


def _text(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
    }


def _token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _write(
    folder: Path | str,
    model_class: type[PreTrainedModel],
    config: Any,
    processor: ProcessorMixin,
    max_shard_size: str = "5GB",
) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).to(torch.float32)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    return Path(folder)

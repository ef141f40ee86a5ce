# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny Qwen2.5-VL as a Hugging Face folder: tokenizer, processor, chat template, configuration and weights.

    python -m recipes.quickstart.model OUT

writes OUT/model with the weights of start.safetensors (made by `make_start.py`). The model is an unmodified
`Qwen2_5_VLForConditionalGeneration` with small dimensions.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from .data import COLORS, SHAPES, SIZES, THINKING_PROMPT, read_questions

START_WEIGHTS = Path(__file__).with_name("start.safetensors")

PAD, END = "<|endoftext|>", "<|im_end|>"
SPECIAL_TOKENS = (
    PAD,
    "<|im_start|>",
    END,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MARKS = ("<think>", "</think>", "\\boxed{")
"""One token each, but not special tokens: rewards read text that is decoded with `skip_special_tokens=True`."""

VOCABULARY = 512
"""Maximum size of the tokenizer without `MARKS`: 8 special tokens, 256 bytes, and merges up to complete words."""

CONTEXT = 1024
"""Maximum number of tokens of a prompt with its response. Prompts of other data are long: most tokens are letters."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def quickstart_texts() -> list[str]:
    """Texts with every word of the quickstart's questions and answers."""
    questions = sorted({question.text for asked in read_questions("train").values() for question in asked})
    replies = [f"{{{word}}} the {word} a {word}" for word in (*COLORS, *SHAPES, "yes", "no")]
    return [*questions, *replies, THINKING_PROMPT]


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which every word of the texts and of the chat template is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "system\nuser\nassistant\n"], trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=CONTEXT,
        chat_template=CHAT_TEMPLATE,
    )


def make_processor(
    texts: Sequence[str] | None = None, smallest: int = min(SIZES), largest: int = max(SIZES)
) -> Qwen2_5_VLProcessor:
    """The processor.

    Args:
        texts: For the tokenizer. Default: those of the quickstart.
        smallest: Side in pixels of the smallest picture that is not resized.
        largest: Side in pixels of the largest picture that is not resized.
    """
    texts = quickstart_texts() if texts is None else texts
    pixels = {"min_pixels": smallest**2, "max_pixels": largest**2}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=make_tokenizer(texts),
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE,
    )


def make_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """A configuration of Qwen2.5-VL with about two million parameters."""
    token = {text: tokenizer.convert_tokens_to_ids(text) for text in SPECIAL_TOKENS}
    ends = {"bos_token_id": token[PAD], "eos_token_id": token[END], "pad_token_id": token[PAD]}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "default",
                "type": "default",
                "mrope_section": [4, 6, 6],
                "rope_theta": 10000.0,
            },
            **ends,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "out_hidden_size": 128,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 168,
            "fullatt_block_indexes": [1, 3],
            "in_channels": 3,
            "tokens_per_second": 2,
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=False,
        **ends,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """The model with random weights, in float32."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(make_config(tokenizer)).to(torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def write_model(out: Path, weights: Path = START_WEIGHTS, processor: Qwen2_5_VLProcessor | None = None) -> None:
    """Writes a folder that Hugging Face and vLLM load.

    Args:
        out: The folder; replaced if it exists.
        weights: A safetensors file with the parameters, in any float type. They are written as float32.
        processor: Default: that of the quickstart.
    """
    processor = processor or make_processor()
    model = make_model(processor.tokenizer)
    model.load_state_dict(load_file(weights))
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the model of the quickstart.")
    parser.add_argument("out", type=Path, help="folder in which to write the folder `model`")
    parser.add_argument("--weights", type=Path, default=START_WEIGHTS, help="default: start.safetensors")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_model(args.out / "model", args.weights)


if __name__ == "__main__":
    main()

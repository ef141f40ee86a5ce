# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A LoRA adapter folded into the weights that it adapts."""

from pathlib import Path

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText


def fold_in(folder: Path, adapter: Path) -> None:
    """Replaces the weights W of a model by W + alpha / r * B A.

    Args:
        folder: A model in Hugging Face format, in safetensors; its weights are written anew, in their own dtype.
        adapter: Folder of the adapter, as peft saves it.

    Raises:
        ValueError: alpha is not known, or the adapter is for a layer that the model does not have.
    """
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", use_safetensors=True)
    config = LoraConfig.from_pretrained(str(adapter))
    if not config.lora_alpha:  # verl's merger writes 0 where it does not know alpha, and W would stay as it is
        raise ValueError(f"{adapter}: alpha is not known: lora_train_meta.json is missing beside the shards; copy it")
    adapted = get_peft_model(model, config)
    unknown = adapted.load_adapter(adapter, "default").unexpected_keys
    if unknown:
        raise ValueError(f"{adapter}: the model has no layer for {unknown[0]}")
    merged = adapted.merge_and_unload(safe_merge=True)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    merged.save_pretrained(folder)

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

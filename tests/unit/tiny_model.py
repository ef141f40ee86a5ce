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
"""A tiny real Qwen2.5-VL checkpoint, for tests."""

from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from verl_durian.quickstart.model import make_config, make_processor


def make_tiny_qwen25vl(folder: Path | str, max_shard_size: str = "5GB") -> Path:
    """Writes the quickstart's Qwen2.5-VL with random weights (seed 0), tokenizer and processor to `folder`.

    Its attention windows are smaller than the pictures, as those of the real model are.
    """
    processor = make_processor()
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 140 * 140}
    config = make_config(processor.tokenizer)
    config.vision_config.window_size = 56
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config).to(torch.float32)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    return Path(folder)

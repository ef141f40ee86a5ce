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

"""What passes through Ray Data: packets.

A packet is one row with one pickled object, and a block of its own: what is put together in it, and not the size of
Ray's blocks, decides what is worked on, handed back and lost together.
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.data import Dataset

BLOCK_BYTES = 1
"""`DataContext.target_max_block_size`: Ray Data ends a block as soon as it is larger, so after each packet."""
_COLUMN = "packet"


def packets(contents: Sequence[Any]) -> Dataset:
    """A data set of packets."""
    return ray.data.from_items(
        [{_COLUMN: pickle.dumps(content)} for content in contents], override_num_blocks=len(contents)
    )


def pack(content: Any) -> dict[str, list[bytes]]:
    """A batch for Ray Data that is one packet."""
    return {_COLUMN: [pickle.dumps(content)]}


def unpack(batch: Mapping[str, np.ndarray]) -> Any:
    """The content of a batch that is one packet."""
    (packet,) = batch[_COLUMN].tolist()
    return pickle.loads(packet)


def unpacked(dataset: Dataset) -> Iterator[Any]:
    """The contents of a data set of packets, each as soon as it is there."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        yield unpack(batch)

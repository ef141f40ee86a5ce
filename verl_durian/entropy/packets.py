# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
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

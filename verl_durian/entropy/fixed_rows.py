# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Matrix products whose rows do not depend on how many there are."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

ROWS = 4096
"""Rows of every product: enough to fill a GPU, few enough that filling up the last block costs little."""


class FixedRows(TorchFunctionMode):
    """Within this context linear layers and 3-D convolutions see blocks of exactly `ROWS` rows, the last one padded.

    Kernels are chosen by the shape of a product, and with them the order in which each element is summed. In blocks of
    one shape a row has the same bits whatever stands beside it. Rows are the first dimension, or for a linear layer all
    but the last.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in (functional.linear, functional.conv3d):
            return func(*args, **kwargs)
        rows, *rest = args
        leading = rows.shape[:-1] if func is functional.linear else rows.shape[:1]
        rows = rows.reshape(-1, *rows.shape[len(leading) :])
        results = torch.cat([func(_filled(block), *rest, **kwargs) for block in rows.split(ROWS)])[: len(rows)]
        return results.reshape(*leading, *results.shape[1:])


def _filled(block: torch.Tensor) -> torch.Tensor:
    missing = ROWS - len(block)
    return block if missing == 0 else torch.cat([block, block.new_zeros(missing, *block.shape[1:])])

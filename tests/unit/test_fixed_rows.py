# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from torch import nn

from verl_durian.entropy import fixed_rows
from verl_durian.entropy.fixed_rows import FixedRows


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(fixed_rows, "ROWS", 64)
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(1, 96), (64, 96), (200, 96), (3, 50, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_linear_layer_gives_what_it_gives_without(shape, dtype):
    layer, rows = nn.Linear(96, 40).to(dtype), torch.randn(shape).to(dtype)
    with FixedRows():
        blocks = layer(rows)
    torch.testing.assert_close(blocks, layer(rows))


@torch.no_grad()
def test_a_convolution_gives_what_it_gives_without():
    layer, patches = nn.Conv3d(3, 32, (2, 4, 4), (2, 4, 4), bias=False), torch.randn(100, 3, 2, 4, 4)
    with FixedRows():
        blocks = layer(patches)
    torch.testing.assert_close(blocks, layer(patches))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_row_has_the_same_bits_whatever_stands_beside_it(dtype):
    layer, rows = nn.Linear(1280, 3420).to(dtype), torch.randn(300, 1280).to(dtype)
    with FixedRows():
        together = layer(rows)
        for start, stop in ((0, 1), (7, 11), (100, 136), (63, 300)):
            assert torch.equal(layer(rows[start:stop]), together[start:stop])


@torch.no_grad()
def test_outside_the_context_nothing_changes(monkeypatch):
    layer, rows, seen = nn.Linear(4, 4), torch.randn(3, 4), []
    monkeypatch.setattr(fixed_rows, "_filled", lambda block: seen.append(len(block)) or block)
    with FixedRows():
        layer(rows)
    layer(rows)
    assert seen == [3]

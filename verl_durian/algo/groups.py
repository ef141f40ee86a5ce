# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Groups of prompts with similar difficulty, and reward statistics of a prompt or a group.

All statistics are float64. Prompts and groups are numbered from 0.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch


class Stats(NamedTuple):
    """Statistics of each group, each of shape (num_groups,). An empty group has mean 0 and std 0."""

    count: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor  # unbiased (n - 1); 0 for a group of size one


def group_stats(values: torch.Tensor, group: torch.Tensor, num_groups: int) -> Stats:
    """Computes count, mean and unbiased std of each group (Eq. 11, 13, 17, 19).

    Args:
        values: float64, shape (n,).
        group: The group of each value, 0 to num_groups - 1, shape (n,).
    """
    zeros = values.new_zeros(num_groups)
    count = zeros.index_add(0, group, torch.ones_like(values))
    # Subtract the minimum of the group, so that the std of equal values is 0 without rounding errors.
    smallest = zeros.scatter_reduce(0, group, values, "amin", include_self=False)
    above = values - smallest[group]
    mean = zeros.index_add(0, group, above) / count.clamp(min=1)
    squares = zeros.index_add(0, group, (above - mean[group]).square())
    return Stats(count, smallest + mean, (squares / (count - 1).clamp(min=1)).sqrt())


def quantiles(values: torch.Tensor, at: Sequence[Fraction]) -> torch.Tensor:
    """Computes quantiles of the finite values with linear interpolation, shape (len(at),); NaN if there is none.

    Ranks are exact fractions: with a rounding error, a threshold would no longer equal the value at its rank.
    """
    ascending = values[values.isfinite()].sort().values
    if len(ascending) == 0:
        return values.new_full((len(at),), math.nan)
    last = len(ascending) - 1
    ranks = [share * last for share in at]
    below = torch.tensor([int(rank) for rank in ranks], dtype=torch.long, device=values.device)
    beyond = values.new_tensor([float(rank - int(rank)) for rank in ranks])
    return torch.lerp(ascending[below], ascending[(below + 1).clamp(max=last)], beyond)


def perceptual_thresholds(entropy: torch.Tensor, shares: Sequence[float]) -> torch.Tensor:
    """Computes the thresholds of visual entropy that split the prompts into groups (Eq. 10).

    Args:
        entropy: Visual entropy of each prompt in nats, NaN without image, float64, shape (num_prompts,).
        shares: The quantiles, ascending, each in (0, 1).

    Returns:
        The thresholds in nats, shape (len(shares),); NaN if no prompt has an image.
    """
    return quantiles(entropy, [Fraction(repr(share)) for share in shares])


def perceptual_groups(entropy: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Splits prompts into groups by visual entropy (Eq. 10).

    With the two thresholds of the paper: S1 = {H <= t25}, S2 = {t25 < H < t75}, S3 = {H >= t75}. With more thresholds,
    a prompt equal to an inner threshold belongs to the group below it. If thresholds coincide, it belongs to the lowest
    group. The group of a NaN is undefined.

    Args:
        entropy: Visual entropy of each prompt in nats, float64, shape (num_prompts,).
        thresholds: Ascending, in nats, float64, shape (num_thresholds,).

    Returns:
        The group of each prompt, 0 to num_thresholds, shape (num_prompts,).
    """
    group = torch.searchsorted(thresholds, entropy)
    if len(thresholds) > 0:
        next_to_last = thresholds[-2:][0]
        group[(entropy >= thresholds[-1]) & (entropy > next_to_last)] = len(thresholds)
    return group


def reasoning_groups(confidence: torch.Tensor, num_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Splits prompts into M_u = {t_{u-1} <= L < t_u} by the quantiles u / num_groups of confidence (Eq. 16).

    The most confident prompt belongs to the last group. With fewer prompts than groups, some groups are empty. The
    group of a NaN is undefined.

    Args:
        confidence: Confidence of each prompt in nats, float64, shape (num_prompts,).
        num_groups: b, at least 1.

    Returns:
        The group of each prompt, 0 to num_groups - 1, shape (num_prompts,), and the inner thresholds, shape
        (num_groups - 1,).
    """
    thresholds = quantiles(confidence, [Fraction(u, num_groups) for u in range(1, num_groups)])
    return torch.searchsorted(thresholds, confidence, right=True), thresholds

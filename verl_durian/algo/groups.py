# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Group normalization: the statistics that the rewards of a prompt, or of all prompts of like difficulty, share.

Everything is computed in float64. Prompts and groups are numbered 0, 1, ...; a prompt's rows are the rollouts it kept.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch


class Stats(NamedTuple):
    """Statistics of the values of each group; shapes (num_groups,). An empty group has mean 0 and std 0."""

    count: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor  # unbiased, n - 1; 0 where a group has one value


def group_stats(values: torch.Tensor, group: torch.Tensor, num_groups: int) -> Stats:
    """Computes count, mean and unbiased std of each group (Eq. 11, 13, 17, 19).

    Args:
        values: shape (n,), float64.
        group: shape (n,), the group of each value, 0 to num_groups - 1.
        num_groups: number of groups.
    """
    zeros = values.new_zeros(num_groups)
    count = zeros.index_add(0, group, torch.ones_like(values))
    # Taken from the smallest value of the group, equal values have the mean 0 and the std 0 without any rounding.
    smallest = zeros.scatter_reduce(0, group, values, "amin", include_self=False)
    above = values - smallest[group]
    mean = zeros.index_add(0, group, above) / count.clamp(min=1)
    squares = zeros.index_add(0, group, (above - mean[group]).square())
    return Stats(count, smallest + mean, (squares / (count - 1).clamp(min=1)).sqrt())


def quantiles(values: torch.Tensor, at: Sequence[Fraction]) -> torch.Tensor:
    """Computes quantiles with linear interpolation, shape (len(at),); NaN where there are no values.

    Ranks are exact fractions: one that floats put a rounding error beside a value would part that value from its group.

    Args:
        values: shape (n,).
        at: each in [0, 1].
    """
    if len(values) == 0:
        return values.new_full((len(at),), math.nan)
    ascending, last = values.sort().values, len(values) - 1
    ranks = [share * last for share in at]
    below = torch.tensor([int(rank) for rank in ranks], dtype=torch.long, device=values.device)
    beyond = values.new_tensor([float(rank - int(rank)) for rank in ranks])
    return torch.lerp(ascending[below], ascending[(below + 1).clamp(max=last)], beyond)


def perceptual_thresholds(entropy: torch.Tensor, shares: Sequence[float]) -> torch.Tensor:
    """Computes the quantiles of visual entropy that part prompts (Eq. 10).

    Args:
        entropy: shape (n,), nats, float64, each prompt once.
        shares: the quantiles, ascending, each in (0, 1).

    Returns:
        The thresholds in nats, shape (len(shares),); NaN where n is 0.
    """
    return quantiles(entropy, [Fraction(repr(share)) for share in shares])


def perceptual_groups(entropy: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Parts prompts by thresholds of their visual entropy (Eq. 10).

    With the two thresholds of the paper: S1 = {H <= t25}, S2 = {t25 < H < t75}, S3 = {H >= t75}. With more, a prompt
    that meets an inner threshold belongs to the group below it. Where thresholds coincide, the lowest group wins.

    Args:
        entropy: shape (num_prompts,), nats, float64, each prompt once.
        thresholds: shape (num_thresholds,), nats, float64, ascending.

    Returns:
        The group of each prompt, 0 to num_thresholds, shape (num_prompts,).
    """
    group = torch.searchsorted(thresholds, entropy)
    if len(thresholds) > 0:
        next_to_last = thresholds[-2:][0]
        group[(entropy >= thresholds[-1]) & (entropy > next_to_last)] = len(thresholds)
    return group


def reasoning_groups(confidence: torch.Tensor, num_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Parts prompts into M_u = {t_{u-1} <= L < t_u} by the quantiles u / num_groups of their confidence (Eq. 16).

    The most confident prompt belongs to the last group. Fewer prompts than groups leave some groups empty.

    Args:
        confidence: shape (num_prompts,), nats, float64, each prompt once.
        num_groups: b, at least 1.

    Returns:
        The group of each prompt, 0 to num_groups - 1, shape (num_prompts,), and the inner thresholds, num_groups - 1.
    """
    thresholds = quantiles(confidence, [Fraction(u, num_groups) for u in range(1, num_groups)])
    return torch.searchsorted(thresholds, confidence, right=True), thresholds

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Durian and its rivals: a rollout's reward minus the mean reward of its prompt, divided by a scale.

The scale is a statistic of a group of rewards: of the prompt, of the batch, of prompts with similar difficulty. So all
functions take any number of batches at once: the reward of each rollout (float64), the number of its prompt and of its
batch, from 0, shape (num_rollouts,). They return the advantages, shape (num_rollouts,).
"""

import torch

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.groups import group_stats, perceptual_groups, perceptual_thresholds, reasoning_groups
from verl_durian.simulate.prompts import ranks

NAMES = {"grpo": "GRPO", "dr_grpo": "Dr.GRPO", "batch_std": "batch std", "mad": "MAD", "durian": "Durian"}
"""The normalizers, and their names in figures and tables."""
EPSILON = 1e-6
"""Added to every scale, as in verl's GRPO."""


def grpo(rewards: torch.Tensor, prompt: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Divides by the std of the prompt's rewards (Eq. 2)."""
    return dr_grpo(rewards, prompt, batch) / (_std(rewards, prompt) + EPSILON)


def dr_grpo(rewards: torch.Tensor, prompt: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Divides by nothing, as Dr.GRPO (https://arxiv.org/abs/2503.20783)."""
    return rewards - _mean(rewards, prompt)


def batch_std(rewards: torch.Tensor, prompt: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Divides by the std of all rewards of the batch, as Lite PPO (https://arxiv.org/abs/2508.08221)."""
    return dr_grpo(rewards, prompt, batch) / (_std(rewards, batch) + EPSILON)


def mad(rewards: torch.Tensor, prompt: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Divides by the mean absolute deviation of the prompt's rewards, as DGPO (https://arxiv.org/abs/2601.20614).

    DGPO also weighs questions by difficulty; this does not.
    """
    centred = dr_grpo(rewards, prompt, batch)
    return centred / (_mean(centred.abs(), prompt) + EPSILON)


RIVALS = {"grpo": grpo, "dr_grpo": dr_grpo, "batch_std": batch_std, "mad": mad}


def durian(
    rewards: torch.Tensor, prompt: torch.Tensor, entropy: torch.Tensor, confidence: torch.Tensor, options: DurianConfig
) -> torch.Tensor:
    """Computes the advantages of the estimator (Eq. 20) for many batches at once.

    The thresholds are quantiles of each batch. If all prompts of a batch differ in difficulty, the group of a prompt
    depends only on its rank, so the estimator's functions group the ranks.

    Args:
        rewards: See above.
        prompt: See above. Batch k has the numbers from k * num_prompts to (k + 1) * num_prompts - 1; prompts without
            rollouts are excluded.
        entropy: Visual entropy of each prompt, shape (num_batches, num_prompts).
        confidence: Confidence of each prompt, shape (num_batches, num_prompts).
        options: The options of the estimator.
    """
    num_batches, num_prompts = entropy.shape
    present = prompt.bincount(minlength=entropy.numel()).view_as(entropy) > 0
    size = present.sum(dim=-1, keepdim=True)
    group_of_rank = torch.zeros(2, num_prompts + 1, num_prompts, dtype=torch.long)  # by axis, size of the batch, rank
    for n in size.unique().tolist():
        in_order = torch.arange(n, dtype=torch.float64)
        thresholds = perceptual_thresholds(in_order, options.perceptual.quantiles)
        group_of_rank[0, n, :n] = perceptual_groups(in_order, thresholds)
        group_of_rank[1, n, :n] = reasoning_groups(in_order, options.reasoning.num_groups)[0]

    first_group = (group_of_rank.max() + 1) * torch.arange(num_batches).unsqueeze(-1)
    inverse_scale = options.weights.original / (_std(rewards, prompt) + options.epsilon)
    weights = options.weights.perceptual, options.weights.reasoning
    for weight, difficulty, groups in zip(weights, (entropy, confidence), group_of_rank, strict=True):
        rank = ranks(difficulty.masked_fill(~present, torch.inf))
        group = (first_group + groups[size, rank]).flatten()
        inverse_scale += weight / (_std(rewards, group[prompt]) + options.epsilon)
    return (rewards - _mean(rewards, prompt)) * inverse_scale


def _mean(values: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    return group_stats(values, group, len(group.bincount())).mean[group]


def _std(values: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    return group_stats(values, group, len(group.bincount())).std[group]

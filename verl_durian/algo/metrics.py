# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics `durian/...` of a step. docs/metrics.md explains each of them."""

import math

import pandas as pd
import torch

from verl_durian.algo.estimator import Advantages, Axis
from verl_durian.algo.groups import group_stats


def durian_metrics(found: Advantages, accuracy: torch.Tensor | None = None) -> dict[str, float]:
    """Describes the groups and prompts of a batch.

    Args:
        found: The result of the estimator.
        accuracy: The accuracy of each row with tokens, shape (num_rows,). If None, falls back to the rewards.

    Returns:
        Metrics by name, without those that are undefined for this batch (the std of an empty group, a rank correlation
        of equal numbers).
    """
    metrics = _prompt_metrics(found)
    metrics["durian/accuracy_is_reward"] = float(accuracy is None)
    of_prompt = found.rewards.mean
    if accuracy is not None:
        of_prompt = group_stats(accuracy.double(), found.prompt, len(of_prompt)).mean
    if found.perceptual is not None:
        metrics |= _perceptual_metrics(found, found.perceptual, of_prompt)
    if found.reasoning is not None:
        metrics |= _reasoning_metrics(found.reasoning, of_prompt)
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def _prompt_metrics(found: Advantages) -> dict[str, float]:
    """Returns the share of prompts without learning signal and of extreme prompts (Table 4 of the paper)."""
    count, prompt, scores = found.rewards.count, found.prompt, found.scores
    lowest = torch.zeros_like(count).scatter_reduce(0, prompt, scores, "amin", include_self=False)
    highest = torch.zeros_like(count).scatter_reduce(0, prompt, scores, "amax", include_self=False)
    at_lowest = torch.zeros_like(count).index_add(0, prompt, (scores == lowest[prompt]).double())
    at_highest = torch.zeros_like(count).index_add(0, prompt, (scores == highest[prompt]).double())
    several = count > 1
    effective = several & (lowest < highest)
    could_be_extreme = effective & (count > 2)
    extreme = could_be_extreme & ((at_lowest == count - 1) | (at_highest == count - 1))
    return {
        "durian/prompts/num": float(len(count)),
        "durian/prompts/frac_reward_zero_std": _share(several & ~effective, several),
        "durian/prompts/extreme": _share(extreme, could_be_extreme),
    }


def _perceptual_metrics(found: Advantages, axis: Axis, accuracy: torch.Tensor) -> dict[str, float]:
    of_row = axis.group[found.prompt]
    grouped = of_row >= 0
    metrics = {"durian/rows_without_image": (~grouped).double().mean().item()}
    size = torch.bincount(axis.group[axis.group >= 0], minlength=len(axis.rewards.count))
    magnitude = group_stats(found.advantage[grouped].abs(), of_row[grouped], len(size)).mean
    for a in range(len(size)):
        group = f"durian/perceptual/S{_numbered(a + 1, axis)}"
        metrics[f"{group}/size"] = size[a].item()
        if size[a] > 0:
            metrics[f"{group}/std"] = axis.rewards.std[a].item()
            metrics[f"{group}/mean_reward"] = axis.rewards.mean[a].item()
            metrics[f"{group}/mean_abs_advantage"] = magnitude[a].item()
    metrics |= _thresholds("durian/perceptual", axis)
    seen = axis.difficulty.isfinite()
    metrics["durian/perceptual/rank_correlation"] = _rank_correlation(axis.difficulty[seen], accuracy[seen])
    return metrics


def _reasoning_metrics(axis: Axis, accuracy: torch.Tensor) -> dict[str, float]:
    known = axis.difficulty.isfinite()
    metrics = {"durian/reasoning/non_finite_prompts": float((~known).sum())}
    stds = axis.rewards.std[axis.rewards.count > 0]
    if len(stds) == 0:
        return metrics
    return {
        **metrics,
        "durian/reasoning/groups": float(len(stds)),
        "durian/reasoning/std_min": stds.min().item(),
        "durian/reasoning/std_median": torch.quantile(stds, 0.5).item(),
        "durian/reasoning/std_max": stds.max().item(),
        **_thresholds("durian/reasoning", axis),
        # Low confidence means high difficulty.
        "durian/reasoning/rank_correlation": _rank_correlation(-axis.difficulty[known], accuracy[known]),
    }


def _thresholds(prefix: str, axis: Axis) -> dict[str, float]:
    values = enumerate(axis.thresholds.tolist(), start=1)
    return {f"{prefix}/threshold_{_numbered(k, axis)}": value for k, value in values}


def _numbered(number: int, axis: Axis) -> str:
    """Returns the number with as many digits as the number of groups has, so that names sort by number."""
    return str(number).zfill(len(str(len(axis.thresholds) + 1)))


def _share(part: torch.Tensor, whole: torch.Tensor) -> float:
    return (part.sum() / whole.sum()).item()  # NaN if the whole is empty


def _rank_correlation(difficulty: torch.Tensor, accuracy: torch.Tensor) -> float:
    """Returns Spearman's rank correlation; NaN if either is the same for all prompts."""
    of_prompts = pd.DataFrame({"difficulty": difficulty.cpu().numpy(), "accuracy": accuracy.cpu().numpy()})
    return float(of_prompts.corr("spearman").loc["difficulty", "accuracy"])

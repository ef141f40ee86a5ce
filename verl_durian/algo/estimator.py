# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The advantage estimator `durian` (Eq. 2, 10 to 20 of the paper, https://arxiv.org/abs/2602.21743)."""

import logging
import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import torch

from verl_durian.algo.config import DurianConfig, Perceptual
from verl_durian.algo.groups import Stats, group_stats, perceptual_groups, perceptual_thresholds, reasoning_groups


@dataclass
class Axis:
    """The groups of a batch on one difficulty axis."""

    difficulty: torch.Tensor
    """H or L of each prompt in nats, shape (num_prompts,). NaN without image or finite log-probabilities."""
    group: torch.Tensor
    """The group of each prompt, shape (num_prompts,); -1 if its difficulty is NaN."""
    thresholds: torch.Tensor
    """Thresholds between the groups in nats, ascending, shape (num_groups - 1,); NaN if no prompt has a difficulty."""
    rewards: Stats
    """Statistics of all rewards of each group, shape (num_groups,); an empty group has count 0."""
    term: torch.Tensor
    """The advantage of each row with the std of its group (Eq. 12, 18), or of its prompt if it has no group, shape
    (num_rows,)."""


@dataclass
class Advantages:
    """Advantages of the rows with tokens, and the intermediate results that the metrics describe."""

    prompt: torch.Tensor
    """The prompt of each row with tokens, 0 to num_prompts - 1, shape (num_rows,)."""
    scores: torch.Tensor
    """The reward of each row, shape (num_rows,)."""
    rewards: Stats
    """Statistics of the rewards of each prompt, shape (num_prompts,)."""
    perceptual: Axis | None
    """None if the axis has weight 0."""
    reasoning: Axis | None
    """None if the axis has weight 0."""
    original: torch.Tensor
    """The GRPO advantage of each row (Eq. 2), shape (num_rows,)."""
    advantage: torch.Tensor
    """A of each row (Eq. 20), shape (num_rows,)."""


@dataclass
class Step:
    """Batch fields that verl does not forward to the estimator. The hook sets it for the duration of the call."""

    batch: Mapping[str, torch.Tensor]
    non_tensor_batch: Mapping[str, np.ndarray]
    rows: torch.Tensor | None = None
    """The rows with tokens. The estimator sets this and `advantages`, which the metrics read."""
    advantages: Advantages | None = None


STEP: ContextVar[Step | None] = ContextVar("durian_step", default=None)
COMPUTED = Event()
"""Set when the estimator runs. The hook clears it before a call, to detect that the estimator was not called."""

logger = logging.getLogger(__name__)
_WARNED: set[str] = set()


def warn_once(about: str, text: str) -> None:
    """Logs a warning about a subject once in this process."""
    if about not in _WARNED:
        _WARNED.add(about)
        logger.warning("%s (logged once)", text)


@torch.no_grad()
def compute_durian_outcome_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Mapping[str, Any] | None = None,
    non_tensor_batch: Mapping[str, np.ndarray] | None = None,
    batch: Mapping[str, torch.Tensor] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the Durian advantage from outcome rewards (one scalar for each response).

    The reward of a rollout, minus the mean reward of its prompt, is divided by three stds: that of the prompt (Eq. 2),
    that of all rewards of prompts with similar visual entropy (Eq. 12), and that of all rewards of prompts with similar
    confidence (Eq. 18). The advantage is the weighted sum of the three terms (Eq. 20).

    Rows with an empty mask (padding, rejected samples) are excluded from all statistics and get 0. The rollout of a
    group of size one gets the advantage of verl's GRPO in the first term and 0 in the others. A prompt without image
    uses its GRPO advantage as the second term; a prompt with non-finite log-probabilities uses it as the third term,
    which is logged once and counted in the metric `durian/reasoning/non_finite_prompts`. If a std is 0, the term is 0.
    An axis with weight 0 needs no data.

    Args:
        token_level_rewards: Shape (bs, response_length).
        response_mask: 1 for the tokens of the response, shape (bs, response_length).
        index: The uid of the prompt of each row, shape (bs,).
        config: verl's `algorithm` node. `config.durian` holds the options, see `DurianConfig`.
        non_tensor_batch: Holds `visual_entropy`, in nats, NaN or None for a row without image, shape (bs,).
        batch: Holds `old_log_probs`, log-probabilities of the policy in nats, shape (bs, response_length).
        **kwargs: Other arguments that verl passes to estimators; unused.

    Returns:
        advantages: shape (bs, response_length), 0 outside the mask.
        returns: the same.

    Raises:
        ValueError: an invalid option, missing data, a field of another shape, a non-finite reward, or an infinite
            visual entropy; the message names the option, the field or the prompt's uid.
    """
    COMPUTED.set()
    options = DurianConfig.from_algorithm(config)
    step = STEP.get()
    if step is not None:
        batch = step.batch if batch is None else batch
        non_tensor_batch = step.non_tensor_batch if non_tensor_batch is None else non_tensor_batch

    shape = tuple(token_level_rewards.shape)
    if len(shape) != 2:
        raise ValueError(f"durian: token_level_rewards has the shape {shape}, expected (bs, response_length)")
    _check_shape("response_mask", response_mask, shape)
    _check_shape("index", index, shape[:1])
    scores = token_level_rewards.sum(dim=-1)
    lengths = response_mask.sum(dim=-1)
    rows = lengths.nonzero().squeeze(-1)
    uids = np.asarray(index)[rows.cpu().numpy()]
    if not response_mask.is_floating_point():
        response_mask = response_mask.to(torch.uint8)  # verl's int64 is 8 times as large and slow to convert
    # The only large allocation, which takes longer than the computation in it.
    tokens = torch.empty_like(token_level_rewards, dtype=torch.promote_types(scores.dtype, torch.float32))
    row_advantage = tokens.new_zeros(len(tokens))
    if len(rows) > 0:
        log_probs = entropy = None
        if options.weights.reasoning > 0:
            token_log_probs = _field(batch, "batch", "old_log_probs", shape)
            log_probs = sequence_log_probs(token_log_probs, response_mask, tokens)[rows]
            if options.reasoning.confidence == "mean":
                log_probs = log_probs / lengths[rows]
        if options.weights.perceptual > 0:
            column = _field(non_tensor_batch, "non_tensor_batch", options.perceptual.key, shape[:1])
            entropy = torch.from_numpy(entropy_of_rows(column, index)).to(scores.device)[rows]
        advantages = durian_advantages(scores[rows].double(), uids, entropy, log_probs, options)
        row_advantage[rows] = advantages.advantage.to(tokens.dtype)
        if step is not None:
            step.rows, step.advantages = rows, advantages
    tokens.copy_(response_mask).mul_(row_advantage.unsqueeze(-1))
    return tokens, tokens  # the same tensor twice, as in verl's GRPO


def durian_advantages(
    scores: torch.Tensor,
    uids: np.ndarray,
    entropy: torch.Tensor | None,
    log_probs: torch.Tensor | None,
    options: DurianConfig,
) -> Advantages:
    """Computes the advantage of each row of a batch without padding (Eq. 2, 10 to 20).

    Args:
        scores: Rewards, float64, shape (n,).
        uids: The uid of the prompt of each row, shape (n,).
        entropy: Visual entropy of each row in nats, NaN without image, shape (n,); None if the axis has weight 0.
        log_probs: L_{s,i} of each row in nats (Eq. 14), shape (n,); None if the axis has weight 0.
        options: The options of the estimator.

    Raises:
        ValueError: A non-finite reward, an infinite entropy, or rows of one prompt with different entropies;
            the message names the uid of the prompt. A row without uid. Thresholds `dataset` that were not replaced.
    """
    _check(scores.isfinite(), uids, "a reward that is not finite", scores)
    numbers, prompts = pd.factorize(uids)
    if (missing := numbers < 0).any():
        row = int(missing.argmax())
        raise ValueError(f"durian: index[{row}]={uids[row]!r} in a row with tokens: must be the uid of its prompt")
    prompt, num_prompts = torch.from_numpy(numbers).to(scores.device), len(prompts)
    rewards = group_stats(scores, prompt, num_prompts)
    weights, eps = options.weights, options.epsilon

    centred = scores - rewards.mean[prompt]
    alone = (rewards.count == 1)[prompt]
    own = centred / (rewards.std[prompt] + eps)
    # verl's GRPO uses mean 0 and std 1 for a group of size one.
    original = torch.where(alone, scores / (1 + eps), own)
    advantage = weights.original * original

    def axis(difficulty: torch.Tensor, group: torch.Tensor, thresholds: torch.Tensor) -> Axis:
        group = torch.where(difficulty.isfinite(), group, -1)
        of_row = group[prompt]
        grouped = of_row >= 0
        stats = group_stats(scores[grouped], of_row[grouped], len(thresholds) + 1)
        term = torch.where(grouped, centred / (stats.std[of_row] + eps), own)
        return Axis(difficulty, group, thresholds, stats, term)

    perceptual = reasoning = None
    if entropy is not None:
        difficulty = _entropy_of_prompts(entropy, prompt, uids, num_prompts)
        thresholds = _thresholds(difficulty, options.perceptual)
        perceptual = axis(difficulty, perceptual_groups(difficulty, thresholds), thresholds)
        advantage += weights.perceptual * perceptual.term
    if log_probs is not None:
        confidence = _confidence_of_prompts(log_probs, prompt, prompts)
        reasoning = axis(confidence, *reasoning_groups(confidence, options.reasoning.num_groups))
        advantage += weights.reasoning * reasoning.term
    return Advantages(prompt, scores, rewards, perceptual, reasoning, original, advantage)


def _thresholds(entropy: torch.Tensor, options: Perceptual) -> torch.Tensor:
    """Returns the thresholds of visual entropy in nats, ascending."""
    if options.thresholds == "batch":
        return perceptual_thresholds(entropy, options.quantiles)
    if options.thresholds == "dataset":
        raise ValueError(
            "algorithm.durian.perceptual.thresholds=dataset was not replaced by numbers before the first step: run "
            "`verl-durian doctor` to check the hooks of the plugin"
        )
    return entropy.new_tensor(options.thresholds)


def _entropy_of_prompts(
    entropy: torch.Tensor, prompt: torch.Tensor, uids: np.ndarray, num_prompts: int
) -> torch.Tensor:
    """Returns the visual entropy of each prompt, shape (num_prompts,). All its rows must have the same."""
    _check(~entropy.isinf(), uids, "an infinite visual entropy", entropy)
    of_prompt = entropy.new_empty(num_prompts)
    of_prompt[prompt] = entropy  # any row of the prompt: the next lines check that they agree
    agree = (entropy == of_prompt[prompt]) | (entropy.isnan() & of_prompt[prompt].isnan())
    _check(agree, uids, "rows that differ in visual entropy", entropy)
    return of_prompt


def _confidence_of_prompts(log_probs: torch.Tensor, prompt: torch.Tensor, prompts: np.ndarray) -> torch.Tensor:
    """Returns L(Q_s) of each prompt (Eq. 15), shape (num_prompts,); NaN if a log-probability is not finite."""
    # Sum in ascending order, so that prompts with equal confidence get equal sums regardless of the order of the rows
    # (except on CUDA, where index_add has no fixed order).
    order = log_probs.argsort()
    total = log_probs.new_zeros(len(prompts)).index_add(0, prompt[order], log_probs[order])
    confidence = total / prompt.bincount(minlength=len(prompts))
    unknown = ~confidence.isfinite()
    if unknown.any():
        warn_once(
            "log-probabilities",
            f"durian: {int(unknown.sum())} of {len(prompts)} prompts have old_log_probs that are not finite, such as "
            f"uid {prompts[int(unknown.nonzero()[0])]}; they use their GRPO advantage as the reasoning term in this "
            "step, see the metric durian/reasoning/non_finite_prompts",
        )
    return confidence.masked_fill(unknown, math.nan)


def sequence_log_probs(log_probs: torch.Tensor, response_mask: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """Returns the sum of the log-probabilities of each row (Eq. 14), float64, shape (bs,).

    Values outside the mask are ignored, NaN and infinity included. Overwrites `scratch`, shape (bs, response_length).
    """
    sums = scratch.copy_(response_mask).mul_(log_probs).sum(dim=-1)
    odd = ~sums.isfinite()
    if odd.any():
        sums[odd] = log_probs[odd].masked_fill(response_mask[odd] == 0, 0).sum(dim=-1, dtype=sums.dtype)
    return sums.double()


def entropy_of_rows(column: Any, index: np.ndarray) -> np.ndarray:
    """Returns a column of visual entropies as float64, NaN for null."""
    values = np.where(pd.isna(column), math.nan, np.asarray(column, dtype=object))
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        row = next(row for row, value in enumerate(values) if not isinstance(value, int | float | np.number))
        raise ValueError(
            f"durian: the prompt with uid {index[row]} has the visual entropy {values[row]!r}; it must be a number in "
            "nats, or null without image"
        ) from error


def _check_shape(name: str, value: Any, expected: tuple[int, ...]) -> None:
    found = tuple(np.shape(value))
    if found != expected:
        raise ValueError(f"durian: {name} has the shape {found}, expected {expected}")


def _field(fields: Mapping[str, Any] | None, name: str, key: str, shape: tuple[int, ...]) -> Any:
    if fields is None or key not in fields:
        raise ValueError(
            f"durian needs {name}[{key!r}], which the trainer did not pass to the estimator: run "
            "`verl-durian doctor` to check the hooks of the plugin"
        )
    _check_shape(key, fields[key], shape)
    return fields[key]


def _check(good: torch.Tensor, uids: np.ndarray, problem: str, values: torch.Tensor) -> None:
    if not good.all():
        row = int((~good).nonzero()[0])
        raise ValueError(f"durian: the prompt with uid {uids[row]} has {problem} ({values[row].item()})")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The estimators of the comparison, and the control that gives all of them the same step size.

Importing this module adds the estimators in `NORMALIZERS` to verl's registry and replaces `durian` by
`controlled_durian`. verl itself imports it with actor_rollout_ref.model.external_lib=recipes.evidence.arms. Options
under `algorithm.evidence`:

- match_rms: scale the advantages of every step to the root mean square that GRPO's would have on the same rollouts;
- difficulty: what durian groups prompts by. `own`: visual entropy and confidence. `permuted`: those of another prompt
  of the batch, so that only the pooling of stds remains. `known`: severity and number of steps.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, register_adv_est

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import STEP, compute_durian_outcome_advantage
from verl_durian.simulate import normalizers

Normalizer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Reward and prompt of each rollout, and number of its tokens, to its advantage; all of shape (bs,)."""


def _simulated(name: str) -> Normalizer:
    """A normalizer of the simulation, for one batch."""
    function = normalizers.RIVALS[name]
    return lambda rewards, prompt, lengths: function(rewards, prompt, torch.zeros_like(prompt))


def reinforce_plus_plus(rewards: torch.Tensor, prompt: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Whitens the centred rewards over all tokens of the batch (REINFORCE++-baseline, arXiv 2501.03262)."""
    centred = _simulated("dr_grpo")(rewards, prompt, lengths)
    tokens = lengths.sum()
    mean = (lengths * centred).sum() / tokens
    variance = (lengths * (centred - mean).square()).sum() / (tokens - 1)
    return (centred - mean) / (variance + 1e-8).sqrt()


def maxrl(rewards: torch.Tensor, prompt: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Divides by the prompt's mean reward (MaxRL, https://arxiv.org/abs/2602.02710).

    Needs rewards that are not negative; a prompt with mean 0 gets 0.
    """
    centred = _simulated("dr_grpo")(rewards, prompt, lengths)
    mean = rewards - centred
    return torch.where(mean > 0, centred / mean, 0)


NORMALIZERS = {f"evidence_{name}": _simulated(name) for name in ("dr_grpo", "batch_std", "mad")}
NORMALIZERS |= {"evidence_reinforce_plus_plus": reinforce_plus_plus, "evidence_maxrl": maxrl}
"""By the name of the estimator in verl."""


def match_rms(
    advantage: torch.Tensor, rewards: torch.Tensor, prompt: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Scales advantages to the root mean square, over all tokens, of GRPO's on the same rollouts."""

    def norm(values: torch.Tensor) -> torch.Tensor:
        return (lengths * values.square()).sum().sqrt()

    target = norm(_simulated("grpo")(rewards, prompt, lengths))
    return advantage * (target / norm(advantage).clamp(min=1e-12))  # both are 0 without learning signal


def _rollouts(rewards: torch.Tensor, mask: torch.Tensor, index: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Reward and prompt of each rollout, and number of its tokens."""
    lengths = mask.sum(dim=-1).double()
    if not lengths.all():
        raise ValueError("evidence: a row without tokens; the comparison runs on one worker, which adds no padding")
    return rewards.sum(dim=-1).double(), torch.from_numpy(pd.factorize(index)[0]), lengths


def _is_matched(config: Mapping[str, Any]) -> bool:
    return bool(config.get("evidence", {}).get("match_rms", False))


def _register(name: str) -> None:
    normalizer = NORMALIZERS[name]

    def estimator(
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        index: np.ndarray,
        config: Mapping[str, Any],
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rollouts = _rollouts(token_level_rewards, response_mask, index)
        advantage = normalizer(*rollouts)
        if _is_matched(config):
            advantage = match_rms(advantage, *rollouts)
        tokens = advantage.to(token_level_rewards.dtype).unsqueeze(-1) * response_mask
        return tokens, tokens

    register_adv_est(name)(estimator)


def replaced_difficulty(
    difficulty: str, entropy: np.ndarray, confidence: np.ndarray, prompt: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The difficulties that durian shall use instead of its own.

    Args:
        difficulty: `permuted` or `known`.
        entropy: Visual entropy of each rollout, the same for all of a prompt; for `known` the column `true_difficulty`
            of the data instead, whose integer part is the number of steps and whose fraction is half the severity.
        confidence: Mean log-probability of each rollout.
        prompt: The prompt of each rollout, from 0.

    Returns:
        Entropy and confidence of each rollout; the confidence is that of its prompt.
    """
    if difficulty == "known":
        return entropy % 1, -entropy  # groups of equal size: by steps, and by severity within the same number
    if difficulty != "permuted":
        raise ValueError(f"algorithm.evidence.difficulty={difficulty}: must be own, permuted or known")
    of_prompt = pd.DataFrame({"entropy": entropy, "confidence": confidence}).groupby(prompt).mean()
    random = np.random.default_rng(zlib.crc32(entropy.tobytes()))  # the same batch is permuted in the same way
    order = [random.permutation(len(of_prompt)) for _ in range(2)]
    columns = zip(("entropy", "confidence"), order, strict=True)
    shuffled = [of_prompt[name].to_numpy()[permutation] for name, permutation in columns]
    return shuffled[0][prompt], shuffled[1][prompt]


def controlled_durian(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Mapping[str, Any],
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The estimator of the plugin, with the options under `algorithm.evidence`."""
    rollouts = _rollouts(token_level_rewards, response_mask, index)
    difficulty = config.get("evidence", {}).get("difficulty", "own")
    fields = {}
    if difficulty != "own":
        step = STEP.get()
        assert step is not None  # the plugin sets it in every trainer
        key = DurianConfig.from_algorithm(config).perceptual.key
        entropy = step.non_tensor_batch[key].astype(np.float64)
        confidence = (step.batch["old_log_probs"] * response_mask).sum(dim=-1).double() / rollouts[2]
        entropy, confidence = replaced_difficulty(difficulty, entropy, confidence.numpy(), rollouts[1].numpy())
        log_probs = torch.from_numpy(confidence).unsqueeze(-1).expand(response_mask.shape)
        fields = {"non_tensor_batch": {key: entropy}, "batch": {"old_log_probs": log_probs}}
    tokens, _ = compute_durian_outcome_advantage(
        token_level_rewards, response_mask, index, config=config, **(kwargs | fields)
    )
    if _is_matched(config):
        advantage = tokens.double().sum(dim=-1) / rollouts[2]
        tokens = match_rms(advantage, *rollouts).to(tokens.dtype).unsqueeze(-1) * response_mask
    return tokens, tokens


for _name in NORMALIZERS:
    _register(_name)
ADV_ESTIMATOR_REGISTRY["durian"] = controlled_durian

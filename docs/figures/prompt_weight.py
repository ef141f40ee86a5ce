# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Draws the largest |advantage| of a prompt by its pass rate, with GRPO and with Durian.

    VERL_PLATFORM=cpu python docs/figures/prompt_weight.py

Writes prompt_weight.svg next to this file and prints its numbers as a Markdown table. The advantages are those of
verl's `grpo` and of `durian` with default options. The batch is simulated: 512 prompts x 8 rollouts with rewards 0 or
1, of which dynamic sampling (DAPO) keeps the prompts with mixed rewards. The spread of the pass rates is chosen so that
the batch resembles the paper's Table 4: 58 to 64 % of the prompts are kept, and 36 to 44 % of these are solved once or
7 times out of 8.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from verl_durian.algo.estimator import compute_durian_outcome_advantage

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PROMPTS, ROLLOUTS = 512, 8
MEAN_LOGIT, SPREAD = 0.5, 2.8
"""Mean and standard deviation of log(p / (1 - p)) over the prompts, where p is a prompt's pass rate."""
CONFIDENCE_CORRELATION, ENTROPY_CORRELATION = 0.5, -0.2
"""Correlation of confidence and visual entropy with that log-odds: confident is easier, complex images are harder."""


def simulated_batch(seed: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws one batch.

    Returns:
        rewards: shape (num_kept, 8), 0 or 1, not all equal within a prompt.
        confidence: shape (num_kept,), in nats up to an affine map, which does not change the groups.
        entropy: shape (num_kept,), the same for visual entropy.
    """
    random = np.random.default_rng(seed)
    ease = random.normal(size=PROMPTS)
    pass_rate = 1 / (1 + np.exp(-(MEAN_LOGIT + SPREAD * ease)))
    rewards = (random.random((PROMPTS, ROLLOUTS)) < pass_rate[:, None]).astype(np.float32)
    confidence, entropy = (
        correlation * ease + np.sqrt(1 - correlation**2) * random.normal(size=PROMPTS)
        for correlation in (CONFIDENCE_CORRELATION, ENTROPY_CORRELATION)
    )
    kept = (rewards.min(axis=1) < rewards.max(axis=1)).nonzero()[0]
    return rewards[kept], confidence[kept], entropy[kept]


def advantages(rewards: np.ndarray, confidence: np.ndarray, entropy: np.ndarray) -> dict[str, np.ndarray]:
    """Computes each rollout's advantage with both estimators, shape (num_kept, 8)."""
    index = np.repeat(np.arange(len(rewards)), ROLLOUTS)
    token_level_rewards = torch.from_numpy(rewards.reshape(-1, 1))  # responses of one token
    inputs = {
        "token_level_rewards": token_level_rewards,
        "response_mask": torch.ones_like(token_level_rewards),
        "index": index,
    }
    grpo, _ = compute_grpo_outcome_advantage(**inputs)
    durian, _ = compute_durian_outcome_advantage(
        **inputs,
        config={},
        non_tensor_batch={"visual_entropy": entropy[index]},
        batch={"old_log_probs": torch.from_numpy(confidence[index].reshape(-1, 1))},
    )
    return {"GRPO": grpo.numpy().reshape(rewards.shape), "Durian": durian.numpy().reshape(rewards.shape)}


def weights(rewards: np.ndarray, of_rollout: np.ndarray) -> np.ndarray:
    """Computes the largest |advantage| of a rollout, averaged over the prompts solved k = 1 to 7 times."""
    solved = rewards.sum(axis=1)
    return np.array([np.abs(of_rollout[solved == k]).max(axis=1).mean() for k in range(1, ROLLOUTS)])


def main() -> None:
    """Draws the figure and prints its numbers."""
    rewards, confidence, entropy = simulated_batch()
    times = np.arange(1, ROLLOUTS)
    extreme = np.isin(rewards.sum(axis=1), (1, ROLLOUTS - 1))
    print(f"{len(rewards)} of {PROMPTS} prompts kept, {extreme.mean():.0%} of them solved 1 or 7 times of 8\n")
    print("| solved, of 8 | " + " | ".join(map(str, times)) + " | share of 1 and 7 in the sum of squares |")
    print("|---" * (ROLLOUTS + 1) + "|")

    matplotlib.rcParams["svg.hashsalt"] = "prompt_weight"  # the same file from every run
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for shift, color, (name, of_rollout) in zip(
        (-0.2, 0.2), ("#9aa5b1", "#1f77b4"), advantages(rewards, confidence, entropy).items(), strict=True
    ):
        heights = weights(rewards, of_rollout)
        squares = (of_rollout**2).sum(axis=1)
        share = squares[extreme].sum() / squares.sum()
        print(f"| {name} | " + " | ".join(f"{height:.2f}" for height in heights) + f" | {share:.0%} |")
        bars = axes.bar(times + shift, heights, width=0.38, color=color, label=name)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
    axes.set(xlabel="times solved, of 8 rollouts", ylabel="largest |advantage|", xticks=times, ylim=(0, 2.8))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", ncols=2)
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()

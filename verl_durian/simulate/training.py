# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Training a softmax policy on prompts of known difficulty with each normalizer, many seeds at once.

The policy answers prompt s with one of K answers, with the probabilities softmax(start_s + W^T x_s). The features x_s
are random unit vectors, so prompts share the weights W, more the fewer features there are. A random linear function of
the features decides which answer is right. `start_s` gives the right answer the pass rate that was drawn for the
prompt. Each step samples rollouts with reward 1 (right) or 0 and takes one step of gradient ascent on
mean(advantage * log probability): no clipping, no momentum.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from verl_durian.algo.config import DurianConfig
from verl_durian.simulate.normalizers import NAMES, RIVALS, durian
from verl_durian.simulate.output import STYLES, print_table
from verl_durian.simulate.prompts import difficulty_signal, draw_pass_rates

PROMPTS = ["all prompts", "hardest third", "middle third", "easiest third"]
"""The prompts that a learning curve is averaged over; thirds by the pass rate at the start."""


@dataclass
class Settings:
    """A simulated training; the fields are the options of `verl-durian simulate train`."""

    seeds: int = 200
    prompts: int = 64
    batch: int = 32
    rollouts: int = 8
    answers: int = 4
    """K."""
    features: int = 32
    """Length of x_s."""
    steps: int = 100
    learning_rate: float = 20.0
    beta: tuple[float, float] = (0.5, 0.4)
    """Beta distribution of the pass rates at the start."""
    entropy_correlation: float = -0.2
    """With the pass rate at the start."""
    confidence_correlation: float = 0.5
    """With the current pass rate."""
    noise: float = 0.0
    """Std of a part of confidence that each step draws anew; the other parts have variance 1 together."""
    filter_groups: bool = False
    """Unlike DAPO's dynamic sampling, without new prompts in place of the excluded ones."""
    match_rms: bool = True
    durian: DurianConfig = field(default_factory=DurianConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch > self.prompts:
            raise ValueError(f"--batch {self.batch} exceeds --prompts {self.prompts}: a step draws each prompt once")


def learning_curves(normalizer: str, settings: Settings) -> torch.Tensor:
    """Trains with one normalizer. Every normalizer gets the same prompts, batches and random numbers.

    Returns:
        The mean pass rate of `PROMPTS` before each step and after the last, shape (seeds, steps + 1, len(PROMPTS)).
    """
    random = np.random.default_rng(settings.seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))

    def uniform(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.random(shape, dtype=np.float32))

    seeds, prompts, answers = settings.seeds, settings.prompts, settings.answers
    features = torch.nn.functional.normalize(normal(seeds, prompts, settings.features), dim=-1)
    right = (features @ normal(seeds, settings.features, answers)).argmax(dim=-1, keepdim=True)
    pass_rate = draw_pass_rates(random, settings.beta, seeds, prompts)
    log_odds = (pass_rate.logit() + np.log(answers - 1)).float()
    start = torch.zeros(seeds, prompts, answers).scatter(-1, right, log_odds.unsqueeze(-1))
    entropy = difficulty_signal(pass_rate, settings.entropy_correlation, normal(seeds, prompts))
    confidence_noise = normal(seeds, prompts)
    by_difficulty = pass_rate.argsort(dim=-1)

    weights = torch.zeros(seeds, settings.features, answers)
    curves = []
    for _ in range(settings.steps + 1):
        policy = (start + features @ weights).softmax(dim=-1)
        pass_rate = policy.gather(-1, right).squeeze(-1)
        thirds = pass_rate.gather(-1, by_difficulty).tensor_split(3, dim=-1)
        curves.append(torch.stack([part.mean(dim=-1) for part in (pass_rate, *thirds)], dim=-1))

        batch = torch.arange(seeds).unsqueeze(-1), uniform(seeds, prompts).argsort(dim=-1)[:, : settings.batch]
        thresholds = policy[batch].cumsum(dim=-1)[..., :-1].contiguous()
        answer = torch.searchsorted(thresholds, uniform(seeds, settings.batch, settings.rollouts), right=True)
        rewards = (answer == right[batch]).double()
        confidence = difficulty_signal(pass_rate[batch], settings.confidence_correlation, confidence_noise[batch])
        confidence += settings.noise * normal(seeds, settings.batch)
        advantage = _advantages(normalizer, rewards, entropy[batch], confidence, settings)
        # The advantages of a prompt sum to 0, so the term -policy * advantage of the gradient vanishes.
        gradient = torch.zeros(seeds, settings.batch, answers).scatter_add(-1, answer, advantage.float())
        weights += settings.learning_rate * features[batch].mT @ gradient / (settings.batch * settings.rollouts)
    return torch.stack(curves, dim=1)


def _advantages(
    normalizer: str, rewards: torch.Tensor, entropy: torch.Tensor, confidence: torch.Tensor, settings: Settings
) -> torch.Tensor:
    """The advantages; rewards and result have the shape (seeds, batch, rollouts)."""
    seeds, prompts, rollouts = rewards.shape
    kept = torch.ones_like(rewards, dtype=torch.bool)
    if settings.filter_groups:
        kept &= rewards.amin(dim=-1, keepdim=True) < rewards.amax(dim=-1, keepdim=True)
    batch, prompt, _ = kept.nonzero(as_tuple=True)
    prompt += batch * prompts
    advantage = torch.zeros_like(rewards)
    if normalizer == "durian":
        advantage[kept] = durian(rewards[kept], prompt, entropy, confidence, settings.durian)
    else:
        advantage[kept] = RIVALS[normalizer](rewards[kept], prompt, batch)
    if settings.match_rms and normalizer != "grpo":
        of_grpo = torch.zeros_like(rewards)
        of_grpo[kept] = RIVALS["grpo"](rewards[kept], prompt, batch)
        norm, norm_of_grpo = (each.norm(dim=(1, 2), keepdim=True) for each in (advantage, of_grpo))
        advantage *= norm_of_grpo / norm.clamp(min=1e-12)  # both are 0 in a batch without learning signal
    return advantage


def curve_table(curves: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Averages the `learning_curves` of each normalizer over the seeds.

    Returns:
        One row for each `normalizer`, `step` and `prompts` (see `PROMPTS`), with the mean `pass_rate`, the mean
        `difference` to the first normalizer at the same seed, and their 95 % confidence intervals (half the width) as
        `pass_rate_interval` and `difference_interval`.
    """
    first = next(iter(curves.values()))
    parts = []
    for name, curve in curves.items():
        seeds, steps, columns = curve.shape
        part = {"normalizer": name, "step": np.arange(steps).repeat(columns), "prompts": PROMPTS * steps}
        for column, values in (("pass_rate", curve), ("difference", curve - first)):
            part[column] = values.mean(dim=0).flatten()
            part[f"{column}_interval"] = 1.96 * values.std(dim=0).flatten() / seeds**0.5
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def print_summary(curves: Mapping[str, torch.Tensor]) -> None:
    """Prints the pass rates of the first normalizer, and the differences of the others to it."""
    first = next(iter(curves))
    for title, reduced in (
        ("Pass rate after the last step", {name: curve[:, -1:] for name, curve in curves.items()}),
        ("Pass rate, mean over the steps", {name: curve.mean(dim=1, keepdim=True) for name, curve in curves.items()}),
    ):
        table = curve_table(reduced)
        differences = [f"{row.difference:+.3f} ±{row.difference_interval:.3f}" for row in table.itertuples()]
        text = table["pass_rate"].map("{:.3f}".format).where(table["normalizer"] == first, differences)
        title = f"{title}: {NAMES[first]}, and differences to it (95 % intervals)"
        print_table(title, table.assign(text=text), "normalizer", "prompts")


def plot_curves(table: pd.DataFrame) -> Figure:
    """Plots the result of `curve_table`: the pass rates, and below them the differences to the first normalizer."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = figure.subplots(2, len(PROMPTS), sharex=True)
    labels = {"pass_rate": "mean pass rate", "difference": f"difference to {NAMES[table['normalizer'][0]]}"}
    for line, (column, label) in zip(panels, labels.items(), strict=True):
        for axes, prompts in zip(line, PROMPTS, strict=True):
            for name, curve in table[table["prompts"] == prompts].groupby("normalizer", sort=False):
                step, mean, interval = curve["step"], curve[column], curve[f"{column}_interval"]
                axes.plot(step, mean, label=NAMES[name], markevery=max(1, len(curve) // 6), **STYLES[name])
                axes.fill_between(step, mean - interval, mean + interval, color=STYLES[name]["color"], alpha=0.25)
        line[0].set_ylabel(label)
    for (above, below), prompts in zip(panels.T, PROMPTS, strict=True):
        above.set_title(prompts)
        below.set_xlabel("step")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(NAMES), frameon=False)
    return figure

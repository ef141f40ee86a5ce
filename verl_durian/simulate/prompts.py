# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts of known difficulty: pass rates, and signals that are correlated with them."""

import numpy as np
import torch


def draw_pass_rates(random: np.random.Generator, beta: tuple[float, float], *shape: int) -> torch.Tensor:
    """Draws pass rates from a Beta distribution, float64, within [1e-6, 1 - 1e-6]."""
    if min(beta) <= 0:
        raise ValueError(f"--beta {beta[0]} {beta[1]}: both numbers must be > 0")
    return torch.from_numpy(random.beta(*beta, size=shape)).clamp(1e-6, 1 - 1e-6)


def difficulty_signal(pass_rate: torch.Tensor, correlation: float, noise: torch.Tensor) -> torch.Tensor:
    """Mixes the pass rates with standard normal noise to a signal of variance 1 that has the given correlation.

    The correlation is with the normal scores of the pass rates in each row, so that their distribution does not matter.
    All arguments and the result have the shape (..., num_prompts).
    """
    normal_scores = torch.special.ndtri((ranks(pass_rate).to(noise.dtype) + 0.5) / pass_rate.shape[-1])
    return correlation * normal_scores + (1 - correlation**2) ** 0.5 * noise


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Computes the rank of each value in its row, from 0."""
    return values.argsort(dim=-1).argsort(dim=-1)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Durian: difficulty-aware group normalization for multimodal reinforcement learning, as a plugin of verl."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["visual_entropy"]


def __getattr__(name: str) -> Any:
    """Imports `visual_entropy` on first use: verl imports this package in each process, and PyTorch takes seconds."""
    if name == "visual_entropy":
        from verl_durian.entropy.visual_entropy import visual_entropy

        return visual_entropy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Durian: difficulty-aware group normalization for multimodal reinforcement learning, as a plugin of verl."""

__version__ = "0.1.0"

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A complete small experiment without downloads: image questions, a tiny Qwen2.5-VL and its start weights."""

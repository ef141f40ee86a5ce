# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Entry point of the group `verl.plugins`, which verl imports in all its processes."""

import verl_cpu

if verl_cpu.enabled():
    verl_cpu.install()
    if verl_cpu.problems():  # verl continues without the plugin
        raise RuntimeError("; ".join(verl_cpu.problems()))

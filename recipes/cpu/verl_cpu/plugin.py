# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The entry point of the group `verl.plugins`: verl imports it in each of its processes."""

import verl_cpu

if verl_cpu.enabled():
    verl_cpu.install()
    if verl_cpu.problems():  # verl goes on without the plugin, and `verl-durian doctor` shows the error
        raise RuntimeError("; ".join(verl_cpu.problems()))

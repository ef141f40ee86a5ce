# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Runs verl with vLLM on a machine without a GPU if `VERL_PLATFORM=cpu`, a variable of verl; otherwise does nothing.

- The entry point in the group `verl.plugins` calls `install`, which adds a platform "cpu" and patches to verl.
- The entry point in the group `vllm.general_plugins` keeps vLLM's weights in a form that can be synchronized.
- `verl_cpu.pth`, which every Python interpreter reads when it starts, makes torchvision importable.

For small models: tests, continuous integration, first experiments.
"""

import os
import warnings

_problems: list[str] = []


def enabled() -> bool:
    """Whether the platform of verl is "cpu"."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def install() -> None:
    """Registers the platform "cpu" and applies the patches.

    verl ignores exceptions in plugins, so every failure becomes a warning and an entry of `problems`.
    """
    from verl_cpu import patches

    _problems.clear()
    try:
        import verl_cpu.platform  # noqa: F401  (importing it registers the platform)
    except Exception as error:
        _problems.append(f"platform: {type(error).__name__}: {error}")
    for patch in patches.PATCHES:
        try:
            patch()
        except Exception as error:
            _problems.append(f"{patch.__name__}: {type(error).__name__}: {error}")
    for problem in _problems:
        warnings.warn(f"verl_cpu: {problem}", RuntimeWarning, stacklevel=2)


def problems() -> list[str]:
    """The failures of `install` in this process, one line each."""
    return list(_problems)

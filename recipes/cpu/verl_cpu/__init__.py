# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl with vLLM on a machine without a GPU, switched on by verl's own variable `VERL_PLATFORM=cpu`.

Three places act on it, and none without it:

- the entry point of the group `verl.plugins` calls `install`: verl gets a platform "cpu" and the patches it needs;
- the entry point of the group `vllm.general_plugins` keeps vLLM's weights in a form that can be synchronized;
- `verl_cpu.pth`, which every Python interpreter reads at its start, makes torchvision importable.

For small models: tests, continuous integration, a first look.
"""

import os
import warnings

_problems: list[str] = []


def enabled() -> bool:
    """Whether verl's platform is "cpu"."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def install() -> None:
    """Registers verl's platform "cpu" and patches what no setting of verl reaches.

    verl swallows the exceptions of a plugin, so a failure becomes a warning and an entry of `problems`.
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
    """Parts that `install` could not put in place in this process, one line each."""
    return list(_problems)

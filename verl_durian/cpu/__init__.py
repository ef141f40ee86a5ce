# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl on a machine without an accelerator.

The user sets verl's own variable, ``VERL_PLATFORM=cpu``. Then three places act, and without it none does:

- the ``verl.plugins`` entry point calls `install`: verl gets a platform "cpu" and the few patches it needs for it;
- the ``vllm.general_plugins`` entry point, in each of vLLM's processes, keeps weights in a form that can be synced;
- ``verl_durian_cpu.pth``, read by every Python interpreter at its start, lets torchvision import.

Made for small models: tests, continuous integration, a first look. Worker slots are "GPU" resources that Ray is told
about (``+ray_kwargs.ray_init.num_gpus=1``); recipes/run_quickstart.sh has every setting that goes with it. Trainers
that roll out on slots of their own get new weights there through ``checkpoint_engine``: see docs/trainers.md.
"""

import os
import warnings

_problems: list[str] = []


def enabled() -> bool:
    """Whether the user asked verl for its platform "cpu"."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def install() -> None:
    """Registers verl's platform "cpu" and patches what no setting of verl reaches.

    verl swallows what a plugin raises, so a failure becomes a warning and an entry of `problems` instead.
    """
    from verl_durian.cpu import patches

    _problems.clear()
    try:
        import verl_durian.cpu.platform  # noqa: F401  (importing it registers the platform)
    except Exception as error:
        _problems.append(f"platform: {type(error).__name__}: {error}")
    for patch in patches.PATCHES:
        try:
            patch()
        except Exception as error:
            _problems.append(f"{patch.__name__}: {type(error).__name__}: {error}")
    for problem in _problems:
        warnings.warn(f"verl_durian.cpu: {problem}", RuntimeWarning, stacklevel=2)


def problems() -> list[str]:
    """What `install` could not put in place in this process, one line each; empty if all is well."""
    return list(_problems)

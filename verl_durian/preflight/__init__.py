# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Checks before a run starts.

    python -m verl_durian.preflight [--dry-run] SETTING...

takes the Hydra overrides of `verl.trainer.main_ppo`, composes verl's config, and reports problems with their fix, one
line each, before Ray starts. A setting that is certain to crash or corrupt the run stops it; everything else is a note.
Every check is a function that yields findings. Writes nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    text: str
    """The key with its value, what is wrong, and the fix."""
    stops: bool = True
    """Whether the run must not start; otherwise it is a note."""


def note(text: str) -> Finding:
    return Finding(text, stops=False)


def one_line(error: BaseException) -> str:
    """An error's message in one line, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__

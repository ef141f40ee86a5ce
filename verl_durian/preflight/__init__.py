# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What is checked before a run starts.

    python -m verl_durian.preflight [--dry-run] SETTING...

takes the Hydra overrides that `verl.trainer.main_ppo` takes, composes verl's config from them, and tells every problem
with its remedy, one line each, before Ray starts. Nothing is written.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    text: str
    """What was found, where, and the remedy."""
    stops: bool = True
    """Whether the run must not start; else it is a note."""


def note(text: str) -> Finding:
    """A finding that stops nothing."""
    return Finding(text, stops=False)


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__

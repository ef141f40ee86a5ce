# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
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

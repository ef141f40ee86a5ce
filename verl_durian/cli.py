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
"""The command ``verl-durian``."""

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Durian for verl.")


@app.callback()
def _main() -> None:
    """Durian: difficulty-aware group normalization for verl."""


@app.command()
def doctor() -> None:
    """Tell what is installed, whether plugin, estimator and hook are in place, and how to mend what is not."""
    from verl_durian.doctor import examine

    raise typer.Exit(code=0 if examine() else 1)


if __name__ == "__main__":
    app()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Command line: `python -m verl_durian.preflight [--dry-run] SETTING...`."""

import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_durian.hooks import known_failures
from verl_durian.preflight import Finding, compose, note, one_line

DRY_RUN = "--dry-run"


def main(arguments: Sequence[str]) -> int:
    """Prints the findings to stderr; with `--dry-run` also prints config and command to stdout.

    Returns:
        0 if the run can start, 2 if not.
    """
    warnings.simplefilter("ignore")  # verl warns about engines that are not installed
    overrides = [argument for argument in arguments if argument != DRY_RUN]
    try:
        config = compose.compose(overrides)
        findings = list(examine(config, overrides))
    except (ModuleNotFoundError, ValueError, HydraException, OmegaConfBaseException) as error:
        override = getattr(error, "override", None)  # Hydra's message about its syntax does not name it
        print(f"preflight: {f'{override}: ' if override else ''}{one_line(error)}", file=sys.stderr)
        return 2
    if DRY_RUN in arguments:
        print(OmegaConf.to_yaml(config, resolve=True))
        command = ["python", "-m", "verl.trainer.main_ppo", *overrides]
        print(" \\\n    ".join(map(shlex.quote, command)), flush=True)
    for finding in findings:
        print(f"preflight: {'' if finding.stops else 'note: '}{finding.text}", file=sys.stderr)
    if problems := sum(finding.stops for finding in findings):
        print(f"preflight: {problems} problem{'s' * (problems > 1)}; nothing is started", file=sys.stderr)
        return 2
    print(f"preflight: no problem found{'; nothing is started' * (DRY_RUN in arguments)}", file=sys.stderr)
    return 0


def examine(config: DictConfig, overrides: Sequence[str]) -> Iterator[Finding]:
    """Runs all checks of verl's config, ordered so that no check depends on a value that an earlier one rejected."""
    from verl_durian.preflight import data, machine, model  # import torch

    if wrong := list(compose.check_values(config, overrides)):
        yield from wrong
        return
    of_verl = list(_guarded(machine.check_verl, config))
    yield from of_verl
    if not any(finding.stops for finding in of_verl):
        yield from _guarded(compose.check_estimator, config)
        yield from _guarded(compose.check_with_verl, config)
    yield from _guarded(machine.check_flash_attn, config)
    read = None
    try:
        read = model.read(config.actor_rollout_ref.model)
    except ValueError as error:
        yield machine.local_problem(config, str(error))
    model_type = read.hf_config.model_type if read else None
    yield from _guarded(lambda: map(Finding, known_failures.find(config, model_type)))
    yield from _guarded(lambda: map(note, known_failures.find_risks(config, model_type)))
    yield from _guarded(data.check, config, read)
    yield from _guarded(machine.check_gpus, config)
    yield from _guarded(machine.check_checkpoints, config, read)


def _guarded(check: Callable[..., Iterable[Finding]], *arguments: Any) -> Iterator[Finding]:
    """The findings of a check. An error in the check itself is only a note, because the run may be valid."""
    try:
        yield from check(*arguments)
    except Exception as error:
        yield note(f"a check failed ({type(error).__name__}: {one_line(error)}); please report this")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

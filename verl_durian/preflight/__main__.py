# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Command line: `python -m verl_durian.preflight [--dry-run] SETTING...`."""

import shlex
import sys
import warnings

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_durian.preflight import one_line

DRY_RUN = "--dry-run"
REFUSED = 2


def main(arguments: list[str]) -> int:
    """Prints the findings to stderr; with `--dry-run` also prints config and command to stdout.

    Returns:
        0 if the run can start, 2 if not.
    """
    warnings.simplefilter("ignore")  # verl warns of engines that are not installed; the checks report what is needed
    overrides = [argument for argument in arguments if argument != DRY_RUN]
    options = [argument for argument in overrides if argument.startswith("-")]
    if options:
        print(f"preflight: {options[0]}: not a setting such as data.train_batch_size=512; remove it", file=sys.stderr)
        return REFUSED
    from verl_durian.preflight.examine import examine

    try:
        config, findings = examine(overrides)
    except (ModuleNotFoundError, ValueError, OmegaConfBaseException) as error:
        print(f"preflight: {one_line(error)}", file=sys.stderr)
        return REFUSED
    if DRY_RUN in arguments:
        print(OmegaConf.to_yaml(config, resolve=True))
        command = ["python", "-m", "verl.trainer.main_ppo", *overrides]
        print(" \\\n    ".join(shlex.join([word]) for word in command), flush=True)
    for finding in findings:
        print(f"preflight: {'' if finding.stops else 'note: '}{finding.text}", file=sys.stderr)
    if problems := sum(finding.stops for finding in findings):
        print(f"preflight: {problems} problem{'s' * (problems > 1)}; nothing is started", file=sys.stderr)
        return REFUSED
    print(f"preflight: no problem found{'; nothing is started' * (DRY_RUN in arguments)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

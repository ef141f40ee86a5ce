# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Runs all checks, in an order in which none depends on a value that an earlier one refused."""

from omegaconf import DictConfig

from verl_durian.hooks import known_failures
from verl_durian.preflight import Finding, compose, data, machine, model, note


def examine(overrides: list[str]) -> tuple[DictConfig, list[Finding]]:
    """Composes verl's config and checks it, the machine, the model and the data.

    Without training (`trainer.val_only`), the checks that concern training alone are skipped.

    Args:
        overrides: Hydra overrides for `verl.trainer.main_ppo`.

    Returns:
        The config and the findings.

    Raises:
        ModuleNotFoundError: verl is not installed.
        ValueError: Hydra cannot compose the config.
    """
    config = compose.compose_or_explain(overrides)
    if findings := compose.check_values(config, overrides):
        return config, findings
    trains = known_failures.trains(config)
    findings = machine.check_verl(config)
    if not any(finding.stops for finding in findings):
        if trains:
            findings += compose.check_estimator(config)
        findings += compose.check_with_verl(config)
    findings += machine.check_packages(config)
    read = None
    try:
        read = model.read(config.actor_rollout_ref.model)
    except ValueError as error:
        findings.append(machine.local_problem(config, str(error)))
    else:
        findings += model.check_weights(config) + model.check_context(config, read)
    findings += [Finding(text) for text in known_failures.find(config, read.type if read else None)]
    findings += [note(text) for text in known_failures.find_risks(config, read.type if read else None)]
    findings += data.check(config, read)
    findings += machine.check_gpus(config, read if trains else None)
    if trains:
        findings += machine.check_checkpoints(config, read)
    return config, findings

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""All checks, in an order in which none needs what an earlier one refused."""

from omegaconf import DictConfig

from verl_durian.preflight import (
    Finding,
    checkpoints,
    data,
    estimator,
    installation,
    machine,
    memory,
    model,
    settings,
    verl_checks,
)
from verl_durian.preflight.compose import compose_what_can_be


def examine(overrides: list[str]) -> tuple[DictConfig, list[Finding]]:
    """Composes verl's config and checks it, the machine, the model and the data.

    Where nothing is trained (`trainer.val_only`), nothing is said of what training alone needs.

    Args:
        overrides: Those for `verl.trainer.main_ppo`.

    Returns:
        The config without what Hydra does not take, and the findings.

    Raises:
        ModuleNotFoundError: verl is not installed.
        ValueError: Hydra makes no config of it at all.
    """
    config, refused, replaced = compose_what_can_be(overrides)
    trains = settings.trains(config)
    of_verl = installation.check(config)
    findings = refused + replaced + of_verl + installation.check_packages(config)
    # Other settings may not go with verl's default in the place of what was replaced.
    if not any(finding.stops for finding in of_verl) and not replaced:
        if trains:
            findings += estimator.check(config)
        if not refused:
            findings += verl_checks.check(config)
    read = None
    try:
        read = model.read(config.actor_rollout_ref.model)
    except ValueError as error:
        findings.append(Finding(str(error), stops=not machine.joins_cluster(config)))
    if replaced:
        findings += data.check(config, None)
        return config, findings
    if read is not None:
        findings += model.check_weights(config) + model.check_context(config, read)
    findings += [Finding(text) for text in settings.find(config, read.type if read else None)]
    findings += data.check(config, read)
    sized = read if trains and read is not None and memory.can_be_estimated(config, read) else None
    findings += machine.check(config, sized)
    if trains:
        findings += checkpoints.check(config, sized)
    return config, findings

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The advantage estimator and what it makes of a batch."""

import difflib

from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight import Finding, note

_COMPARE_ROLLOUTS = (
    "durian gdpo gpg grpo grpo_passk grpo_vectorized opo reinforce_plus_plus_baseline rloo rloo_vectorized".split()
)
"""Estimators that hold a rollout against the others of its prompt."""
_MODULES = ("actor_rollout_ref.model.external_lib", "data.custom_cls.path", "trainer.v1.sampler.custom_sampler.path")


def check(config: DictConfig) -> list[Finding]:
    """Checks the estimator's name and options, and the number of rollouts and prompts. Needs verl.

    Args:
        config: verl's whole config.
    """
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    from verl_durian.algo.config import DurianConfig
    from verl_durian.hooks import checks

    name, rollouts = str(config.algorithm.adv_estimator), config.actor_rollout_ref.rollout.n
    findings = []
    known = sorted(str(getattr(each, "value", each)) for each in ADV_ESTIMATOR_REGISTRY)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        # The user's own modules, which verl imports later, may register it.
        own = any(OmegaConf.select(config, key) for key in _MODULES)
        findings.append(Finding(f"algorithm.adv_estimator={name}: {meant}verl knows {', '.join(known)}", stops=not own))
    if rollouts < 2 and name in _COMPARE_ROLLOUTS:
        findings.append(
            Finding(
                f"actor_rollout_ref.rollout.n={rollouts}: {name} compares the rollouts of a prompt with each other, "
                "which one alone cannot be; set it to 2 or more, such as 8",
                stops=name == "grpo_passk",  # which raises an error for a group of one
            )
        )
    if not checks.is_durian(name):
        return findings
    try:
        checks.check_options(config)
    except ValueError as error:
        return [*findings, Finding(str(error))]
    options, prompts = DurianConfig.from_algorithm(config.algorithm), config.data.train_batch_size
    groups = options.reasoning.num_groups
    if options.weights.reasoning > 0 and prompts < 2 * groups:
        findings.append(
            note(
                f"data.train_batch_size={prompts}: with algorithm.durian.reasoning.num_groups={groups} most groups "
                "hold one prompt or none, and a group of one is that prompt's GRPO; take more prompts or fewer groups"
            )
        )
    return findings

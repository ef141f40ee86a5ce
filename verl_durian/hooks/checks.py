# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Validates the config of a run with `adv_estimator=durian` or a record.

`main_ppo` calls `validate_config` before Ray starts, one-step off-policy training in its first Ray task. Fully
asynchronous training never calls it; there, the trainer's hook calls `check` before it adds visual entropy.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import OmegaConf

_THRESHOLDS = "algorithm.durian.perceptual.thresholds"


def validate_config(original: Callable[..., Any], config: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps `verl.utils.config.validate_config`: also validates the options of the estimator and the record."""
    if is_durian(config.algorithm.adv_estimator):
        check(config)
        if OmegaConf.select(config, _THRESHOLDS) == "dataset":
            # Numbers replace it before the first step. A verl with its own estimator does not accept the word.
            config = copy.deepcopy(config)
            OmegaConf.resolve(config.algorithm)  # the options may be a reference to another node
            OmegaConf.update(config, _THRESHOLDS, "batch")
    elif is_recorded(config.algorithm):
        from verl_durian.algo.config import DurianConfig

        DurianConfig.from_algorithm(config.algorithm)
    return original(config, *args, **kwargs)


def is_durian(adv_estimator: Any) -> bool:
    """Returns whether `algorithm.adv_estimator`, a string or a member of verl's enum of strings, is `durian`."""
    return adv_estimator == "durian"


def is_recorded(algorithm: Any) -> bool:
    """Returns whether a run with this node `algorithm` has the option `algorithm.durian.record`."""
    options = algorithm.get("durian") if isinstance(algorithm, Mapping) else None
    return isinstance(options, Mapping) and bool(options.get("record"))


def check(config: Any) -> None:
    """Validates verl's config for a run with durian. Logs settings that may crash it.

    Raises:
        RuntimeError: This verl lacks a symbol that the plugin needs.
        ValueError: An invalid option, or settings that are certain to corrupt or crash the run.
    """
    from verl_durian.algo.estimator import warn_once
    from verl_durian.hooks import known_failures, verl_symbols

    verl_symbols.require(config)
    check_options(config)
    model_type = known_failures.read_model_type(config.actor_rollout_ref.model)
    if problems := known_failures.find(config, model_type):
        raise ValueError("\n".join(["settings that would corrupt or crash the run:", *problems]))
    for risk in known_failures.find_risks(config, model_type):
        warn_once(risk, f"durian: {risk}")


def check_options(config: Any) -> None:
    """Validates the node `algorithm` of verl's config.

    Raises:
        ValueError: Names the first invalid option and its allowed values.
    """
    from verl_durian.algo.config import DurianConfig

    DurianConfig.from_algorithm(config.algorithm)
    if not config.algorithm.get("norm_adv_by_std_in_grpo", True):
        raise ValueError(
            "algorithm.norm_adv_by_std_in_grpo=False contradicts adv_estimator=durian, which divides by a std: set it "
            "to True, or use algorithm.adv_estimator=grpo"
        )

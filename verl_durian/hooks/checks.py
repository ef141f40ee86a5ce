# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What is checked when verl validates its config and the estimator is ``durian``.

``main_ppo`` does so before Ray starts, one-step off-policy in its first Ray task, fully asynchronous training never:
there the hook calls ``check`` before it prepares the training set.
"""

from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

_THRESHOLDS = "algorithm.durian.perceptual.thresholds"


def validate_config(verls: Callable[..., Any], config: Any, *args: Any, **kwargs: Any) -> Any:
    """Around ``verl.utils.config.validate_config``: checks the estimator's options too."""
    if is_durian(config.algorithm.adv_estimator):
        check(config)
        if OmegaConf.select(config, _THRESHOLDS) == "dataset":
            # The hook replaces it by numbers later; a verl that computes durian itself does not know the word.
            OmegaConf.update(config, _THRESHOLDS, "batch")
            try:
                return verls(config, *args, **kwargs)
            finally:
                OmegaConf.update(config, _THRESHOLDS, "dataset")
    return verls(config, *args, **kwargs)


def is_durian(adv_estimator: Any) -> bool:
    """Whether verl's ``algorithm.adv_estimator`` (a string or an enum member) is ours."""
    return getattr(adv_estimator, "value", adv_estimator) == "durian"


def check(config: Any) -> None:
    """Refuses what cannot work.

    Args:
        config: verl's whole config.

    Raises:
        RuntimeError: this verl lacks a symbol.
        ValueError: a forbidden option, or settings known to corrupt or crash a run.
    """
    from verl_durian.hooks import known_failures, verl_symbols

    verl_symbols.require(config)
    check_options(config)
    problems = known_failures.find(config, known_failures.read_model_type(config.actor_rollout_ref.model))
    if problems:
        raise ValueError("\n".join(["settings that would corrupt or crash the run:", *problems]))


def check_options(config: Any) -> None:
    """Refuses options of verl's node ``algorithm`` that durian cannot take.

    Args:
        config: verl's whole config.

    Raises:
        ValueError: names the first of them and what it may be.
    """
    from verl_durian.algo.config import DurianConfig
    from verl_durian.hooks import verl_symbols

    options = DurianConfig.from_algorithm(config.algorithm)
    # There the trainer, another process than the one that loads the training set, gets no more than verl hands on.
    of_dataset = options.perceptual.thresholds == "dataset"
    if of_dataset and "async_training" in config and verl_symbols.computes_durian():
        raise ValueError(
            "algorithm.durian.perceptual.thresholds=dataset: fully asynchronous training with a verl that computes "
            "durian itself (patches/README.md) needs the numbers in its place, such as [1.5,2.5]. `verl-durian score` "
            "writes the quartiles into its summary, and a run with another trainer the numbers into its log"
        )
    if not config.algorithm.get("norm_adv_by_std_in_grpo", True):
        raise ValueError(
            "algorithm.norm_adv_by_std_in_grpo=False has no meaning for durian, which is about the std: leave it True, "
            "or use algorithm.adv_estimator=grpo"
        )

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl's config: composed by Hydra, then checked by value, by the estimator and by verl."""

import contextlib
import inspect
import io
from collections.abc import Iterator, Sequence

import hydra
from omegaconf import DictConfig, OmegaConf

from verl_durian.hooks.known_failures import package_folder, trains
from verl_durian.preflight import Finding, note, one_line

_TYPES = {bool: "true or false", int: "an integer", float: "a number"}
_POSITIVE = (
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.tensor_model_parallel_size",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
)
"""verl and the checks use these in arithmetic."""
_INTEGERS = (
    "data.seed",
    "trainer.total_epochs",
    "trainer.total_training_steps",
    "trainer.max_actor_ckpt_to_keep",
    "actor_rollout_ref.model.lora_rank",
)
"""verl fails on a float here, or ignores it."""
_TAKES_A_RANGE = "algorithm.rollout_correction.rollout_is_threshold"
"""verl's default is a number, but it also accepts a text such as 0.5_5.0."""


def compose(overrides: Sequence[str]) -> DictConfig:
    """Composes verl's config from Hydra overrides for `verl.trainer.main_ppo`, without importing verl.

    Raises:
        HydraException: An override cannot be parsed, or its key is unknown.
    """
    with hydra.initialize_config_dir(str(package_folder("verl") / "trainer" / "config"), version_base=None):
        return hydra.compose("ppo_trainer", list(overrides))


def check_values(config: DictConfig, overrides: Sequence[str]) -> Iterator[Finding]:
    """Checks the type of every overridden number and boolean. verl reads some of them only hours into a run."""
    defaults = compose([])
    for key, override in {override.split("=")[0].lstrip("+~"): override for override in overrides}.items():
        default, value = (OmegaConf.select(each, key, throw_on_missing=False) for each in (defaults, config))
        if key in _POSITIVE and (type(value) is not int or value < 1):
            yield Finding(f"{override}: must be an integer >= 1")
        elif key in _INTEGERS and not isinstance(value, int | None):
            yield Finding(f"{override}: must be an integer")
        # Python accepts 0 for false and 1.0 for 1
        elif type(default) in _TYPES and not isinstance(value, int | float | None) and key != _TAKES_A_RANGE:
            yield Finding(f"{override}: must be {_TYPES[type(default)]}")


def check_estimator(config: DictConfig) -> Iterator[Finding]:
    """Checks the name and the options of the advantage estimator, and the sizes of its groups. Imports verl."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    from verl_durian.algo.config import DurianConfig
    from verl_durian.hooks import checks

    if not trains(config):
        return
    name, rollouts = str(config.algorithm.adv_estimator), config.actor_rollout_ref.rollout.n
    known = sorted(str(getattr(each, "value", each)) for each in ADV_ESTIMATOR_REGISTRY)
    if name not in known:
        # the user's own modules may register it
        sampler, library = config.trainer.v1.sampler.custom_sampler.path, config.actor_rollout_ref.model.external_lib
        own = sampler or library or config.data.custom_cls.path
        own = own or OmegaConf.select(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class")
        yield Finding(f"algorithm.adv_estimator={name}: must be one of {', '.join(known)}", stops=not own)
    if rollouts < 2 and name in ("durian", "grpo", "rloo"):
        text = f"actor_rollout_ref.rollout.n={rollouts}: {name} compares the rollouts of a prompt with each other"
        yield note(f"{text}; set it to 2 or more, such as 8")
    if not checks.is_durian(name):
        return
    try:
        checks.check_options(config)
    except ValueError as error:
        yield Finding(str(error))
        return
    options, prompts = DurianConfig.from_algorithm(config.algorithm), config.data.train_batch_size
    if options.weights.reasoning > 0 and prompts < 2 * options.reasoning.num_groups:
        yield note(
            f"data.train_batch_size={prompts}: with algorithm.durian.reasoning.num_groups="
            f"{options.reasoning.num_groups} most groups have at most one prompt, which then gets its GRPO advantage; "
            "use more prompts or fewer groups"
        )


def check_with_verl(config: DictConfig) -> Iterator[Finding]:
    """Runs verl's own `validate_config`, which stops at the first problem. Imports verl."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils import config as verl_config

    validate = inspect.unwrap(verl_config.validate_config)  # without the checks of our plugin
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            validate(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    except Exception as error:  # AssertionError or ValueError, perhaps wrapped by Hydra
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        yield Finding(f"verl rejects these settings: {one_line(cause)}")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl's config from the overrides of a command line, and what Hydra has against them."""

import difflib
import functools
import re
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight import Finding, one_line
from verl_durian.preflight.installation import folder_of

_REFUSED_KEY = re.compile(r"Could not (?:override|append to config. An item is already at) '(.+?)'")
_KINDS = {bool: "true or false", int: "an integer", float: "a number"}
_LEAST = {
    "data.seed": None,
    "data.train_batch_size": 1,
    "data.max_prompt_length": 1,
    "data.max_response_length": 1,
    "actor_rollout_ref.model.lora_rank": None,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 1,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 1,
    "actor_rollout_ref.rollout.n": 1,
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 1,
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 1,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 1,
    "trainer.total_epochs": None,
    "trainer.total_training_steps": None,
    "trainer.max_actor_ckpt_to_keep": None,
    "reward.reward_kwargs.overlong_buffer_cfg.len": None,
}
"""Keys that hold an integer, or null where that is verl's default, and the least with which verl can run."""


def compose(overrides: list[str]) -> DictConfig:
    """verl's config for `verl.trainer.main_ppo`, without importing verl.

    Args:
        overrides: Such as `["data.train_batch_size=512"]`.

    Raises:
        HydraException: an override that cannot be read, or names an unknown key.
    """
    with hydra.initialize_config_dir(str(folder_of("verl") / "trainer" / "config"), version_base=None):
        return hydra.compose("ppo_trainer", overrides)


def compose_what_can_be(overrides: list[str]) -> tuple[DictConfig, list[Finding], list[Finding]]:
    """verl's config without the overrides that cannot be: a finding for each that Hydra does not take, and for each
    whose value is of another kind, in the place of which verl's default stands."""
    taken, findings = [], []
    parser = OverridesParser.create()
    for override in overrides:
        try:
            readable = not parser.parse_override(override).is_sweep_override()
        except HydraException:
            readable = False
        if readable:
            taken.append(override)
        else:
            findings.append(
                Finding(
                    f"{override}: Hydra cannot read this; a setting is written key=value, and a value with one of "
                    "{}[](),=' in it stands in quotes that the shell leaves: key=\"'value'\""
                )
            )
    while True:
        try:
            config = compose(taken)
            break
        except ConfigCompositionException as error:
            key = _REFUSED_KEY.search(str(error))
            bad = [each for each in taken if key and _key(each) == key.group(1)]
            if not bad:
                raise ValueError(f"Hydra cannot compose the config: {one_line(error)}") from error
            findings.append(Finding(_what_is_wrong(bad[0])))
            taken = [each for each in taken if each not in bad]
        except HydraException as error:  # such as a group that does not exist
            raise ValueError(f"Hydra cannot compose the config: {one_line(error)}") from error
    last = {_key(override): override for override in taken}  # which is the one that counts
    wrong = {key: kind for key in last if (kind := _other_kind(config, key))}
    if wrong:
        config = compose([each for each in taken if _key(each) not in wrong])
    return config, findings, [Finding(f"{last[key]}: must be {kind}") for key, kind in wrong.items()]


@functools.cache
def _defaults() -> DictConfig:
    return compose([])


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def _other_kind(config: DictConfig, key: str) -> str | None:
    """What the value of a key must be, where it is something else than verl's default is; null is left to verl."""
    default, value = (OmegaConf.select(each, key, throw_on_missing=False) for each in (_defaults(), config))
    if key in _LEAST and not (value is None and default is None):
        least = _LEAST[key]
        if type(value) is not int or (least is not None and value < least):
            return "an integer" if least is None else f"an integer, {least} or more"
    kind = type(default)
    if key == "algorithm.rollout_correction.rollout_is_threshold" and isinstance(value, str):
        return None  # verl takes a range there, such as 0.5_5.0
    if kind not in _KINDS or value is None or isinstance(value, (bool, int, float)):
        return None  # Python takes 0 for false and 1.0 for 1
    return _KINDS[kind]


def _what_is_wrong(override: str) -> str:
    """Why Hydra does not take an override: its key is unknown, or known and has a + in front."""
    if override.startswith("+"):
        return f"{override}: verl has this key already; write it without the +"
    if _key(override).startswith("algorithm.durian."):
        return f"{override}: verl does not know this option of the plugin; write it with a + in front"
    node: Any = _defaults()
    path: list[str] = []
    for part in _key(override).split("."):
        if not OmegaConf.is_dict(node) or part not in node:
            break
        node = node[part]
        path.append(part)
    known = list(map(str, node)) if OmegaConf.is_dict(node) else []
    near = difflib.get_close_matches(part, known, n=3) or known[:12]
    remedy = f"; in {'.'.join(path) or 'its config'} there is {', '.join(near)}" if near else ""
    return f"{override}: verl has no such key{remedy}; a key of your own takes a + in front"

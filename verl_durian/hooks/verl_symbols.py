# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The names in verl that this plugin relies on. Hooks, start checks and `verl-durian doctor` read this table."""

import functools
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Collection
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

SEEN_IN = ("0.9.0", "0.9.1")
"""The releases of verl with which the table below was tested."""

CORE_ALGOS = "verl.trainer.ppo.core_algos"
RAY_TRAINER = "verl.trainer.ppo.ray_trainer"
V1_UTILS = "verl.trainer.ppo.v1.utils"
TRAINER_V1 = "verl.trainer.ppo.v1.trainer_base"
SEPARATION = "verl.experimental.separation.ray_trainer"
FULLY_ASYNC = "verl.experimental.fully_async_policy.fully_async_rollouter"

EVERY = "every trainer"
V1 = "trainer V1"
OLDER = "the older trainers"
SEPARATE = "one-step off-policy and fully asynchronous training"
ASYNC = "fully asynchronous training"
TRAINERS = (EVERY, V1, OLDER, SEPARATE, ASYNC)


@dataclass(frozen=True)
class Symbol:
    """A name in verl, with the parameters that the plugin or its wrapper relies on."""

    module: str
    name: str
    parameters: str = ""  # separated by spaces
    trainer: str = EVERY  # the trainers that need it, one of `TRAINERS`
    wrapper: str = ""  # the function in `verl_durian.hooks` that wraps it, as `module.function`; empty if only called
    native: bool = False  # wrapped even in a verl that has its own estimator `durian`


REGISTER = Symbol(CORE_ALGOS, "register_adv_est", "name_or_enum")

_ESTIMATE = ("compute_advantage", "data adv_estimator config")
_SESSIONS = ("compute_advantage_for_multi_trajectories", "data batch_keys adv_estimator config")
_METRICS = ("compute_data_metrics", "batch")
_GENERATE = ("FullyAsyncAgentLoopManager.generate_sequences_single", "self prompts")
_FIT = ("SeparateRayPPOTrainer._fit_compute_advantage", "self batch")
SYMBOLS = (
    # The estimator is registered here.
    REGISTER,
    Symbol(CORE_ALGOS, "ADV_ESTIMATOR_REGISTRY"),
    Symbol(CORE_ALGOS, "AdvantageEstimator.GRPO"),
    # Options and settings are checked here.
    Symbol("verl.utils.config", "validate_config", "config", EVERY, "checks.validate_config", native=True),
    # Every trainer calls the estimator through this function; two modules import it by name.
    Symbol(RAY_TRAINER, *_ESTIMATE, EVERY, "trainers.compute_advantage"),
    Symbol(V1_UTILS, *_ESTIMATE, V1, "trainers.compute_advantage"),
    Symbol(SEPARATION, *_ESTIMATE, SEPARATE, "trainers.compute_advantage"),
    # RayPPOTrainer and its subclasses: training data, columns kept in generation, check before the update, metrics.
    Symbol(RAY_TRAINER, "RayPPOTrainer._create_dataloader", "self", OLDER, "trainers.load_data", native=True),
    Symbol(RAY_TRAINER, "RayPPOTrainer._get_gen_batch", "self batch", OLDER, "trainers.get_gen_batch"),
    Symbol(RAY_TRAINER, "RayPPOTrainer._update_actor", "self", OLDER, "trainers.update_actor"),
    Symbol("verl.trainer.ppo.metric_utils", *_METRICS, OLDER, "trainers.compute_data_metrics"),
    Symbol(RAY_TRAINER, *_METRICS, OLDER, "trainers.compute_data_metrics"),
    Symbol(SEPARATION, *_METRICS, SEPARATE, "trainers.compute_data_metrics"),
    # One-step off-policy and fully asynchronous training: the number of the step, for the record.
    Symbol(SEPARATION, *_FIT, SEPARATE, "trainers.fit_compute_advantage"),
    # Trainer V1: training data, advantage step, sessions with several outputs, columns in TransferQueue.
    Symbol(TRAINER_V1, "PPOTrainer._init_dataloader", "self", V1, "trainers.load_data", native=True),
    Symbol(TRAINER_V1, "PPOTrainer._compute_advantage", "self batch metrics", V1, "trainers.v1_compute_advantage"),
    Symbol(TRAINER_V1, *_SESSIONS, V1, "trainers.compute_advantage_for_multi_trajectories"),
    Symbol(TRAINER_V1, "tq.kv_batch_get", "keys partition_id select_fields", V1),
    # Fully asynchronous training: the trainer receives the rollouts, but does not load the training data.
    Symbol(FULLY_ASYNC, *_GENERATE, ASYNC, "trainers.generate_sequences_single"),
    Symbol("verl.protocol", "DataProto", "batch non_tensor_batch meta_info"),
)

FAILURES: dict[Symbol, str] = {}
"""Symbols whose hook could not be installed in this process, with the error."""


def look_up(symbol: Symbol) -> Any:
    """Imports the module of a symbol and returns the object of that name."""
    return attrgetter(symbol.name)(importlib.import_module(symbol.module))


def problem(symbol: Symbol) -> str | None:
    """Returns why a symbol cannot be used in this verl, or None."""
    try:
        found = look_up(symbol)
    except Exception as error:  # any error while its module is imported
        return f"{symbol.module}.{symbol.name} is missing ({error})"
    known = inspect.signature(found).parameters if symbol.parameters else {}
    lost = [name for name in symbol.parameters.split() if name not in known]
    # Another plugin's wrapper may take (*args, **kwargs).
    if lost and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return f"{symbol.module}.{symbol.name} has no parameter {', '.join(lost)}"
    return FAILURES.get(symbol)


def problems(trainers: Collection[str] = TRAINERS) -> list[str]:
    """Returns what this verl lacks for these trainers, one line per symbol."""
    return [text for symbol in SYMBOLS if symbol.trainer in trainers and (text := problem(symbol))]


def trainers_of(config: Any) -> set[str]:
    """Returns the members of `TRAINERS` that a run with this config needs."""
    if "async_training" in config:
        return {EVERY, OLDER, SEPARATE, ASYNC}
    if "rollout" in config:  # one-step off-policy has this node
        return {EVERY, OLDER, SEPARATE}
    return {EVERY, V1 if config.trainer.get("use_v1", True) else OLDER}


def require(config: Any) -> None:
    """Raises RuntimeError if this verl lacks a symbol that a run with this config needs."""
    if lacking := problems(trainers_of(config)):
        raise RuntimeError(
            f"verl {importlib.metadata.version('verl')} is not supported by this verl-durian, which supports verl "
            f"{' and '.join(SEEN_IN)}: {'; '.join(lacking)}. Install one of those versions together with "
            "verl-durian in one pip command, or upgrade verl-durian."
        )


def wrap(symbol: Symbol, everywhere: bool) -> None:
    """Replaces one of verl's functions by our wrapper, unless it is wrapped already or verl computes Durian itself.

    Args:
        symbol: The function and its wrapper, which takes the original function as its first argument.
        everywhere: Also replace the function in every module that has imported it by name.
    """
    original = look_up(symbol)
    if hasattr(original, "_verl_durian"):  # our wrapper, or a wrapper of ours that copies its attributes
        return
    if not symbol.native and hasattr(importlib.import_module(CORE_ALGOS).AdvantageEstimator, "DURIAN"):
        return  # verl with the patches in patches/
    file, _, name = symbol.wrapper.partition(".")
    ours = getattr(importlib.import_module(f"verl_durian.hooks.{file}"), name)

    # Not wrapt's `FunctionWrapper`, which cloudpickle, and so Ray, cannot pickle.
    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return ours(original, *args, **kwargs)

    wrapper._verl_durian = True  # type: ignore[attr-defined]
    module = sys.modules[symbol.module]
    owner, _, last = symbol.name.rpartition(".")
    setattr(attrgetter(owner)(module) if owner else module, last, wrapper)
    for other in list(sys.modules.values()) if everywhere and not owner else ():
        for held, value in list((getattr(other, "__dict__", None) or {}).items()):
            if value is original:
                setattr(other, held, wrapper)

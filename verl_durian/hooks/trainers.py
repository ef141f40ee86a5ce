# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Connects the estimator to verl's PPO trainers.

Each public function wraps the functions of verl that `verl_symbols.SYMBOLS` lists with it, and takes the original as
its first argument.

(a) Before the first step: add visual entropy to the training set, and replace `thresholds=dataset` by numbers.
    `load_data`.
(b) In each step: pass visual entropy and log-probabilities to the estimator. `compute_advantage`. Where verl drops the
    column visual_entropy between data and estimator, keep it: `get_gen_batch` (older trainers) and
    `generate_sequences_single` (fully asynchronous), or fetch it: `compute_advantage_for_multi_trajectories` (V1).
(c) Stop a step in which the estimator did not run, and add metrics to those of the step. `v1_compute_advantage` (V1),
    `update_actor` and `compute_data_metrics` (older trainers).
(d) With `algorithm.durian.record`, record the step, with any estimator: `v1_compute_advantage` (V1),
    `compute_advantage` (older trainers; `load_data` and `fit_compute_advantage` remember the trainer).

The older trainers are `RayPPOTrainer` and the trainers that derive from it and import its functions: one-step
off-policy and fully asynchronous training.

With another estimator and without a record, each wrapper only calls the original. A verl with its own estimator
`durian` (patches/README.md) does (b) itself and has no (c) and (d); only (a) is wrapped there.
"""

import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import AdvantageEstimator

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import COMPUTED, STEP, Step, warn_once
from verl_durian.algo.metrics import durian_metrics
from verl_durian.hooks import record, verl_symbols
from verl_durian.hooks.checks import check, is_durian, is_recorded
from verl_durian.hooks.dataset import add_visual_entropy, dataset_thresholds
from verl_durian.hooks.known_failures import trains

_ACCURACY = "acc"  # key of a rollout's accuracy in the result of verl's reward functions and ours

# Key in the meta_info of a batch: the thresholds of the training set, for a trainer that does not load it.
_THRESHOLDS = "durian_thresholds"

# Metrics of the estimator, until the trainer collects those of the step.
_METRICS: dict[str, float] = {}


@dataclass
class _V1Step:
    """A call of `PPOTrainer._compute_advantage` of trainer V1."""

    meta: Any  # TransferQueue's KVBatchMeta
    algorithm: Any  # verl's node of that name
    grpo_is_durian: bool = False
    fetch_seconds: float = 0.0
    result: tuple[DataProto, list[str]] | None = None  # the batch with advantages, and the key of each row


_V1_STEP: ContextVar[_V1Step | None] = ContextVar("durian_v1_step", default=None)


def load_data(original: Callable[..., None], self: Any, *args: Any, **kwargs: Any) -> None:
    """Wraps `PPOTrainer._init_dataloader` of trainer V1 and `RayPPOTrainer._create_dataloader`: (a).

    The thresholds of the training set, in nats, replace the word `dataset` in the trainer's config, which the trainer
    passes to the estimator in every step. Does nothing in a run that only validates.
    """
    original(self, *args, **kwargs)
    algorithm, dataset = self.config.algorithm, self.train_dataset
    computes_durian = is_durian(algorithm.adv_estimator)
    if not (computes_durian or is_recorded(algorithm)) or not trains(self.config):
        return
    if computes_durian:
        check(self.config)
        add_visual_entropy(dataset, self.config)
    if is_recorded(algorithm):
        record.prepare(self)
    options = DurianConfig.from_algorithm(algorithm)
    if options.perceptual.thresholds == "dataset":
        columns = getattr(getattr(dataset, "dataframe", None), "column_names", ())
        if options.weights.perceptual > 0 and (computes_durian or options.perceptual.key in columns):
            algorithm.durian.perceptual.thresholds = dataset_thresholds(dataset, options)
        else:  # no thresholds are needed
            algorithm.durian.perceptual.thresholds = "batch"


def compute_advantage(
    original: Callable[..., DataProto], data: DataProto, adv_estimator: Any, *args: Any, **kwargs: Any
) -> DataProto:
    """Wraps `verl.trainer.ppo.ray_trainer.compute_advantage`: (b), and computes the metrics.

    Raises:
        RuntimeError: The original did not call the estimator durian.
    """
    if STEP.get() is not None:  # another plugin's function calls this wrapper inside our call
        return original(data, adv_estimator, *args, **kwargs)
    v1 = _V1_STEP.get()
    algorithm: Any = kwargs.get("config", args[-1] if args else None)
    if (thresholds := data.meta_info.pop(_THRESHOLDS, None)) is not None:
        algorithm.durian.perceptual.thresholds = list(thresholds)
    if is_durian(adv_estimator) or (v1 and v1.grpo_is_durian and adv_estimator == AdvantageEstimator.GRPO):
        data = _compute_durian(original, data, *args, **kwargs)
    else:
        data = original(data, adv_estimator, *args, **kwargs)
    if v1 is None:
        record.add_of_older_trainer(data, adv_estimator, algorithm)
    return data


def _compute_durian(original: Callable[..., DataProto], data: DataProto, *args: Any, **kwargs: Any) -> DataProto:
    v1, start = _V1_STEP.get(), time.perf_counter()
    step = Step(batch=data.batch, non_tensor_batch=data.non_tensor_batch)
    token = STEP.set(step)
    COMPUTED.clear()
    try:
        data = original(data, "durian", *args, **kwargs)
    finally:
        STEP.reset(token)
    if not COMPUTED.is_set():
        raise _not_computed_error(original)
    _METRICS.clear()
    _METRICS.update(_metrics(step))
    _METRICS["timing_s/durian"] = time.perf_counter() - start + (v1.fetch_seconds if v1 else 0)
    return data


def get_gen_batch(
    original: Callable[..., DataProto], self: Any, batch: DataProto, *args: Any, **kwargs: Any
) -> DataProto:
    """Wraps `RayPPOTrainer._get_gen_batch`: (b)."""
    gen_batch = original(self, batch, *args, **kwargs)
    # verl moves unknown columns to the generation batch, and the rollout drops them.
    for name in _columns(self.config.algorithm):
        if name in gen_batch.non_tensor_batch:
            batch.non_tensor_batch[name] = gen_batch.non_tensor_batch.pop(name)
    return gen_batch


def _columns(algorithm: Any) -> list[str]:
    """Returns the columns of the training set that estimator and record read."""
    if not (is_durian(algorithm.adv_estimator) or is_recorded(algorithm)):
        return []
    key = DurianConfig.from_algorithm(algorithm).perceptual.key
    return [key, record.ROW] if is_recorded(algorithm) else [key]


def fit_compute_advantage(original: Callable[..., DataProto], self: Any, *args: Any, **kwargs: Any) -> DataProto:
    """Wraps `SeparateRayPPOTrainer._fit_compute_advantage`: (d)."""
    record.remember(self)
    return original(self, *args, **kwargs)


async def generate_sequences_single(
    original: Callable[..., Awaitable[DataProto]], self: Any, prompts: DataProto, *args: Any, **kwargs: Any
) -> DataProto:
    """Wraps `FullyAsyncAgentLoopManager.generate_sequences_single`: (b)."""
    rollouts = await original(self, prompts, *args, **kwargs)
    if columns := _columns(self.config.algorithm):
        # verl drops the columns of the prompts, and the process of the trainer does not load the training data.
        for name in columns:
            if name in prompts.non_tensor_batch:
                rollouts.non_tensor_batch[name] = prompts.non_tensor_batch[name]
        thresholds = DurianConfig.from_algorithm(self.config.algorithm).perceptual.thresholds
        if isinstance(thresholds, list):
            rollouts.meta_info[_THRESHOLDS] = tuple(thresholds)
    return rollouts


def update_actor(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps `RayPPOTrainer._update_actor`: (c).

    Raises:
        RuntimeError: The estimator durian has not run in this process.
    """
    if is_durian(self.config.algorithm.adv_estimator) and not COMPUTED.is_set():
        raise _not_computed_error(sys.modules[verl_symbols.RAY_TRAINER].compute_advantage)
    return original(self, *args, **kwargs)


def compute_data_metrics(original: Callable[..., dict[str, Any]], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Wraps `verl.trainer.ppo.metric_utils.compute_data_metrics`: (c) in the older trainers."""
    metrics = original(*args, **kwargs) | _METRICS
    _METRICS.clear()
    return metrics


def v1_compute_advantage(
    original: Callable[..., Any], self: Any, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    """Wraps `PPOTrainer._compute_advantage` of trainer V1: (c) and (d).

    Raises:
        RuntimeError: The estimator durian did not run in this step.
    """
    computes_durian = is_durian(self.config.algorithm.adv_estimator)
    if not (computes_durian or is_recorded(self.config.algorithm)):
        return original(self, batch, metrics, *args, **kwargs)
    step = _V1Step(batch, self.config.algorithm)
    token = _V1_STEP.set(step)
    COMPUTED.clear()
    try:
        result = original(self, batch, metrics, *args, **kwargs)
    finally:
        _V1_STEP.reset(token)
    if computes_durian and not COMPUTED.is_set():
        raise _not_computed_error(original)
    metrics.update(_METRICS)
    _METRICS.clear()
    if step.result is not None and is_recorded(self.config.algorithm):
        record.recorder(self).add(self, *step.result, partial(_fetch, batch))
    return result


def compute_advantage_for_multi_trajectories(
    original: Callable[..., DataProto], data: DataProto, batch_keys: Any, adv_estimator: Any, *args: Any, **kwargs: Any
) -> DataProto:
    """Wraps the function of this name in trainer V1: (b)."""
    step = _V1_STEP.get()
    if step is None or adv_estimator != step.algorithm.adv_estimator:
        return original(data, batch_keys, adv_estimator, *args, **kwargs)
    if is_durian(adv_estimator):
        start = time.perf_counter()
        _add_columns(data, step.meta, DurianConfig.from_algorithm(step.algorithm))
        step.fetch_seconds = time.perf_counter() - start
        # verl uses the last output of a session for GRPO only. So request GRPO here; compute_advantage above replaces
        # it by durian.
        step.grpo_is_durian, adv_estimator = True, AdvantageEstimator.GRPO
    try:
        data = original(data, batch_keys, adv_estimator, *args, **kwargs)
    finally:
        step.grpo_is_durian = False
    step.result = data, batch_keys
    return data


def _not_computed_error(function: Callable[..., Any]) -> RuntimeError:
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
    return RuntimeError(
        f"algorithm.adv_estimator=durian, but {name} did not call the estimator, so the advantages of this step are "
        "not Durian's. Another plugin may have replaced a function of verl: run `verl-durian doctor`, or load no other "
        "plugin (VERL_USE_EXTERNAL_PLUGINS=durian, on a CPU durian,cpu)"
    )


def _fetch(meta: Any, names: list[str]) -> dict[str, np.ndarray]:
    """Returns those of the named columns that trainer V1 has left in TransferQueue."""
    import transfer_queue as tq
    from verl.utils.tensordict_utils import unwrap_non_tensor_data

    if not names:
        return {}
    fields = [*names, *(["extra_fields"] if _ACCURACY in names else [])]
    found = tq.kv_batch_get(keys=meta.keys, partition_id=meta.partition_id, select_fields=fields)
    values = {name: [unwrap_non_tensor_data(each) for each in found[name]] for name in fields if name in found.keys()}
    # The agent loop stores the accuracy among extra_fields, a colocated reward model as a field of its own.
    with suppress(KeyError, TypeError):
        values[_ACCURACY] = [each["reward_extra_info"][_ACCURACY] for each in values.pop("extra_fields")]
    # np.array would turn lists of equal length into a second dimension.
    return {name: np.fromiter(of_rows, dtype=object, count=len(of_rows)) for name, of_rows in values.items()}


def _add_columns(data: DataProto, meta: Any, options: DurianConfig) -> None:
    """Adds the columns that estimator and metrics read. Raises ValueError if there is no visual entropy."""
    key, columns = options.perceptual.key, data.non_tensor_batch
    if options.weights.perceptual > 0 and key not in columns:
        columns.update(_fetch(meta, [key]))
        if key not in columns:
            raise ValueError(
                f"the rollouts in TransferQueue have no field {key!r} (algorithm.durian.perceptual.key), which verl's "
                "agent loop copies from the training set. Keep the field in your rollout (rollouts restored from a "
                "checkpoint of another estimator lack it), or set +algorithm.durian.weights.perceptual=0"
            )
    if _ACCURACY not in columns:
        try:
            columns.update(_fetch(meta, [_ACCURACY]))
        except Exception as error:  # a metric must not end training
            _warn_of_accuracy(error)


def _metrics(step: Step) -> dict[str, float]:
    """Returns the metrics of a step. An error is logged once and never ends training."""
    if step.advantages is None or step.rows is None:  # no row has tokens
        return {}
    try:
        return durian_metrics(step.advantages, _accuracy(step, step.rows))
    except Exception as error:
        warn_once("metrics", f"durian: no metrics durian/... in this step ({error!r})")
        return {}


def _accuracy(step: Step, rows: torch.Tensor) -> torch.Tensor | None:
    """Returns the accuracy of these rows, or None if the reward function returns no numbers."""
    try:
        column = step.non_tensor_batch[_ACCURACY]
        accuracy = torch.from_numpy(np.asarray(column, dtype=np.float64).reshape(len(column))).to(rows.device)[rows]
        if not accuracy.isfinite().all():
            raise ValueError("NaN, infinite or null")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        _warn_of_accuracy(error)
        return None
    return accuracy


def _warn_of_accuracy(error: Exception) -> None:
    warn_once(
        "accuracy",
        "durian: the metrics use the rewards instead of the accuracy, because the reward function does not return a "
        f"finite number {_ACCURACY!r} for each rollout ({error!r})",
    )

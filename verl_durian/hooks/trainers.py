# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Connects the estimator to verl's PPO trainers.

Each public function wraps the function of verl that `verl_symbols.SYMBOLS` lists with it, and takes the original as
its first argument.

(a) Before the first step: add visual entropy to the training set, and replace `thresholds=dataset` by numbers.
    `init_dataloader` (V1), `create_dataloader` (older trainers).
(b) In each step: pass visual entropy and log-probabilities to the estimator. `compute_advantage`. Where verl drops the
    column visual_entropy between data and estimator, keep it: `get_gen_batch` (older trainers) and
    `generate_sequences_single` (fully asynchronous), or fetch it: `compute_advantage_for_multi_trajectories` (V1).
(c) Add metrics to those of the step. `v1_compute_advantage` (V1), `compute_data_metrics` (older trainers).

The older trainers are `RayPPOTrainer` and the trainers that derive from it and import its functions: one-step
off-policy and fully asynchronous training.

With another estimator, each wrapper only calls the original. A verl with its own estimator `durian`
(patches/README.md) does (b) itself and has no (c); only (a) is wrapped there.
"""

import logging
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import AdvantageEstimator

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import STEP, Step, warn_once
from verl_durian.algo.metrics import durian_metrics
from verl_durian.hooks import verl_symbols
from verl_durian.hooks.checks import check, is_durian
from verl_durian.hooks.dataset import add_visual_entropy, dataset_thresholds

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

_ACCURACY = "acc"  # key of a rollout's accuracy in the result of verl's reward functions and ours

# Keys in the meta_info of a batch: the thresholds of the training set, for a trainer that has not loaded it; whether
# the estimator must still run, in the older trainers.
_THRESHOLDS, _PENDING = "durian_thresholds", "durian_pending"


@dataclass
class _V1Batch:
    meta: Any  # TransferQueue's KVBatchMeta
    metrics: dict[str, Any]
    algorithm: Any  # verl's node of that name
    grpo_is_durian: bool = False
    computed: bool = False  # whether the estimator ran


# The batch for which trainer V1 is computing advantages.
_V1_BATCH: ContextVar[_V1Batch | None] = ContextVar("durian_v1_batch", default=None)

# The older trainers have no dict of metrics where they compute advantages: compute_data_metrics takes them from here.
_WAITING: ContextVar[dict[str, float] | None] = ContextVar("durian_waiting", default=None)


def compute_advantage(
    original: Callable[..., DataProto], data: DataProto, adv_estimator: Any, *args: Any, **kwargs: Any
) -> DataProto:
    """Wraps `verl.trainer.ppo.ray_trainer.compute_advantage`: (b), and computes the metrics.

    Raises:
        RuntimeError: The original did not call the estimator durian.
    """
    v1_batch = _V1_BATCH.get()
    replaces_grpo = v1_batch is not None and v1_batch.grpo_is_durian and adv_estimator == AdvantageEstimator.GRPO
    nested = STEP.get() is not None  # the function of another plugin calls this wrapper within our call
    if nested or not (replaces_grpo or is_durian(adv_estimator)):
        return original(data, adv_estimator, *args, **kwargs)
    start = time.perf_counter()
    data.meta_info.pop(_PENDING, None)
    thresholds = data.meta_info.pop(_THRESHOLDS, None)
    if thresholds is not None:
        config = kwargs["config"] if "config" in kwargs else args[-1]
        config.durian.perceptual.thresholds = list(thresholds)
    step = Step(batch=data.batch, non_tensor_batch=data.non_tensor_batch)
    token = STEP.set(step)
    try:
        data = original(data, "durian", *args, **kwargs)
    finally:
        STEP.reset(token)
    if not step.computed:
        raise _not_computed_error(original)
    metrics = _metrics(step)
    metrics["durian/hook_seconds"] = time.perf_counter() - start
    if v1_batch is None:
        _WAITING.set(metrics)
    else:
        v1_batch.computed = True
        v1_batch.metrics.update(metrics)
    return data


def compute_data_metrics(
    original: Callable[..., dict[str, Any]], batch: DataProto, *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Wraps `verl.trainer.ppo.metric_utils.compute_data_metrics`: (c) in the older trainers.

    Raises:
        RuntimeError: The estimator durian did not run in this step.
    """
    if batch.meta_info.get(_PENDING):
        raise _not_computed_error(sys.modules[verl_symbols.RAY_TRAINER].compute_advantage)
    metrics = original(batch, *args, **kwargs)
    metrics.update(_WAITING.get() or {})
    _WAITING.set(None)
    return metrics


def create_dataloader(original: Callable[..., None], self: Any, train_dataset: Any, *args: Any, **kwargs: Any) -> None:
    """Wraps `RayPPOTrainer._create_dataloader`: (a)."""
    original(self, train_dataset, *args, **kwargs)
    _prepare(self)


def get_gen_batch(original: Callable[..., DataProto], self: Any, batch: DataProto) -> DataProto:
    """Wraps `RayPPOTrainer._get_gen_batch`: (b)."""
    gen_batch = original(self, batch)
    if is_durian(self.config.algorithm.adv_estimator):
        batch.meta_info[_PENDING] = True
        # verl moves unknown columns to the generation batch, and the rollout does not return them.
        key = DurianConfig.from_algorithm(self.config.algorithm).perceptual.key
        if key in gen_batch.non_tensor_batch:
            batch.non_tensor_batch[key] = gen_batch.non_tensor_batch.pop(key)
    return gen_batch


async def generate_sequences_single(
    original: Callable[..., Awaitable[DataProto]], self: Any, prompts: DataProto
) -> DataProto:
    """Wraps `FullyAsyncAgentLoopManager.generate_sequences_single`: (b)."""
    rollouts = await original(self, prompts)
    if is_durian(self.config.algorithm.adv_estimator):
        # verl keeps no column of the prompts, and the trainer runs in a process that loads no training data.
        options = DurianConfig.from_algorithm(self.config.algorithm).perceptual
        if options.key in prompts.non_tensor_batch:
            rollouts.non_tensor_batch[options.key] = prompts.non_tensor_batch[options.key]
        if isinstance(options.thresholds, list):
            rollouts.meta_info[_THRESHOLDS] = tuple(options.thresholds)
    return rollouts


def init_dataloader(original: Callable[..., None], self: Any) -> None:
    """Wraps `PPOTrainer._init_dataloader` of trainer V1: (a)."""
    original(self)
    _prepare(self)


def v1_compute_advantage(original: Callable[..., Any], self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
    """Wraps `PPOTrainer._compute_advantage` of trainer V1: (c).

    Raises:
        RuntimeError: The estimator durian did not run in this step.
    """
    if not is_durian(self.config.algorithm.adv_estimator):
        return original(self, batch, metrics)
    v1_batch = _V1Batch(batch, metrics, self.config.algorithm)
    token = _V1_BATCH.set(v1_batch)
    try:
        result = original(self, batch, metrics)
    finally:
        _V1_BATCH.reset(token)
    if not v1_batch.computed:
        raise _not_computed_error(original)
    return result


def compute_advantage_for_multi_trajectories(
    original: Callable[..., DataProto], data: DataProto, batch_keys: Any, adv_estimator: Any, *args: Any, **kwargs: Any
) -> DataProto:
    """Wraps the function of this name in trainer V1: (b)."""
    v1_batch = _V1_BATCH.get()
    if v1_batch is None or not is_durian(adv_estimator):
        return original(data, batch_keys, adv_estimator, *args, **kwargs)
    start = time.perf_counter()
    _add_columns(data, v1_batch.meta, DurianConfig.from_algorithm(v1_batch.algorithm))
    fetched = time.perf_counter() - start
    # verl computes the advantage of a session from its last output for GRPO only. So ask it for GRPO here;
    # compute_advantage above replaces GRPO by durian.
    v1_batch.grpo_is_durian = True
    try:
        data = original(data, batch_keys, AdvantageEstimator.GRPO, *args, **kwargs)
    finally:
        v1_batch.grpo_is_durian = False
    if not v1_batch.computed:
        raise _not_computed_error(original)
    v1_batch.metrics["durian/hook_seconds"] += fetched
    return data


def _not_computed_error(function: Callable[..., Any]) -> RuntimeError:
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
    return RuntimeError(
        f"algorithm.adv_estimator=durian, but {name} did not call the estimator, so the advantages of this step are "
        "not Durian's. Another plugin may have replaced a function of verl: run `verl-durian doctor`, or load no other "
        "plugin (VERL_USE_EXTERNAL_PLUGINS=durian, on a CPU durian,cpu)"
    )


def _add_columns(data: DataProto, meta: Any, options: DurianConfig) -> None:
    """Fetches columns that trainer V1 leaves in TransferQueue, unless the batch has them."""
    import transfer_queue as tq
    from verl.utils.tensordict_utils import unwrap_non_tensor_data

    def fetch(name: str) -> np.ndarray:
        column = tq.kv_batch_get(keys=meta.keys, partition_id=meta.partition_id, select_fields=[name])[name]
        return _object_array([unwrap_non_tensor_data(value) for value in column])

    key = options.perceptual.key
    if options.weights.perceptual > 0 and key not in data.non_tensor_batch:
        try:
            data.non_tensor_batch[key] = fetch(key)
        except KeyError as error:
            raise ValueError(
                f"the rollouts in TransferQueue have no field {key!r} (algorithm.durian.perceptual.key), which verl's "
                "agent loop copies from the training set. Keep the field in your rollout (rollouts restored from a "
                "checkpoint of another estimator lack it), or set +algorithm.durian.weights.perceptual=0"
            ) from error
    if _ACCURACY not in data.non_tensor_batch:
        try:
            accuracy = _fetch_accuracy(fetch)
        except Exception as error:  # a metric must not end training
            warn_once("accuracy", f"durian: the metrics use the rewards instead of the accuracy ({error!r})")
        else:
            if accuracy is not None:
                data.non_tensor_batch[_ACCURACY] = accuracy


def _object_array(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):  # np.array would make lists of equal length a second dimension
        array[row] = value
    return array


def _fetch_accuracy(fetch: Callable[[str], np.ndarray]) -> np.ndarray | None:
    """Returns the accuracy of each row as stored by the agent loop or a colocated reward model, or None."""
    try:
        infos = [(fields or {}).get("reward_extra_info") or {} for fields in fetch("extra_fields")]
        if all(_ACCURACY in info for info in infos):
            return _object_array([info[_ACCURACY] for info in infos])
    except KeyError:
        pass
    try:
        return fetch(_ACCURACY)
    except KeyError:
        return None


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
    accuracy = step.non_tensor_batch.get(_ACCURACY)
    if accuracy is None:
        return None
    try:
        of_row = np.asarray(accuracy, dtype=np.float64).reshape(len(accuracy))
    except (TypeError, ValueError) as error:
        warn_once(
            "accuracy",
            f"durian: the reward function returns {_ACCURACY}={accuracy[0]!r}, which is not a number; the metrics use "
            f"the rewards instead ({error})",
        )
        return None
    return torch.from_numpy(of_row).to(rows.device)[rows]


def _prepare(trainer: Any) -> None:
    """Validates the config, adds visual entropy to the training set, and replaces `thresholds=dataset`.

    The thresholds of the training set, in nats, replace the word `dataset` in the trainer's config, which the trainer
    passes to the estimator in every step. With weight 0 of the perceptual axis, `batch` replaces it. A run that only
    validates skips all this.
    """
    # verl reads val_only only if it validates before training.
    settings = trainer.config.trainer
    only_validates = settings.get("val_only", False) and settings.get("val_before_train", True)
    if only_validates or not is_durian(trainer.config.algorithm.adv_estimator):
        return
    check(trainer.config)
    add_visual_entropy(trainer.train_dataset, trainer.config)
    options = DurianConfig.from_algorithm(trainer.config.algorithm)
    if options.perceptual.thresholds != "dataset":
        return
    if options.weights.perceptual == 0:
        trainer.config.algorithm.durian.perceptual.thresholds = "batch"
    else:
        thresholds = dataset_thresholds(trainer.train_dataset, options)
        trainer.config.algorithm.durian.perceptual.thresholds = thresholds
        in_words = ", ".join(f"{threshold:.4f}" for threshold in thresholds)
        logger.info("durian: thresholds of visual entropy of the training set, nats: [%s]", in_words)

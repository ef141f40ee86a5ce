# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Passes the estimator what it needs in each of verl's PPO trainers, and adds its metrics to those of the step.

Each function here wraps the function of verl that ``verl_symbols.SYMBOLS`` names beside it, and takes it as its first
argument.

(a) Before the first step every training row gets its visual entropy, and the config the thresholds of the training set
    where it asks for them: ``init_dataloader`` (V1), ``create_dataloader`` (older trainers).
(b) In each step the row's visual entropy and log-probabilities reach the estimator: ``compute_advantage``. Where verl
    would lose the visual entropy between data and estimator it is kept: ``get_gen_batch`` (older trainers),
    ``generate_sequences_single`` (fully asynchronous), or fetched: ``compute_advantage_for_multi_trajectories`` (V1).
(c) The metrics join the step's: ``v1_compute_advantage`` (V1), ``compute_data_metrics`` (older trainers).

The older trainers are ``RayPPOTrainer`` and those that derive from it and import its functions: one-step off-policy
and fully asynchronous training.

With another estimator every function here calls verl's own and does nothing else. A verl that has an estimator
``durian`` of its own (patches/README.md) keeps (b) and has no (c): there only (a) is wrapped.
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

_ACCURACY = "acc"  # verl's own reward functions, and ours, return a rollout's accuracy under this name

# In the meta_info of a batch: the thresholds of the training set, for a trainer that has not seen it, and in the older
# trainers that the estimator must still run.
_THRESHOLDS, _PENDING = "durian_thresholds", "durian_pending"


@dataclass
class _V1Batch:
    meta: Any  # TransferQueue's KVBatchMeta
    metrics: dict[str, Any]
    algorithm: Any  # verl's node of that name
    grpo_is_durian: bool = False
    computed: bool = False  # whether the estimator ran


# The batch whose advantages Trainer V1 is computing; set only while it does so.
_V1_BATCH: ContextVar[_V1Batch | None] = ContextVar("durian_v1_batch", default=None)

# The older trainers have no dict of metrics where they compute advantages: they wait here for compute_data_metrics.
_WAITING: ContextVar[dict[str, float] | None] = ContextVar("durian_waiting", default=None)


def compute_advantage(
    verls: Callable[..., DataProto], data: DataProto, adv_estimator: Any, *args: Any, **kwargs: Any
) -> DataProto:
    """Around ``verl.trainer.ppo.ray_trainer.compute_advantage``: (b) and the metrics of the step.

    Raises:
        RuntimeError: durian was asked for, and the function that is wrapped did not call the estimator.
    """
    v1_batch = _V1_BATCH.get()
    replaces_grpo = v1_batch is not None and v1_batch.grpo_is_durian and adv_estimator == AdvantageEstimator.GRPO
    nested = STEP.get() is not None  # another plugin's function lies between this call and one of ours
    if nested or not (replaces_grpo or is_durian(adv_estimator)):
        return verls(data, adv_estimator, *args, **kwargs)
    start = time.perf_counter()
    data.meta_info.pop(_PENDING, None)
    thresholds = data.meta_info.pop(_THRESHOLDS, None)
    if thresholds is not None:
        config = kwargs["config"] if "config" in kwargs else args[-1]
        config.durian.perceptual.thresholds = list(thresholds)
    step = Step(batch=data.batch, non_tensor_batch=data.non_tensor_batch)
    token = STEP.set(step)
    try:
        data = verls(data, "durian", *args, **kwargs)
    finally:
        STEP.reset(token)
    if not step.computed:
        raise _not_computed(verls)
    metrics = _metrics(step)
    metrics["durian/hook_seconds"] = time.perf_counter() - start
    if v1_batch is None:
        _WAITING.set(metrics)
    else:
        v1_batch.computed = True
        v1_batch.metrics.update(metrics)
    return data


def compute_data_metrics(
    verls: Callable[..., dict[str, Any]], batch: DataProto, *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Around ``verl.trainer.ppo.metric_utils.compute_data_metrics``: (c) in the older trainers.

    Raises:
        RuntimeError: durian was asked for, and its estimator did not run: verl computed other advantages.
    """
    if batch.meta_info.get(_PENDING):
        raise _not_computed(sys.modules[verl_symbols.RAY_TRAINER].compute_advantage)
    metrics = verls(batch, *args, **kwargs)
    metrics.update(_WAITING.get() or {})
    _WAITING.set(None)
    return metrics


def create_dataloader(verls: Callable[..., None], self: Any, train_dataset: Any, *args: Any, **kwargs: Any) -> None:
    """Around ``RayPPOTrainer._create_dataloader``: (a)."""
    verls(self, train_dataset, *args, **kwargs)
    _prepare(self)


def get_gen_batch(verls: Callable[..., DataProto], self: Any, batch: DataProto) -> DataProto:
    """Around ``RayPPOTrainer._get_gen_batch``: (b)."""
    gen_batch = verls(self, batch)
    if is_durian(self.config.algorithm.adv_estimator):
        batch.meta_info[_PENDING] = True
        # verl moves every column it does not know out of the batch, and the rollout does not return it.
        key = DurianConfig.from_algorithm(self.config.algorithm).perceptual.key
        if key in gen_batch.non_tensor_batch:
            batch.non_tensor_batch[key] = gen_batch.non_tensor_batch.pop(key)
    return gen_batch


async def generate_sequences_single(
    verls: Callable[..., Awaitable[DataProto]], self: Any, prompts: DataProto
) -> DataProto:
    """Around ``FullyAsyncAgentLoopManager.generate_sequences_single``: (b)."""
    rollouts = await verls(self, prompts)
    if is_durian(self.config.algorithm.adv_estimator):
        # verl keeps no column of the prompts, and the trainer, another process, loads no training data.
        options = DurianConfig.from_algorithm(self.config.algorithm).perceptual
        if options.key in prompts.non_tensor_batch:
            rollouts.non_tensor_batch[options.key] = prompts.non_tensor_batch[options.key]
        if isinstance(options.thresholds, list):
            rollouts.meta_info[_THRESHOLDS] = tuple(options.thresholds)
    return rollouts


def init_dataloader(verls: Callable[..., None], self: Any) -> None:
    """Around V1's ``PPOTrainer._init_dataloader``: (a)."""
    verls(self)
    _prepare(self)


def v1_compute_advantage(verls: Callable[..., Any], self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
    """Around V1's ``PPOTrainer._compute_advantage``: (c).

    Raises:
        RuntimeError: durian was asked for, and its estimator did not run: verl computed other advantages.
    """
    if not is_durian(self.config.algorithm.adv_estimator):
        return verls(self, batch, metrics)
    v1_batch = _V1Batch(batch, metrics, self.config.algorithm)
    token = _V1_BATCH.set(v1_batch)
    try:
        result = verls(self, batch, metrics)
    finally:
        _V1_BATCH.reset(token)
    if not v1_batch.computed:
        raise _not_computed(verls)
    return result


def compute_advantage_for_multi_trajectories(
    verls: Callable[..., DataProto], data: DataProto, batch_keys: Any, adv_estimator: Any, *args: Any, **kwargs: Any
) -> DataProto:
    """Around the function of this name in V1: (b)."""
    v1_batch = _V1_BATCH.get()
    if v1_batch is None or not is_durian(adv_estimator):
        return verls(data, batch_keys, adv_estimator, *args, **kwargs)
    start = time.perf_counter()
    _add_columns(data, v1_batch.meta, DurianConfig.from_algorithm(v1_batch.algorithm))
    fetched = time.perf_counter() - start
    # verl lets the last output of a session stand for all of them, for GRPO alone. Asked for GRPO it does so here too,
    # and compute_advantage above asks for durian in its place.
    v1_batch.grpo_is_durian = True
    try:
        data = verls(data, batch_keys, AdvantageEstimator.GRPO, *args, **kwargs)
    finally:
        v1_batch.grpo_is_durian = False
    if not v1_batch.computed:
        raise _not_computed(verls)
    v1_batch.metrics["durian/hook_seconds"] += fetched
    return data


def _not_computed(function: Callable[..., Any]) -> RuntimeError:
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
    return RuntimeError(
        f"algorithm.adv_estimator=durian, but {name} did not call its estimator, and "
        "this step's advantages are not Durian's: another plugin may have replaced a function of verl's; "
        "`verl-durian doctor` checks them, VERL_USE_EXTERNAL_PLUGINS=durian loads no other plugin"
    )


def _add_columns(data: DataProto, meta: Any, options: DurianConfig) -> None:
    """Fetches from TransferQueue the columns that Trainer V1 leaves there, unless the batch has them."""
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
                "agent loop copies from the training set: let your rollout keep it (rollouts of a checkpoint that was "
                "made with another estimator lack it), or set "
                "+algorithm.durian.weights.perceptual=0"
            ) from error
    if _ACCURACY not in data.non_tensor_batch:
        try:
            accuracy = _fetch_accuracy(fetch)
        except Exception as error:  # of a metric, which must not end training
            warn_once("accuracy", f"durian: the rewards replace the accuracy in the metrics ({error!r})")
        else:
            if accuracy is not None:
                data.non_tensor_batch[_ACCURACY] = accuracy


def _object_array(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):  # NumPy would take lists of one length for a second dimension
        array[row] = value
    return array


def _fetch_accuracy(fetch: Callable[[str], np.ndarray]) -> np.ndarray | None:
    """Each row's accuracy as the agent loop stores it, or else as a colocated reward model does; None without any."""
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
    """The metrics of one step; whatever is wrong with them, training goes on."""
    if step.advantages is None or step.rows is None:  # no row has tokens
        return {}
    try:
        return durian_metrics(step.advantages, _accuracy(step, step.rows))
    except Exception as error:
        warn_once("metrics", f"durian: a step without the metrics durian/... ({error!r})")
        return {}


def _accuracy(step: Step, rows: torch.Tensor) -> torch.Tensor | None:
    """The accuracy of each of these rows; None where the reward function returns none that is a number."""
    accuracy = step.non_tensor_batch.get(_ACCURACY)
    if accuracy is None:
        return None
    try:
        of_row = np.asarray(accuracy, dtype=np.float64).reshape(len(accuracy))
    except (TypeError, ValueError) as error:
        warn_once(
            "accuracy",
            f"durian: the reward function returns {_ACCURACY}={accuracy[0]!r}, not a number for each rollout; the "
            f"rewards replace it in the metrics ({error})",
        )
        return None
    return torch.from_numpy(of_row).to(rows.device)[rows]


def _prepare(trainer: Any) -> None:
    """Before the first step: checks the settings, and adds the visual entropy to every training row.

    Where the options ask for the thresholds of the training set, these numbers take the place of the word ``dataset``
    in the trainer's config, whose node ``algorithm`` it passes to the estimator in every step. Without a perceptual
    axis there are no such numbers, and ``batch`` takes its place: a verl that computes durian itself does not know the
    word. A run that only validates needs none of this.
    """
    # verl looks at val_only only where it validates before training.
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

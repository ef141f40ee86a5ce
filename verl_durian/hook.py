# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Brings the estimator what it needs, in each of verl's PPO trainers, and its metrics into the metrics of the step.

(a) Before the first step every training row gets its visual entropy, and the config the thresholds of the training set
    where it asks for them: ``_init_dataloader`` (V1), ``_create_dataloader`` (older trainers).
(b) In each step the row's visual entropy and log-probabilities reach the estimator: ``compute_advantage``. Where verl
    would lose the visual entropy between data and estimator it is kept: ``_get_gen_batch`` (older trainers),
    ``generate_sequences_single`` (fully asynchronous), or fetched: ``compute_advantage_for_multi_trajectories`` (V1).
(c) The metrics join the step's: ``_compute_advantage`` (V1), ``compute_data_metrics`` (older trainers).

The older trainers are ``RayPPOTrainer`` and those that derive from it and import its functions: one-step off-policy
and fully asynchronous training.

With another estimator every function here calls verl's own and does nothing else. A verl that has an estimator
``durian`` of its own (patches/README.md) keeps (b) and has no (c): there only (a) is hooked.
"""

import functools
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import AdvantageEstimator

from verl_durian import verl_api
from verl_durian.config import DurianConfig
from verl_durian.estimator import STEP, Step
from verl_durian.metrics import durian_metrics
from verl_durian.start_checks import check, is_durian
from verl_durian.training_data import add_visual_entropy, dataset_thresholds

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

_ACCURACY = "acc"  # what verl's own reward functions, and ours, call a rollout's accuracy

# What Trainer V1 is computing advantages of; set while it does so, and only there.
_V1_BATCH: ContextVar["_V1Batch | None"] = ContextVar("durian_v1_batch", default=None)

# The older trainers have no dict of metrics where they compute advantages: they wait here for compute_data_metrics.
_WAITING: ContextVar[dict[str, float] | None] = ContextVar("durian_waiting", default=None)


# The thresholds of the training set, in the meta_info of rollouts for a trainer that has not seen it.
_THRESHOLDS = "durian_thresholds"


@dataclass
class _V1Batch:
    meta: Any  # TransferQueue's KVBatchMeta
    metrics: dict[str, Any]


def install_ray_trainer(ray_trainer: Any) -> None:
    """Hooks the module ``verl.trainer.ppo.ray_trainer``, which also holds what all trainers share."""
    trainer = ray_trainer.RayPPOTrainer
    verl_compute_advantage = ray_trainer.compute_advantage
    verl_create_dataloader = trainer._create_dataloader
    verl_get_gen_batch = trainer._get_gen_batch

    @functools.wraps(verl_compute_advantage)
    def compute_advantage(data: DataProto, adv_estimator: Any, *args: Any, **kwargs: Any) -> DataProto:
        v1_batch = _V1_BATCH.get()
        if not is_durian(adv_estimator) and v1_batch is None:
            return verl_compute_advantage(data, adv_estimator, *args, **kwargs)
        start = time.perf_counter()
        thresholds = data.meta_info.pop(_THRESHOLDS, None)
        if thresholds is not None:
            kwargs["config"].durian.perceptual.thresholds = list(thresholds)
        step = Step(batch=data.batch, non_tensor_batch=data.non_tensor_batch)
        token = STEP.set(step)
        try:
            data = verl_compute_advantage(data, "durian", *args, **kwargs)
        finally:
            STEP.reset(token)
        metrics = _metrics(step)
        metrics["durian/hook_seconds"] = time.perf_counter() - start
        if v1_batch is None:
            _WAITING.set(metrics)
        else:
            v1_batch.metrics.update(metrics)
        return data

    @functools.wraps(verl_create_dataloader)
    def _create_dataloader(self: Any, train_dataset: Any, *args: Any, **kwargs: Any) -> None:
        verl_create_dataloader(self, train_dataset, *args, **kwargs)
        _prepare(self)

    @functools.wraps(verl_get_gen_batch)
    def _get_gen_batch(self: Any, batch: DataProto) -> DataProto:
        gen_batch = verl_get_gen_batch(self, batch)
        if is_durian(self.config.algorithm.adv_estimator):
            # verl moves every column it does not know out of the batch, and the rollout does not bring it back.
            key = DurianConfig.from_algorithm(self.config.algorithm).perceptual.key
            if key in gen_batch.non_tensor_batch:
                batch.non_tensor_batch[key] = gen_batch.non_tensor_batch.pop(key)
        return gen_batch

    trainer._create_dataloader = _create_dataloader
    if not verl_api.computes_durian():
        ray_trainer.compute_advantage = compute_advantage
        trainer._get_gen_batch = _get_gen_batch


def install_metric_utils(metric_utils: Any) -> None:
    """Hooks the module ``verl.trainer.ppo.metric_utils``, whose function every trainer's module imports by name."""
    verl_compute_data_metrics = metric_utils.compute_data_metrics

    @functools.wraps(verl_compute_data_metrics)
    def compute_data_metrics(batch: DataProto, *args: Any, **kwargs: Any) -> dict[str, Any]:
        metrics = verl_compute_data_metrics(batch, *args, **kwargs)
        metrics.update(_WAITING.get() or {})
        _WAITING.set(None)
        return metrics

    if not verl_api.computes_durian():
        metric_utils.compute_data_metrics = compute_data_metrics


def install_fully_async(fully_async_rollouter: Any) -> None:
    """Hooks the module ``verl.experimental.fully_async_policy.fully_async_rollouter``."""
    manager = fully_async_rollouter.FullyAsyncAgentLoopManager
    verl_generate = manager.generate_sequences_single

    @functools.wraps(verl_generate)
    async def generate_sequences_single(self: Any, prompts: DataProto) -> DataProto:
        rollouts = await verl_generate(self, prompts)
        if is_durian(self.config.algorithm.adv_estimator):
            # verl keeps no column of the prompts, and the trainer, another process, loads no training data.
            options = DurianConfig.from_algorithm(self.config.algorithm).perceptual
            if options.key in prompts.non_tensor_batch:
                rollouts.non_tensor_batch[options.key] = prompts.non_tensor_batch[options.key]
            if isinstance(options.thresholds, list):
                rollouts.meta_info[_THRESHOLDS] = tuple(options.thresholds)
        return rollouts

    if not verl_api.computes_durian():
        manager.generate_sequences_single = generate_sequences_single


def install_trainer_v1(trainer_base: Any) -> None:
    """Hooks the module ``verl.trainer.ppo.v1.trainer_base``."""
    trainer = trainer_base.PPOTrainer
    verl_init_dataloader = trainer._init_dataloader
    verl_compute_advantage = trainer._compute_advantage
    verl_multi_trajectories = trainer_base.compute_advantage_for_multi_trajectories

    @functools.wraps(verl_init_dataloader)
    def _init_dataloader(self: Any) -> None:
        verl_init_dataloader(self)
        _prepare(self)

    @functools.wraps(verl_compute_advantage)
    def _compute_advantage(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        if not is_durian(self.config.algorithm.adv_estimator):
            return verl_compute_advantage(self, batch, metrics)
        token = _V1_BATCH.set(_V1Batch(batch, metrics))
        try:
            return verl_compute_advantage(self, batch, metrics)
        finally:
            _V1_BATCH.reset(token)

    @functools.wraps(verl_multi_trajectories)
    def compute_advantage_for_multi_trajectories(data: DataProto, *args: Any, **kwargs: Any) -> DataProto:
        v1_batch = _V1_BATCH.get()
        if v1_batch is None:
            return verl_multi_trajectories(data, *args, **kwargs)
        start = time.perf_counter()
        _add_columns(data, v1_batch.meta, DurianConfig.from_algorithm(kwargs["config"]), trainer_base.tq.kv_batch_get)
        fetched = time.perf_counter() - start
        # verl lets the last output of a session stand for all of them, for GRPO alone. Asked for GRPO it does so here
        # too, and has the advantages themselves computed by compute_advantage above, which knows better.
        data = verl_multi_trajectories(data, *args, **{**kwargs, "adv_estimator": AdvantageEstimator.GRPO})
        v1_batch.metrics["durian/hook_seconds"] += fetched
        return data

    trainer._init_dataloader = _init_dataloader
    if not verl_api.computes_durian():
        trainer._compute_advantage = _compute_advantage
        trainer_base.compute_advantage_for_multi_trajectories = compute_advantage_for_multi_trajectories


def _add_columns(data: DataProto, meta: Any, options: DurianConfig, kv_batch_get: Callable[..., Any]) -> None:
    """Fetches from TransferQueue what Trainer V1 leaves there, unless it is in the batch already."""

    def fetch(name: str) -> list[Any]:
        column = kv_batch_get(keys=meta.keys, partition_id=meta.partition_id, select_fields=[name])[name]
        return [getattr(value, "data", value) for value in column]

    key = options.perceptual.key
    if options.weights.perceptual > 0 and key not in data.non_tensor_batch:
        try:
            column = fetch(key)
        except KeyError as error:
            raise ValueError(
                f"the rollouts in TransferQueue have no field {key!r} (algorithm.durian.perceptual.key), which verl's "
                "agent loop copies from the training set: let your rollout keep it (rollouts of a checkpoint that was "
                "made with another estimator lack it), or set "
                "+algorithm.durian.weights.perceptual=0"
            ) from error
        data.non_tensor_batch[key] = np.array(column, dtype=np.float64)
    if _ACCURACY not in data.non_tensor_batch and (accuracy := _fetch_accuracy(fetch)) is not None:
        data.non_tensor_batch[_ACCURACY] = np.array(accuracy, dtype=np.float64)


def _fetch_accuracy(fetch: Callable[[str], list[Any]]) -> list[Any] | None:
    """Each row's accuracy, where the agent loop leaves it, or else where a colocated reward model does; if at all."""
    try:
        infos = [(fields or {}).get("reward_extra_info") or {} for fields in fetch("extra_fields")]
        if all(_ACCURACY in info for info in infos):
            return [info[_ACCURACY] for info in infos]
    except KeyError:
        pass
    try:
        return fetch(_ACCURACY)
    except KeyError:
        return None


def _metrics(step: Step) -> dict[str, float]:
    if step.advantages is None or step.rows is None:  # no row has tokens
        return {}
    accuracy = step.non_tensor_batch.get(_ACCURACY)
    if accuracy is None:
        return durian_metrics(step.advantages)
    of_row = torch.from_numpy(np.asarray(accuracy, dtype=np.float64)).to(step.rows.device)
    return durian_metrics(step.advantages, of_row[step.rows])


def _prepare(trainer: Any) -> None:
    """Before the first step: checks the settings, and sees to the visual entropy of every training row.

    Where the options ask for the thresholds of the training set, these numbers take the place of the word ``dataset``
    in the trainer's config, whose node ``algorithm`` it hands to the estimator in every step. Without a perceptual axis
    there are no such numbers, and ``batch`` takes its place: a verl that computes durian itself does not know the word.
    """
    if not is_durian(trainer.config.algorithm.adv_estimator):
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

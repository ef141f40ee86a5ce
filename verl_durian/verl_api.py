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
"""Everything of verl that this plugin relies on, in one place."""

import importlib
import importlib.metadata
import inspect
import sys
from dataclasses import dataclass
from typing import Any

SEEN_IN = ("0.9.0", "0.9.1")
"""The releases of verl in which every symbol below was seen to be there and to work."""

FAILURES: list[str] = []
"""What went wrong while the plugin hooked itself into this process's verl, one line each."""

CORE_ALGOS = "verl.trainer.ppo.core_algos"
RAY_TRAINER = "verl.trainer.ppo.ray_trainer"
METRIC_UTILS = "verl.trainer.ppo.metric_utils"
TRAINER_V1 = "verl.trainer.ppo.v1.trainer_base"
FULLY_ASYNC = "verl.experimental.fully_async_policy.fully_async_rollouter"
CONFIG = "verl.utils.config"
PROTOCOL = "verl.protocol"


@dataclass(frozen=True)
class Symbol:
    """One name of verl, with the parameters that it is called with or replaced under."""

    module: str
    name: str
    parameters: tuple[str, ...] = ()


SYMBOLS = (
    # The estimator is registered here.
    Symbol(CORE_ALGOS, "register_adv_est", ("name_or_enum",)),
    Symbol(CORE_ALGOS, "ADV_ESTIMATOR_REGISTRY"),
    Symbol(CORE_ALGOS, "AdvantageEstimator.GRPO"),
    # Options and settings are checked here.
    Symbol(CONFIG, "validate_config", ("config",)),
    # Every trainer: the estimator is called from here.
    Symbol(RAY_TRAINER, "compute_advantage", ("data", "adv_estimator", "config")),
    # The older trainer and what is built on it: the training data, the columns that survive generation, the metrics.
    Symbol(RAY_TRAINER, "RayPPOTrainer._create_dataloader", ("self", "train_dataset")),
    Symbol(RAY_TRAINER, "RayPPOTrainer._get_gen_batch", ("self", "batch")),
    Symbol(METRIC_UTILS, "compute_data_metrics", ("batch",)),
    # Trainer V1: the training data, the advantage step, sessions with several outputs, the columns in TransferQueue.
    Symbol(TRAINER_V1, "PPOTrainer._init_dataloader", ("self",)),
    Symbol(TRAINER_V1, "PPOTrainer._compute_advantage", ("self", "batch", "metrics")),
    Symbol(TRAINER_V1, "compute_advantage_for_multi_trajectories", ("data", "batch_keys", "adv_estimator", "config")),
    Symbol(TRAINER_V1, "tq.kv_batch_get", ("keys", "partition_id", "select_fields")),
    # Fully asynchronous training: what reaches the trainer, which has not seen the training data, from the rollouts.
    Symbol(FULLY_ASYNC, "FullyAsyncAgentLoopManager.generate_sequences_single", ("self", "prompts")),
    # What a batch is.
    Symbol(PROTOCOL, "DataProto", ("batch", "non_tensor_batch", "meta_info")),
)


def missing(module: str | None = None) -> list[str]:
    """Names what this verl lacks.

    Args:
        module: look at the symbols of this module only; all of them if None, but those of an experimental trainer only
            where it is in use.

    Returns:
        One line for each symbol that is missing or has lost a parameter; empty if all is there.
    """
    problems = list(FAILURES)
    for symbol in SYMBOLS:
        in_use = symbol.module != FULLY_ASYNC or FULLY_ASYNC in sys.modules
        if module == symbol.module or (module is None and in_use):
            try:
                found: Any = importlib.import_module(symbol.module)
                for part in symbol.name.split("."):
                    found = getattr(found, part)
            except (ImportError, AttributeError) as error:
                problems.append(f"{symbol.module}.{symbol.name} is missing ({error})")
                continue
            if symbol.parameters:
                known = inspect.signature(found).parameters
                lost = [name for name in symbol.parameters if name not in known]
                if lost:
                    problems.append(f"{symbol.module}.{symbol.name} has no parameter {', '.join(lost)}")
    return problems


def computes_durian() -> bool:
    """Whether this verl has an estimator ``durian`` of its own and hands it what it needs, as patches/ make it."""
    return hasattr(importlib.import_module(CORE_ALGOS).AdvantageEstimator, "DURIAN")


def require() -> None:
    """Raises RuntimeError if this verl lacks anything the plugin relies on, naming it and the supported versions."""
    problems = missing()
    if problems:
        raise RuntimeError(
            f"verl {importlib.metadata.version('verl')} does not fit this verl-durian, which was made for verl "
            f"{' and '.join(SEEN_IN)}: {'; '.join(problems)}. Install one of those versions together with "
            "verl-durian, so that pip brings what both need, or a newer verl-durian."
        )

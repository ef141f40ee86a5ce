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
"""Loaded by ``import verl`` in every process (entry point group ``verl.plugins``).

Nothing of weight is imported here: each hook runs once the module of verl that it belongs to has been imported. A verl
that lacks a symbol is left as it is, so that other estimators work; ``durian`` itself then refuses to start.
"""

from types import ModuleType

import wrapt

from verl_durian import cpu, verl_api


def _register_estimator(core_algos: ModuleType) -> None:
    # A verl that brings an estimator of this name keeps its own.
    if "durian" not in core_algos.ADV_ESTIMATOR_REGISTRY:
        from verl_durian.estimator import compute_durian_outcome_advantage

        core_algos.register_adv_est("durian")(compute_durian_outcome_advantage)


def _install_start_checks(config: ModuleType) -> None:
    from verl_durian import start_checks

    start_checks.install(config)


def _hook_ray_trainer(ray_trainer: ModuleType) -> None:
    from verl_durian import hook

    hook.install_ray_trainer(ray_trainer)


def _hook_metric_utils(metric_utils: ModuleType) -> None:
    from verl_durian import hook

    hook.install_metric_utils(metric_utils)


def _hook_trainer_v1(trainer_base: ModuleType) -> None:
    from verl_durian import hook

    hook.install_trainer_v1(trainer_base)


def _hook_fully_async(fully_async_rollouter: ModuleType) -> None:
    from verl_durian import hook

    hook.install_fully_async(fully_async_rollouter)


HOOKS = {
    verl_api.CORE_ALGOS: _register_estimator,
    verl_api.CONFIG: _install_start_checks,
    verl_api.RAY_TRAINER: _hook_ray_trainer,
    verl_api.METRIC_UTILS: _hook_metric_utils,
    verl_api.TRAINER_V1: _hook_trainer_v1,
    verl_api.FULLY_ASYNC: _hook_fully_async,
}


def _when_whole(module: ModuleType) -> None:
    if verl_api.missing(module.__name__):
        return
    try:
        HOOKS[module.__name__](module)
    except Exception as error:  # must not leave through verl's import; with durian it is told at start
        verl_api.FAILURES.append(f"the hook in {module.__name__} failed ({type(error).__name__}: {error})")


for _name in HOOKS:
    wrapt.register_post_import_hook(_when_whole, _name)

if cpu.enabled():
    cpu.install()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The same rows give the same advantages and metrics in every trainer of verl, as TransferQueue and DataProto data.

Rollouts, log-probabilities and values, which a model would give, are made here; all the rest is verl's own.
"""

import asyncio
import copy
import functools
from functools import partial
from types import SimpleNamespace

import advantage_step
import numpy as np
import pandas as pd
import pytest
import ray
import torch
from advantage_step import DURIAN, assert_expected, data_proto, expected, make_rows, run_v0, run_v1
from scipy.stats import spearmanr
from verl.protocol import DataProto

from verl_durian.hooks import trainers

pytestmark = pytest.mark.usefixtures("local_ray")

THRESHOLDS = "+algorithm.durian.perceptual.thresholds"
CORRECTION = "algorithm.rollout_correction"
BYPASS = f"{CORRECTION}.bypass_mode=True"
REJECTION = (f"{CORRECTION}.rollout_rs=seq_mean_k3", f"{CORRECTION}.rollout_rs_threshold=1")
KL_IN_REWARD = ("algorithm.use_kl_in_reward=True", "algorithm.kl_ctrl.kl_coef=0.3")
CRITIC = ("critic.enable=True", "trainer.critic_warmup=5")


@functools.cache
def composed(*overrides: str):
    return advantage_step.compose(*DURIAN, *overrides)


def compose(*overrides: str):
    return copy.deepcopy(composed(*overrides))


def trainer_of(name: str, config):
    """A trainer that rolls out elsewhere, as far as it can be without workers."""
    from verl.experimental.fully_async_policy.fully_async_trainer import FullyAsyncTrainer
    from verl.experimental.one_step_off_policy.ray_trainer import OneStepOffRayTrainer
    from verl.experimental.separation.ray_trainer import SeparateRayPPOTrainer
    from verl.single_controller.ray import ResourcePoolManager
    from verl.trainer.ppo.core_algos import get_kl_controller

    classes = {
        "separation": SeparateRayPPOTrainer,
        "one_step_off_policy": OneStepOffRayTrainer,
        "fully_async_policy": FullyAsyncTrainer.__ray_metadata__.modified_class,
    }
    trainer = advantage_step.in_last_step(object.__new__(classes[name]), config)
    trainer.metrics, trainer.timing_raw = {}, {"step": 1.0}
    if name == "fully_async_policy":
        trainer.current_param_version, trainer.local_trigger_step = 0, 1
    trainer.kl_ctrl_in_reward = get_kl_controller(config.algorithm.kl_ctrl)
    trainer.use_rm, trainer.use_critic = False, bool(config.critic.enable)
    trainer.resource_pool_manager = ResourcePoolManager({"trainer_pool": [1]}, {})
    return trainer


def fit(trainer, batch: DataProto):
    """The trainer's own methods from the reward to the metrics."""
    batch = trainer._fit_compute_reward(batch)
    if trainer.config.algorithm.rollout_correction.bypass_mode:
        batch = trainer._fit_compute_log_prob(batch)
    batch = trainer._fit_compute_advantage(batch)
    trainer._fit_collect_metrics(batch)
    return batch.batch["advantages"], batch.batch["response_mask"], trainer.metrics


def run_separate(rows: list[dict], config, name: str):
    return fit(trainer_of(name, config), data_proto(rows))


V1_MODES = ("sync", "colocate_async", "separate_async")
SEPARATE = ("separation", "one_step_off_policy", "fully_async_policy")
STEPS = {
    **{mode: partial(run_v1, mode=mode) for mode in V1_MODES},
    "RayPPOTrainer": run_v0,
    **{name: partial(run_separate, name=name) for name in SEPARATE},
}


@pytest.fixture(params=STEPS)
def step(request):
    return STEPS[request.param]


def rank_correlation(rows: list[dict]) -> float:
    """Of minus the confidence and the accuracy of prompts, which is not that of the rewards."""
    prompts = [[row for row in rows if row["uid"] == uid] for uid in sorted({row["uid"] for row in rows})]
    difficulty = [-np.mean([row["old_log_probs"].mean().item() for row in prompt]) for prompt in prompts]
    accuracy = [np.mean([row["extra_fields"]["reward_extra_info"]["acc"] for row in prompt]) for prompt in prompts]
    return spearmanr(difficulty, accuracy).statistic


def test_mixed_batch_of_unequal_groups(step):
    """And nothing is kept from one step to the next, or reported twice."""
    rows, config = make_rows(), compose()
    assert {sum(row["uid"] == uid for row in rows) for uid in {row["uid"] for row in rows}} == {1, 2, 4}
    first = step(rows, config)
    metrics = assert_expected(first, rows, config)
    assert metrics["durian/rows_without_image"] == pytest.approx(4 / len(rows))
    assert metrics["durian/reasoning/rank_correlation"] == pytest.approx(rank_correlation(rows))
    assert sum(metrics[f"durian/perceptual/S{a}/size"] for a in (1, 2, 3)) == 8

    step([row for row in rows if row["uid"] > "prompt3"], config)
    again = step(rows, config)
    assert torch.equal(first[0], again[0])
    of_us = [{name: value for name, value in each[2].items() if "durian/" in name} for each in (first, again)]
    assert of_us[0] == of_us[1]
    config.algorithm.adv_estimator = "grpo"
    assert not any("durian" in name for name in step(rows, config)[2])


def test_text_alone(step):
    rows, config = make_rows(), compose()
    for row in rows:
        row["visual_entropy"] = None
    assert assert_expected(step(rows, config), rows, config)["durian/rows_without_image"] == 1
    without_axis = compose("+algorithm.durian.weights={original: 0.3, perceptual: 0, reasoning: 0.7}")
    assert "durian/rows_without_image" not in step(rows, without_axis)[2]


@pytest.mark.parametrize("overrides", [(BYPASS,), KL_IN_REWARD, CRITIC])
def test_other_rewards_and_log_probs_and_a_critic(step, overrides):
    rows, config = make_rows(), compose(*overrides)
    assert torch.allclose(expected(rows, config), expected(rows, compose())) == (overrides == CRITIC)
    if overrides == (BYPASS,):
        for row in rows:
            del row["old_log_probs"]
    assert_expected(step(rows, config), rows, config)


def test_rejection_sampling(step):
    rows, config = make_rows(), compose(*REJECTION)
    keys = [row["key"] for row in rows]  # of two prompts some rollouts, of a third all
    rejected = tuple(key for key in keys if key[:9] in ("prompt4_0", "prompt4_2", "prompt6_3") or key[6] == "8")
    for row in rows:
        if row["key"] in rejected:
            row["rollout_log_probs"] = row["old_log_probs"] - 3
    found = step(rows, config)
    assert_expected(found, rows, config, rejected)
    assert tuple(key for key, kept in zip(keys, found[1].any(dim=-1), strict=True) if not kept) == rejected


@pytest.mark.parametrize("estimator", ["durian", "grpo", "rloo"])
def test_record(step, estimator, tmp_path):
    rows, recorded = make_rows(), f"+algorithm.durian.record={tmp_path / 'records'}"
    rejected = [row["key"].startswith("prompt4_0") for row in rows]
    rows[rejected.index(True)]["rollout_log_probs"] = rows[rejected.index(True)]["old_log_probs"] - 3
    plain, config = compose(*REJECTION), compose(*REJECTION, recorded, "+algorithm.durian.record_texts=true")
    plain.algorithm.adv_estimator = config.algorithm.adv_estimator = estimator
    advantages = step(rows, plain)[0]
    assert torch.equal(advantages, step(rows, config)[0])

    (file,) = (tmp_path / "records").iterdir()
    found, kept = pd.read_parquet(file), [row for row, each in zip(rows, rejected, strict=True) if not each]
    assert file.name == "step_00000001.parquet"
    infos = [row["extra_fields"]["reward_extra_info"] for row in kept]
    for column, values in {
        "uid": [row["uid"] for row in kept],
        "row": [row["durian_row"] for row in kept],
        "accuracy": [info["acc"] for info in infos],
        "response_length": [len(row["responses"]) for row in kept],
        "prompt": ["1 1 1 1 1"] * len(kept),
        "answer": [" ".join("1" * len(row["responses"])) for row in kept],
    }.items():
        assert found[column].tolist() == values
    np.testing.assert_allclose(found["advantage_durian"], expected(kept, config), rtol=1e-5, atol=1e-5)
    of_run = advantages.sum(dim=-1)[~torch.tensor(rejected)] / torch.tensor(found["response_length"])
    np.testing.assert_allclose(found["advantage"], of_run, rtol=1e-5, atol=1e-6)
    if estimator != "rloo":
        np.testing.assert_allclose(found["advantage"], found[f"advantage_{estimator}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", V1_MODES)
def test_last_output_of_a_session_stands_for_all(mode, tmp_path):
    """Padding, two-output sessions among one-output ones, a session whose last output is rejected."""
    rows, config = make_rows(outputs=2), compose(*REJECTION, f"+algorithm.durian.record={tmp_path}")
    rows = [row for row in rows if row["key"] not in ("prompt0_0_1", "prompt1_2_0")]
    sessions, last = [row["key"].rsplit("_", 1)[0] for row in rows], {}
    for session, row in zip(sessions, rows, strict=True):
        last[session] = max(last.get(session, row), row, key=lambda each: each["key"])
        if row["key"] == "prompt4_1_1":
            row["rollout_log_probs"] = row["old_log_probs"] - 3
    advantages, mask, _ = run_v1(rows, config, multiple=16, mode=mode)
    of_last = list(last.values())
    assert len(advantages) > len(rows) and {row["key"][-1] for row in of_last} == {"0", "1"}
    of_session = dict(zip(last, expected(of_last, config, rejected=("prompt4_1_1",)).tolist(), strict=True))
    assert of_session["prompt4_1"] == 0
    wanted = torch.tensor([of_session[session] for session in sessions]).unsqueeze(-1) * mask[: len(rows)]
    torch.testing.assert_close(advantages[: len(rows)], wanted, rtol=1e-5, atol=1e-5)
    assert not advantages[len(rows) :].any()
    found = pd.read_parquet(tmp_path / "step_00000001.parquet")
    recorded = [f"{uid}_{rollout}" for uid, rollout in zip(found["uid"], found["rollout"], strict=True)]
    assert sorted(recorded) == sorted(set(of_session) - {"prompt4_1"})
    np.testing.assert_allclose(found["advantage"], [of_session[each] for each in recorded], rtol=1e-5, atol=1e-5)

    config.algorithm.adv_estimator, config.algorithm.durian.record = "grpo", None
    of_grpo, _, _ = run_v1(rows, config, multiple=16, mode=mode)
    for found in (advantages, of_grpo):  # as for GRPO, a session has one advantage
        for session in last:
            members = [k for k, each in enumerate(sessions) if each == session and mask[k].any()]
            assert len({found[k][mask[k].bool()].max().item() for k in members}) <= 1


def test_fully_asynchronous_rollouts_keep_what_the_trainer_needs():
    """From the rollouter, which alone has seen the training set, to the trainer, which has a config of its own."""
    rows = make_rows()
    rollouter_config, trainer_config = (
        compose(f"{THRESHOLDS}=dataset", "+algorithm.durian.record=null") for _ in range(2)
    )
    rollouter_config.algorithm.durian.perceptual.thresholds = [1.5, 2.5]  # as `load_data` leaves it there

    async def generate(self, prompts: DataProto) -> DataProto:
        """As verl's, which keeps no column of the prompts."""
        batch = data_proto(rows)
        del batch.non_tensor_batch["visual_entropy"], batch.non_tensor_batch["durian_row"]
        return batch

    def rollouts() -> DataProto:
        manager = SimpleNamespace(config=rollouter_config)
        return asyncio.run(trainers.generate_sequences_single(generate, manager, data_proto(rows)))

    batch = ray.cloudpickle.loads(ray.cloudpickle.dumps(rollouts()))
    metrics = assert_expected(fit(trainer_of("fully_async_policy", trainer_config), batch), rows, rollouter_config)
    assert metrics["durian/perceptual/threshold_1"] == 1.5
    assert not torch.allclose(expected(rows, rollouter_config), expected(rows, compose()))
    rollouter_config.algorithm.adv_estimator = "grpo"
    for rollouter_config.algorithm.durian.record in (None, "records"):
        recorded, found = bool(rollouter_config.algorithm.durian.record), rollouts()
        assert ({"visual_entropy", "durian_row"} <= set(found.non_tensor_batch)) is recorded
        assert ((1.5, 2.5) in found.meta_info.values()) is recorded


def test_metrics_of_several_updates_are_reduced_as_their_names_say():
    """verl goes by words in a metric's name, such as min, max, sum or total."""
    from verl.experimental.fully_async_policy import detach_utils
    from verl.trainer.ppo.v1 import utils

    _, _, metrics = run_v1(make_rows(), compose())
    for aggregator in (utils.MetricsAggregator(), detach_utils.MetricsAggregator(total_gpus=1)):
        kinds = {name: aggregator._get_aggregation_type(name) for name in metrics if name.startswith("durian/")}
        assert {name for name, kind in kinds.items() if kind == "min"} == {"durian/reasoning/std_min"}
        assert {name for name, kind in kinds.items() if kind == "max"} == {"durian/reasoning/std_max"}
        assert set(kinds.values()) <= {"min", "max", "avg", "weighted_avg"}
        for seconds in (2, 3):
            aggregator.add_step_metrics({"timing_s/durian": seconds}, sample_count=1)
        assert aggregator.get_aggregated_metrics()["timing_s/durian"] == 5

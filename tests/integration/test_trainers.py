# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The same rows give the same advantages and metrics in every trainer of verl, as TransferQueue and DataProto data.

Rollouts, log-probabilities and values, which a model would give, are made here; all the rest is verl's own.
"""

import asyncio
import copy
import functools
import inspect
from functools import partial
from types import SimpleNamespace

import advantage_step
import numpy as np
import pandas as pd
import pytest
import ray
import torch
from advantage_step import DURIAN, assert_expected, data_proto, expected, make_rows, run_v0, run_v1
from local_ray import join_local_ray
from scipy.stats import spearmanr
from verl.protocol import DataProto

THRESHOLDS = "+algorithm.durian.perceptual.thresholds"
CORRECTION = "algorithm.rollout_correction"
BYPASS = f"{CORRECTION}.bypass_mode=True"
REJECTION = (f"{CORRECTION}.rollout_rs=seq_mean_k3", f"{CORRECTION}.rollout_rs_threshold=1")
KL_IN_REWARD = ("algorithm.use_kl_in_reward=True", "algorithm.kl_ctrl.kl_coef=0.3")
CRITIC = ("critic.enable=True", "trainer.critic_warmup=5")


@pytest.fixture(scope="module", autouse=True)
def joined():
    join_local_ray()


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
    for each in of_us:
        del each["durian/hook_seconds"]
    assert of_us[0] == of_us[1]
    config.algorithm.adv_estimator = "grpo"
    assert not any(name.startswith("durian") for name in step(rows, config)[2])


def test_text_alone(step):
    rows, config = make_rows(), compose()
    for row in rows:
        row["visual_entropy"] = None
    assert assert_expected(step(rows, config), rows, config)["durian/rows_without_image"] == 1
    without_axis = compose("+algorithm.durian.weights={original: 0.3, perceptual: 0, reasoning: 0.7}")
    assert "durian/rows_without_image" not in step(rows, without_axis)[2]


@pytest.mark.parametrize("overrides", [(BYPASS,), KL_IN_REWARD])
def test_other_rewards_and_log_probs(step, overrides):
    rows, config = make_rows(), compose(*overrides)
    assert not torch.allclose(expected(rows, config), expected(rows, compose()))
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


def test_a_critic_changes_nothing_and_learns_from_the_advantages(step, monkeypatch):
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    registered, estimates = ADV_ESTIMATOR_REGISTRY["durian"], []

    def estimate(**kwargs):
        estimates.append(registered(**kwargs))
        return estimates[-1]

    monkeypatch.setitem(ADV_ESTIMATOR_REGISTRY, "durian", estimate)
    rows, config = make_rows(), compose(*CRITIC)
    assert_expected(step(rows, config), rows, config)
    ((advantages, returns),) = estimates
    assert torch.equal(advantages, returns)


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


class WithoutWorkers:
    """Takes the place of what a V1 trainer does on accelerators."""

    def prepare_step(self):
        return {}

    _add_batch_to_generate = prepare_step  # its name in verl 0.9.0

    def _balance_batch(self, batch, metrics):
        from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size

        return upsample_batch_to_divisible_size(batch, 8, eos_token_id=0)

    def _compute_old_log_prob(self, batch, metrics):
        return batch

    _update_actor = _compute_old_log_prob

    def on_sample_begin(self): ...

    on_sample_end = on_sample_begin


def put_group(uid: str, rows: list[dict], status: str, age: int) -> None:
    import transfer_queue as tq

    advantage_step.put_rows([row for row in rows if row["uid"] == uid])
    tq.kv_batch_put(
        keys=[uid], partition_id="train", tags=[{"is_prompt": True, "status": status, "global_steps": 10 - age}]
    )


@pytest.mark.parametrize(("mode", "updates"), [("sync", 1), ("colocate_async", 1), ("separate_async", 3)])
def test_a_step_of_replay_buffer_failed_groups_and_updates(mode, updates, tmp_path):
    """V1's own ``step``: an update is a batch of its own. Failed groups stay small (sync) or are refilled (async)."""
    import transfer_queue as tq
    from verl.trainer.ppo.v1 import get_trainer_cls
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

    rows = make_rows()
    recorded = f"+algorithm.durian.record={tmp_path}"
    config = compose(f"data.train_batch_size={9 - 9 % updates}", f"trainer.v1.trainer_mode={mode}", recorded)
    rows_of_refill = [{**row, "key": f"new{row['key']}", "uid": f"new{row['uid']}"} for row in rows]
    order = [f"prompt{number}" for number in range(9)]  # oldest first

    def refill(number: int) -> int:
        assert number == 1
        put_group("newprompt1", rows_of_refill, "finished", age=0)
        return number

    kind = ReplayBuffer if mode == "sync" else ReplayBufferAsync
    trainer = object.__new__(type("Trainer", (WithoutWorkers, get_trainer_cls(mode)), {}))
    trainer.config, trainer.parameter_sync_step = config, updates
    trainer.global_steps = trainer.total_training_steps = 10
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[])
    trainer.use_reference_policy = trainer.use_critic = False
    trainer.replay_buffer = kind(mode, config.trainer, 10, "drop", None, poll_interval=0.1, refill_fn=refill)
    for age, uid in enumerate(reversed(order)):
        put_group(uid, rows, "failure" if uid == "prompt1" else "finished", age)
    if mode != "sync":
        order = [uid for uid in order if uid != "prompt1"] + ["newprompt1"]

    metrics: dict = {}
    batch = trainer.step(metrics, {})
    try:
        found = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["advantages", "response_mask"])
    finally:
        tq.kv_clear(keys=batch.keys, partition_id="train")
    found = dict(zip(batch.keys, zip(found["advantages"], found["response_mask"], strict=True), strict=True))
    by_key = {row["key"]: row for row in rows + rows_of_refill}
    assert sum(key not in by_key for key in batch.keys) > 0  # padding rows
    each = len(order) // updates
    sizes = []
    for start in range(0, len(order), each):
        of_update = [row for row in by_key.values() if row["uid"] in order[start : start + each]]
        sizes.append(len(of_update))
        for row, advantage in zip(of_update, expected(of_update, config), strict=True):
            row_advantages, mask = found.pop(row["key"])
            torch.testing.assert_close(row_advantages, advantage * mask, rtol=1e-5, atol=1e-5)
    assert all(key.startswith("pad") and not advantages.any() for key, (advantages, _) in found.items())
    assert metrics["durian/prompts/num"] == pytest.approx(each)
    assert pd.read_parquet(tmp_path / "step_00000010.parquet")["update"].value_counts(sort=False).tolist() == sizes
    assert metrics["durian/reasoning/std_min"] <= metrics["durian/reasoning/std_median"]
    assert metrics["durian/hook_seconds"] > 0


def test_fully_asynchronous_rollouts_keep_what_the_trainer_needs():
    """From the rollouter, which alone has seen the training set, to the trainer, which has a config of its own."""
    from verl.experimental.fully_async_policy.detach_utils import RolloutSample, assemble_batch_from_rollout_samples
    from verl.experimental.fully_async_policy.fully_async_rollouter import FullyAsyncAgentLoopManager

    assert inspect.iscoroutinefunction(FullyAsyncAgentLoopManager.generate_sequences_single)
    rows = make_rows()
    rollouter_config, trainer_config = compose(f"{THRESHOLDS}=dataset"), compose(f"{THRESHOLDS}=dataset")
    rollouter_config.algorithm.durian.perceptual.thresholds = [1.5, 2.5]  # as `load_data` leaves it there
    uids = sorted({row["uid"] for row in rows})
    groups = [[row for row in rows if row["uid"] == uid] for uid in uids]
    rollouts = []
    for group in groups:
        batch = pad_responses(data_proto(group), max(len(row["responses"]) for row in rows))
        del batch.non_tensor_batch["visual_entropy"], batch.non_tensor_batch["durian_row"]
        del batch.meta_info["global_token_num"]
        for name in ("min_global_steps", "max_global_steps"):
            batch.non_tensor_batch[name] = np.zeros(len(group), dtype=object)
        batch.meta_info["metrics"] = [{"generate_sequences": 1.0, "tool_calls": 0.0} for _ in group]
        rollouts.append(batch)

    @ray.remote
    class AgentLoopWorker:
        """verl's hands back a batch without the columns of the prompts."""

        def __init__(self, answers):
            self.answers = iter(answers)

        def generate_sequences(self, prompts):
            return next(self.answers)

    manager = object.__new__(FullyAsyncAgentLoopManager)

    def generate(entropies: list) -> DataProto:
        columns = {name: np.array(entropies, dtype=object) for name in ("visual_entropy", "durian_row")}
        prompts = DataProto.from_dict(tensors={"dummy": torch.zeros(len(entropies))}, non_tensors=columns)
        return asyncio.run(manager.generate_sequences_single(prompts))

    manager.config, manager.agent_loop_workers = rollouter_config, [AgentLoopWorker.remote(rollouts)]
    samples = []
    for uid, group in zip(uids, groups, strict=True):
        output = generate([row["visual_entropy"] for row in group])
        samples.append(RolloutSample(ray.cloudpickle.loads(ray.cloudpickle.dumps(output)), uid, 0, {}))
    batch = assemble_batch_from_rollout_samples(samples, None, trainer_config)
    batch.to_tensordict()  # so it goes to the actor's workers

    ordered = [row for group in groups for row in group]
    found = fit(trainer_of("fully_async_policy", trainer_config), batch)
    assert not torch.allclose(expected(ordered, rollouter_config), expected(ordered, compose()))
    metrics = assert_expected(found, ordered, rollouter_config)
    assert metrics["durian/perceptual/threshold_1"] == 1.5

    for recorded in ((), ("+algorithm.durian.record=records",)):
        manager.config = compose(f"{THRESHOLDS}=[1.5,2.5]", *recorded)
        manager.config.algorithm.adv_estimator = "grpo"
        manager.agent_loop_workers = [AgentLoopWorker.remote(rollouts)]
        output = generate([1.0])
        assert ({"visual_entropy", "durian_row"} <= set(output.non_tensor_batch)) is bool(recorded)
        assert ([1.5, 2.5] in [list(each) for each in output.meta_info.values() if len(each) == 2]) is bool(recorded)


def pad_responses(batch: DataProto, width: int) -> DataProto:
    """To the length that all rollouts of a run have."""
    tensors = {}
    for name, values in batch.batch.items():
        length = 5 + width if name == "attention_mask" else 5 if name == "prompts" else width
        tensors[name] = torch.nn.functional.pad(values, (0, length - values.shape[1]))
    return DataProto.from_dict(tensors=tensors, non_tensors=batch.non_tensor_batch, meta_info=batch.meta_info)


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

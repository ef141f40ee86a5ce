# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The hook, in verl's own advantage steps with real TransferQueue and DataProto data."""

import copy
import inspect
import os
import subprocess
import sys
from pathlib import Path

import advantage_step
import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from durian_reference import durian as reference
from scipy.stats import spearmanr
from transformers import AutoProcessor
from verl.trainer.ppo.core_algos import AdvantageEstimator

from verl_durian.algo import estimator
from verl_durian.algo.config import DurianConfig
from verl_durian.hooks import trainers, verl_symbols

DURIAN = ("algorithm.adv_estimator=durian", "+algorithm.durian.reasoning.num_groups=3")
OF_THE_TRAINING_SET = "+algorithm.durian.perceptual.thresholds=dataset"
ENTROPIES = [5.0, 3.0, 6.0, 2.0, 4.0, None]  # quartiles 3 and 5, which part the rollouts below unlike their own


@pytest.fixture(scope="module")
def config():
    config = advantage_step.compose(*DURIAN)
    advantage_step.start_transfer_queue(config)
    yield config
    advantage_step.stop_transfer_queue()


def expected(rows: list[dict], thresholds: str | list[float] = "batch") -> torch.Tensor:
    """What loops over float64 numbers give for the rows, (bs,)."""
    mask = advantage_step.padded(rows, "response_mask").numpy()
    return torch.tensor(
        reference(
            advantage_step.padded(rows, "rm_scores").double().numpy(),
            mask,
            [row["uid"] for row in rows],
            advantage_step.padded(rows, "old_log_probs").double().numpy(),
            [row["visual_entropy"] for row in rows],
            weights=(0.1, 0.2, 0.7),
            quantiles=(0.25, 0.75),
            num_groups=3,
            thresholds=thresholds,
        ),
        dtype=torch.float32,
    )


def of_accuracy(rows: list[dict]) -> float:
    """Rank correlation of minus the confidence and the accuracy of prompts, which is not the rewards'."""
    uids = sorted({row["uid"] for row in rows})

    def mean(values):
        return sum(values) / len(values)

    difficulty = [-mean([row["old_log_probs"].mean().item() for row in rows if row["uid"] == uid]) for uid in uids]
    acc = [mean([row["extra_fields"]["reward_extra_info"]["acc"] for row in rows if row["uid"] == uid]) for uid in uids]
    return spearmanr(difficulty, acc).statistic


def with_training_set(trainer: str, model: Path, folder: Path, entropies: list[float | None], *overrides: str):
    """verl's config, after the real trainer has loaded a training set of these visual entropies."""
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

    images = [[] if entropy is None else [{"bytes": b"not looked at"}] for entropy in entropies]
    prompts = [[{"role": "user", "content": "<image>" * len(of_row) + "What is it?"}] for of_row in images]
    columns = {"prompt": prompts, "images": images, "visual_entropy": entropies}
    datasets.Dataset.from_dict(columns).to_parquet(folder / "train.parquet")
    config = advantage_step.compose(
        *DURIAN,
        f"actor_rollout_ref.model.path={model}",
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.load_format=auto",
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'train.parquet'}",
        "data.train_batch_size=2",
        f"+data.cache_dir={folder / 'data'}",
        *overrides,
    )
    loading = object.__new__(PPOTrainerSync if trainer == "v1" else RayPPOTrainer)
    loading.config, loading.processor = config, AutoProcessor.from_pretrained(model)
    loading.tokenizer = loading.processor.tokenizer
    if trainer == "v1":
        loading.trainer_mode, loading.parameter_sync_step = "sync", 1
        loading._init_dataloader()
    else:
        loading._create_dataloader(None, None, None, None)
    return config


@pytest.mark.parametrize("trainer", ["v1", "older"])
def test_thresholds_of_the_training_set_reach_the_estimator(trainer, config, tiny_qwen25vl, tmp_path, caplog):
    config = with_training_set(trainer, tiny_qwen25vl, tmp_path, ENTROPIES, OF_THE_TRAINING_SET)
    assert DurianConfig.from_algorithm(config.algorithm).perceptual.thresholds == [3.0, 5.0]
    assert "thresholds of visual entropy of the training set, nats: [3.0000, 5.0000]" in caplog.text

    rows = advantage_step.make_rows()
    if trainer == "v1":
        advantages, mask, metrics = advantage_step.run_v1(rows, config)
        assert metrics["durian/perceptual/threshold_1"] == 3.0 and metrics["durian/perceptual/threshold_2"] == 5.0
    else:
        data = advantage_step.run_v0(rows, config)
        advantages, mask = data.batch["advantages"], data.batch["response_mask"]
    torch.testing.assert_close(advantages, expected(rows, [3.0, 5.0]).unsqueeze(-1) * mask, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected(rows), expected(rows, [3.0, 5.0]))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("+algorithm.durian.perceptual.thresholds=[1.5]",),
    ],
)
def test_other_thresholds_stay_as_they_are(overrides, tiny_qwen25vl, tmp_path):
    config = with_training_set("v1", tiny_qwen25vl, tmp_path, ENTROPIES, *overrides)
    assert config.algorithm == advantage_step.compose(*DURIAN, *overrides).algorithm


def test_without_a_perceptual_axis_no_threshold_is_sought(tiny_qwen25vl, tmp_path):
    asked = (OF_THE_TRAINING_SET, "+algorithm.durian.weights.perceptual=0")
    config = with_training_set("v1", tiny_qwen25vl, tmp_path, ENTROPIES, *asked)
    assert config.algorithm.durian.perceptual.thresholds == "batch"


def test_thresholds_of_the_training_set_may_coincide(tiny_qwen25vl, tmp_path):
    config = with_training_set("v1", tiny_qwen25vl, tmp_path, [3.0] * 5 + [4.0], OF_THE_TRAINING_SET)
    assert DurianConfig.from_algorithm(config.algorithm).perceptual.thresholds == [3.0, 3.0]


def test_v1_gives_the_estimator_all_it_needs(config):
    rows = advantage_step.make_rows()
    advantages, mask, metrics = advantage_step.run_v1(rows, config, multiple=5)
    assert len(advantages) == 40 and len(rows) == 36  # verl added padding rows
    torch.testing.assert_close(advantages[:36], expected(rows).unsqueeze(-1) * mask[:36], rtol=1e-5, atol=1e-5)
    assert not advantages[36:].any() and not mask[36:].any()
    assert metrics["durian/prompts/num"] == advantage_step.PROMPTS
    assert metrics["durian/rows_without_image"] == pytest.approx(1 / 9)
    assert metrics["durian/hook_seconds"] > 0
    assert metrics["durian/reasoning/rank_correlation"] == pytest.approx(of_accuracy(rows))
    assert sum(metrics[f"durian/perceptual/S{a}/size"] for a in (1, 2, 3)) == 8


def test_v1_lets_the_last_output_of_a_session_stand_for_all(config):
    rows = advantage_step.make_rows(outputs=3)
    advantages, mask, _ = advantage_step.run_v1(rows, config)
    last = [row for row in rows if row["key"].endswith("_2")]
    of_session = dict(zip((row["key"][:-2] for row in last), expected(last).tolist(), strict=True))
    of_row = torch.tensor([of_session[row["key"][:-2]] for row in rows])
    torch.testing.assert_close(advantages, of_row.unsqueeze(-1) * mask, rtol=1e-5, atol=1e-5)


def older_metrics(data) -> dict:
    """The metrics of a step of the older trainer, from what ``run_v0`` returns."""
    from verl.trainer.ppo import ray_trainer

    mask = data.batch["response_mask"]
    data.batch["token_level_scores"] = data.batch["token_level_rewards"]
    data.batch["responses"], data.batch["prompts"] = mask, torch.ones(len(mask), 5)
    data.batch["attention_mask"] = torch.cat([data.batch["prompts"], mask], dim=1)
    return ray_trainer.compute_data_metrics(data, use_critic=False)


def test_older_trainer_and_its_metrics(config):
    rows = advantage_step.make_rows()
    data = advantage_step.run_v0(rows, config)
    mask = data.batch["response_mask"]
    torch.testing.assert_close(data.batch["advantages"], expected(rows).unsqueeze(-1) * mask, rtol=1e-5, atol=1e-5)

    metrics = older_metrics(data)
    assert metrics["durian/prompts/num"] == advantage_step.PROMPTS and "critic/score/mean" in metrics
    assert metrics["durian/reasoning/rank_correlation"] == pytest.approx(of_accuracy(rows))
    assert not any("durian" in name for name in older_metrics(data))  # reported once
    assert not any("durian" in key for key in data.to_tensordict().keys())  # nor do the workers get them


def test_older_trainer_keeps_the_column_through_generation(config):
    from verl.protocol import DataProto
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    trainer = object.__new__(RayPPOTrainer)
    trainer.config = config
    columns = {"uid": ["a", "b"], "visual_entropy": [1.0, None], "raw_prompt": ["x", "y"]}
    batch = DataProto.from_dict(
        tensors={"dummy": torch.zeros(2)},
        non_tensors={name: np.array(values, dtype=object) for name, values in columns.items()},
    )
    gen_batch = trainer._get_gen_batch(batch)
    assert batch.non_tensor_batch["visual_entropy"].tolist() == [1.0, None]
    assert "visual_entropy" not in gen_batch.non_tensor_batch and "raw_prompt" in gen_batch.non_tensor_batch


def test_a_verl_that_forwards_the_batch_is_left_alone(config, monkeypatch):
    """As verl pull request #7473 does it: the estimator takes what it is handed, not what the hook holds ready."""
    from verl.trainer.ppo import core_algos

    rows = advantage_step.make_rows()
    from_hook = advantage_step.run_v0(rows, config).batch["advantages"]
    registered = core_algos.ADV_ESTIMATOR_REGISTRY["durian"]
    other = [{**row, "old_log_probs": row["old_log_probs"] ** 2, "visual_entropy": 1.0} for row in rows]
    handed = {
        "batch": {"old_log_probs": advantage_step.padded(other, "old_log_probs")},
        "non_tensor_batch": {"visual_entropy": np.ones(len(other))},
    }
    monkeypatch.setitem(
        core_algos.ADV_ESTIMATOR_REGISTRY, "durian", lambda **kwargs: registered(**{**kwargs, **handed})
    )
    data = advantage_step.run_v0(rows, config)
    forwarded = data.batch["advantages"]
    assert not torch.allclose(forwarded, from_hook)
    torch.testing.assert_close(
        forwarded, expected(other).unsqueeze(-1) * data.batch["response_mask"], rtol=1e-5, atol=1e-5
    )


def test_v1_without_the_column_is_told_what_to_do(config):
    rows = advantage_step.make_rows()
    for row in rows:
        del row["visual_entropy"]
    with pytest.raises(ValueError, match="visual_entropy.*weights.perceptual=0"):
        advantage_step.run_v1(rows, config)


def test_v1_without_reward_infos_takes_the_rewards_for_the_accuracy(config):
    rows = advantage_step.make_rows()
    for row in rows:
        del row["extra_fields"]
    _, _, metrics = advantage_step.run_v1(rows, config)
    assert metrics["durian/reasoning/rank_correlation"] != pytest.approx(of_accuracy(advantage_step.make_rows()))


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.bool_, np.int64])
def test_v1_finds_the_accuracy_that_a_colocated_reward_model_returns(kind, config):
    """verl's `_compute_reward_colocate` makes each of its extra infos a field of TransferQueue, of NumPy scalars."""
    rows = advantage_step.make_rows()
    wanted = of_accuracy(rows)
    for row in rows:
        row["acc"] = kind(row["extra_fields"].pop("reward_extra_info")["acc"])
    _, _, metrics = advantage_step.run_v1(rows, config, multiple=5)
    assert metrics["durian/reasoning/rank_correlation"] == pytest.approx(wanted)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_v1_goes_on_where_a_log_probability_is_not_finite(bad, config, caplog, monkeypatch):
    monkeypatch.setattr(estimator, "_WARNED", set())
    rows = advantage_step.make_rows()
    next(row for row in rows if row["uid"] == "prompt5")["old_log_probs"][0] = bad
    advantages, mask, metrics = advantage_step.run_v1(rows, config)
    torch.testing.assert_close(advantages, expected(rows).unsqueeze(-1) * mask, rtol=1e-5, atol=1e-5)
    assert metrics["durian/reasoning/non_finite_prompts"] == 1 and "uid prompt5" in caplog.text
    caplog.clear()
    advantage_step.run_v1(rows, config)
    assert "prompt5" not in caplog.text


def test_a_reward_that_is_not_finite_is_an_error(config):
    rows = advantage_step.make_rows()
    rows[3]["rm_scores"][-1] = float("nan")
    with pytest.raises(ValueError, match=f"uid {rows[3]['uid']} has a reward that is not finite"):
        advantage_step.run_v1(rows, config)


@pytest.mark.parametrize("accuracy", ["good", "", [0.5, 1.0], {"letter": 1.0}, pd.NA])
@pytest.mark.parametrize("trainer", ["v1", "older"])
def test_an_accuracy_that_is_no_number_does_not_end_training(trainer, accuracy, config, caplog, monkeypatch):
    monkeypatch.setattr(estimator, "_WARNED", set())
    rows = advantage_step.make_rows()
    for row in rows:
        row["extra_fields"]["reward_extra_info"]["acc"] = accuracy
    for _ in range(2):
        if trainer == "v1":
            advantages, mask, metrics = advantage_step.run_v1(rows, config)
        else:
            data = advantage_step.run_v0(rows, config)
            advantages, mask = data.batch["advantages"], data.batch["response_mask"]
            metrics = trainers._WAITING.get()
        torch.testing.assert_close(advantages, expected(rows).unsqueeze(-1) * mask, rtol=1e-5, atol=1e-5)
        assert metrics["durian/accuracy_is_reward"] == 1 and "durian/reasoning/rank_correlation" in metrics
    assert caplog.text.count("the metrics use the rewards instead") == 1
    assert "acc=" in caplog.text


def test_metrics_that_fail_do_not_end_training(config, caplog, monkeypatch):
    monkeypatch.setattr(estimator, "_WARNED", set())

    def fail(*_):
        raise ZeroDivisionError("of a metric")

    monkeypatch.setattr(trainers, "durian_metrics", fail)
    for _ in range(2):
        advantages, _, metrics = advantage_step.run_v1(advantage_step.make_rows(), config)
        assert advantages.any() and not any("reasoning" in name for name in metrics)
    assert caplog.text.count("ZeroDivisionError('of a metric')") == 1


def test_a_run_that_only_validates_scores_nothing(tiny_qwen25vl, tmp_path):
    for trainer in ("v1", "older"):
        entropies = [float("inf")] * 6  # which are refused before training
        with pytest.raises(ValueError, match="must be a finite number"):
            with_training_set(trainer, tiny_qwen25vl, tmp_path, entropies)
        with_training_set(trainer, tiny_qwen25vl, tmp_path, entropies, "trainer.val_only=True")
        with pytest.raises(ValueError, match="must be a finite number"):  # verl then looks at val_only nowhere
            settings = ("trainer.val_only=True", "trainer.val_before_train=False")
            with_training_set(trainer, tiny_qwen25vl, tmp_path, entropies, *settings)


@pytest.mark.parametrize("function", ["compute_advantage", "compute_advantage_for_multi_trajectories"])
def test_a_step_of_v1_in_which_the_estimator_did_not_run_is_an_error(function, config, monkeypatch):
    """As where another module holds verl's own function, with which V1 would compute GRPO."""
    from verl.trainer.ppo.v1 import trainer_base, utils

    module = utils if function == "compute_advantage" else trainer_base
    monkeypatch.setattr(module, function, inspect.unwrap(getattr(module, function)))
    with pytest.raises((RuntimeError, ValueError), match="durian.*verl-durian doctor"):
        advantage_step.run_v1(advantage_step.make_rows(), config)


def test_another_plugins_wrappers_around_ours(config, monkeypatch):
    """Wrappers that keep no attributes of what they wrap, put in place after ours."""
    from verl.trainer.ppo import ray_trainer
    from verl.trainer.ppo.v1 import utils

    rows = advantage_step.make_rows()
    alone = advantage_step.run_v1(rows, config)[0]
    calls = []

    def around(function):
        def wrapper(*args, **kwargs):
            calls.append(function.__name__)
            return function(*args, **kwargs)

        return wrapper

    for module in (ray_trainer, utils):
        monkeypatch.setattr(module, "compute_advantage", around(module.compute_advantage))
    monkeypatch.setattr(ray_trainer, "compute_data_metrics", around(ray_trainer.compute_data_metrics))
    # Ours once more around it, as where verl's module that holds the function is imported only now.
    symbol = next(s for s in verl_symbols.SYMBOLS if (s.module, s.name) == (verl_symbols.V1_UTILS, "compute_advantage"))
    assert not verl_symbols.is_wrapped(utils.compute_advantage)
    verl_symbols.wrap(symbol, everywhere=False)
    advantages, _, metrics = advantage_step.run_v1(rows, config)
    assert torch.equal(advantages, alone) and "durian/prompts/num" in metrics
    assert calls == ["compute_advantage"]
    data = advantage_step.run_v0(rows, config)
    assert torch.equal(data.batch["advantages"], alone) and "durian/prompts/num" in older_metrics(data)
    assert calls == ["compute_advantage"] * 2 + ["compute_data_metrics"]
    assert not verl_symbols.not_wrapped(verl_symbols.V1)


OTHER_PLUGIN = """
from verl.trainer.ppo import metric_utils, ray_trainer
from verl.trainer.ppo.v1 import trainer_base, utils
compute_advantage_of_verl = ray_trainer.compute_advantage
compute_data_metrics_of_verl = ray_trainer.compute_data_metrics
calls = []

def compute_advantage(*args, **kwargs):
    calls.append("compute_advantage")
    return compute_advantage_of_verl(*args, **kwargs)

def compute_data_metrics(*args, **kwargs):
    calls.append("compute_data_metrics")
    return compute_data_metrics_of_verl(*args, **kwargs)

ray_trainer.compute_advantage = compute_advantage
metric_utils.compute_data_metrics = ray_trainer.compute_data_metrics = compute_data_metrics
"""


def test_verl_modules_and_another_plugins_wrappers_from_before_ours(config, tmp_path):
    (tmp_path / "other_plugin.py").write_text(OTHER_PLUGIN)
    code = (
        "import os; os.environ.pop('VERL_PLATFORM', None);"  # verl knows this platform only after the plugin
        "import verl, sys, advantage_step, other_plugin, verl_durian.hooks.verl_symbols as api;"
        "from verl_durian.hooks.doctor import check_process;"
        "assert api.is_wrapped(other_plugin.compute_advantage_of_verl), 'a module that holds the function';"
        "assert [each for each in check_process(api.TRAINERS) if not each['good']] == [], check_process(api.TRAINERS);"
        "advantage_step.main(sys.argv[1], 'durian', 'grpo');"
        "import test_hook; config = advantage_step.compose(*test_hook.DURIAN);"
        "data = advantage_step.run_v0(advantage_step.make_rows(), config);"
        "assert 'durian/prompts/num' in test_hook.older_metrics(data);"
        "print(other_plugin.calls)"
    )
    folders = [tmp_path, Path(advantage_step.__file__).parent, Path(__file__).parent, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(map(str, folders))
    environment = {**os.environ, "PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": "other_plugin"}
    out = tmp_path / "found.npz"
    done = subprocess.run([sys.executable, "-c", code, out], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(["compute_advantage"] * 3 + ["compute_data_metrics"]))
    found, rows = np.load(out), advantage_step.make_rows()
    for name in ("durian", "grpo"):
        alone = advantage_step.compose(f"algorithm.adv_estimator={name}")
        older = advantage_step.run_v0(rows, alone).batch["advantages"].numpy()
        assert found[f"{name}_v0"].tobytes() == older.tobytes()
        v1 = advantage_step.run_v1(rows, alone, multiple=5)[0].numpy()
        assert found[f"{name}_v1"].tobytes() == v1.tobytes()


def test_another_plugin_that_compares_estimators_within_a_step(config, monkeypatch):
    """It calls verl's function once more, with its arguments by position."""
    from verl.trainer.ppo.v1 import trainer_base

    rows = advantage_step.make_rows()
    function, compared = trainer_base.compute_advantage_for_multi_trajectories, []

    def comparing(data, batch_keys, adv_estimator, gamma, lam, num_repeat, norm_adv_by_std_in_grpo, config):
        rest = (gamma, lam, num_repeat, norm_adv_by_std_in_grpo, config)
        for name in ("rloo", AdvantageEstimator.GRPO):
            compared.append(function(copy.deepcopy(data), batch_keys, name, *rest).batch["advantages"])
        return function(data, batch_keys, adv_estimator, *rest)

    monkeypatch.setattr(trainer_base, "compute_advantage_for_multi_trajectories", comparing)
    advantages, mask, _ = advantage_step.run_v1(rows, config)
    torch.testing.assert_close(advantages, expected(rows).unsqueeze(-1) * mask, rtol=1e-5, atol=1e-5)
    for name, found in zip(("rloo", "grpo"), compared, strict=True):
        alone = advantage_step.compose(f"algorithm.adv_estimator={name}")
        assert torch.equal(found, advantage_step.run_v0(rows, alone).batch["advantages"])


def test_a_step_of_an_older_trainer_in_which_the_estimator_did_not_run_is_an_error(config):
    from verl.protocol import DataProto
    from verl.trainer.ppo import ray_trainer

    trainer = object.__new__(ray_trainer.RayPPOTrainer)
    trainer.config = config
    rows = advantage_step.make_rows()
    for replaced in (False, True):
        prompts = DataProto.from_dict(tensors={"dummy": torch.zeros(2)}, non_tensors={"uid": np.array(["a", "b"])})
        trainer._get_gen_batch(prompts)
        estimator_name = "grpo" if replaced else "durian"
        computed = advantage_step.run_v0(
            rows, advantage_step.compose(f"algorithm.adv_estimator={estimator_name}"), prompts.meta_info
        )
        if replaced:
            with pytest.raises(RuntimeError, match="did not call the estimator.*verl-durian doctor"):
                older_metrics(computed)
        else:
            assert "durian/prompts/num" in older_metrics(computed)


def test_a_wrapped_coroutine_function_stays_one():
    from verl.experimental.fully_async_policy import fully_async_rollouter

    manager = fully_async_rollouter.FullyAsyncAgentLoopManager
    assert verl_symbols.is_wrapped(manager.generate_sequences_single)
    assert inspect.iscoroutinefunction(manager.generate_sequences_single)


def test_other_estimators_compute_the_same_with_and_without_the_plugin(tmp_path):
    found = {}
    for policy in ("auto", "none"):
        out = tmp_path / f"{policy}.npz"
        environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": policy}
        script = Path(advantage_step.__file__)
        subprocess.run([sys.executable, script, out, "grpo", "rloo"], check=True, env=environment, timeout=300)
        found[policy] = np.load(out)
    assert found["auto"]["plugin"] and not found["none"]["plugin"]
    for step in ("grpo_v0", "grpo_v1", "rloo_v0", "rloo_v1"):
        assert found["auto"][step].any()
        assert found["auto"][step].tobytes() == found["none"][step].tobytes()

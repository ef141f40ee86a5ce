# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The hook with unusual data, rewards and other plugins, in verl's own advantage steps."""

import copy
import functools
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import advantage_step
import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transfer_queue as tq
from advantage_step import DURIAN, ENTROPIES, assert_expected, load_training_set, make_rows, padded, run_v0, run_v1
from verl.protocol import DataProto
from verl.trainer.ppo import core_algos, ray_trainer
from verl.trainer.ppo.core_algos import AdvantageEstimator
from verl.trainer.ppo.v1 import trainer_base, utils
from verl.utils.config import validate_config

from verl_durian.algo import estimator
from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import COMPUTED
from verl_durian.hooks import plugin, record, trainers, verl_symbols

pytestmark = pytest.mark.usefixtures("local_ray")

OF_DATASET = "+algorithm.durian.perceptual.thresholds=dataset"
STEPS = {"v1": run_v1, "older": run_v0}


@pytest.fixture
def config():
    return advantage_step.compose(*DURIAN)


@pytest.fixture(params=STEPS)
def trainer(request):
    return request.param


@pytest.fixture(autouse=True)
def nothing_logged_yet(monkeypatch):
    monkeypatch.setattr(estimator, "_WARNED", set())
    COMPUTED.clear()


def test_thresholds_of_the_training_set_reach_the_estimator(trainer, config, tiny_qwen25vl, tmp_path, caplog):
    of_batch = advantage_step.expected(make_rows(), config)
    config = load_training_set(trainer, tiny_qwen25vl, tmp_path, ENTROPIES, OF_DATASET).config
    assert "thresholds of visual entropy of the training set, nats: [3.0000, 5.0000]" in caplog.text
    metrics = assert_expected(STEPS[trainer](make_rows(), config), make_rows(), config)
    assert metrics["durian/perceptual/threshold_1"] == 3.0 and metrics["durian/perceptual/threshold_2"] == 5.0
    assert not torch.allclose(of_batch, advantage_step.expected(make_rows(), config))


@pytest.mark.parametrize(
    ("overrides", "thresholds"),
    [
        ((), "batch"),
        (("+algorithm.durian.perceptual.thresholds=[1.5]",), [1.5]),
        ((OF_DATASET, "+algorithm.durian.weights.perceptual=0"), "batch"),
    ],
)
def test_thresholds_after_loading(overrides, thresholds, tiny_qwen25vl, tmp_path):
    config = load_training_set("v1", tiny_qwen25vl, tmp_path, ENTROPIES, *overrides).config
    assert DurianConfig.from_algorithm(config.algorithm).perceptual.thresholds == thresholds


@pytest.mark.parametrize("options", ["perceptual", ""])
def test_options_may_be_in_another_node_of_the_config(options, trainer, tiny_qwen25vl, tmp_path):
    section = f".{options}" if options else ""
    settings = (
        f"+mine{'.perceptual' * (not options)}.thresholds=dataset",
        f"+algorithm.durian{section}=${{mine}}",
        "actor_rollout_ref.actor.use_dynamic_bsz=True",
        "algorithm.adv_estimator=durian",
    )
    model = f"actor_rollout_ref.model.path={tiny_qwen25vl}"
    before = advantage_step.compose(*settings, *advantage_step.ROLLOUT, model)
    validate_config(before, use_reference_policy=False, use_critic=False)
    config = load_training_set(trainer, tiny_qwen25vl, tmp_path, ENTROPIES, *settings, durian=()).config
    assert DurianConfig.from_algorithm(config.algorithm).perceptual.thresholds == [3.0, 5.0]


def test_a_run_that_only_validates_scores_nothing(trainer, tiny_qwen25vl, tmp_path):
    def load(*settings: str) -> None:
        load_training_set(trainer, tiny_qwen25vl, tmp_path, [float("inf")] * 6, *settings)  # refused before training

    load("trainer.val_only=True")
    for settings in ((), ("trainer.val_only=True", "trainer.val_before_train=False")):  # verl then ignores val_only
        with pytest.raises(ValueError, match="must be a finite number"):
            load(*settings)


def test_rows_of_a_recorded_training_set_have_their_number(trainer, tiny_qwen25vl, tmp_path):
    """After a random selection and a filter; nothing is scored with another estimator."""
    folders = [tmp_path / name for name in ("a", "b")]
    questions = ["What?", "Too long. " * 300, *(f"What is {number}?" for number in range(10))]
    for folder in folders:
        folder.mkdir()
        prompts = [[{"role": "user", "content": f"{folder.name} {question}"}] for question in questions]
        columns = {"prompt": prompts, "images": [[] for _ in prompts]}
        datasets.Dataset.from_dict(columns).to_parquet(folder / "more.parquet")
    settings = (
        OF_DATASET,
        "algorithm.adv_estimator=grpo",
        f"+algorithm.durian.record={tmp_path / 'records'}",
        f"data.train_files=[{','.join(str(folder / 'more.parquet') for folder in folders)}]",
        "data.train_max_samples=20",
        "data.seed=1",
        "data.filter_overlong_prompts=True",
        "data.max_prompt_length=512",
        "data.dataloader_num_workers=0",
    )
    loaded = load_training_set(trainer, tiny_qwen25vl, folders[0], ENTROPIES, *settings)
    assert loaded.config.algorithm.durian.perceptual.thresholds == "batch"
    assert record.recorder(loaded).about["threshold_source"]["perceptual"] == "dataset"
    rows, numbers = loaded.train_dataset, []
    assert "visual_entropy" not in rows.dataframe.column_names and 18 <= len(rows) < 20
    for position in range(len(rows)):
        example = rows[position]
        numbers.append(int(example[record.ROW]))
        file, place = divmod(numbers[-1], len(questions))
        assert example["prompt"][0]["content"] == f"{folders[file].name} {questions[place]}"
    assert numbers != sorted(numbers) and len(set(numbers)) == len(numbers)
    assert set(next(iter(loaded.train_dataloader))[record.ROW]) <= set(numbers)


@pytest.mark.parametrize("option", ["record_every=0", "record_texts=1", "record=s3://bucket", "record=3"])
def test_invalid_options_of_the_record_are_an_error_with_any_estimator(option, trainer, tiny_qwen25vl, tmp_path):
    settings = ("algorithm.adv_estimator=grpo", "+algorithm.durian.record=records", f"++algorithm.durian.{option}")
    with pytest.raises(ValueError, match=f"algorithm.durian.{option.split('=')[0]}=.*must be"):
        load_training_set(trainer, tiny_qwen25vl, tmp_path, ENTROPIES, *settings)
    with pytest.raises(ValueError, match=f"algorithm.durian.{option.split('=')[0]}=.*must be"):
        validate_config(advantage_step.compose(*settings), use_reference_policy=False, use_critic=False)


def test_a_verl_that_forwards_the_batch_itself(config, monkeypatch):
    """As in verl pull request #7473: the estimator uses the arguments that verl passes, not those of the hook."""
    rows = make_rows()
    registered = core_algos.ADV_ESTIMATOR_REGISTRY["durian"]
    other = [{**row, "old_log_probs": row["old_log_probs"] ** 2, "visual_entropy": 1.0} for row in rows]
    forwarded = {
        "batch": {"old_log_probs": padded(other, "old_log_probs")},
        "non_tensor_batch": {"visual_entropy": np.ones(len(other))},
    }
    monkeypatch.setitem(
        core_algos.ADV_ESTIMATOR_REGISTRY, "durian", lambda **kwargs: registered(**{**kwargs, **forwarded})
    )
    assert_expected(run_v0(rows, config), other, config)
    assert not torch.allclose(advantage_step.expected(other, config), advantage_step.expected(rows, config))


def test_v1_without_the_column_is_an_error(config):
    rows = [{name: value for name, value in row.items() if name != "visual_entropy"} for row in make_rows()]
    with pytest.raises(ValueError, match="visual_entropy.*weights.perceptual=0"):
        run_v1(rows, config)


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, np.bool_])
def test_v1_finds_the_accuracy_that_a_colocated_reward_model_returns(kind, config):
    """verl's `_compute_reward_colocate` makes each of its extra infos a field of TransferQueue, of NumPy scalars."""
    rows = make_rows()
    wanted = run_v1(rows, config)[2]["durian/reasoning/rank_correlation"]
    for row in rows:
        row["acc"] = kind(row["extra_fields"].pop("reward_extra_info")["acc"])
    metrics = run_v1(rows, config, multiple=5)[2]
    assert metrics["durian/accuracy_is_reward"] == 0
    assert metrics["durian/reasoning/rank_correlation"] == pytest.approx(wanted)


LONG = pytest.param(10**400, id="long")


@pytest.mark.parametrize("accuracy", ["good", [0.5, 1.0], {"letter": 1.0}, pd.NA, None, LONG, "absent"])
def test_without_an_accuracy_that_is_a_number_the_metrics_use_the_rewards(trainer, accuracy, config, caplog):
    rows = make_rows()
    for row in rows:
        row["extra_fields"]["reward_extra_info"]["acc"] = accuracy
        if str(accuracy) == "absent" and trainer == "v1":
            del row["extra_fields"]
    for _ in range(2):
        metrics = assert_expected(STEPS[trainer](rows, config), rows, config)
        assert metrics["durian/accuracy_is_reward"] == 1 and "durian/reasoning/rank_correlation" in metrics
    assert caplog.text.count("the metrics use the rewards instead") == 1


def test_metrics_that_fail_do_not_end_training(config, caplog, monkeypatch):
    monkeypatch.setattr(trainers, "durian_metrics", lambda *_: 1 / 0)
    for _ in range(2):
        advantages, _, metrics = run_v1(make_rows(), config)
        assert advantages.any() and not any("reasoning" in name for name in metrics)
    assert caplog.text.count("ZeroDivisionError") == 1


def test_v1_continues_if_the_accuracy_cannot_be_fetched(config, caplog, monkeypatch):
    get = tq.kv_batch_get
    monkeypatch.setattr(tq, "kv_batch_get", lambda **given: 1 / 0 if "acc" in given["select_fields"] else get(**given))
    for _ in range(2):
        assert assert_expected(run_v1(make_rows(), config), make_rows(), config)["durian/accuracy_is_reward"] == 1
    assert caplog.text.count("the metrics use the rewards instead") == 1 and "ZeroDivisionError" in caplog.text


def test_v1_continues_if_a_log_probability_is_not_finite(config, caplog):
    rows = make_rows()
    next(row for row in rows if row["uid"] == "prompt6")["old_log_probs"][0] = float("nan")
    for _ in range(2):
        metrics = assert_expected(run_v1(rows, config), rows, config)
        assert metrics["durian/reasoning/non_finite_prompts"] == 1
    assert caplog.text.count("uid prompt6") == 1


@pytest.mark.parametrize("function", ["compute_advantage", "compute_advantage_for_multi_trajectories"])
def test_a_step_of_v1_in_which_the_estimator_did_not_run_is_an_error(function, config, monkeypatch):
    """As if another module had imported verl's own function, with which V1 would compute GRPO."""
    module = utils if function == "compute_advantage" else trainer_base
    monkeypatch.setattr(module, function, inspect.unwrap(getattr(module, function)))
    with pytest.raises((RuntimeError, ValueError), match="durian.*verl-durian doctor"):
        run_v1(make_rows(), config)


def test_a_step_in_which_another_plugins_function_does_not_call_the_estimator_is_an_error(trainer, config, monkeypatch):
    """The other plugin replaced verl's function before ours, which wraps it, or after ours."""
    verls = inspect.unwrap(ray_trainer.compute_advantage)

    def grpo_instead(data, adv_estimator, *args, **kwargs):
        return verls(data, AdvantageEstimator.GRPO, *args, **kwargs)

    for replaced in (functools.partial(trainers.compute_advantage, grpo_instead), grpo_instead):
        for module in (ray_trainer, utils):
            monkeypatch.setattr(module, "compute_advantage", replaced)
        with pytest.raises(RuntimeError, match="did not call the estimator.*verl-durian doctor"):
            STEPS[trainer](make_rows(), config)


def test_an_older_trainer_keeps_columns_through_generation(tmp_path):
    trainer = object.__new__(ray_trainer.RayPPOTrainer)
    trainer.config = advantage_step.compose(*DURIAN, f"+algorithm.durian.record={tmp_path}")
    columns = {"uid": ["a", "b"], "visual_entropy": [1.0, None], record.ROW: [3.0, 4.0], "raw_prompt": ["x", "y"]}
    columns = {name: np.array(values, dtype=object) for name, values in columns.items()}
    batch = DataProto.from_dict(tensors={"dummy": torch.zeros(2)}, non_tensors=columns)
    gen_batch = trainer._get_gen_batch(batch)
    assert batch.non_tensor_batch["visual_entropy"].tolist() == [1.0, None]
    assert batch.non_tensor_batch[record.ROW].tolist() == [3.0, 4.0]
    assert set(gen_batch.non_tensor_batch) == {"uid", "raw_prompt"}


@pytest.mark.parametrize("estimator", ["durian", "grpo"])
def test_arguments_that_a_later_verl_adds_are_passed_on(estimator):
    trainer = SimpleNamespace(config=advantage_step.compose(f"algorithm.adv_estimator={estimator}"))
    COMPUTED.set()

    def original(self, *args, **kwargs):
        assert kwargs == {"new": 1}
        return SimpleNamespace(non_tensor_batch={})

    batch = SimpleNamespace(non_tensor_batch={})
    for wrapper in (trainers.get_gen_batch, trainers.fit_compute_advantage, trainers.update_actor):
        assert wrapper(original, trainer, batch, new=1).non_tensor_batch == {}
    if estimator == "grpo":  # which does not call the estimator
        assert trainers.v1_compute_advantage(original, trainer, batch, {}, new=1).non_tensor_batch == {}


def test_an_error_while_a_hook_is_installed_is_recorded_and_not_raised(monkeypatch):
    """As for a function without a signature, which another plugin may have put in place."""
    monkeypatch.setattr(verl_symbols, "FAILURES", {})
    monkeypatch.setattr(verl_symbols, "problem", lambda symbol: 1 / 0)
    plugin._install(ray_trainer)
    assert {symbol.module for symbol in verl_symbols.FAILURES} == {verl_symbols.RAY_TRAINER}
    assert all("ZeroDivisionError" in text for text in verl_symbols.FAILURES.values())


def test_another_plugins_wrappers_around_ours(config, monkeypatch):
    """Wrappers that keep no attributes of what they wrap, put in place after ours."""
    alone = run_v1(make_rows(), config)[0]
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
    verl_symbols.wrap(symbol, everywhere=False)
    for step in (run_v1, run_v0):
        advantages, _, metrics = step(make_rows(), config)
        assert torch.equal(advantages, alone) and "durian/prompts/num" in metrics
    assert calls == ["compute_advantage"] * 2 + ["compute_data_metrics"]


OTHER_PLUGIN = """
from verl.experimental.separation import ray_trainer as separation
from verl.trainer.ppo import metric_utils, ray_trainer
from verl.trainer.ppo.v1 import trainer_base, utils
calls = []

def replaced(name):
    globals()[f"{name}_of_verl"] = getattr(ray_trainer, name)
    def wrapper(*args, **kwargs):
        calls.append(name)
        return globals()[f"{name}_of_verl"](*args, **kwargs)
    return wrapper

ray_trainer.compute_advantage = replaced("compute_advantage")
metric_utils.compute_data_metrics = ray_trainer.compute_data_metrics = replaced("compute_data_metrics")
separation.compute_data_metrics = ray_trainer.compute_data_metrics
"""

WITH_OTHER_PLUGIN = """
import os, sys
os.environ.pop("VERL_PLATFORM", None)  # verl knows this platform only after the plugin
import verl, advantage_step, other_plugin
from verl.trainer.ppo import ray_trainer
from verl_durian.hooks.doctor import check_process
from verl_durian.hooks.verl_symbols import TRAINERS
assert hasattr(other_plugin.compute_advantage_of_verl, "_verl_durian")  # a module that holds the function
for module in (ray_trainer, other_plugin.separation):
    assert hasattr(module.compute_data_metrics, "_verl_durian") and hasattr(module.compute_advantage, "_verl_durian")
assert {each.level for each in check_process(TRAINERS)} == {"ok"}, check_process(TRAINERS)
advantage_step.main(sys.argv[1], "durian", "grpo")
print(other_plugin.calls)
"""


def assert_as_in_this_process(found, *estimators):
    """The advantages that another process wrote are those of this one, bit by bit."""
    for name in estimators:
        alone = advantage_step.compose(f"algorithm.adv_estimator={name}")
        of_v0, of_v1 = run_v0(make_rows(), alone)[0], run_v1(make_rows(), alone, multiple=5)[0]
        assert of_v0.any() and found[f"{name}_v0"].tobytes() == of_v0.numpy().tobytes()
        assert of_v1.any() and found[f"{name}_v1"].tobytes() == of_v1.numpy().tobytes()


def test_verl_modules_and_another_plugins_wrappers_from_before_ours(tmp_path):
    (tmp_path / "other_plugin.py").write_text(OTHER_PLUGIN)
    path = os.pathsep.join(map(str, [tmp_path, Path(advantage_step.__file__).parent, os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": "other_plugin"}
    out = tmp_path / "found.npz"
    command = [sys.executable, "-c", WITH_OTHER_PLUGIN, out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(["compute_advantage", "compute_data_metrics"] * 2))
    assert_as_in_this_process(np.load(out), "durian", "grpo")


def test_another_plugin_that_compares_estimators_within_a_step(config, monkeypatch):
    """It calls verl's function once more, with its arguments by position."""
    rows = make_rows()
    function, compared = trainer_base.compute_advantage_for_multi_trajectories, []

    def comparing(data, batch_keys, adv_estimator, gamma, lam, num_repeat, norm_adv_by_std_in_grpo, config):
        rest = (gamma, lam, num_repeat, norm_adv_by_std_in_grpo, config)
        for name in ("rloo", AdvantageEstimator.GRPO):
            compared.append(function(copy.deepcopy(data), batch_keys, name, *rest).batch["advantages"])
        return function(data, batch_keys, adv_estimator, *rest)

    monkeypatch.setattr(trainer_base, "compute_advantage_for_multi_trajectories", comparing)
    assert_expected(run_v1(rows, config), rows, config)
    for name, found in zip(("rloo", "grpo"), compared, strict=True):
        alone = advantage_step.compose(f"algorithm.adv_estimator={name}")
        assert torch.equal(found, run_v0(rows, alone)[0])


def test_other_estimators_compute_the_same_with_and_without_the_plugin(tmp_path):
    out = tmp_path / "found.npz"
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none"}
    command = [sys.executable, advantage_step.__file__, out, "grpo", "rloo"]
    subprocess.run(command, check=True, env=environment, timeout=300)
    found = np.load(out)
    assert not found["plugin"] and hasattr(ray_trainer.compute_advantage, "_verl_durian")
    assert_as_in_this_process(found, "grpo", "rloo")

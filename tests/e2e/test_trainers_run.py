# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl's other trainers, two steps each, some resumed for a third; docs/trainers.md has the commands."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recipe

from recipes.quickstart.data import write_data
from recipes.quickstart.model import write_model

pytestmark = pytest.mark.slow

NO_VALIDATION = ("trainer.val_before_train=False",)
OWN_SLOT = (
    "ray_kwargs.ray_init.num_gpus=2",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=shared_memory",
    "actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module=verl_cpu.checkpoint_engine",
)
EXPERIMENTAL = (
    *OWN_SLOT,
    "ray_kwargs.ray_init.num_cpus=40",
    "actor_rollout_ref.hybrid_engine=False",
    "rollout.n_gpus_per_node=1",
)


class Runs:
    """Data and model for runs in one folder, each with a record of its rollouts."""

    def __init__(self, folder: Path):
        self.folder = folder
        write_data(folder / "data", {"sft": 2, "train": 24, "dev": 2, "test": 4})
        write_model(folder / "model")

    def variables(self, name: str) -> dict[str, object]:
        return {
            "MODEL_PATH": self.folder / "model",
            "TRAIN_FILES": self.folder / "data" / "train.parquet",
            "VAL_FILES": self.folder / "data" / "test.parquet",
            "OUTPUT": self.folder / name,
            "VERL_DURIAN_CACHE": self.folder / "cache",
            "PPO_MINI_BATCH_SIZE": 4,
            "ROLLOUTS": 4,
            "LR": 1e-4,
            "TOTAL_STEPS": 2,
            "RESUME": "disable",
        }

    def record(self, name: str) -> str:
        return f"+algorithm.durian.record={self.folder / name / 'records'}"

    def train(self, name: str, *overrides: str, **variables: object) -> list[dict[str, float]]:
        """Trains by the recipe, with verl's V1 by default; returns the metrics of each step with advantages."""
        settings = (*NO_VALIDATION, self.record(name), *overrides)
        recipe.run("run_qwen25vl_durian.sh", *settings, **(self.variables(name) | variables))
        return self.metrics(name)

    def train_with(self, program: str, *overrides: str) -> tuple[list[dict[str, float]], str]:
        """Trains by another program of verl with the settings of the recipe; returns metrics and output."""
        environment = recipe.environment(**self.variables(program))
        dry_run = recipe.command("run_qwen25vl_durian.sh", "--dry-run", *NO_VALIDATION)
        shown = subprocess.run(dry_run, env=environment, capture_output=True, text=True, check=True).stdout
        of_v1 = shown[shown.index("\npython ") :].replace("\\\n", "")
        command = shlex.split(of_v1.replace("verl.trainer.main_ppo", program))
        command += [*EXPERIMENTAL, self.record(program), *overrides]
        (self.folder / program).mkdir()
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout[-5000:]
        return self.metrics(program), done.stdout

    def metrics(self, name: str) -> list[dict[str, float]]:
        steps = {k: step for k, step in recipe.metrics(self.folder / name).items() if "durian/prompts/num" in step}
        data = pd.read_parquet(self.folder / "data" / "train.parquet")
        for number, step in steps.items():
            assert step["timing_s/durian"] > 0
            rows = pd.read_parquet(self.folder / name / "records" / f"step_{number:08d}.parquet")
            assert step["actor/grad_norm"] > 0 or (rows["advantage"] == 0).all()
            updates = rows.groupby("update")["uid"].nunique()
            assert updates.mean() == step["durian/prompts/num"]
            np.testing.assert_allclose(rows["advantage"], rows["advantage_durian"], rtol=1e-5)
            of_prompt = rows.groupby("uid")[["row", "visual_entropy", "confidence"]].agg(["nunique", "first"])
            assert (of_prompt.xs("nunique", axis=1, level=1) == 1).all(axis=None)
            assert of_prompt["row", "first"].between(0, len(data) - 1).all()
        return list(steps.values())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("trainers"))


def test_the_older_trainer(runs):
    steps = runs.train("older", "trainer.use_v1=false", BACKBONE="grpo")
    assert [step["durian/prompts/num"] for step in steps] == [8, 8]
    assert all(step["durian/rows_without_image"] == 0 for step in steps)


def test_colocate_async_with_adapters_and_kl_in_reward(runs):
    settings = (
        "trainer.v1.trainer_mode=colocate_async",
        "algorithm.use_kl_in_reward=True",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8",
    )
    steps = runs.train("colocate_async", *settings, LORA_RANK=4, SAVE_FREQ=2)
    checkpoint = runs.folder / "colocate_async" / "checkpoints" / "global_step_2" / "actor"
    assert (checkpoint / "lora_train_meta.json").exists()
    assert [step["durian/prompts/num"] for step in steps] == [8, 8]
    assert steps[1]["actor/reward_kl_penalty"] != 0

    steps = runs.train("colocate_async", *settings, LORA_RANK=4, RESUME="auto", TOTAL_STEPS=3)
    assert [step["durian/prompts/num"] for step in steps] == [8]


SEPARATE = (
    "trainer.v1.trainer_mode=separate_async",
    "trainer.v1.separate_async.num_warmup_batches=0",  # so that every rollout is of the policy of its step
    *OWN_SLOT,
)


def test_separate_async_with_one_update_a_step_and_rejection_sampling(runs):
    steps = runs.train(
        "separate_async_1",
        *SEPARATE,
        "trainer.v1.separate_async.parameter_sync_step=1",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "algorithm.rollout_correction.rollout_rs=seq_mean_k3",
        "algorithm.rollout_correction.rollout_rs_threshold=1e-12",  # k3 is rounding here, in half of the rows above 0
    )
    assert len(steps) == 2
    for step in steps:
        assert 0 < step["rollout_corr/rollout_rs_seq_masked_fraction"] < 1
        assert 0 < step["durian/prompts/num"] <= 8
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.9999  # the rollouts have the new weights


def test_separate_async_with_two_updates_a_step(runs):
    settings = (*SEPARATE, "trainer.v1.separate_async.parameter_sync_step=2")
    steps = runs.train("separate_async_2", *settings, SAVE_FREQ=2)
    more = runs.train("separate_async_2", *settings, RESUME="auto", TOTAL_STEPS=3)
    assert [step["durian/prompts/num"] for step in steps] == [4, 4]
    assert [step["durian/prompts/num"] for step in more] == [4]
    for step in steps + more:
        assert step["durian/prompts/frac_reward_zero_std"] == 0
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.9999


def test_one_step_off_policy_with_the_log_probabilities_of_the_rollout(runs):
    steps, _ = runs.train_with(
        "verl.experimental.one_step_off_policy.main_ppo",
        "hydra.searchpath=[pkg://verl.trainer.config]",
        "rollout.nnodes=1",
        "algorithm.rollout_correction.bypass_mode=True",
    )
    assert [step["durian/prompts/num"] for step in steps] == [8, 8]
    assert not any("actor/entropy" in step for step in steps)  # which comes with log-probabilities that are recomputed


def test_fully_asynchronous_training_with_thresholds_of_the_training_set(runs):
    steps, output = runs.train_with(
        "verl.experimental.fully_async_policy.fully_async_main",
        "rollout.total_rollout_steps=16",
        "data.train_batch_size=0",
        "data.gen_batch_size=1",
        "async_training.trigger_parameter_sync_step=2",
        "+algorithm.durian.perceptual.thresholds=dataset",
    )
    thresholds = re.search(r"thresholds of visual entropy of the training set, nats: \[(\S+), (\S+)\]", output)
    assert steps
    for step in steps:
        assert step["durian/prompts/num"] == 4
        for number in (1, 2):
            assert step[f"durian/perceptual/threshold_{number}"] == pytest.approx(float(thresholds[number]), abs=1e-4)

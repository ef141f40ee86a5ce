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
"""verl's trainers that roll out on worker slots of their own, two steps each; docs/trainers.md has the commands."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import recipe

from verl_durian.quickstart.data import write_data
from verl_durian.quickstart.model import write_model

OWN_SLOT = (
    "ray_kwargs.ray_init.num_gpus=2",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=shared_memory",
    "actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module=verl_durian.cpu.checkpoint_engine",
)


class Runs:
    """Data and model for runs in one folder, and what became of these."""

    done: dict[tuple, subprocess.CompletedProcess[str]]

    def __init__(self, folder: Path):
        self.folder = folder
        write_data(folder / "data", {"sft": 2, "train": 24, "dev": 2, "test": 4})
        write_model(folder / "model")

    def variables(self, name: str, **others: object) -> dict[str, object]:
        return {
            "MODEL_PATH": self.folder / "model",
            "TRAIN_FILES": self.folder / "data" / "train.parquet",
            "VAL_FILES": self.folder / "data" / "test.parquet",
            "OUTPUT": self.folder / name,
            "VERL_DURIAN_CACHE": self.folder / "cache",
            "PPO_MINI_BATCH_SIZE": 4,
            "ROLLOUTS": 4,
            "MAX_PROMPT_LENGTH": 128,
            "MAX_RESPONSE_LENGTH": 24,
            "OVERLONG_BUFFER": 8,
            "TOTAL_STEPS": 2,
            "TEST_FREQ": -1,
            "SAVE_FREQ": -1,
            "RESUME": "disable",
            **others,
        }

    def metrics(self, name: str) -> list[dict[str, float]]:
        """Those of each step with advantages."""
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        steps = [entry["data"] for entry in map(json.loads, lines)]
        return [step for step in steps if "durian/prompts/num" in step]


def separate_async(runs: Runs) -> subprocess.CompletedProcess[str]:
    return recipe.run(
        "run_qwen25vl_durian.sh",
        "trainer.v1.trainer_mode=separate_async",
        "trainer.v1.separate_async.parameter_sync_step=2",
        "trainer.v1.separate_async.num_warmup_batches=0",  # so that every rollout is of the policy of its step
        "trainer.val_before_train=False",
        *OWN_SLOT,
        **runs.variables("separate_async", LR=1e-4),
    )


def fully_async(runs: Runs) -> subprocess.CompletedProcess[str]:
    environment = recipe.environment(**runs.variables("fully_async"))
    dry_run = recipe.command("run_qwen25vl_durian.sh", "--dry-run")
    shown = subprocess.run(dry_run, env=environment, capture_output=True, text=True, check=True).stdout
    of_v1 = shown[shown.index("\npython ") :].replace("\\\n", "")
    command = [
        *shlex.split(of_v1.replace("verl.trainer.main_ppo", "verl.experimental.fully_async_policy.fully_async_main")),
        *OWN_SLOT,
        "ray_kwargs.ray_init.num_cpus=40",
        "actor_rollout_ref.hybrid_engine=False",
        "rollout.n_gpus_per_node=1",
        "rollout.total_rollout_steps=16",
        "data.train_batch_size=0",
        "data.gen_batch_size=1",
        "async_training.trigger_parameter_sync_step=2",
        "trainer.val_before_train=False",
        "+algorithm.durian.perceptual.thresholds=dataset",
    ]
    (runs.folder / "fully_async").mkdir()
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("trainers"))
    runs.done = recipe.in_pairs(lambda train: train(runs), [(separate_async,), (fully_async,)])
    return runs


def test_separate_async_with_two_updates_a_step(runs):
    done = runs.done[separate_async,]
    assert done.returncode == 0, done.stdout[-5000:]
    steps = runs.metrics("separate_async")
    assert len(steps) == 2
    for step in steps:
        assert step["durian/prompts/num"] == 4 and step["durian/prompts/all_equal"] == 0
        assert step["durian/hook_seconds"] > 0 and step["actor/grad_norm"] > 0
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.9999  # the rollouts have the new weights


def test_fully_asynchronous_training_with_thresholds_of_the_training_set(runs):
    done = runs.done[fully_async,]
    assert done.returncode == 0, done.stdout[-5000:]
    steps = runs.metrics("fully_async")
    told = re.search(r"thresholds of visual entropy of the training set, nats: \[(\S+), (\S+)\]", done.stdout)
    assert steps
    for step in steps:
        assert step["durian/prompts/num"] == 4 and step["actor/grad_norm"] > 0
        for number in (1, 2):
            assert step[f"durian/perceptual/threshold_{number}"] == pytest.approx(float(told.group(number)), abs=1e-4)

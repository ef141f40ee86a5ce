# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A release of verl that is not supported: it is rejected, and the plugin does not affect other estimators.

Run by tests/run_compat.sh, in an environment where such a release was forced to replace a supported one.
"""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RELEASE = importlib.metadata.version("verl")

START = """
import advantage_step
from verl.utils import config as verl_config
config = advantage_step.compose(
    "algorithm.adv_estimator={estimator}", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4", "trainer.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.name=vllm",
)
verl_config.validate_config(config, use_reference_policy=False, use_critic=False)
print("accepted")
"""

ADVANTAGES = """
import sys
import advantage_step, numpy as np
from verl.trainer.ppo.ray_trainer import compute_advantage
config, found = advantage_step.compose(), {}
for estimator in ("grpo", "rloo"):
    data = advantage_step.data_proto(advantage_step.make_rows())
    data.batch["token_level_rewards"] = data.batch["rm_scores"]
    data = compute_advantage(data, estimator, gamma=1.0, lam=1.0, num_repeat=4, config=config.algorithm)
    found[estimator] = data.batch["advantages"].numpy()
np.savez(sys.argv[1], plugin="verl_durian.hooks.plugin" in sys.modules, **found)
"""


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess:
    everything = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "helpers"), **environment}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=everything, timeout=300
    )


def test_pip_rejects_it():
    done = run("-m", "pip", "install", "--dry-run", ".", f"verl=={RELEASE}")
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "depends on verl" in said and ">=0.9.0" in said, said


def test_doctor_rejects_it():
    done = run("-m", "verl_durian.cli", "doctor", COLUMNS="200")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert f"verl {RELEASE}" in said and "Fix: install verl 0.9.0 or 0.9.1" in said and "Not ready" in said, said


# Older releases load no plugins, but a user could make them load a module like this.
LOADED = {"VERL_USE_EXTERNAL_MODULES": "verl_durian.hooks.plugin"}


@pytest.mark.parametrize("estimator", ["durian", "grpo"])
def test_if_it_is_loaded_anyway_only_durian_is_rejected_at_start(estimator):
    done = run("-c", START.format(estimator=estimator), **LOADED)
    if estimator == "grpo":
        assert done.returncode == 0 and "accepted" in done.stdout, done.stderr
    else:
        assert done.returncode != 0 and "accepted" not in done.stdout
        assert f"RuntimeError: verl {RELEASE} is not supported by this verl-durian" in done.stderr, done.stderr
        assert "supports verl 0.9.0 and 0.9.1" in done.stderr and "trainer_base" in done.stderr


def test_other_estimators_compute_the_same_with_and_without_the_plugin(tmp_path):
    found = {}
    for name, environment in (("with", LOADED), ("without", {})):
        done = run("-c", ADVANTAGES, tmp_path / f"{name}.npz", **environment)
        assert done.returncode == 0, done.stderr
        found[name] = np.load(tmp_path / f"{name}.npz")
    assert found["with"]["plugin"] and not found["without"]["plugin"]
    for estimator in ("grpo", "rloo"):
        assert found["with"][estimator].any()
        assert found["with"][estimator].tobytes() == found["without"][estimator].tobytes()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m verl_durian.preflight` in its own process, because verl loads its plugins once."""

import os
import subprocess
import sys

import pytest

SETTINGS = """
data.custom_cls.path=mine.py data.train_files=mine.parquet data.val_files=mine.parquet trainer.val_only=True
trainer.device=cpu trainer.n_gpus_per_node=1 actor_rollout_ref.rollout.tensor_model_parallel_size=1
actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.load_format=auto
actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1 actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1
+actor_rollout_ref.model.override_config.attn_implementation=sdpa
"""


@pytest.mark.parametrize(
    ("estimator", "code", "text"),
    [
        ("durian", 2, "unset VERL_USE_EXTERNAL_PLUGINS"),
        pytest.param("grpo", 0, "note: plugins allowed", marks=pytest.mark.slow),  # works without the plugin
    ],
)
def test_a_plugin_that_verl_may_not_load(tiny_qwen25vl, estimator, code, text):
    command = [sys.executable, "-m", "verl_durian.preflight", f"actor_rollout_ref.model.path={tiny_qwen25vl}"]
    command += [*SETTINGS.split(), f"algorithm.adv_estimator={estimator}"]
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == code and text in done.stderr, done.stderr

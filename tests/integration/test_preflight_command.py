# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m verl_durian.preflight` in its own process, because verl loads its plugins once."""

import os
import subprocess
import sys


def test_a_plugin_that_verl_may_not_load(tiny_qwen25vl):
    settings = {
        "actor_rollout_ref.model.path": tiny_qwen25vl,
        "data.custom_cls.path": "mine.py",
        "trainer.device": "cpu",
    }
    settings |= {"trainer.n_gpus_per_node": 1, "trainer.val_only": True, "actor_rollout_ref.rollout.name": "vllm"}
    settings |= dict.fromkeys(("data.train_files", "data.val_files"), "mine.parquet")
    settings |= {f"actor_rollout_ref.{key}_micro_batch_size_per_gpu": 1 for key in ("actor.ppo", "rollout.log_prob")}
    settings |= {
        "actor_rollout_ref.rollout.load_format": "auto",
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    }
    settings |= {"+actor_rollout_ref.model.override_config.attn_implementation": "sdpa"}
    command = [sys.executable, "-m", "verl_durian.preflight", *(f"{key}={value}" for key, value in settings.items())]

    def run(estimator: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none"}
        arguments = [*command, f"algorithm.adv_estimator={estimator}"]
        return subprocess.run(arguments, capture_output=True, text=True, env=environment)

    done = run("durian")
    assert done.returncode == 2 and "unset VERL_USE_EXTERNAL_PLUGINS" in done.stderr
    done = run("grpo")  # works without the plugin
    assert done.returncode == 0 and "note: plugins allowed" in done.stderr, done.stderr
    assert done.stderr.endswith("preflight: no problem found\n")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A run of the comparison in verl itself: Ray, vLLM and FSDP, by the recipe that also trains Qwen2.5-VL on GPUs.

Ten times slower than `train.py`, with the same data, start, estimators and settings: PART=verl repeats a few runs with
it, to show that the two agree.
"""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from .runs import ARMS, ROLLOUTS, STEPS, TEST_EVERY, Run


def command(run: Run, data: Path, model: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    """The command line of a run, and its environment variables.

    Args:
        run: The run.
        data: The folder written by `task.py`, with visual entropy.
        model: The folder of the start.
        out: The folder for everything that the run writes.
    """
    train, validation = (str(data / run.family / f"{split}.parquet") for split in ("train", run.validation))
    variables = {
        "BACKBONE": "dapo",
        "ESTIMATOR": "grpo",
        "MODEL_PATH": model,
        "OUTPUT": out,
        "TRAIN_FILES": train,
        "VAL_FILES": validation,
        "NGPUS_PER_NODE": 1,
        "TRAIN_BATCH_SIZE": run.batch,
        "PPO_MINI_BATCH_SIZE": run.batch,
        "PPO_MICRO_BATCH_SIZE": ROLLOUTS * run.batch,
        "ROLLOUTS": ROLLOUTS,
        "MAX_PROMPT_LENGTH": 64,
        "MAX_RESPONSE_LENGTH": 16,
        "OVERLONG_BUFFER": 0,
        "LR": run.rate,
        "TOTAL_STEPS": STEPS,
        "TEST_FREQ": TEST_EVERY,
        "SAVE_FREQ": -1,
        "RESUME": "disable",
        "SEED": run.seed,
        "VERL_PLATFORM": "cpu",
    }
    settings = [
        *ARMS[run.arm],
        *run.settings,
        "trainer.use_v1=False",  # faster: trainer V1 looks for finished rollouts every two seconds
        "algorithm.filter_groups.enable=False",
        "data.filter_overlong_prompts=False",
        "actor_rollout_ref.model.external_lib=recipes.evidence.arms",
        f"actor_rollout_ref.rollout.seed={run.seed}",
        "actor_rollout_ref.rollout.max_num_seqs=256",
        "actor_rollout_ref.rollout.val_kwargs.do_sample=False",
        "actor_rollout_ref.rollout.val_kwargs.temperature=0",
        "reward.custom_reward_function.path=pkg://recipes.evidence.reward",
        f"+algorithm.durian.record={out / 'records'}",
        "+ray_kwargs.ray_init.address=local",  # runs side by side must not share a Ray
    ]
    watched = ["python", "-m", "recipes.quickstart.watchdog", "--log", str(out / "train.log"), "--stall-minutes", "10"]
    recipe = ["--show", "^$", "--", "bash", "recipes/run_qwen25vl_durian.sh", *settings]
    return watched + recipe, {name: str(value) for name, value in variables.items()}


def train(run: Run, data: Path, model: Path, out: Path) -> dict[str, Any]:
    """Trains one run, as `train.train`; `out` is a new folder for everything that it writes.

    Raises:
        subprocess.CalledProcessError: verl failed.
        ValueError: The run did not reach its last step.
    """

    arguments, variables = command(run, data, model, out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(arguments, env={**os.environ, **variables}, start_new_session=True)
    try:
        process.wait()
    finally:  # verl's processes must not outlive this one; the watchdog ends all of them
        process.terminate()
        process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "recipes/run_qwen25vl_durian.sh")
    return outcome(out)


def outcome(out: Path) -> dict[str, Any]:
    """The fields `validation`, `reward` and `weight` of a run that has written to `out`.

    Raises:
        ValueError: The run did not reach its last step.
    """
    prefix, suffix = "val-core/", "/acc/mean@1"
    validation, reward = {}, []
    for line in (out / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        metrics = entry["data"]
        cells = {
            name.removeprefix(prefix).removesuffix(suffix): value
            for name, value in metrics.items()
            if name.startswith(prefix) and name.endswith(suffix)
        }
        if cells:
            validation[entry["step"]] = cells
        if "critic/score/mean" in metrics:
            reward.append(metrics["critic/score/mean"])
    if len(reward) != STEPS or STEPS not in validation:
        raise ValueError(f"{out}: {len(reward)} of {STEPS} steps, validations after {sorted(validation)}")
    return {"validation": validation, "reward": reward, "weight": weight_by_passes(out / "records")}


def weight_by_passes(records: Path) -> dict[str, list[float]]:
    """Number and sum of squared advantages of the prompts of a run, by their number of correct rollouts."""
    columns = ["step", "uid", "reward", "advantage"]
    rows = pd.concat([pq.read_table(file, columns=columns).to_pandas() for file in sorted(records.glob("*.parquet"))])
    rows["square"] = rows["advantage"] ** 2
    prompts = rows.groupby(["step", "uid"]).agg(passes=("reward", "sum"), square=("square", "sum"))
    by_passes = prompts.groupby(prompts["passes"].round().astype(int))["square"].agg(["size", "sum"])
    by_passes = by_passes.reindex(range(ROLLOUTS + 1), fill_value=0)
    return {"prompts": by_passes["size"].tolist(), "squares": by_passes["sum"].round(3).tolist()}

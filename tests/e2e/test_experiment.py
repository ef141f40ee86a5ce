# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's experiment in small: data sets in their published schemas, `verl-durian prepare`, training with every
backbone and estimator, LoRA, a run that is killed and resumed, the five benchmarks."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import prepare_fixtures
import psutil
import pyarrow.parquet as pq
import pytest
import recipe

from recipes.quickstart.model import write_model
from recipes.quickstart.watchdog import mapped, shared_memory
from verl_durian.evaluation.paper import BENCHMARKS

pytestmark = pytest.mark.slow

STEPS, SEED = 4, 7
BATCH = int(recipe.SMALL["TRAIN_BATCH_SIZE"])
LONG_PROMPTS = {"MAX_PROMPT_LENGTH": 768}  # most tokens of the tiny model are letters
TRAIN = ("run_qwen25vl_durian.sh", "trainer.val_before_train=False")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds the model, and the data sets in data/NAME. Runs write to it."""
    folder = tmp_path_factory.mktemp("experiment")
    write_model(folder / "model")
    for name, make in prepare_fixtures.FIXTURES.items():
        make(folder / "sources" / name)
        prepare = [str(Path(sys.executable).with_name("verl-durian")), "prepare", name]
        prepare += ["--source", str(folder / "sources" / name), "--output", str(folder / "data" / name)]
        subprocess.run(prepare, check=True, capture_output=True)
    return folder


def variables(folder: Path, name: str, **others: object) -> dict[str, object]:
    """The variables of one run, which writes to folder/NAME."""
    return {
        "MODEL_PATH": folder / "model",
        "DATA_DIR": folder / "data",
        "OUTPUT": folder / name,
        "VERL_DURIAN_CACHE": folder / "cache",
        **others,
    }


def assert_trained(run: Path, backbone: str, lr: float) -> None:
    metrics = recipe.metrics(run)
    assert sorted(metrics) == [1, 2]
    for step in metrics.values():
        assert step["actor/lr"] == lr and ("actor/kl_loss" in step) == (backbone == "grpo")
        assert not any(key.startswith("durian/") for key in step)


# DAPO with durian is trained by test_smoke.py, GRPO with durian and GRPO with grpo below.
@pytest.mark.parametrize(
    ("backbone", "estimator"),
    [
        ("dapo", "grpo"),
        ("dapo", "rloo"),
        ("grpo", "rloo"),
        ("dapo", "reinforce_plus_plus_baseline"),
        ("grpo", "reinforce_plus_plus_baseline"),
    ],
)
def test_every_backbone_trains_with_every_estimator(folder, backbone, estimator):
    name = f"{backbone}_{estimator}"
    choices = {"BACKBONE": backbone, "ESTIMATOR": estimator, "DATASET": "virl39k", "TOTAL_STEPS": 2}
    recipe.run(*TRAIN, **variables(folder, name, **choices, **LONG_PROMPTS))
    assert_trained(folder / name, backbone, lr=1e-6)


def test_adapters_are_trained_and_scored_on_the_five_benchmarks(folder):
    choices = {"BACKBONE": "grpo", "ESTIMATOR": "grpo", "DATASET": "virl39k", "TOTAL_STEPS": 2}
    recipe.run(*TRAIN, **variables(folder, "lora", **choices, **LONG_PROMPTS, LORA_RANK=4, SAVE_FREQ=2))
    assert_trained(folder / "lora", "grpo", lr=1e-5)

    checkpoint, output = folder / "lora" / "checkpoints" / "global_step_2", folder / "evaluation"
    recipe.run("run_eval.sh", checkpoint, DATA_DIR=folder / "data", OUTPUT=output, **LONG_PROMPTS)
    assert not (checkpoint / "actor_huggingface" / "lora_adapter").exists()
    report = json.loads((output / "report.json").read_text())
    rows = {name: pq.read_metadata(*(folder / "data" / name).glob("*.parquet")).num_rows for name in BENCHMARKS}
    assert {name: each["questions"] for name, each in report["benchmarks"].items()} == rows
    assert [each["unanswered"] for each in report["benchmarks"].values()] == [[]] * len(BENCHMARKS)
    assert set(report["benchmarks"]["hallusionbench"]["groups"]) == {"aAcc", "fAcc", "qAcc", "mean"}
    assert report["benchmarks"]["wemath"]["problems"]["problems"] > 0
    assert 0 <= report["average"] <= 1


def kill(process: subprocess.Popen) -> None:
    """Kills a recipe and all of Ray at once, as if the machine stopped, and removes their shared memory."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
    process.wait()
    psutil.wait_procs(family, timeout=10)


def test_a_killed_run_resumes_with_the_data_that_were_left(folder):
    """With GRPO: every row is trained on once, in the order of the sampler."""
    run, numbered = folder / "killed", folder / "numbered.parquet"
    recipe.write_numbered_questions(numbered)
    arguments = [*TRAIN, f"trainer.rollout_data_dir={run / 'rollouts'}"]
    choices = {"TRAIN_FILES": numbered, "VAL_FILES": numbered, "BACKBONE": "grpo", "TOTAL_STEPS": STEPS}
    options = variables(folder, run.name, **choices, SAVE_FREQ=1, SEED=SEED)
    segments, log = shared_memory(), folder / "killed.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            recipe.command(*arguments),
            env=recipe.environment(**options),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while 2 not in recipe.metrics(run):
            assert process.poll() is None, log.read_text()[-5000:]
            time.sleep(0.1)
        kill(process)
    new = shared_memory() - segments
    for segment in new - mapped(new):
        segment.unlink(missing_ok=True)
    last = int((run / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())

    recipe.run(*arguments, **options)
    metrics = recipe.metrics(run)
    assert sorted(metrics) == list(range(last + 1, STEPS + 1))
    assert all(step["durian/prompts/num"] == BATCH for step in metrics.values())
    (before,) = run.glob("metrics-until-*.jsonl")
    assert [json.loads(line)["step"] for line in before.read_text().splitlines()[:2]] == [1, 2]
    places = recipe.places_in_order(run / "rollouts", numbered, SEED)
    assert list(places) == list(range(1, STEPS + 1))
    assert [row for rows in places.values() for row in rows] == list(range(STEPS * BATCH))

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's experiment from end to end, in small: copies of the sets with their real schemas -> `verl-durian prepare`
-> the training recipe, every backbone with every estimator, a run that is killed and goes on -> the five benchmarks."""

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import prepare_fixtures
import psutil
import pyarrow.parquet as pq
import pytest
import recipe
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.utils import create_rl_sampler

from recipes.quickstart.data import make_rows, write_parquet
from recipes.quickstart.model import write_model
from recipes.quickstart.watchdog import mapped_by, shared_memory_segments
from verl_durian.evaluation.paper import BENCHMARKS

STEPS, SEED = 4, 7
BATCH = int(recipe.SMALL["TRAIN_BATCH_SIZE"])
LENGTHS = {"MAX_PROMPT_LENGTH": 768, "MAX_RESPONSE_LENGTH": 24}  # the model's tokens are letters, mostly


class Experiment:
    """Data, model and runs, in one folder."""

    def __init__(self, folder: Path):
        self.folder, self.data, self.model = folder, folder / "data", folder / "model"
        write_model(self.model)
        for name, make in prepare_fixtures.FIXTURES.items():
            make(folder / "sources" / name)
            prepare = [str(Path(sys.executable).with_name("verl-durian")), "prepare", name]
            prepare += ["--source", str(folder / "sources" / name), "--output", str(self.data / name)]
            subprocess.run(prepare, check=True, capture_output=True)

    def variables(self, name: str, **others: object) -> dict[str, object]:
        return {
            "MODEL_PATH": self.model,
            "DATA_DIR": self.data,
            "OUTPUT": self.folder / name,
            "VERL_DURIAN_CACHE": self.folder / "cache",
            "TEST_FREQ": -1,
            "SAVE_FREQ": -1,
            "OVERLONG_BUFFER": 8,
            **LENGTHS,
            **others,
        }

    def metrics(self, name: str) -> dict[int, dict[str, float]]:
        """Those of each step that the last start of a run logged."""
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return {entry["step"]: entry["data"] for entry in map(json.loads, lines)}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    return Experiment(tmp_path_factory.mktemp("recipes"))


# durian on both is trained, and killed, below; grpo on grpo is trained by the test of the evaluation.
PAIRS = [
    ("dapo", "grpo"),
    ("dapo", "rloo"),
    ("grpo", "rloo"),
    ("dapo", "reinforce_plus_plus_baseline"),
    ("grpo", "reinforce_plus_plus_baseline"),
]


@pytest.fixture(scope="module")
def trained(experiment) -> dict[tuple[str, str], subprocess.CompletedProcess[str]]:
    def train(backbone: str, estimator: str) -> subprocess.CompletedProcess[str]:
        variables = experiment.variables(
            f"{backbone}_{estimator}", BACKBONE=backbone, ESTIMATOR=estimator, DATASET="virl39k", TOTAL_STEPS=2
        )
        return recipe.run("run_qwen25vl_durian.sh", "trainer.val_before_train=False", **variables)

    return {pair: train(*pair) for pair in PAIRS}


@pytest.mark.parametrize(("backbone", "estimator"), PAIRS)
def test_every_backbone_trains_with_every_estimator(experiment, trained, backbone, estimator):
    done = trained[backbone, estimator]
    assert done.returncode == 0, done.stdout[-5000:]
    metrics = experiment.metrics(f"{backbone}_{estimator}")
    assert sorted(metrics) == [1, 2]
    for step in metrics.values():
        assert step["actor/lr"] == 1e-6 and ("actor/kl_loss" in step) == (backbone == "grpo")
        assert not any(key.startswith("durian/") for key in step)


@pytest.fixture(scope="module")
def numbered(experiment) -> Path:
    """Questions of the quickstart that end with the row's number."""
    rows = list(make_rows("train", per_kind=200))
    for number, row in enumerate(rows):
        row["prompt"][0]["content"] += f" ({number})"
    file = experiment.folder / "numbered.parquet"
    write_parquet(rows, file)
    return file


def places(rollouts: Path, order: list[int]) -> dict[int, list[int]]:
    """Where the rows that a step was trained on stand in the order in which the sampler deals them."""
    place = {row: place for place, row in enumerate(order)}
    asked = {}
    for file in rollouts.glob("*.jsonl"):
        inputs = [json.loads(line)["input"] for line in file.read_text().splitlines()]
        asked[int(file.stem)] = sorted({place[int(re.findall(r"\((\d+)\)", text)[-1])] for text in inputs})
    return dict(sorted(asked.items()))


def steps(metrics: Path) -> list[int]:
    """Those of which a run has written the whole line."""
    return [json.loads(line)["step"] for line in metrics.read_text().split("\n")[:-1]] if metrics.exists() else []


def kill(process: subprocess.Popen) -> None:
    """As if the machine stopped: the recipe and all of Ray at once, and what they have in shared memory."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    segments = shared_memory_segments() & mapped_by(family)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for member in family:
            with suppress(psutil.Error):  # it may be gone
                member.send_signal(number)
    process.wait()
    for segment in segments:
        segment.unlink(missing_ok=True)


@dataclass
class Killed:
    """A run that was killed after two steps and started again."""

    folder: Path
    last: int
    """The step of the last checkpoint before."""
    dealt: int
    """Batches that the data loader had dealt until then."""
    again: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def killed(experiment, numbered) -> dict[str, Killed]:
    def run(backbone: str) -> Killed:
        folder = experiment.folder / f"killed_{backbone}"
        options = ["trainer.val_before_train=False", f"trainer.rollout_data_dir={folder / 'rollouts'}"]
        variables = experiment.variables(folder.name, BACKBONE=backbone, TOTAL_STEPS=STEPS, SAVE_FREQ=1)
        variables |= {"TRAIN_FILES": numbered, "VAL_FILES": numbered, "SEED": SEED, "MAX_PROMPT_LENGTH": 128}
        log = experiment.folder / f"{folder.name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                recipe.command("run_qwen25vl_durian.sh", *options),
                env=recipe.environment(**variables),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            while 2 not in steps(folder / "metrics.jsonl"):
                assert process.poll() is None, log.read_text()[-5000:]
                time.sleep(0.1)
            kill(process)
        last = int((folder / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
        loader = torch.load(folder / "checkpoints" / f"global_step_{last}" / "data.pt", weights_only=False)
        again = recipe.run("run_qwen25vl_durian.sh", *options, **variables)
        return Killed(folder, last, loader["_num_yielded"], again)

    return {backbone: run(backbone) for backbone in ("grpo", "dapo")}


@pytest.mark.parametrize("backbone", ["grpo", "dapo"])
def test_a_killed_run_goes_on_with_the_data_that_were_left(experiment, killed, numbered, backbone):
    run = killed[backbone]
    assert run.again.returncode == 0, run.again.stdout[-5000:]
    metrics = experiment.metrics(run.folder.name)
    assert sorted(metrics) == list(range(run.last + 1, STEPS + 1))
    assert all(step["durian/prompts/num"] == BATCH for step in metrics.values())
    (before,) = run.folder.glob("metrics-until-*.jsonl")
    assert steps(before)[:2] == [1, 2]

    sampler = create_rl_sampler(OmegaConf.create({"shuffle": True, "seed": SEED}), pq.read_table(numbered))
    asked = places(run.folder / "rollouts", list(sampler))
    assert list(asked) == list(range(1, STEPS + 1))
    assert all(len(rows) == BATCH for rows in asked.values())
    in_order = [row for rows in asked.values() for row in rows]
    assert in_order == sorted(in_order)
    if backbone == "grpo":
        assert in_order == list(range(STEPS * BATCH))
    else:  # prompts are dealt one by one, and those without signal are left out: rarely so many in a row
        assert run.dealt <= asked[run.last + 1][0] < run.dealt + 4 * BATCH


def test_the_five_benchmarks_are_scored(experiment, killed):
    output = experiment.folder / "evaluation"
    checkpoint = killed["dapo"].folder / "checkpoints" / f"global_step_{STEPS}"
    done = recipe.run("run_eval.sh", checkpoint, DATA_DIR=experiment.data, OUTPUT=output, **LENGTHS)
    assert done.returncode == 0, done.stdout[-5000:]
    report = json.loads((output / "report.json").read_text())
    rows = {name: pq.read_metadata(*(experiment.data / name).glob("*.parquet")).num_rows for name in BENCHMARKS}
    assert {name: each["questions"] for name, each in report["benchmarks"].items()} == rows
    assert [each["unanswered"] for each in report["benchmarks"].values()] == [[]] * len(BENCHMARKS)
    assert set(report["benchmarks"]["hallusionbench"]["groups"]) == {"aAcc", "fAcc", "qAcc", "mean"}
    assert report["benchmarks"]["wemath"]["problems"]["problems"] > 0
    assert 0 <= report["average"] <= 1

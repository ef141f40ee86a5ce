# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""One chain of launches: the quickstart, killed; the same command again, which resumes; evaluation of the checkpoint.

15 prompts x 8 rollouts do not divide into updates of 8 prompts, so verl adds padding rows in every step.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import recipe
import torch
from evaluation_fixtures import SCHEMA, write_benchmarks
from PIL import Image

from recipes.quickstart.watchdog import DEATH, PR_SET_CHILD_SUBREAPER, is_alive, mapped, shared_memory
from verl_durian.evaluation.paper import BENCHMARKS
from verl_durian.reward import compute_score

STEPS, KILLED_AFTER, BATCH, SEED = 4, 2, 15, 7
TOO_LONG = "mathvista-long"


@contextmanager
def orphans() -> Iterator[list[psutil.Process]]:
    """Adds the processes that were started within and outlive their parents: they become children of this one."""
    found: list[psutil.Process] = []
    before = psutil.Process().children(recursive=True)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield found
        found += [each for each in psutil.Process().children(recursive=True) if each not in before and is_alive(each)]
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Launch:
    """One launch of the quickstart, with its output in out/NAME; `kill_after` kills its rollout worker after a step."""

    def __init__(self, out: Path, name: str, kill_after: int | None = None) -> None:
        overrides = (
            f"data.train_files={out / 'numbered.parquet'}",
            f"data.train_batch_size={BATCH}",
            "data.val_max_samples=60",
            f"data.seed={SEED}",
            "trainer.save_freq=1",
            "trainer.resume_mode=auto",
            f"trainer.default_local_dir={out / 'checkpoints'}",
            f"trainer.rollout_data_dir={out / 'rollouts'}",
        )
        variables = {"OUT": str(out), "STEPS": str(STEPS), "VERL_DURIAN_CACHE": str(out / "cache")}
        segments, runs, log = shared_memory(), set(out.glob("runs/*")), out / name
        self.killed: list[psutil.Process] = []
        with orphans() as self.left_processes, log.open("w") as output:
            process = subprocess.Popen(
                recipe.command("run_quickstart.sh", *overrides),
                env={**os.environ, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            while process.poll() is None:
                time.sleep(0.2)
                self.folder = next(iter(set(out.glob("runs/*")) - runs), out)
                if kill_after is not None and kill_after in recipe.metrics(self.folder):
                    self.killed = [each for each in psutil.Process(process.pid).children(True) if is_worker(each)]
                    for worker in self.killed:
                        worker.send_signal(signal.SIGKILL)
                    break
            self.code = process.wait()
        for _ in range(30):  # tests that run in parallel may leave some for a moment
            new = shared_memory() - segments
            self.left_segments = new - mapped(new)
            if not self.left_segments:
                break
            time.sleep(1)
        self.output, self.metrics = log.read_text(), recipe.metrics(self.folder)
        self.scored = sum(len(file.read_text().splitlines()) for file in (out / "cache").rglob("*.jsonl"))


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.cmdline() != [] and process.cmdline()[0].startswith("VLLM::Worker")
    return False


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("smoke")
    recipe.write_numbered_questions(out / "numbered.parquet")
    return out


@pytest.fixture(scope="module")
def killed(out) -> Launch:
    launch = Launch(out, "killed.log", kill_after=KILLED_AFTER)
    assert launch.killed, launch.output[-5000:]
    # Before the run ends, verl may train and save one more step on the few rollouts that had finished.
    launch.metrics.pop(KILLED_AFTER + 1, None)
    (out / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(KILLED_AFTER))
    return launch


@pytest.fixture(scope="module")
def resumed(out, killed) -> Launch:
    launch = Launch(out, "resumed.log")
    assert launch.code == 0, launch.output[-5000:]
    return launch


def test_a_dead_worker_ends_the_run_with_its_error(killed):
    assert killed.code != 0
    _, error, _ = killed.output.rsplit("=" * 100, 2)
    assert DEATH.search(error) and str(killed.folder / "train.log") in error


def test_the_same_command_resumes_with_the_data_that_were_left(out, killed, resumed):
    assert sorted(killed.metrics) == list(range(KILLED_AFTER + 1))
    assert sorted(resumed.metrics) == list(range(KILLED_AFTER, STEPS + 1))  # a validation comes first
    places = recipe.places_in_order(out / "rollouts", out / "numbered.parquet", SEED)
    assert {step: len(rows) for step, rows in places.items()} == dict.fromkeys(range(1, STEPS + 1), BATCH)
    in_order = [row for rows in places.values() for row in rows]
    assert in_order == sorted(in_order)
    # Prompts are read one by one; dynamic sampling skips those without learning signal, rarely many in a row.
    loader = torch.load(out / "checkpoints" / f"global_step_{KILLED_AFTER}" / "data.pt", weights_only=False)
    assert loader["_num_yielded"] <= places[KILLED_AFTER + 1][0] < loader["_num_yielded"] + 4 * BATCH


def test_each_step_is_recorded_with_the_rows_of_its_prompts(killed, resumed):
    files = {file.name: file for each in (killed, resumed) for file in each.folder.glob("records/*.parquet")}
    assert sorted(files) == [f"step_{step:08d}.parquet" for step in range(1, STEPS + 1)]
    for file in files.values():
        rows = pd.read_parquet(file)
        numbers = rows["prompt"].str.extract(r"\((\d+)\)\n")[0].astype(int)
        assert rows["row"].tolist() == numbers.tolist() and rows["uid"].nunique() == BATCH
        assert rows["answer"].str.contains("boxed").any() and set(rows["accuracy"]) == {0, 1}
        np.testing.assert_allclose(rows["advantage"], rows["advantage_durian"], rtol=1e-5)


@pytest.fixture(scope="module")
def steps(killed, resumed) -> list[dict[str, float]]:
    """The metrics of every step of training, without validations alone."""
    found = [*killed.metrics.values(), *resumed.metrics.values()]
    return [metrics for metrics in found if "actor/grad_norm" in metrics]


def test_rollouts_come_from_the_policy_that_is_trained(steps):
    assert len(steps) == STEPS
    for step in steps:
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.999
        assert step["actor/grad_norm"] > 0


def test_padding_rows_are_excluded(killed, steps):
    assert "synthetic padding samples" in (killed.folder / "train.log").read_text()
    for step in steps:
        assert step["durian/prompts/num"] == BATCH
        assert sum(step[f"durian/perceptual/S{k}/size"] for k in (1, 2, 3)) == BATCH
        assert step["durian/rows_without_image"] == 0
        assert step["durian/prompts/frac_reward_zero_std"] == 0  # by dynamic sampling


def test_images_are_scored_once(killed, resumed):
    assert 100 < killed.scored <= 600
    assert "visual entropy: 100%" in killed.output
    assert resumed.scored == killed.scored


def test_it_ends_with_a_table_a_figure_and_a_report(killed, resumed):
    for metrics in (killed.metrics[0], resumed.metrics[STEPS]):
        assert sum(re.fullmatch(r"val-core/easy_vqa_\w+/acc/mean@1", name) is not None for name in metrics) == 3
    end = resumed.output[-3000:]
    assert "Validation accuracy" in end and "before" in end and "after" in end
    assert str(resumed.folder / "metrics.jsonl") in end
    with Image.open(resumed.folder / "learning.png") as figure:
        assert figure.width > 800
    assert str(resumed.folder / "report.html") in end and (resumed.folder / "report.html").is_file()


def test_no_process_and_no_shared_memory_is_left(killed, resumed):
    for launch in (killed, resumed):
        assert not launch.left_processes and not launch.left_segments


class Evaluation:
    """The last checkpoint on a few questions for each benchmark, one of them longer than the model reads."""

    def __init__(self, out: Path) -> None:
        self.data, self.output = out / "data", out / "evaluation"
        write_benchmarks(self.data)
        file = self.data / "mathvista" / "testmini.parquet"
        rows = pq.read_table(file).to_pylist()
        content = rows[0]["prompt"][0]["content"] + 200 * " red"
        prompt = [{"role": "user", "content": content}]
        rows.append({**rows[0], "prompt": prompt, "extra_info": {**rows[0]["extra_info"], "id": TOO_LONG}})
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file)

        self.checkpoint = out / "checkpoints" / f"global_step_{STEPS}"
        self.printed = recipe.run("run_eval.sh", self.checkpoint, DATA_DIR=self.data, OUTPUT=self.output)
        self.report = json.loads((self.output / "report.json").read_text())
        self.answers = [json.loads(line) for line in (self.output / "answers" / "0.jsonl").read_text().splitlines()]
        files = sorted(self.data.glob("*/*.parquet"))
        self.rows = {row["extra_info"]["id"]: row for file in files for row in pq.read_table(file).to_pylist()}


@pytest.fixture(scope="module")
def evaluation(out, resumed) -> Evaluation:
    return Evaluation(out)


def test_answers_have_the_id_of_their_question_and_the_reward_of_training(evaluation):
    assert {answer["id"] for answer in evaluation.answers} == evaluation.rows.keys() - {TOO_LONG}
    for answer in evaluation.answers:
        row = evaluation.rows[answer["id"]]
        _, _, question = row["prompt"][0]["content"].partition("<image>")
        assert question in answer["input"]
        assert answer["data_source"] == row["data_source"]
        assert answer["gts"] == row["reward_model"]["ground_truth"]
        verdict = compute_score(row["data_source"], answer["output"], answer["gts"], row["extra_info"])
        assert {key: answer[key] for key in verdict} == pytest.approx(verdict)


def test_accuracies_equal_those_of_verl(evaluation):
    """Also with the question without an answer, which verl counts as wrong."""
    metrics = recipe.metrics(evaluation.output)[0]
    for name in BENCHMARKS:
        accuracy = evaluation.report["benchmarks"][name]["accuracy"]
        assert accuracy == pytest.approx(metrics[f"val-core/{name}/acc/mean@1"])
    assert any(each["accuracy"] > 0 for each in evaluation.report["benchmarks"].values())


def test_the_evaluation_ends_with_its_report(evaluation):
    unanswered = {name: each["unanswered"] for name, each in evaluation.report["benchmarks"].items()}
    assert unanswered == {**dict.fromkeys(BENCHMARKS, []), "mathvista": [TOO_LONG]}
    assert f"counted as wrong, such as {TOO_LONG}" in evaluation.printed
    assert evaluation.printed.endswith((evaluation.output / "report.md").read_text() + "\n")
    assert f"# {evaluation.checkpoint}" in evaluation.printed
    with Image.open(evaluation.output / "report.png") as picture:
        assert picture.width > 800


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [
        ({"BENCHMARKS": "mathvista geometry3k"}, "geometry3k is none of mathverse, mathvi"),
        ({"DATA_DIR": "nowhere"}, "create it: verl-durian prepare hallusionbench --output n"),
    ],
)
def test_invalid_settings_of_an_evaluation_are_reported(tmp_path, variables, remedy):
    environment = recipe.environment(OUTPUT=tmp_path, **variables)
    done = subprocess.run(recipe.command("run_eval.sh", "model"), env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and remedy in done.stderr

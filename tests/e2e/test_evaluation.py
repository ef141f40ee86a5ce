# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A model is trained for a step and saved by one recipe, merged and evaluated by the other; many checks of that."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import recipe
from evaluation_fixtures import SCHEMA, write_benchmarks
from PIL import Image

from recipes.quickstart.model import write_model
from verl_durian.evaluation.paper import BENCHMARKS
from verl_durian.reward import compute_score

LENGTHS = {"MAX_PROMPT_LENGTH": 128, "MAX_RESPONSE_LENGTH": 24}
TOO_LONG = "mathvista-long"


def add_a_question_that_is_too_long(file: Path) -> None:
    rows = pq.read_table(file).to_pylist()
    long = json.loads(json.dumps({**rows[0], "images": None})) | {"images": rows[0]["images"]}
    long["prompt"][0]["content"] += 200 * " red"
    long["extra_info"]["id"] = TOO_LONG
    pq.write_table(pa.Table.from_pylist([*rows, long], SCHEMA), file)


class Run:
    """The folders of one evaluation."""

    def __init__(self, out: Path):
        self.data, self.output = out / "data", out / "eval"
        write_benchmarks(self.data)
        add_a_question_that_is_too_long(self.data / "mathvista" / "testmini.parquet")
        write_model(out / "model")
        questions = self.data / "mathverse" / "testmini.parquet"
        trained = recipe.run(
            "run_qwen25vl_durian.sh",
            "trainer.val_before_train=False",
            BACKBONE="grpo",
            ESTIMATOR="grpo",
            LORA_RANK=4,
            MODEL_PATH=out / "model",
            TRAIN_FILES=questions,
            VAL_FILES=questions,
            OUTPUT=out / "train",
            TOTAL_STEPS=1,
            SAVE_FREQ=1,
            TEST_FREQ=-1,
            **LENGTHS,
        )
        assert trained.returncode == 0, trained.stdout[-5000:]
        self.checkpoint = out / "train" / "checkpoints" / "global_step_1"
        done = recipe.run("run_eval.sh", self.checkpoint, DATA_DIR=self.data, OUTPUT=self.output, **LENGTHS)
        self.told = done.stdout
        assert done.returncode == 0, self.told[-5000:]
        self.report = json.loads((self.output / "report.json").read_text())
        self.answers = [json.loads(line) for line in (self.output / "answers" / "0.jsonl").read_text().splitlines()]
        files = sorted(self.data.glob("*/*.parquet"))
        self.rows = {row["extra_info"]["id"]: row for file in files for row in pq.read_table(file).to_pylist()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("evaluation"))


def test_the_checkpoint_was_merged_beside(run):
    assert (run.checkpoint / "actor_huggingface" / "model.safetensors").exists()


def test_answers_are_those_to_the_questions_whose_name_they_have(run):
    assert {answer["id"] for answer in run.answers} == run.rows.keys() - {TOO_LONG}
    for answer in run.answers:
        row = run.rows[answer["id"]]
        _, _, question = row["prompt"][0]["content"].partition("<image>")
        assert question in answer["input"]
        assert answer["data_source"] == row["data_source"]
        assert answer["gts"] == row["reward_model"]["ground_truth"]


def test_the_reward_is_that_of_training(run):
    for answer in run.answers:
        row = run.rows[answer["id"]]
        verdict = compute_score(row["data_source"], answer["output"], answer["gts"], row["extra_info"])
        assert {key: answer[key] for key in verdict} == pytest.approx(verdict)


def test_accuracies_are_those_that_verl_counts(run):
    """Also for the question without an answer, which verl counts as wrong."""
    (line,) = (run.output / "metrics.jsonl").read_text().splitlines()
    metrics = json.loads(line)["data"]
    for name in BENCHMARKS:
        accuracy = run.report["benchmarks"][name]["accuracy"]
        assert accuracy == pytest.approx(metrics[f"val-core/{name}/acc/mean@1"])
    assert any(each["accuracy"] > 0 for each in run.report["benchmarks"].values())


def test_what_is_too_long_is_named(run):
    unanswered = {name: each["unanswered"] for name, each in run.report["benchmarks"].items()}
    assert unanswered == {**dict.fromkeys(BENCHMARKS, []), "mathvista": [TOO_LONG]}
    assert f"counted as wrong, such as {TOO_LONG}" in run.told


def test_it_ends_with_the_table(run):
    assert run.told.endswith((run.output / "report.md").read_text() + "\n")
    assert f"# {run.checkpoint}" in run.told
    assert run.report["benchmarks"]["wemath"]["problems"]["problems"] == 4
    assert run.report["benchmarks"]["hallusionbench"]["groups"]["aAcc"] > 0
    with Image.open(run.output / "report.png") as picture:
        assert picture.width == 1080


@pytest.mark.parametrize(
    ("arguments", "environment", "remedy"),
    [
        ([], {}, "usage: bash recipes/run_eval.sh CHECKPOINT"),
        (["{model}"], {"BENCHMARKS": "mathvista geometry3k"}, "geometry3k is none of mathverse, mathvision"),
        (["{model}"], {"DATA_DIR": "nowhere"}, "make it: verl-durian prepare hallusionbench --output nowhere/hallus"),
        (["{data}"], {}, "contains neither config.json nor a checkpoint of verl"),
        (["no/model"], {}, "verl cannot read it"),
        (
            ["{model}", "actor_rollout_ref.rollout.load_format=dummy"],
            {},
            "set actor_rollout_ref.rollout.load_format=auto",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_once(run, tmp_path, arguments, environment, remedy):
    named = [argument.format(model=run.checkpoint.parents[2] / "model", data=run.data) for argument in arguments]
    variables = {"DATA_DIR": run.data, "OUTPUT": tmp_path / "eval", **LENGTHS, **environment}
    done = recipe.run("run_eval.sh", *named, **variables)
    assert done.returncode != 0
    assert remedy in done.stdout
    assert "ray init kwargs" not in done.stdout

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Every dataset, from a copy of its repository to rows that verl's own dataset class reads."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args, get_type_hints

import advantage_step
import datasets
import pyarrow.parquet as pq
import pytest
from prepare_fixtures import FIXTURES
from transformers import AutoProcessor
from typer.testing import CliRunner
from verl.trainer.ppo.utils import create_rl_dataset

from verl_durian import cli
from verl_durian.prepare.mathvision import corrected_answer
from verl_durian.prepare.registry import DATASETS
from verl_durian.prepare.rows import THINKING_PROMPT
from verl_durian.reward import compute_score

SPLITS = [(name, split) for name, spec in DATASETS.items() for split in spec.splits]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name, make in FIXTURES.items():
        make(folder / name)
    return folder


@pytest.fixture(scope="module")
def prepared(sources, tmp_path_factory) -> Path:
    """All datasets, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        for name in DATASETS:
            arguments = ["prepare", name, "--source", sources / name, "--output", folder / name, "--workers", "1"]
            result = CliRunner().invoke(cli.app, list(map(str, arguments)))
            assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def verl_dataset(tiny_qwen25vl, tmp_path_factory):
    """Opens files with the dataset class of verl."""
    cache = tmp_path_factory.mktemp("verl")
    processor = AutoProcessor.from_pretrained(tiny_qwen25vl)

    def opened(*files: Path, **options: Any):
        settings = {"max_prompt_length": 4096, "filter_overlong_prompts_workers": "null", **options}
        config = advantage_step.compose(
            f"actor_rollout_ref.model.path={tiny_qwen25vl}",
            f"+data.cache_dir={cache}",
            *(f"data.{name}={value}" for name, value in settings.items()),
        )
        return create_rl_dataset(list(map(str, files)), config.data, processor.tokenizer, processor), config.data

    return opened


def rows(prepared: Path, name: str, split: str) -> dict[str, dict[str, Any]]:
    """verl's rows by their ids."""
    read = pq.read_table(prepared / name / f"{split}.parquet").to_pylist()
    return {row["extra_info"]["id"]: row for row in read}


def test_the_command_knows_every_dataset():
    (names,) = get_args(get_type_hints(cli.prepare, include_extras=True)["name"])[:1]
    assert list(get_args(names)) == list(DATASETS) == list(FIXTURES)


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_verl_reads_every_row(prepared, verl_dataset, name, split):
    file = prepared / name / f"{split}.parquet"
    # verl would filter out a row that it cannot pass to the processor.
    read, config = verl_dataset(file, filter_overlong_prompts=True)
    assert len(read) == pq.read_metadata(file).num_rows
    row = read[0]
    assert row["extra_info"]["split"] == split and row["index"] == row["extra_info"]["index"]
    (image,), videos = asyncio.run(type(read).process_vision_info(row["raw_prompt"], 14, config))
    assert not videos and image.mode == "RGB"
    # qwen_vl_utils has rounded the sides.
    assert 0.9 * DATASETS[name].pixels.least < image.width * image.height < 1.1 * DATASETS[name].pixels.most


def test_verl_concatenates_files_of_several_datasets(prepared, verl_dataset):
    files = [prepared / name / f"{split}.parquet" for name, split in SPLITS]
    together, _ = verl_dataset(*files, filter_overlong_prompts=False)
    assert len(together) == sum(pq.read_metadata(file).num_rows for file in files)
    assert Counter(together.dataframe["data_source"]).keys() == DATASETS.keys()


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_rows_follow_the_documented_format(prepared, name, split):
    for row in rows(prepared, name, split).values():
        assert row["data_source"] == name and row["ability"] == ("vqa" if name == "hallusionbench" else "math")
        (message,) = row["prompt"]
        assert message["role"] == "user" and message["content"].startswith(f"{THINKING_PROMPT}\n")
        assert message["content"].count("<image>") == len(row["images"])
        extra, truth = row["extra_info"], row["reward_model"]["ground_truth"]
        assert row["reward_model"]["style"] == "rule" and isinstance(json.loads(extra["metadata"]), dict)
        assert "<image>" not in extra["question"]
        if extra["answer_type"] == "choice":
            assert truth in "ABCDEFGHIJ"[: len(extra["choices"]) or 10]
        else:
            assert not extra["choices"]
            assert extra["answer_type"] == "number" or truth in ("yes", "no")
        answer = compute_score(name, f"<think>so</think>\\boxed{{{truth}}}", truth, extra)
        assert answer["score"] == pytest.approx(1)


def asked(row: dict[str, Any]) -> tuple[str, str, str, list[str]]:
    """What the model reads after the thinking prompt; the answer, its type, and the choices."""
    content = row["prompt"][0]["content"].removeprefix(f"{THINKING_PROMPT}\n")
    extra = row["extra_info"]
    return content, row["reward_model"]["ground_truth"], extra["answer_type"], extra["choices"]


def dropped(prepared: Path, name: str) -> dict[str, str]:
    """The reason of each id."""
    file = prepared / name / "dropped.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {row["id"]: " ".join([row["reason"], row["detail"]]).strip() for row in lines}


def test_geometry3k(prepared, sources):
    train = rows(prepared, "geometry3k", "train")
    assert asked(train["0"]) == ("<image>Find x.", "5", "number", [])
    assert json.loads(train["0"]["extra_info"]["metadata"]) == {"choices": ["3", "4", "5", "7"], "letter": "C"}
    assert asked(train["8"])[1] == "2 \\sqrt { 221 }"
    assert asked(train["9"])[0] == "<image>Find the length of the longest side."
    assert asked(train["18"])[1] == "None"
    assert dropped(prepared, "geometry3k") == {
        "15": "an image cannot be used not in an image format that PIL reads",
        "16": "no answer",
        "17": "no image",
        "19": "an image cannot be used aspect ratio above 200: 3000 x 4",
    }
    source = pq.read_table(sources / "geometry3k/data/train-00000-of-00001.parquet").to_pylist()
    kept = {str(row["id"]): row["images"] for row in source if str(row["id"]) in train}
    resized = {number for number, images in kept.items() if images[0]["bytes"] != train[number]["images"][0]["bytes"]}
    assert resized == {"11", "12", "13"}
    card = " ".join((prepared / "geometry3k/README.md").read_text().split())
    assert "| train | 20 | 4 | 16 | 16 | 3 | 16 number |" in card
    assert "| train | an image cannot be used | 2 | 15, 19 |" in card
    assert THINKING_PROMPT in card and "262,144" in card and "4,194,304" in card and "MIT" in card
    assert f"verl-durian prepare geometry3k --source {sources / 'geometry3k'} --output" in card


def test_virl39k(prepared):
    train = rows(prepared, "virl39k", "train")
    assert asked(train["Fixture-0"]) == ("<image>\nwhat is the red shape?", "triangle", "number", [])
    assert asked(train["Fixture-12"])[1:] == ("no", "yes_no", [])
    assert asked(train["Fixture-16"])[1:] == ("B", "choice", ["12", "13", "17", "60"])
    assert asked(train["Fixture-17"]) == (
        "<image>Which bar is the highest? A. red B. green C. blue",
        "C",
        "choice",
        ["red", "green", "blue"],
    )
    assert asked(train["Fixture-18"])[1] == "50\\%"
    assert asked(train["Fixture-19"])[0].startswith("Compare <image> with <image>:")
    assert asked(train["Fixture-24"])[1:] == ("B", "choice", ["12", "13", "17", "60"])
    assert json.loads(train["Fixture-0"]["extra_info"]["metadata"])["PassRate_32BTrained"] == 0.5
    assert dropped(prepared, "virl39k") == {
        "Fixture-20": "no image",
        "Fixture-21": "no image",
        "Fixture-22": "an image is missing images/lost.png",
        "Fixture-23": "no answer",
    }


def test_mathverse(prepared):
    testmini = rows(prepared, "mathverse", "testmini")
    choices = ["4", "5", "6", "7"]
    listed = "Find the hypotenuse.\nChoices:\nA:4\nB:5\nC:6\nD:7"
    assert asked(testmini["1"]) == (f"<image>{listed}", "B", "choice", choices)
    assert asked(testmini["5"]) == ("<image>Answer the question in the image.", "B", "choice", choices)
    assert asked(testmini["16"])[1:3] == ("90^\\circ", "number")
    metadata = json.loads(testmini["5"]["extra_info"]["metadata"])
    assert (metadata["problem_index"], metadata["problem_version"], metadata["subject"]) == (
        "1",
        "Vision Only",
        "Plane Geometry",
    )
    assert not dropped(prepared, "mathverse")


@pytest.mark.parametrize(
    ("stored", "corrected"),
    [
        ("69{degrees}", "69"),
        ("8\\sqrt{3}{squareinches}", "8\\sqrt{3}"),
        ("\\frac{3}{4}\\pi{inches}", "\\frac{3}{4}\\pi"),
        ("\x0crac{36}{13}", "\\frac{36}{13}"),
        ("\\sqrt{m}", "\\sqrt{m}"),
        ("\\frac{1}{2}", "\\frac{1}{2}"),
    ],
)
def test_mathvision_answers_are_corrected(stored, corrected):
    assert corrected_answer(stored) == corrected


def test_mathvision(prepared):
    test = rows(prepared, "mathvision", "test")
    listed = "Choices:\n(A) triangle\n(B) circle\n(C) red\n(D) blue"
    assert asked(test["1"]) == (
        f"what is the red shape?\n<image>\n{listed}",
        "A",
        "choice",
        ["triangle", "circle", "red", "blue"],
    )
    assert asked(test["5"]) == ("How long is the side x?\n<image>", "5", "number", [])
    assert asked(test["8"]) == ("Which bar is the highest? <image>\nChoices: A, B, C", "C", "choice", [])
    assert asked(test["9"])[0].startswith("<image> How much is the whole, if the part shown in <image1> is")
    assert asked(test["10"])[0].startswith("<image>How many coins are there?\nChoices:")
    assert asked(test["11"])[0] == "Which is it? <image> (A) a cat (B) a dog"
    assert json.loads(test["1"]["extra_info"]["metadata"]) == {"subject": "metric geometry - length", "level": 1}
    assert dropped(prepared, "mathvision") == {"12": "the answer is none of the choices E of ['a cat', 'a dog']"}


def test_mathvista(prepared):
    testmini = rows(prepared, "mathvista", "testmini")
    assert asked(testmini["1"])[1:] == ("B", "choice", ["circle", "triangle", "red", "blue"])
    assert asked(testmini["7"]) == (
        "<image>does the image contain a circle?\nChoices:\n(A) Yes\n(B) No",
        "B",
        "choice",
        ["Yes", "No"],
    )
    questions = {number: asked(row)[0].split("?")[-1] for number, row in testmini.items()}
    assert questions["11"] == "\nThe answer is an integer."
    assert questions["12"] == " (Unit: cm)\nThe answer is a number with 1 decimal place."
    assert questions["13"] == "\nThe answer is a number with 2 decimal places."
    assert questions["14"] == "\nThe answer is a list, such as [1, 2, 3]."
    assert questions["15"] == "" and asked(testmini["15"])[1] == "50%"
    assert {number for number, row in testmini.items() if row["extra_info"]["decimals"]} == {"12", "13"}
    assert testmini["12"]["extra_info"]["decimals"] == 1 and testmini["13"]["extra_info"]["decimals"] == 2
    assert asked(testmini["16"])[1] == "B"
    assert dropped(prepared, "mathvista") == {"17": "the answer is none of the choices neither of ['red', 'green']"}


def test_wemath(prepared):
    testmini = rows(prepared, "wemath", "testmini")
    assert asked(testmini["1_2steps_multi"]) == (
        "<image>How long is x (   )?\nChoices:\n(A) 3 cm\n(B) 4 cm\n(C) 5 cm\n(D) 25 cm\n(E) No correct answer",
        "C",
        "choice",
        ["3 cm", "4 cm", "5 cm", "25 cm", "No correct answer"],
    )
    keys = {}
    for row in testmini.values():
        metadata = json.loads(row["extra_info"]["metadata"])
        keys.setdefault(metadata["problem"], []).append(metadata["key"])
    assert list(map(len, keys.values())) == [3, 3, 4, 4]
    assert keys["3steps-4"] == ["3steps_1", "3steps_2", "3steps_3", "3steps_multi"]


def test_hallusionbench(prepared):
    image = rows(prepared, "hallusionbench", "image")
    assert asked(image["VS_chart_0_0_0"]) == (
        "<image>Is the blue bar the highest?\nAnswer yes or no.",
        "yes",
        "yes_no",
        [],
    )
    assert asked(image["VS_chart_0_1_0"])[1] == "no"
    assert json.loads(image["VD_illusion_0_2_1"]["extra_info"]["metadata"]) == {
        "category": "VD",
        "subcategory": "illusion",
        "set_id": "0",
        "figure_id": "2",
        "question_id": "1",
    }

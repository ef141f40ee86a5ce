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
from verl_durian.prepare.adapters import DATASETS
from verl_durian.prepare.rows import THINKING_PROMPT
from verl_durian.reward import compute_score

SPLITS = [(name, split) for name in FIXTURES for split in DATASETS[name].splits]


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
        for name in FIXTURES:
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
    assert list(get_args(names)) == list(FIXTURES) == list(DATASETS)


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_verl_reads_the_first_row(prepared, verl_dataset, name, split):
    file = prepared / name / f"{split}.parquet"
    read, config = verl_dataset(file, filter_overlong_prompts=False)
    row = read[0]
    assert row["extra_info"]["split"] == split and row["index"] == row["extra_info"]["index"]
    (image,), videos = asyncio.run(type(read).process_vision_info(row["raw_prompt"], 14, config))
    assert not videos and image.mode == "RGB"
    # qwen_vl_utils has rounded the sides.
    pixels = DATASETS[name].pixels
    assert 0.9 * pixels.least < image.width * image.height < 1.1 * pixels.most


def test_verl_reads_all_datasets_together(prepared, verl_dataset):
    files = [prepared / name / f"{split}.parquet" for name, split in SPLITS]
    # verl would filter out a row that it cannot pass to the processor.
    together, _ = verl_dataset(*files, filter_overlong_prompts=True)
    assert len(together) == sum(pq.read_metadata(file).num_rows for file in files)
    assert Counter(together.dataframe["data_source"]).keys() == FIXTURES.keys()


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


NUMBERS = ["12", "13", "17", "60"]
LISTED = "<image>Find the hypotenuse.\nChoices:\nA:4\nB:5\nC:6\nD:7"
HYPOTENUSE = ["4", "5", "6", "7"]
IN_IMAGE = "<image>Answer the question in the image."
SHAPE = "what is the red shape?\n<image>\nChoices:\n(A) triangle\n(B) circle\n(C) red\n(D) blue"
WHOLE = "<image> How much is the whole, if the part shown in <image1> is $\\frac{1}{2}$ of it?"
COINS = "<image>How many coins are there?\nChoices:\n(A) (24)\n(B) 12\n(C) 6\n(D) 3"
LENGTH = "<image>How long is x (   )?\nChoices:\n(A) 3 cm\n(B) 4 cm\n(C) 5 cm\n(D) 25 cm\n(E) No correct answer"
LENGTHS = ["3 cm", "4 cm", "5 cm", "25 cm", "No correct answer"]
MEAN = "<image>What is the mean height of the bars? (Unit: cm)\nThe answer is a number with 1 decimal place."
RATIO = "<image>What is the ratio of the red bar to the blue one?\nThe answer is a number with 2 decimal places."
HEIGHTS = "<image>What are the heights?\nThe answer is a list, such as [1, 2, 3]."
SHARE = "<image>What is the share of the red bar in the green one?"
# file, id, what the model reads after the thinking prompt (None: not compared), answer, its type, choices
EXAMPLES = [
    ("geometry3k/train", "0", "<image>Find x.", "5", "number", []),
    ("geometry3k/train", "8", "<image>Find x.", "2 \\sqrt { 221 }", "number", []),
    ("geometry3k/train", "9", "<image>Find the length of the longest side.", "10", "number", []),
    ("geometry3k/train", "18", "<image>Find x.", "None", "number", []),
    ("virl39k/train", "Fixture-0", "<image>\nwhat is the red shape?", "triangle", "number", []),
    ("virl39k/train", "Fixture-12", None, "no", "yes_no", []),
    ("virl39k/train", "Fixture-16", None, "B", "choice", NUMBERS),
    ("virl39k/train", "Fixture-17", None, "C", "choice", ["red", "green", "blue"]),
    ("virl39k/train", "Fixture-18", "<image>The red bar is what share of the green one?", "50\\%", "number", []),
    ("virl39k/train", "Fixture-24", None, "B", "choice", NUMBERS),
    ("mathverse/testmini", "1", LISTED, "B", "choice", HYPOTENUSE),
    ("mathverse/testmini", "5", IN_IMAGE, "B", "choice", HYPOTENUSE),
    ("mathverse/testmini", "16", None, "90^\\circ", "number", []),
    ("mathvision/test", "1", SHAPE, "A", "choice", ["triangle", "circle", "red", "blue"]),
    ("mathvision/test", "5", "How long is the side x?\n<image>", "5", "number", []),
    ("mathvision/test", "8", "Which bar is the highest? <image>\nChoices: A, B, C", "C", "choice", []),
    ("mathvision/test", "9", WHOLE, "100%", "number", []),
    ("mathvision/test", "10", COINS, "A", "choice", ["(24)", "12", "6", "3"]),
    ("mathvision/test", "11", "Which is it? <image> (A) a cat (B) a dog", "A", "choice", ["a cat", "a dog"]),
    ("mathvista/testmini", "1", None, "B", "choice", ["circle", "triangle", "red", "blue"]),
    ("mathvista/testmini", "7", None, "B", "choice", ["Yes", "No"]),
    ("mathvista/testmini", "11", "<image>How high is the red bar?\nThe answer is an integer.", "30", "number", []),
    ("mathvista/testmini", "12", MEAN, "60.0", "number", []),
    ("mathvista/testmini", "13", RATIO, "0.33", "number", []),
    ("mathvista/testmini", "14", HEIGHTS, "[30, 60, 90]", "number", []),
    ("mathvista/testmini", "15", SHARE, "50%", "number", []),
    ("mathvista/testmini", "16", None, "B", "choice", ["B", "A"]),
    ("wemath/testmini", "1_2steps_multi", LENGTH, "C", "choice", LENGTHS),
    (
        "hallusionbench/image",
        "VS_chart_0_0_0",
        "<image>Is the blue bar the highest?\nAnswer yes or no.",
        "yes",
        "yes_no",
        [],
    ),
    ("hallusionbench/image", "VS_chart_0_1_0", None, "no", "yes_no", []),
]


def test_questions_and_answers(prepared):
    for file, identity, question, *answer in EXAMPLES:
        row = rows(prepared, *file.split("/"))[identity]
        extra = row["extra_info"]
        content = row["prompt"][0]["content"].removeprefix(f"{THINKING_PROMPT}\n")
        assert content == question or question is None, (file, identity)
        assert [row["reward_model"]["ground_truth"], extra["answer_type"], extra["choices"]] == answer, (file, identity)
    decimals = {
        number: row["extra_info"]["decimals"] for number, row in rows(prepared, "mathvista", "testmini").items()
    }
    assert {number: count for number, count in decimals.items() if count} == {"12": 1, "13": 2}


METADATA = [
    ("geometry3k/train", "0", {"choices": ["3", "4", "5", "7"], "letter": "C"}),
    ("virl39k/train", "Fixture-0", {"PassRate_32BTrained": 0.5, "PassRate_7BBase": -1.0}),
    ("mathverse/testmini", "5", {"problem_index": "1", "problem_version": "Vision Only", "source": "Fixture"}),
    ("mathvision/test", "1", {"subject": "metric geometry - length", "level": 1}),
    ("mathvista/testmini", "12", {"answer_type": "float", "unit": "cm", "precision": 1.0, "img_width": 64}),
    ("hallusionbench/image", "VD_illusion_0_2_1", {"set_id": "0", "figure_id": "2", "question_id": "1"}),
]


def test_metadata(prepared):
    for file, identity, expected in METADATA:
        metadata = json.loads(rows(prepared, *file.split("/"))[identity]["extra_info"]["metadata"])
        assert {name: metadata[name] for name in expected} == expected


def test_metadata_of_wemath_link_the_steps_of_a_problem(prepared):
    keys = {}
    for row in rows(prepared, "wemath", "testmini").values():
        metadata = json.loads(row["extra_info"]["metadata"])
        keys.setdefault(metadata["problem"], []).append(metadata["key"])
    assert list(map(len, keys.values())) == [3, 3, 4, 4]
    assert keys["3steps-4"] == ["3steps_1", "3steps_2", "3steps_3", "3steps_multi"]


def test_dropped_rows(prepared):
    dropped = {}
    for file in prepared.glob("*/dropped.jsonl"):
        for row in map(json.loads, file.read_text().splitlines()):
            dropped[f"{file.parent.name} {row['id']}"] = f"{row['reason']} {row['detail']}".strip()
    assert dropped == {
        "geometry3k 15": "an image cannot be used not in an image format that PIL reads",
        "geometry3k 16": "no answer",
        "geometry3k 17": "no image",
        "geometry3k 19": "an image cannot be used aspect ratio above 200: 3000 x 4",
        "virl39k Fixture-20": "no image",
        "virl39k Fixture-21": "no image",
        "virl39k Fixture-22": "an image is missing images/lost.png",
        "virl39k Fixture-23": "no answer",
        "mathvision 12": "the answer is none of the choices E of ['a cat', 'a dog']",
        "mathvista 17": "the answer is none of the choices neither of ['red', 'green']",
    }


def test_resized_images_and_the_card(prepared, sources):
    train = rows(prepared, "geometry3k", "train")
    source = pq.read_table(sources / "geometry3k/data/train-00000-of-00001.parquet").to_pylist()
    kept = {str(row["id"]): row["images"] for row in source if str(row["id"]) in train}
    resized = {number for number, images in kept.items() if images[0]["bytes"] != train[number]["images"][0]["bytes"]}
    assert resized == {"11", "12", "13"}
    card = " ".join((prepared / "geometry3k/README.md").read_text().split())
    assert "| train | 20 | 4 | 16 | 16 | 3 | 16 number |" in card
    assert "| train | an image cannot be used | 2 |" in card
    assert THINKING_PROMPT in card and "262,144" in card and "4,194,304" in card and "MIT" in card
    assert f"verl-durian prepare geometry3k --source {sources / 'geometry3k'} --output" in card


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
    row = {"question": "Find x.", "answer": stored, "options": []}
    assert DATASETS["mathvision"].problem(row).answer == corrected

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Every dataset, from a copy of its repository to rows that verl's own dataset class reads."""

import asyncio
import json
from io import BytesIO
from pathlib import Path
from typing import get_args, get_type_hints

import advantage_step
import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prepare_fixtures import FIXTURES
from transformers import AutoProcessor
from typer.testing import CliRunner
from verl.trainer.ppo.utils import create_rl_dataset

from verl_durian import cli
from verl_durian.prepare.adapters import DATASETS
from verl_durian.prepare.rows import THINKING_PROMPT
from verl_durian.reward import compute_score

GOLDEN = Path(__file__).parents[1] / "helpers/prepared_rows.jsonl"
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


def test_the_command_knows_every_dataset():
    (names,) = get_args(get_type_hints(cli.prepare, include_extras=True)["name"])[:1]
    assert list(get_args(names)) == list(FIXTURES) == list(DATASETS)


def test_verl_reads_every_row(prepared, tiny_qwen25vl, tmp_path):
    files = [str(prepared / name / f"{split}.parquet") for name, split in SPLITS]
    processor = AutoProcessor.from_pretrained(tiny_qwen25vl)
    config = advantage_step.compose(
        f"actor_rollout_ref.model.path={tiny_qwen25vl}",
        f"+data.cache_dir={tmp_path}",
        "data.max_prompt_length=4096",
        "data.filter_overlong_prompts=True",  # also filters out a row that cannot be passed to the processor
        "data.filter_overlong_prompts_workers=null",
    ).data
    read = create_rl_dataset(files, config, processor.tokenizer, processor)
    assert len(read) == sum(pq.read_metadata(file).num_rows for file in files)
    for number, source in enumerate(read.dataframe["data_source"]):
        row = read[number]
        assert row["index"] == row["extra_info"]["index"]
        images, videos = asyncio.run(type(read).process_vision_info(row["raw_prompt"], 14, config))
        assert images and not videos
        least, most = DATASETS[source].pixels
        for image in images:  # qwen_vl_utils has rounded the sides
            assert image.mode == "RGB" and 0.9 * least < image.width * image.height < 1.1 * most


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_rows_follow_the_documented_format(prepared, name, split):
    for row in pq.read_table(prepared / name / f"{split}.parquet").to_pylist():
        assert row["data_source"] == name and row["ability"] == ("vqa" if name == "hallusionbench" else "math")
        (message,) = row["prompt"]
        assert message["role"] == "user" and message["content"].startswith(f"{THINKING_PROMPT}\n")
        assert message["content"].count("<image>") == len(row["images"])
        extra, truth = row["extra_info"], row["reward_model"]["ground_truth"]
        assert row["reward_model"]["style"] == "rule" and "<image>" not in extra["question"]
        answer = compute_score(name, f"<think>so</think>\\boxed{{{truth}}}", truth, extra)
        assert answer["score"] == pytest.approx(1)


def test_rows_are_those_of_the_golden_file(prepared, tmp_path):
    """After an intended change: look at the difference of the two files, then copy the new one."""
    lines = []
    for name, split in SPLITS:
        for row in pq.read_table(prepared / name / f"{split}.parquet").to_pylist():
            extra = row["extra_info"]
            described = {
                "set": f"{name}/{split}",
                **{key: extra[key] for key in ("index", "id", "answer_type", "choices", "decimals")},
                "answer": row["reward_model"]["ground_truth"],
                "prompt": row["prompt"][0]["content"].removeprefix(f"{THINKING_PROMPT}\n"),
                "images": [Image.open(BytesIO(image["bytes"])).size for image in row["images"]],
                "metadata": json.loads(extra["metadata"]),
            }
            lines.append(json.dumps(described, ensure_ascii=False))
    for file in sorted(prepared.glob("*/dropped.jsonl")):
        lines += file.read_text().splitlines()
    (tmp_path / GOLDEN.name).write_text("\n".join([*lines, ""]))
    assert lines == GOLDEN.read_text().splitlines(), f"{tmp_path / GOLDEN.name} differs from {GOLDEN}"


def test_the_card(prepared, sources):
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

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The checks of the data files before a run: columns, answers, images, prompts and visual entropy."""

import copy
import json
import os

import pyarrow.parquet as pq
import pytest
from preflight_run import GRPO, NOTE, PROBLEM, Run, listed, picture, row, tiny_model
from transformers import Qwen2Config

from verl_durian.preflight import data

MEGATRON = {"actor_rollout_ref.actor.strategy": "megatron"}  # verl crashes on text-only micro batches with FSDP
UNFILTERED = {"data.filter_overlong_prompts": False}
OLDER = {"trainer.use_v1": False}
OURS = {"reward.custom_reward_function.path": "pkg://verl_durian.reward"}
TEXT_ROW = row("red?", images=[])
NO_IMAGE_COLUMN = {key: value for key, value in TEXT_ROW.items() if key != "images"}
PICTURES = {"pictures" if key == "images" else key: value for key, value in row().items()}
UNGRADED = {"prompt": row()["prompt"], "images": row()["images"]}
UNANSWERED = row(reward_model={"ground_truth": None})
LONG = row("<image>" + "red " * 100)
DAMAGED = row(images=[picture(280)[:-100]])
CRASHES = "16 of the first 16 rows have no image, and verl crashes on a micro batch of only such rows"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
STRUCTURED = row(images=[], prompt=[{"role": "user", "content": [{"type": "text", "text": "red?"}]}])


@pytest.fixture
def run(tmp_path, tiny_qwen25vl, monkeypatch) -> Run:
    return Run(tmp_path, tiny_qwen25vl, monkeypatch)


@pytest.mark.parametrize(
    ("changes", "stops", "text"),
    [
        ({"data.train_max_samples": 10}, PROBLEM, "data.train_batch_size=24: the training set has 10 rows"),
        ({"data.train_files": "/d/geometry3k/a.parquet"}, PROBLEM, "prepare geometry3k --output /d/geomet"),
        ({"data.val_files": ["/a.parquet"]}, PROBLEM, "data.val_files=/a.parquet: no such file; correct"),
        ({"data.custom_cls.path": "mine.py"}, NOTE, "data.custom_cls.path=mine.py: the data of a custom"),
        ({"data.train_files": "hf://datasets/a/train.parquet"}, NOTE, "not checked"),
        ({"algorithm.durian": "text"}, None, ""),  # reported with the estimator
    ],
)
def test_settings(run, changes, stops, text):
    run.expect(data.check, changes, stops, text)


@pytest.mark.parametrize(
    ("rows", "changes", "stops", "text"),
    [
        # columns and answers
        ([row()] * 23, {}, PROBLEM, "the training set has 23 rows"),
        ([{"question": "red?"}] * 24, {}, PROBLEM, "no column prompt, data_source, reward_model, only question"),
        ([UNGRADED] * 24, {}, PROBLEM, "no column data_source, reward_model, only prompt, images"),
        ([UNGRADED] * 24, {"reward.reward_model.enable": True}, None, ""),
        ([UNGRADED] * 24, {"reward.reward_manager.name": "mine"}, None, ""),
        ([row(reward_model={"style": "rule"})] * 24, {}, PROBLEM, "row 0: no reward_model.ground_truth"),
        ([UNANSWERED, *[row()] * 23], OURS, NOTE, "row 0: reward_model.ground_truth: None cannot be an answer"),
        ([UNANSWERED, *[row()] * 23], {**OURS, **OLDER}, PROBLEM, "row 0: reward_model.ground_truth: None cannot be"),
        ([UNANSWERED] * 24, {**OURS, "trainer.val_only": True}, NOTE, "row 0: reward_model.ground_truth: None cannot"),
        ([row(reward_model={"ground_truth": 5.0})] * 24, OURS, None, ""),
        ([row(reward_model={"ground_truth": None})] * 24, OURS, PROBLEM, "ground_truth: None cannot be an answer"),
        ([row(reward_model={"ground_truth": None})] * 24, {}, None, ""),  # another reward may accept it
        ([row(extra_info={"decimals": "two"})] * 24, OURS, PROBLEM, "decimals: 'two' must be an integer"),
        ([row(extra_info={"choices": [1], "answer_type": "choice"})] * 24, OURS, PROBLEM, "ground truth 'YES' of a"),
        # prompts and images
        ([row(prompt="red?")] * 24, UNFILTERED, PROBLEM, "row 0: prompt must be a list of messages"),
        ([row(prompt=[]), *[row()] * 23], {}, NOTE, "row 0: prompt must be a list of messages"),
        ([STRUCTURED] * 24, {**GRPO, **MEGATRON}, None, ""),
        ([row(images=[]) | {"images": 5}] * 24, {}, PROBLEM, "row 0: images=5 must be a list (data.image_key)"),
        # trained without images
        ([PICTURES] * 24, {}, PROBLEM, "row 0: 1 <image> in the prompt and 0 in the column images"),
        ([PICTURES] * 24, {"data.image_key": "pictures"}, None, ""),
        ([row(images=[]), *[row()] * 23], {**GRPO, **MEGATRON}, NOTE, "row 0: 1 <image> in the prompt and 0 in the"),
        ([row(), DAMAGED] * 12, {**UNFILTERED, **OLDER}, PROBLEM, "row 1: verl cannot build its prompt"),
        ([row(), DAMAGED] * 12, UNFILTERED, NOTE, "row 1: verl cannot build its prompt"),
        ([row(), DAMAGED] * 12, OLDER, NOTE, "verl drops such rows"),
        (
            [row(f"<image>{IMAGE_PAD}")] * 24,
            {**UNFILTERED, **OLDER},
            PROBLEM,
            f"row 0: the prompt contains {IMAGE_PAD}",
        ),
        ([row(VIDEO_PAD, images=[])] * 24, {**OLDER, **MEGATRON}, PROBLEM, f"row 0: the prompt contains {VIDEO_PAD}"),
        ([row("<image>red <|im_end|><|vision_start|>?")] * 24, UNFILTERED, None, ""),
        ([LONG] * 4 + [row()] * 20, {}, NOTE, "4 of the first 16 prompts are longer than data.max_prompt_length=64 "),
        ([LONG] * 4 + [row()] * 20, UNFILTERED, NOTE, "verl skips the rollouts of those with images, and truncates th"),
        # rows without images
        ([NO_IMAGE_COLUMN] * 24, GRPO, PROBLEM, CRASHES),
        ([TEXT_ROW] * 24, GRPO, NOTE, CRASHES),  # micro batches may be mixed
        ([TEXT_ROW] * 3 + [row()] * 21, {}, NOTE, "3 of the first 16 rows have no image, and verl crashes"),
        ([TEXT_ROW] * 24, MEGATRON, None, ""),
        # visual entropy
        ([row(visual_entropy="high")] * 24, {}, PROBLEM, "row 0: visual_entropy='high' is not a finite number of nats"),
        ([row(visual_entropy=float("inf"))] * 24, {}, PROBLEM, "visual_entropy=inf is not a finite number of nats"),
        ([row(visual_entropy=float("nan"))] * 24, {}, PROBLEM, "visual_entropy=nan is missing for a row with an imag"),
        ([row(visual_entropy=1.0), row(visual_entropy=None)] * 12, {}, PROBLEM, "row 1: visual_entropy=None is miss"),
        ([row(visual_entropy=[1.0])] * 24, {}, PROBLEM, "visual_entropy=[1.0] is not a finite number of nats"),
        ([DAMAGED | {"visual_entropy": None}, *[row(visual_entropy=1.0)] * 23], {}, NOTE, "verl drops such rows"),
        ([row(visual_entropy="high")] * 24, GRPO, None, ""),
        ([row(visual_entropy=1)] * 24, {}, None, ""),
    ],
)
def test_rows(run, rows, changes, stops, text):
    run.write(*rows)
    run.expect(data.check, {"data.val_files": [], **changes}, stops, text)


@pytest.mark.parametrize(
    ("name", "content", "stops", "text"),
    [
        ("damaged.parquet", b"PAR1", PROBLEM, "cannot be read"),
        ("train.csv", b"prompt\n", PROBLEM, "cannot be read (verl reads .parquet, .json, .jsonl)"),
        ("empty.jsonl", b"", PROBLEM, "the file has no rows, and verl cannot read it; write it again or omit it"),
        ("train.jsonl", 24 * f"{json.dumps(TEXT_ROW)}\n".encode(), NOTE, CRASHES),
    ],
)
def test_files(run, name, content, stops, text):
    file = run.folder / name
    file.write_bytes(content)
    run.expect(data.check, {"data.train_files": [str(run.val), str(file)]}, stops, text)


def test_a_parquet_file_without_rows_and_a_pipe(run):
    pq.write_table(pq.read_table(run.val).slice(0, 0), run.train)
    run.expect(data.check, {}, PROBLEM, "the file has no rows")
    pipe = run.folder / "pipe.parquet"
    os.mkfifo(pipe)
    run.expect(data.check, {"data.train_files": str(pipe)}, PROBLEM, "no such file")


def test_an_image_that_is_a_pipe(run, monkeypatch):
    """Reading it never ends; so may a download."""
    os.mkfifo(run.folder / "pipe")
    monkeypatch.setattr(data, "_SECONDS", 0.2)
    run.write(*[row() | {"images": [{"image": str(run.folder / "pipe")}]}] * 24)
    for changes in ({}, {**UNFILTERED, **OLDER}):
        run.expect(data.check, {"data.val_files": [], **changes}, NOTE, "row 0: the row's images: reading took more")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (row("red?"), "row 1: 0 <image> in the prompt and 1 in the column images"),
        (row("<image><video>red?"), "row 1: 1 <video> in the prompt and 0 in the column videos"),
        (row(images=[b"no picture"]), "row 1: verl cannot build its prompt (cannot identify image file"),
    ],
)
def test_rows_for_which_verls_dataset_raises(run, broken, message):
    """The filter for long prompts drops them; without it they end the run."""
    from verl.utils.dataset.rl_dataset import RLHFDataset

    run.write(row(), broken, *[row()] * 22)
    run.expect(data.check, UNFILTERED, PROBLEM, message)
    run.expect(data.check, {}, NOTE, message)
    model, config = tiny_model(run.path), run.config()
    assert len(RLHFDataset([str(run.train)], model.tokenizer, config.data, model.processor)) == 23
    config.data.filter_overlong_prompts = False
    with pytest.raises(Exception):  # noqa: B017
        RLHFDataset([str(run.train)], model.tokenizer, config.data, model.processor)[1]


def test_lengths_are_those_of_verls_filter(run):
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config, model = run.config(), tiny_model(run.path)
    rows = [row(), TEXT_ROW, row("<image>a<image>", images=[picture(140), picture(84)])]
    run.write(*rows)
    dataset = data._dataset_without_files(config, model)
    lengths = [data._count_tokens(dataset._build_messages(copy.deepcopy(each), "prompt"), dataset) for each in rows]
    for longest in {*lengths, *(length - 1 for length in lengths)}:
        config.data.max_prompt_length = longest
        kept = RLHFDataset([str(run.train)], model.tokenizer, config.data, model.processor)
        assert len(kept) == sum(length <= longest for length in lengths)


def test_images_for_a_text_model(run):
    text_model = copy.copy(tiny_model(run.path))
    object.__setattr__(text_model, "processor", None)
    object.__setattr__(text_model, "hf_config", Qwen2Config())
    config = run.config({**GRPO, "data.val_files": []})
    ((stops, text),) = listed(data.check(config, text_model))
    assert stops and text.startswith("data.train_files=") and "only accepts text" in text
    run.write(*[TEXT_ROW] * 24)
    assert listed(data.check(config, text_model)) == []

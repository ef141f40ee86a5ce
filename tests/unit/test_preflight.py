# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The checks before a run: each problem in one line with its fix, and what is only a note."""

import copy
import functools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen2Config
from verl.workers.config import HFModelConfig

from verl_durian.hooks import known_failures, verl_symbols
from verl_durian.preflight import Finding, data, machine
from verl_durian.preflight.__main__ import examine, main
from verl_durian.preflight.compose import check_estimator, check_values, check_with_verl, compose
from verl_durian.preflight.model import count_parameters, read

Changes = dict[str, object]

ROLLOUTS = "actor_rollout_ref.rollout.n"
MODEL = "actor_rollout_ref.model.path"
MEGATRON = {"actor_rollout_ref.actor.strategy": "megatron"}  # verl crashes on text-only micro batches with FSDP
UNFILTERED = {"data.filter_overlong_prompts": False}
OLDER = {"trainer.use_v1": False}
GRPO = {"algorithm.adv_estimator": "grpo"}
OURS = {"reward.custom_reward_function.path": "pkg://verl_durian.reward"}
SOUND = {
    "trainer.device": "cpu",
    "trainer.n_gpus_per_node": 1,
    "trainer.save_freq": -1,
    "algorithm.adv_estimator": "durian",
    "data.train_batch_size": 24,
    "data.max_prompt_length": 64,
    "data.max_response_length": 16,
    "data.filter_overlong_prompts": True,
    "data.filter_overlong_prompts_workers": "null",  # no forks beside threads
    "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
    "actor_rollout_ref.actor.ppo_mini_batch_size": 24,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 8,
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.load_format": "auto",
    "actor_rollout_ref.rollout.n": 4,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 8,
}
PROBLEM, NOTE = True, False


@functools.cache
def picture(size: int = 56) -> bytes:
    buffer = BytesIO()
    Image.linear_gradient("L").resize((size, size)).save(buffer, "PNG")
    return buffer.getvalue()


def row(question: str = "<image>red?", images: list[bytes] | None = None, **others: object) -> dict:
    return {
        "data_source": "set",
        "prompt": [{"role": "user", "content": question}],
        "images": [{"bytes": content, "path": None} for content in ([picture()] if images is None else images)],
        "reward_model": {"style": "rule", "ground_truth": "yes"},
    } | others


@functools.cache
def tiny_model(path: Path) -> HFModelConfig:
    return read(OmegaConf.create({"path": str(path)}))


class Run:
    """A small run with valid settings, composed once; each test changes a copy."""

    def __init__(self, folder: Path, model: Path, base: DictConfig):
        self.folder, self.path, self.base = folder, model, base
        self.train, self.val = folder / "train.parquet", folder / "val.parquet"
        self.write(*[row()] * 24)
        shutil.copy(self.train, self.val)
        self.own = {
            "trainer.default_local_dir": folder / "checkpoints",
            "data.train_files": self.train,
            "data.val_files": self.val,
            MODEL: model,
        }

    def write(self, *rows: dict) -> None:
        pq.write_table(pa.Table.from_pylist(list(rows)), self.train)

    def overrides(self, *more: str) -> list[str]:
        return [f"{name}={value}" for name, value in {**SOUND, **self.own}.items()] + list(more)

    def config(self, changes: Changes | None = None) -> DictConfig:
        config = copy.deepcopy(self.base)
        for name, value in {**self.own, **(changes or {})}.items():
            value = str(value) if isinstance(value, Path) else value
            OmegaConf.update(config, name, value, force_add=True)
        return config

    def all_found(self, changes: Changes | None = None) -> list[tuple[bool, str]]:
        return listed(examine(self.config(changes), []))

    def expect(self, check: Callable, changes: Changes, stops: bool | None = None, text: str = "") -> None:
        """Expects one finding with this text, or none if `stops` is None."""
        arguments = [self.config(changes), tiny_model(self.path)][: check.__code__.co_argcount]
        found = listed(check(*arguments))
        assert [kind for kind, _ in found] == ([] if stops is None else [stops]), found
        assert all(text in message for _, message in found), found


def listed(findings) -> list[tuple[bool, str]]:
    """Whether each finding stops the run, and its text."""
    findings = list(findings)
    assert all(isinstance(each, Finding) and "\n" not in each.text for each in findings)
    return [(each.stops, each.text) for each in findings]


@pytest.fixture(scope="module")
def base() -> DictConfig:
    return compose([f"{name}={value}" for name, value in SOUND.items()])


@pytest.fixture
def run(tmp_path, tiny_qwen25vl, base, monkeypatch) -> Run:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where Ray looks for a running cluster
    import verl.trainer.ppo.core_algos  # noqa: F401

    return Run(tmp_path, tiny_qwen25vl, base)


@pytest.fixture
def one_gpu(monkeypatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)


# --- values and settings


def test_values_of_another_type():
    wrong = {
        "data.max_prompt_length=long": "an integer >= 1",
        "data.filter_overlong_prompts=no": "true or false",
        "actor_rollout_ref.rollout.gpu_memory_utilization=half": "a number",
        "trainer.max_actor_ckpt_to_keep=two": "an integer",
        "trainer.total_epochs=1.5": "an integer",
    }
    accepted = [
        "data.filter_overlong_prompts=1",
        "trainer.test_freq=false",
        "actor_rollout_ref.model.lora_rank=-1",
        "hydra.run.dir=/tmp/run",
        "algorithm.rollout_correction.rollout_is_threshold='0.5_5.0'",
        "+algorithm.durian.perceptual.key=entropy",
    ]
    assert listed(check_values(compose(accepted), accepted)) == []
    expected = [(PROBLEM, f"{override}: must be {kind}") for override, kind in wrong.items()]
    assert listed(check_values(compose(list(wrong)), list(wrong))) == expected
    assert listed(examine(compose(list(wrong)), list(wrong))) == expected  # no other check reads them


ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"
FLASH = {ATTENTION: "flash_attention_2"}
GPUS = {"trainer.device": "cuda", "trainer.n_gpus_per_node": 8}
FEW = {"data.train_batch_size": 2}
RESUME = {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": "old/global_step_4"}
SAVED = {"trainer.save_freq": 1, "trainer.default_local_dir": "/proc/x"}


@pytest.mark.parametrize(
    ("check", "changes", "stops", "text"),
    [
        (check_estimator, {"algorithm.adv_estimator": "durain"}, PROBLEM, "=durain: must be one of durian, gae, "),
        (
            check_estimator,
            {"algorithm.adv_estimator": "a", "data.custom_cls.path": "b.py"},
            NOTE,
            "=a: must be one of ",
        ),
        (check_estimator, {"algorithm.durian": "text"}, PROBLEM, "algorithm.durian='text': must be a mapping with"),
        (check_estimator, {"algorithm.durian.reasoning.groups": 3}, PROBLEM, "num_groups, confidence"),
        (check_estimator, {"algorithm.norm_adv_by_std_in_grpo": False}, PROBLEM, "norm_adv_by_std_in_grpo=False"),
        (check_estimator, {ROLLOUTS: 1}, NOTE, f"{ROLLOUTS}=1: durian compares the rollouts of a prompt with each"),
        (check_estimator, {**GRPO, ROLLOUTS: 1}, NOTE, f"{ROLLOUTS}=1: grpo compares the rollouts"),
        (check_estimator, FEW, NOTE, "data.train_batch_size=2: with algorithm.durian.reasoning.num_groups=12 most"),
        (check_estimator, {**FEW, "algorithm.durian.reasoning.num_groups": 1}, None, ""),
        (check_with_verl, {"actor_rollout_ref.actor.ppo_mini_batch_size": 32}, PROBLEM, "ppo_mini_batch_size (32)"),
        (machine.check_gpus, GPUS, PROBLEM, "trainer.n_gpus_per_node=8: PyTorch sees 1 GPUs here; set NNODES=1 and "),
        (machine.check_gpus, {**GPUS, "trainer.n_gpus_per_node": 1}, None, ""),
        (machine.check_gpus, {**GPUS, "ray_kwargs.ray_init.address": "ray://a:1"}, NOTE, "the Ray cluster at ray://a"),
        (machine.check_flash_attn, FLASH, PROBLEM, "flash_attn: not installed"),
        (machine.check_flash_attn, {ATTENTION: "sdpa"}, None, ""),
        (machine.check_flash_attn, {**FLASH, "actor_rollout_ref.actor.strategy": "veomni"}, None, ""),
        (machine.check_checkpoints, {"trainer.save_freq": 1}, None, ""),
        (machine.check_checkpoints, SAVED, PROBLEM, "trainer.default_local_dir=/proc/x: [Errno 2]"),
        (machine.check_checkpoints, RESUME, PROBLEM, "=old/global_step_4: no checkpoint; name a folder global_step_N"),
        (data.check, {"data.train_max_samples": 10}, PROBLEM, "data.train_batch_size=24: the training set has 10 rows"),
        (data.check, {"data.train_files": "/d/geometry3k/a.parquet"}, PROBLEM, "prepare geometry3k --output /d/geomet"),
        (data.check, {"data.val_files": ["/a.parquet"]}, PROBLEM, "data.val_files=/a.parquet: no such file; correct"),
        (data.check, {"data.custom_cls.path": "mine.py"}, NOTE, "data.custom_cls.path=mine.py: the data of a custom"),
        (data.check, {"data.train_files": "hf://datasets/a/train.parquet"}, NOTE, "not checked"),
        (data.check, {"algorithm.durian": "text"}, None, ""),  # reported with the estimator
    ],
)
def test_settings(run, one_gpu, check, changes, stops, text):
    run.expect(check, changes, stops, text)


@pytest.mark.parametrize(
    "overrides",
    [
        ("model_engine=veomni",),
        ("model_engine=torchtitan",),
        (
            "algorithm.rollout_correction.bypass_mode=true",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=7",
        ),
        (
            "trainer.v1.trainer_mode=separate_async",
            "trainer.device=cuda",
            "trainer.n_gpus_per_node=1",
            "actor_rollout_ref.rollout.nnodes=1",
            "actor_rollout_ref.rollout.n_gpus_per_node=8",
            "actor_rollout_ref.rollout.tensor_model_parallel_size=8",
        ),
    ],
)
def test_settings_that_verl_runs(run, one_gpu, overrides):
    overrides = run.overrides(*overrides)
    assert listed(examine(compose(overrides), overrides)) == []


def test_a_trainer_that_this_verl_lacks_only_stops_runs_that_use_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, verl_symbols.FULLY_ASYNC, None)
    monkeypatch.delattr("verl.experimental.fully_async_policy.fully_async_rollouter", raising=False)
    run.expect(machine.check_verl, {})
    run.expect(machine.check_verl, {"async_training": {}, "rollout": {}}, PROBLEM, "fully_async_rollouter")


def test_an_error_in_a_check_is_a_note(run, monkeypatch):
    monkeypatch.setattr(machine, "check_flash_attn", lambda config: 1 / 0)
    assert run.all_found() == [(NOTE, "a check failed (ZeroDivisionError: division by zero); please report this")]


def test_all_findings_are_reported_at_once_and_nothing_is_written(run, monkeypatch):
    before = sorted(run.folder.rglob("*"))
    monkeypatch.setattr(known_failures, "find", lambda config, model_type: [f"{model_type} fails"])
    assert run.all_found() == [(PROBLEM, "qwen2_5_vl fails")]
    assert sorted(run.folder.rglob("*")) == before
    monkeypatch.undo()
    run.train.unlink()
    found = run.all_found({"algorithm.durian.weight": 1, MODEL: "absent/model"})
    assert [re.split("[=:]", text)[0] for _, text in found] == ["algorithm.durian.weight", MODEL, "data.train_files"]


def test_paths_may_exist_on_other_nodes_of_a_cluster(run, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    paths = {MODEL: "/absent", "data.val_files": "/absent.parquet", "trainer.default_local_dir": "/proc/x"}
    found = run.all_found({**paths, "trainer.save_freq": 1})
    assert [(stops, text.split(":")[0]) for stops, text in found] == [(NOTE, f"{key}={paths[key]}") for key in paths]


# --- model


@pytest.mark.parametrize(
    ("path", "removed", "message"),
    [
        ("absent/model", None, "=absent/model: verl cannot read it"),
        ("/absent/model", None, "=/absent/model: verl cannot read it"),
        ("{}", "config.json", "name the folder of a complete checkpoint"),
        ("{}", "tokenizer.json", "verl cannot read it"),
    ],
)
def test_models_that_verl_cannot_read(tmp_path, tiny_qwen25vl, path, removed, message):
    shutil.copytree(tiny_qwen25vl, tmp_path / "part", ignore=shutil.ignore_patterns(str(removed)))
    path = path.format(tmp_path / "part")
    with pytest.raises(ValueError) as error:
        read(OmegaConf.create({"path": path}))
    assert str(error.value).startswith(f"{MODEL}={path}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_config_and_tokenizer_in_other_folders(tmp_path, tiny_qwen25vl):
    shutil.copy(tiny_qwen25vl / "model.safetensors", tmp_path)
    paths = {"path": tmp_path, "hf_config_path": tiny_qwen25vl, "tokenizer_path": tiny_qwen25vl}
    model = read(OmegaConf.create({name: str(folder) for name, folder in paths.items()}))
    assert hasattr(model.processor, "image_processor")
    weights = load_file(tiny_qwen25vl / "model.safetensors")
    assert count_parameters(model) == sum(weight.numel() for weight in weights.values())


def test_a_model_with_its_own_code(tmp_path, tiny_qwen25vl):
    own = Path(shutil.copytree(tiny_qwen25vl, tmp_path / "own"))
    code = {"model_type": "mine", "architectures": ["Mine"], "auto_map": {"AutoConfig": "configuration.Mine"}}
    (own / "config.json").write_text(json.dumps(json.loads((own / "config.json").read_text()) | code))
    (own / "configuration.py").write_text(
        "from transformers import Qwen2Config\n\nclass Mine(Qwen2Config):\n    model_type = 'mine'\n"
    )
    settings = OmegaConf.create({"path": str(own)})
    with pytest.raises(ValueError, match="set actor_rollout_ref.model.trust_remote_code=True"):
        read(settings)
    settings.trust_remote_code = True
    model = read(settings)
    assert (model.hf_config.model_type, count_parameters(model)) == ("mine", 0)


# --- data

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


# --- machine and checkpoints


@pytest.mark.parametrize(
    ("free", "changes", "text"),
    [
        (2000e9, {}, "2000 GB are free, and this machine writes an estimated 3 x 881 GB"),
        (2700e9, {}, None),
        (800e9, {"actor_rollout_ref.actor.checkpoint.save_contents": ["model"]}, "3 x 294 GB"),
        (1000e9, {"trainer.nnodes": 2}, "3 x 440 GB"),
        (800e9, {"actor_rollout_ref.model.lora_rank": 8}, "3 x 294 GB"),
        (1000e9, {"trainer.max_actor_ckpt_to_keep": 1}, "2 x 881 GB"),
    ],
)
def test_disk_for_checkpoints(run, free, changes, text):
    config = run.config({"trainer.n_gpus_per_node": 8, "trainer.max_actor_ckpt_to_keep": 3, **changes})
    found = listed(machine.check_disk(config, 73_411_000_000, free))
    assert [stops for stops, _ in found] == [NOTE] * (text is not None) and all(text in note for _, note in found)


def test_a_checkpoint_to_resume_from(run):
    (run.folder / "global_step_2" / "actor").mkdir(parents=True)
    run.expect(machine.check_checkpoints, {**RESUME, "trainer.resume_from_path": run.folder / "global_step_2"})


# --- command line


def test_dry_run_prints_config_command_and_findings(run, capsys):
    overrides = run.overrides("data.train_batch_size=2", "actor_rollout_ref.actor.ppo_mini_batch_size=2")
    assert main(["--dry-run", *overrides, "trainer.logger=[console]", "algorithm.adv_estimator=durain"]) == 2
    printed = capsys.readouterr()
    text, words = printed.out.split("\npython ")
    config = OmegaConf.create(text)
    assert config.data.train_batch_size == 2 and config.actor_rollout_ref.actor.rollout_n == 4
    assert "-m \\\n    verl.trainer.main_ppo" in words and "'trainer.logger=[console]'" in words
    assert "--dry-run" not in words and "1 problem; nothing is started" in printed.err
    assert main(overrides) == 0
    note, last = capsys.readouterr().err.splitlines()
    assert note.startswith("preflight: note: data.train_batch_size=2") and last == "preflight: no problem found"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--dryrun", "--dryrun: "),
        ("data.train_files=/a b=c", "data.train_files=/a b=c: mismatched input"),
        ("algorithm.durian.weights.reasoning=1", "Could not override 'algorithm.durian.weights.reasoning'"),
        ("data.train_batch_size=${data.nothing}", "Interpolation key 'data.nothing' not found"),
    ],
)
def test_overrides_that_hydra_rejects_are_one_line(run, capsys, override, message):
    assert main(run.overrides(override)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"preflight: {message}")

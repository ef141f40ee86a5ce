# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The checks before a run: each problem in one line with its fix, and what is only a note."""

import copy
import dataclasses
import functools
import json
import re
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from verl_durian.hooks import known_failures
from verl_durian.preflight import Finding, data, machine
from verl_durian.preflight.__main__ import main
from verl_durian.preflight.compose import check_estimator, check_values, check_with_verl, compose, compose_or_explain
from verl_durian.preflight.examine import examine
from verl_durian.preflight.model import Model, check_context, check_weights, count_parameters, read

LARGE = Model("qwen2_5_vl", 73_411_000_000, 128000, None, None)
ROLLOUTS = "actor_rollout_ref.rollout.n"
MEGATRON = {"actor_rollout_ref.actor.strategy": "megatron"}  # verl crashes on text-only micro batches with FSDP
UNFILTERED = {"data.filter_overlong_prompts": False}
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
    "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
    "actor_rollout_ref.actor.ppo_mini_batch_size": 24,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 8,
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.load_format": "auto",
    "actor_rollout_ref.rollout.n": 4,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 8,
}


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


TEXT_ROW = row("red?", images=[])


@functools.cache
def tiny_model(path: Path) -> Model | None:
    return read(OmegaConf.create({"path": str(path)}))


def texts(findings: list[Finding]) -> tuple[list[str], list[str]]:
    """Problems and notes."""
    assert all("\n" not in finding.text for finding in findings)
    return [each.text for each in findings if each.stops], [each.text for each in findings if not each.stops]


class Run:
    """A small run with valid settings. Composing takes most of the time, so a single check gets a changed copy."""

    def __init__(self, folder: Path, model: Path, base: DictConfig):
        self.folder, self.path, self.base = folder, model, base
        self.train, self.val = folder / "train.parquet", folder / "val.parquet"
        self.write(*[row()] * 24)
        shutil.copy(self.train, self.val)
        self.own = {
            "trainer.default_local_dir": str(folder / "checkpoints"),
            "data.train_files": str(self.train),
            "data.val_files": str(self.val),
            "actor_rollout_ref.model.path": str(model),
        }

    def write(self, *rows: dict) -> None:
        pq.write_table(pa.Table.from_pylist(list(rows)), self.train)

    def settings(self, *more: str) -> list[str]:
        return [f"{name}={value}" for name, value in {**SOUND, **self.own}.items()] + list(more)

    def examined(self, *more: str) -> tuple[list[str], list[str]]:
        """Problems and notes of all checks."""
        return texts(examine(self.settings(*more))[1])

    def config(self, changes: dict[str, object] | None = None) -> DictConfig:
        config = copy.deepcopy(self.base)
        for name, value in {**self.own, **(changes or {})}.items():
            OmegaConf.update(config, name, str(value) if isinstance(value, Path) else value, force_add=True)
        return config

    def found(self, check: Any, changes: dict[str, object] | None = None) -> tuple[list[str], list[str]]:
        """Problems and notes of one check."""
        config = self.config(changes)
        with_model = check.__code__.co_argcount == 2
        return texts(check(config, tiny_model(self.path)) if with_model else check(config))

    def problem(self, check: Any, changes: dict[str, object] | None = None) -> str:
        (problem,), _ = self.found(check, changes)
        return problem

    def notes(self, check: Any, changes: dict[str, object] | None = None) -> list[str]:
        problems, notes = self.found(check, changes)
        assert problems == []
        return notes


@pytest.fixture(scope="module")
def base() -> DictConfig:
    return compose([f"{name}={value}" for name, value in SOUND.items()])


@pytest.fixture
def run(tmp_path, tiny_qwen25vl, base, monkeypatch) -> Run:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where Ray looks for a running cluster
    import verl.trainer.ppo.core_algos  # noqa: F401

    return Run(tmp_path, tiny_qwen25vl, base)


def test_valid_settings_pass_and_nothing_is_written(run):
    before = sorted(run.folder.rglob("*"))
    assert run.examined() == ([], [])
    assert sorted(run.folder.rglob("*")) == before


# --- Hydra and values


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.logger={a", "trainer.logger={a: Hydra cannot parse this; write key=value"),
        ("data.train_files=/a b=c", "put a value that contains one of {}[](),=' in quotes that the shell keeps"),
        ("trainer.experiment_name=a,b", "Ambiguous value for argument 'trainer.experiment_name=a,b'"),
        ("data.train_batch_sizes=3", "or correct train_batch_sizes: did you mean train_batch_size or "),
        ("actor_rollout_ref.rolout.n=3", "or correct rolout: did you mean rollout?"),
        ("data.train_batch_size.x=3", "Could not override 'data.train_batch_size.x'"),
        ("+trainer.nnodes=1", "An item is already at 'trainer.nnodes'. Either remove + prefix"),
        ("algorithm.durian.reasoning.num_groups=8", "use +algorithm.durian.reasoning.num_groups=8"),
        ("model_engine=fsdp3", "Could not find 'model_engine/fsdp3'"),
    ],
)
def test_overrides_that_hydra_rejects(override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        compose_or_explain([override])


def test_values_of_another_type(run):
    wrong = {
        "data.max_prompt_length=long": "must be an integer >= 1",
        "data.filter_overlong_prompts=no": "must be true or false",
        "actor_rollout_ref.rollout.gpu_memory_utilization=half": "must be a number",
        "trainer.n_gpus_per_node=0": "must be an integer >= 1",
        "trainer.total_training_steps=x": "must be an integer",
        "trainer.max_actor_ckpt_to_keep=two": "must be an integer",
        "trainer.total_epochs=1.5": "must be an integer",
        "actor_rollout_ref.model.lora_rank=x": "must be an integer",
    }
    problems, notes = run.examined(*wrong)
    assert sorted(problems) == sorted(f"{override}: {message}" for override, message in wrong.items()) and not notes


def test_values_that_verl_accepts():
    """0 and 1 for truth values and vice versa, and values that mean "all" or "none"."""
    accepted = [
        "data.filter_overlong_prompts=1",
        "trainer.test_freq=false",
        "actor_rollout_ref.model.lora_rank=-1",
        "trainer.max_actor_ckpt_to_keep=0",
        "trainer.total_training_steps=0",
        "hydra.run.dir=/tmp/run",
        "algorithm.rollout_correction.rollout_is_threshold='0.5_5.0'",
    ]
    config = compose_or_explain(accepted)
    assert config.data.filter_overlong_prompts == 1 and check_values(config, accepted) == []


def test_interpolations_are_resolved(run):
    files = {"data.train_files": ["${data.val_files}"], "data.train_batch_size": "${data.val_max_samples}"}
    assert run.notes(data.check, {**files, "data.val_max_samples": 24}) == []


def test_all_problems_are_reported_at_once(run):
    run.train.unlink()
    problems, _ = run.examined("+algorithm.durian.weight=1", "actor_rollout_ref.model.path=absent/model")
    assert [re.split("[=:]", problem)[0] for problem in problems] == [
        "algorithm.durian.weight",
        "actor_rollout_ref.model.path",
        "data.train_files",
    ]


def test_validation_alone_skips_the_checks_for_training(run):
    alone = ("algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=1", "data.train_batch_size=48")
    problems, notes = run.examined(*alone)
    assert any("compares the rollouts" in note for note in notes)
    assert any("the training set has 24 rows" in problem for problem in problems)
    assert run.examined(*alone, "trainer.val_only=True") == ([], [])
    problems, _ = run.examined(*alone, "trainer.val_only=True", "trainer.val_before_train=False")
    assert problems != []


# --- single settings

POLICY = {"actor_rollout_ref.actor.strategy": "fsdp2", "actor_rollout_ref.actor.fsdp_config.offload_policy": True}
ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"
MAX_LENGTH = "actor_rollout_ref.rollout.max_model_len"
TP = "actor_rollout_ref.rollout.tensor_model_parallel_size"
SEPARATE = {"trainer.v1.trainer_mode": "separate_async", "trainer.n_gpus_per_node": 4, TP: 8}
TRAINING_GPUS_ALONE = {**SEPARATE, "actor_rollout_ref.hybrid_engine": False}
GPUS = {"trainer.device": "cuda", "trainer.n_gpus_per_node": 8}
PASSK = {"algorithm.adv_estimator": "grpo_passk", ROLLOUTS: 1}
FEW = {"data.train_batch_size": 2}


@pytest.mark.parametrize(
    ("check", "changes", "message"),
    [
        (check_estimator, {"algorithm.adv_estimator": "durain"}, "did you mean durian? verl knows durian, gae, "),
        (check_estimator, {"algorithm.adv_estimator": "sft"}, "algorithm.adv_estimator=sft: verl knows durian, gae, "),
        (check_estimator, PASSK, "grpo_passk compares the rollouts of a prompt with each other"),
        (check_estimator, {"algorithm.durian": "text"}, "algorithm.durian='text': must be a mapping with the keys "),
        (check_estimator, {"algorithm.durian.reasoning.groups": 3}, "num_groups, confidence"),
        (check_estimator, {"algorithm.norm_adv_by_std_in_grpo": False}, "algorithm.norm_adv_by_std_in_grpo=False"),
        (check_with_verl, {"actor_rollout_ref.actor.ppo_mini_batch_size": 32}, "actor.ppo_mini_batch_size (32)"),
        (check_with_verl, {"actor_rollout_ref.actor.loss_agg_mode": "mean"}, "Invalid loss_agg_mode: mean"),
        (check_context, {MAX_LENGTH: 10**6}, f"{MAX_LENGTH}=1000000: the model has a context of "),
        (machine.check_gpus, GPUS, "trainer.n_gpus_per_node=8: PyTorch sees 0 GPUs here; run it on a machine with"),
        (machine.check_gpus, {**GPUS, "trainer.nnodes": 2}, "trainer.nnodes=2, trainer.n_gpus_per_node=8: PyTorch"),
        (machine.check_gpus, {TP: 2}, "1 GPUs are not divisible into rollout engines of 2"),
        (machine.check_gpus, SEPARATE, "4 GPUs are not divisible"),  # `hybrid_engine`: training GPUs have engines too
        (machine.check_gpus, {**TRAINING_GPUS_ALONE, "trainer.v1.trainer_mode": "sync"}, "4 GPUs are not divisible"),
        (machine.check_packages, {ATTENTION: "flash_attention_2"}, "flash_attn: not installed"),
        (data.check, {"data.train_max_samples": 10}, "data.train_batch_size=24: the training set has 10 rows"),
        (data.check, {"data.train_files": "/d/geometry3k/a.parquet"}, "verl-durian prepare geometry3k --output /d/geo"),
        (data.check, {"data.val_files": ["/a.parquet"]}, "data.val_files=/a.parquet: no such file; correct the path"),
    ],
)
def test_refused_settings(run, no_gpus, check, changes, message):
    assert message in run.problem(check, changes)


@pytest.mark.parametrize(
    ("check", "changes", "message"),
    [
        (check_estimator, {ROLLOUTS: 1}, f"{ROLLOUTS}=1: durian compares the rollouts of a prompt with each other; "),
        (check_estimator, {**GRPO, ROLLOUTS: 1}, f"{ROLLOUTS}=1: grpo compares the rollouts"),
        (check_estimator, {"algorithm.adv_estimator": "mine", "data.custom_cls.path": "mine.py"}, "=mine: verl knows "),
        (check_estimator, FEW, "data.train_batch_size=2: with algorithm.durian.reasoning.num_groups=12 most groups"),
        (check_context, {"data.max_response_length": 10**6}, "data.max_response_length=1000000: responses are trunc"),
        (machine.check_gpus, {**GPUS, "ray_kwargs.ray_init.address": "ray://a:1"}, "the Ray cluster at ray://a:1"),
        (data.check, {"data.custom_cls.path": "mine.py"}, "data.custom_cls.path=mine.py: the data of a custom class"),
        (data.check, {"data.train_files": "hf://datasets/a/train.parquet"}, "not checked"),
        (data.check, {"data.train_files": "data/*.parquet"}, "data.train_files=data/*.parquet: not checked"),
    ],
)
def test_settings_with_a_note(run, no_gpus, check, changes, message):
    assert any(message in note for note in run.notes(check, changes))


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        (check_estimator, {"algorithm.adv_estimator": "reinforce_plus_plus", ROLLOUTS: 1}),
        (check_estimator, {**FEW, "algorithm.durian.reasoning.num_groups": 1}),
        (check_estimator, {**FEW, "algorithm.durian.weights.reasoning": 0}),
        (check_estimator, {**FEW, **GRPO}),
        (check_with_verl, {}),
        (machine.check_gpus, TRAINING_GPUS_ALONE),
        (machine.check_packages, {ATTENTION: "sdpa"}),
        (machine.check_packages, {ATTENTION: "flash_attention_2", "actor_rollout_ref.actor.strategy": "veomni"}),
        (machine.check_packages, {ATTENTION: "flash_attention_2", "trainer.device": "npu"}),
        (machine.check_checkpoints, {"trainer.save_freq": 1}),
        (machine.check_checkpoints, {"trainer.default_local_dir": "/proc/x"}),  # nothing is saved
        (data.check, {"algorithm.durian": "text"}),  # reported with the estimator
    ],
)
def test_settings_that_pass(run, no_gpus, check, changes):
    assert run.notes(check, changes) == []


# --- model


def test_models_that_verl_cannot_read(tmp_path, tiny_qwen25vl):
    def message(path: Path | str) -> str:
        with pytest.raises(ValueError) as error:
            read(OmegaConf.create({"path": str(path)}))
        assert str(error.value).startswith(f"actor_rollout_ref.model.path={path}: ") and "\n" not in str(error.value)
        return str(error.value)

    assert "verl cannot read it" in message("absent/model") and "correct the path" in message("absent/model")
    assert "no such folder" in message("/absent/model")
    (empty := tmp_path / "empty").mkdir()
    assert "has no config.json" in message(empty)
    part = Path(shutil.copytree(tiny_qwen25vl, tmp_path / "part"))
    (part / "tokenizer.json").unlink()
    assert "verl cannot read it" in message(part)
    (part / "config.json").write_text(json.dumps({"model_type": "none"}))
    assert "verl cannot read it" in message(part)


def test_a_folder_without_weights(run, tmp_path, tiny_qwen25vl):
    part = Path(shutil.copytree(tiny_qwen25vl, tmp_path / "part"))
    (part / "model.safetensors").unlink()
    changes = {"actor_rollout_ref.model.path": part}
    assert "the folder has no weights" in run.problem(check_weights, changes)
    assert len(run.notes(check_weights, {**changes, **MEGATRON})) == 1  # may have a checkpoint format of its own
    (part / "model.safetensors").touch()
    assert run.notes(check_weights, changes) == []


def test_config_and_tokenizer_in_other_folders(tmp_path, tiny_qwen25vl):
    names = ("config.json", "generation_config.json")
    weights, config, tokenizer = (tmp_path / name for name in ("weights", "config", "tokenizer"))
    for folder in (weights, config, tokenizer):
        folder.mkdir()
    for file in tiny_qwen25vl.iterdir():
        folder = config if file.name in names else weights if file.suffix == ".safetensors" else tokenizer
        shutil.copy(file, folder)
    shutil.copy(config / "config.json", tokenizer)  # verl's processor needs one
    paths = {"path": weights, "hf_config_path": config, "tokenizer_path": tokenizer}
    model = read(OmegaConf.create({name: str(folder) for name, folder in paths.items()}))
    assert hasattr(model.processor, "image_processor") and model.parameters == tiny_model(tiny_qwen25vl).parameters


def test_a_model_with_its_own_code(tmp_path, tiny_qwen25vl):
    own = Path(shutil.copytree(tiny_qwen25vl, tmp_path / "own"))
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "mine", "architectures": ["Mine"], "auto_map": {"AutoConfig": "configuration.Mine"}}
    (own / "config.json").write_text(json.dumps(config))
    (own / "configuration.py").write_text(
        "from transformers import Qwen2Config\n\nclass Mine(Qwen2Config):\n    model_type = 'mine'\n"
    )
    settings = OmegaConf.create({"path": str(own)})
    with pytest.raises(ValueError, match="set actor_rollout_ref.model.trust_remote_code=True"):
        read(settings)
    settings.trust_remote_code = True
    model = read(settings)
    assert (model.type, model.parameters) == ("mine", None)
    assert count_parameters(transformers.PretrainedConfig(architectures=["DeepseekV3ForCausalLM"])) is None


# --- data

NO_IMAGE_COLUMN = {key: value for key, value in TEXT_ROW.items() if key != "images"}
PICTURES = {"pictures" if key == "images" else key: value for key, value in row().items()}
UNGRADED = {"prompt": row()["prompt"], "images": row()["images"]}
LONG = row("<image>" + "red " * 100)
OLDER = {"trainer.use_v1": False}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("high", "visual_entropy='high' is not a finite number of nats"),
        (float("inf"), "visual_entropy=inf is not a finite number of nats"),
        (None, "visual_entropy=None is missing for a row with an image"),
        (float("nan"), "visual_entropy=nan is missing for a row with an image"),
    ],
)
def test_visual_entropies_that_training_rejects(run, value, message):
    rows = [row(visual_entropy="high" if value == "high" else 1.0) for _ in range(24)]
    number = 0 if value == "high" else 2
    rows[2]["visual_entropy"] = value
    run.write(*rows)
    (problem,), _ = run.found(data.check)
    assert problem.startswith(f"data.train_files={run.train}: row {number}: {message}; ")
    for unused in (GRPO, {"algorithm.durian.weights.perceptual": 0}, {"trainer.val_only": True}):
        assert run.found(data.check, unused) == ([], [])


def test_visual_entropies_that_training_accepts(run):
    for value in (1, 0.5):
        run.write(*[row(visual_entropy=value)] * 24)
        assert run.found(data.check) == ([], [])


def test_images_of_a_model_whose_tower_is_not_supported(run):
    config, model = run.config(), tiny_model(run.path)
    (problem,), _ = texts(data.check(config, dataclasses.replace(model, type="llava")))
    assert problem.startswith(f"data.train_files={run.train}: no column visual_entropy") and "qwen2_5_vl" in problem


CRASHES = "16 of the first 16 rows have no image, and verl crashes on a micro batch of such rows"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"


def test_files_that_cannot_be_read(run):
    run.train.write_bytes(run.train.read_bytes()[:200])
    assert "cannot be read" in run.problem(data.check)
    other = run.train.rename(run.train.with_suffix(".csv"))
    assert "verl reads .parquet, .json, .jsonl" in run.problem(data.check, {"data.train_files": other})


def test_files_without_rows(run):
    """`datasets` fails on them, even if another file has rows."""
    pq.write_table(pq.read_table(run.val).slice(0, 0), run.train)
    message = "the file has no rows, and verl cannot read it; write it again or omit it"
    assert run.problem(data.check, {"data.train_files": [str(run.val), str(run.train)]}).endswith(message)
    (empty := run.folder / "empty.jsonl").touch()
    files = {"data.train_files": run.val, "data.val_files": empty}
    assert run.problem(data.check, files) == f"data.val_files={empty}: {message}"


def test_jsonl(run):
    file = run.folder / "train.jsonl"
    file.write_text((json.dumps(TEXT_ROW) + "\n") * 24)
    notes = run.notes(data.check, {"data.train_files": file})
    assert any("16 of the first 16 rows have no image" in note for note in notes)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([row()] * 23, {}, "the training set has 23 rows"),
        ([row(reward_model={"style": "rule"})] * 24, {}, "row 0: no reward_model.ground_truth"),
        ([row(prompt="red?")] * 24, {}, "row 0: prompt must be a list of messages"),
        ([{**row(), "images": 5}] * 24, {}, "row 0: images=5 must be a list (data.image_key)"),
        ([{"question": "red?"}] * 24, {}, "no column prompt, data_source, reward_model, but question"),
        ([UNGRADED] * 24, {}, "no column data_source, reward_model, but prompt, images"),
        ([PICTURES] * 24, {}, "row 0: 1 <image> in the prompt and 0 in the column images"),  # trained without images
        ([row(reward_model={"ground_truth": None})] * 24, OURS, "reward_model.ground_truth: None cannot be an answer"),
        ([row(extra_info={"decimals": "two"})] * 24, OURS, "extra_info.decimals: could not convert string to float"),
        ([row(extra_info={"choices": [1], "answer_type": "choice"})] * 24, OURS, "ground truth 'YES' of a row with"),
        ([NO_IMAGE_COLUMN] * 24, GRPO, f"{CRASHES}; add rows"),
        ([row(), row(images=[picture(280)[:-100]])] * 12, {**UNFILTERED, **OLDER}, "row 1: verl cannot build its"),
        (
            [row(f"<image>{IMAGE_PAD}")] * 24,
            {**UNFILTERED, **OLDER},
            f"row 0: {IMAGE_PAD} in the prompt is the model's",
        ),
        ([row(VIDEO_PAD, images=[])] * 24, {**OLDER, **MEGATRON}, f"row 0: {VIDEO_PAD} in the prompt is the model's"),
    ],
)
def test_refused_rows(run, rows, changes, message):
    run.write(*rows)
    problem = run.problem(data.check, changes)
    assert problem.startswith(("data.train_files=", "data.train_batch_size=")) and message in problem


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([row(images=[]), *[row()] * 23], {**GRPO, **MEGATRON}, "row 0: 1 <image> in the prompt and 0 in the column"),
        ([TEXT_ROW] * 24, MEGATRON, "+algorithm.durian.weights.perceptual=0 disables that axis"),
        ([TEXT_ROW] * 24, GRPO, f"{CRASHES} alone"),  # micro batches may be mixed
        ([TEXT_ROW] * 3 + [row()] * 21, {}, "3 of the first 16 rows have no image, and verl crashes"),
        ([LONG] * 4 + [row()] * 20, {}, "4 of the first 16 prompts are longer than data.max_prompt_length=64 tokens"),
        ([LONG] * 4 + [row()] * 20, UNFILTERED, "verl skips the rollouts of those with images, and truncates the oth"),
        ([row(), row(images=[picture(280)[:-100]])] * 12, UNFILTERED, "row 1: verl cannot build its prompt"),  # V1
        ([row(), row(images=[picture(280)[:-100]])] * 12, OLDER, "verl drops such rows"),
        ([row(f"<image>{VIDEO_PAD}")] * 24, UNFILTERED, "verl skips its rollouts"),
        ([row(IMAGE_PAD, images=[])] * 24, MEGATRON, f"row 0: {IMAGE_PAD} in the prompt is the model's own token"),
    ],
)
def test_rows_with_a_note(run, rows, changes, message):
    run.write(*rows)
    assert any(message in note for note in run.notes(data.check, changes))


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        ([row(reward_model={"ground_truth": None})] * 24, {}),  # another reward may accept it
        ([row(reward_model={"ground_truth": None})] * 24, {**OURS, "reward.reward_manager.source": "importlib"}),
        ([row(reward_model={"ground_truth": 5.0})] * 24, OURS),
        ([row(images=[], prompt=[{"role": "user", "content": [{"type": "text", "text": "red?"}]}])] * 24, GRPO),
        ([TEXT_ROW] * 24, {"algorithm.durian.weights.perceptual": 0}),
        ([row()] * 20 + [LONG] * 4, {}),  # only the first rows are read
        ([row("<image>red <|im_end|><|vision_start|>?")] * 24, UNFILTERED),
    ],
)
def test_rows_that_pass(run, rows, changes):
    run.write(*rows)
    assert run.notes(data.check, {**MEGATRON, **changes}) == []


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (row("red?"), "row 1: 0 <image> in the prompt and 1 in the column images"),
        (row("<image><image>red?"), "row 1: 2 <image> in the prompt and 1 in the column images"),
        (row("<image><video>red?"), "row 1: 1 <video> in the prompt and 0 in the column videos"),
        (row(images=[b"no picture"]), "row 1: verl cannot build its prompt (cannot identify image file"),
        (row(images=[None]), "row 1: verl cannot build its prompt ("),
    ],
)
def test_rows_for_which_verls_dataset_raises(run, broken, message):
    """The filter for long prompts drops them; without it they end the run."""
    from verl.utils.dataset.rl_dataset import RLHFDataset

    run.write(row(), broken, *[row()] * 22)
    assert message in run.problem(data.check, UNFILTERED)
    (note,) = run.notes(data.check)
    assert message in note and note.endswith("verl drops such rows (data.filter_overlong_prompts)")
    model, config = tiny_model(run.path), run.config({"data.filter_overlong_prompts_workers": None})
    assert len(RLHFDataset([str(run.train)], model.tokenizer, config.data, model.processor)) == 23
    config.data.filter_overlong_prompts = False
    with pytest.raises(Exception):  # noqa: B017
        RLHFDataset([str(run.train)], model.tokenizer, config.data, model.processor)[1]


def test_columns_of_other_names_and_those_that_no_reward_reads(run):
    for rows, changes in (
        (PICTURES, {"data.image_key": "pictures"}),
        (UNGRADED, {"reward.reward_model.enable": True}),
        (UNGRADED, {"reward.reward_manager.name": "mine"}),
    ):
        run.write(*[rows] * 24)
        assert run.notes(data.check, {**changes, "data.val_files": run.train}) == []


def test_lengths_are_those_of_verls_filter(run):
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = run.config({"data.filter_overlong_prompts_workers": None})  # no forks beside threads
    model = tiny_model(run.path)
    rows = [row(), TEXT_ROW, row("<image>a<image>", images=[picture(140), picture(84)])]
    run.write(*rows)
    dataset = data._dataset_without_files(config, model)
    lengths = [data._count_tokens(dataset._build_messages(copy.deepcopy(each), "prompt"), dataset) for each in rows]
    for longest in {*lengths, *(length - 1 for length in lengths)}:
        config.data.max_prompt_length = longest
        kept = RLHFDataset([str(run.train)], model.tokenizer, config.data, model.processor)
        assert len(kept) == sum(length <= longest for length in lengths)


def test_images_for_a_text_model(run, tmp_path):
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(run.path)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **small)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    settings = json.loads((tmp_path / "text/tokenizer_config.json").read_text())
    settings.pop("processor_class", None)
    (tmp_path / "text/tokenizer_config.json").write_text(json.dumps(settings))
    run.path = tmp_path / "text"
    problems, _ = run.found(data.check)
    assert [problem.split("=")[0] for problem in problems] == ["data.train_files", "data.val_files"]
    assert all("only takes text" in problem for problem in problems)
    run.write(*[TEXT_ROW] * 24)
    shutil.copy(run.train, run.val)
    assert run.notes(data.check, GRPO) == []


# --- machine and checkpoints


@pytest.fixture
def no_gpus(monkeypatch):
    find_spec, absent = machine.find_spec, ("megatron", "flash_attn")
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name.split(".")[0] in absent else find_spec(name))
    monkeypatch.setattr(machine, "visible_gpus", list)


def test_packages_for_megatron(run, no_gpus):
    problems, _ = run.found(machine.check_packages, MEGATRON)
    assert [problem.split(":")[0] for problem in problems] == ["megatron.core", "megatron.bridge"]
    assert all('pip install "verl[megatron]"' in problem for problem in problems)


def test_nodes_that_share_a_machine(run, monkeypatch):
    """Without a cluster, verl only asks Ray for the sum of the GPUs."""
    monkeypatch.setattr(machine, "visible_gpus", lambda: [80 << 30] * 8)
    half = {"trainer.device": "cuda", "trainer.nnodes": 2, "trainer.n_gpus_per_node": 4}
    assert run.notes(machine.check_gpus, half) == []


def test_paths_may_exist_on_other_nodes_of_a_cluster(run, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    paths = {
        "actor_rollout_ref.model.path": "/absent",
        "data.val_files": "/absent.parquet",
        "trainer.default_local_dir": "/proc/x",
    }
    problems, notes = run.examined("trainer.save_freq=1", *(f"{name}={path}" for name, path in paths.items()))
    assert problems == []
    assert {note.split(":")[0] for note in notes} >= {f"{name}={path}" for name, path in paths.items()}


def test_a_training_state_beyond_the_gpus_is_a_note(run):
    def memory(changes: dict[str, object], model: Model = LARGE) -> list[str]:
        problems, notes = texts(
            machine.check_memory(run.config({"trainer.n_gpus_per_node": 8, **changes}), model, 80e9)
        )
        assert problems == []
        return notes

    (note,) = memory({})
    assert "take an estimated 147 GB per GPU, which has 80 GB" in note
    for fits in ({"trainer.nnodes": 2}, {"actor_rollout_ref.model.lora_rank": 8}, POLICY):
        assert memory(fits) == []
    assert memory({}, Model("mine", None, None, None, None)) == []


def test_room_for_checkpoints(run):
    def room(changes: dict[str, object], free: float) -> str:
        config = run.config({"trainer.max_actor_ckpt_to_keep": 3, **changes})
        problems, notes = texts(machine.check_disk(config, LARGE, free))
        assert problems == []
        return "".join(notes)

    contents = "actor_rollout_ref.actor.checkpoint.save_contents"
    assert "2000 GB are free, and this machine writes an estimated 3 x 881 GB" in room({}, 2000e9)
    assert room({}, 2700e9) == ""
    assert "3 x 294 GB" in room({contents: ["model"]}, 800e9)
    assert "3 x 147 GB" in room({contents: ["hf_model"]}, 400e9)
    assert "3 x 440 GB" in room({"trainer.nnodes": 2}, 1000e9)
    assert "3 x 294 GB" in room({"actor_rollout_ref.model.lora_rank": 8}, 800e9)
    assert "2 x 881 GB" in room({"trainer.max_actor_ckpt_to_keep": 1}, 1000e9)


def test_folders_that_cannot_be_written(run):
    (run.folder / "file").touch()
    for folder, reason in ((run.folder / "file" / "x", "is a file"), ("/proc/x", "/proc: No such file or directory")):
        problem = run.problem(machine.check_checkpoints, {"trainer.default_local_dir": folder, "trainer.save_freq": 1})
        assert problem.startswith(f"trainer.default_local_dir={folder}: ") and reason in problem


def test_checkpoints_to_resume_from(run):
    def resume(folder: Path | str) -> dict:
        return {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": folder}

    existing = run.folder / "global_step_2"
    (existing / "actor").mkdir(parents=True)
    assert run.notes(machine.check_checkpoints, resume(existing)) == []
    for folder in (run.folder / "global_step_4", run.folder, f"{existing}/"):  # verl cannot read a step from the last
        assert "name a folder global_step_N (RESUME)" in run.problem(machine.check_checkpoints, resume(folder))


# --- command line


def test_dry_run_prints_config_command_and_findings(run, capsys):
    overrides = run.settings("data.train_batch_size=2", "actor_rollout_ref.actor.ppo_mini_batch_size=2")
    assert main(["--dry-run", *overrides, "trainer.logger=[console]"]) == 0
    printed = capsys.readouterr()
    text, words = printed.out.split("\npython ")
    config = OmegaConf.create(text)
    assert config.data.train_batch_size == 2 and config.actor_rollout_ref.actor.rollout_n == 4
    assert "-m \\\n    verl.trainer.main_ppo" in words and "'trainer.logger=[console]'" in words
    assert "--dry-run" not in words
    assert printed.err.startswith("preflight: note: data.train_batch_size=2")

    assert main(["--dry-run", *overrides, "algorithm.adv_estimator=durain"]) == 2
    printed = capsys.readouterr()
    assert "adv_estimator: durain" in printed.out and "1 problem; nothing is started" in printed.err


def test_without_dry_run_only_findings_are_printed(run, capsys):
    assert main(run.settings()) == 0
    assert capsys.readouterr() == ("", "preflight: no problem found\n")
    assert main([*run.settings(), "--dryrun"]) == 2
    assert "--dryrun: not a setting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data.train_batch_size", "${data.nothing}", "Interpolation key 'data.nothing' not found"),
        ("actor_rollout_ref.rollout.name", "???", "Missing mandatory value: actor_rollout_ref.rollout.name"),
    ],
)
def test_values_that_the_config_lacks_are_one_line(run, capsys, name, value, message):
    assert main(run.settings(f"{name}={value}")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"preflight: {message}")


def test_known_failures_are_problems(run, monkeypatch):
    monkeypatch.setattr(known_failures, "_vllm_normalizes_with_a_buffer", lambda: True)
    problems, _ = run.examined("actor_rollout_ref.rollout.load_format=dummy")
    assert ["set actor_rollout_ref.rollout.load_format=auto" in problem for problem in problems] == [True]

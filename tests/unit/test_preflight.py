# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The checks before a run: each problem in one line with its fix, and what is only a note."""

import copy
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


# --- estimator and verl


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm.adv_estimator": "durain"}, "did you mean durian? verl knows durian, gae, "),
        ({"algorithm.adv_estimator": "sft"}, "algorithm.adv_estimator=sft: verl knows durian, gae, "),
        ({"algorithm.adv_estimator": "grpo_passk", ROLLOUTS: 1}, "grpo_passk compares the rollouts of a prompt"),
        ({"algorithm.durian": "text"}, "algorithm.durian='text': must be a mapping with the keys weights, "),
        ({"algorithm.durian.reasoning.groups": 3}, "Allowed under algorithm.durian.reasoning: num_groups, confidence"),
        ({"algorithm.durian.weights.original": -1}, "weights.original=-1"),
        ({"algorithm.norm_adv_by_std_in_grpo": False}, "algorithm.norm_adv_by_std_in_grpo=False"),
    ],
)
def test_estimators_that_cannot_run(run, changes, message):
    assert message in run.problem(check_estimator, changes)


def test_estimators_that_may_be_intended(run):
    for name in ("durian", "grpo"):
        notes = run.notes(check_estimator, {"algorithm.adv_estimator": name, ROLLOUTS: 1})
        assert notes[0].startswith(f"{ROLLOUTS}=1: {name} compares the rollouts of a prompt with each other; ")
    filtered = {"algorithm.adv_estimator": "reinforce_plus_plus", ROLLOUTS: 1, "algorithm.filter_groups.enable": True}
    assert run.notes(check_estimator, filtered) == []  # verl never drops a group of size one
    for module in ("actor_rollout_ref.model.external_lib", "data.custom_cls.path"):
        (note,) = run.notes(check_estimator, {"algorithm.adv_estimator": "mine", module: "mine.py"})
        assert note.startswith("algorithm.adv_estimator=mine: verl knows ")


def test_few_prompts_are_a_note(run):
    few = {"data.train_batch_size": 2}
    (note,) = run.notes(check_estimator, few)
    assert "data.train_batch_size=2" in note and "num_groups=12" in note
    for changes in ({"algorithm.durian.reasoning.num_groups": 1}, {"algorithm.durian.weights.reasoning": 0}, GRPO):
        assert run.notes(check_estimator, {**few, **changes}) == []


def test_verls_own_validation(run):
    assert run.notes(check_with_verl) == []
    problem = run.problem(check_with_verl, {"actor_rollout_ref.actor.ppo_mini_batch_size": 32})
    assert problem.startswith("verl rejects these settings: ") and "actor.ppo_mini_batch_size (32)" in problem
    problem = run.problem(check_with_verl, {"actor_rollout_ref.actor.loss_agg_mode": "mean"})
    assert "Invalid loss_agg_mode: mean" in problem


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
    (note,) = run.notes(check_weights, {**changes, **MEGATRON})  # may have a checkpoint format of its own
    assert "the folder has no weights" in note
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


def test_lengths_beyond_the_models_context(run):
    (note,) = run.notes(check_context, {"data.max_response_length": 10**6})
    assert "data.max_response_length=1000000: responses are truncated, as the model has a context of" in note
    problem = run.problem(check_context, {"actor_rollout_ref.rollout.max_model_len": 10**6})
    assert problem.startswith("actor_rollout_ref.rollout.max_model_len=1000000: the model has a context of ")


# --- data files


def test_missing_files(run):
    problem = run.problem(data.check, {"data.train_files": "data/geometry3k/train.parquet"})
    assert problem.startswith("data.train_files=data/geometry3k/train.parquet: no such file; create it: ")
    assert problem.endswith("verl-durian prepare geometry3k --output data/geometry3k")
    problem = run.problem(data.check, {"data.val_files": ["/data/a.parquet", str(run.val)]})
    assert problem.startswith("data.val_files=/data/a.parquet: no such file; correct the path")


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


def test_files_that_are_not_local(run):
    files = ["hf://datasets/a/b/train.parquet", "hdfs://a/train.parquet", str(run.folder / "*.parquet")]
    notes = run.notes(data.check, {"data.train_files": files})
    assert [note.split(": not checked")[0] for note in notes] == [f"data.train_files={file}" for file in files]
    (note,) = run.notes(data.check, {"data.custom_cls.path": "mine.py"})
    assert note.startswith("data.custom_cls.path=mine.py: ")


def test_jsonl(run):
    file = run.folder / "train.jsonl"
    file.write_text((json.dumps(TEXT_ROW) + "\n") * 24)
    notes = run.notes(data.check, {"data.train_files": file})
    assert any("16 of the first 16 rows have no image" in note for note in notes)


def test_too_few_rows_for_a_step(run):
    run.write(*[row()] * 23)
    assert "the training set has 23 rows" in run.problem(data.check)
    run.write(*[row()] * 30)
    assert "the training set has 10 rows" in run.problem(data.check, {"data.train_max_samples": 10})


# --- rows


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (row(reward_model={"style": "rule"}), "row 0: no reward_model.ground_truth"),
        (row(prompt="red?"), "row 0: prompt must be a list of messages"),
        ({**row(), "images": 5}, "row 0: images=5 must be a list (data.image_key)"),
        ({"question": "red?", "answer": "yes"}, "no column prompt, data_source, reward_model, but question, answer"),
    ],
)
def test_rows_that_cannot_be_used(run, broken, message):
    run.write(*[broken] * 24)
    problem = run.problem(data.check)
    assert problem.startswith(f"data.train_files={run.train}: ") and message in problem


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
    from transformers import AutoProcessor
    from verl.utils.dataset.rl_dataset import RLHFDataset

    run.write(row(), broken, *[row()] * 22)
    assert message in run.problem(data.check, UNFILTERED)
    (note,) = run.notes(data.check)
    assert message in note and note.endswith("verl drops such rows (data.filter_overlong_prompts)")
    processor = AutoProcessor.from_pretrained(run.path)
    config = run.config({"data.filter_overlong_prompts_workers": None})
    assert len(RLHFDataset([str(run.train)], processor.tokenizer, config.data, processor)) == 23
    config.data.filter_overlong_prompts = False
    with pytest.raises(Exception):  # noqa: B017
        RLHFDataset([str(run.train)], processor.tokenizer, config.data, processor)[1]


def test_an_image_that_can_be_opened_but_not_decoded(run):
    """In trainer V1 only the rollouts of this prompt fail; the older trainers stop."""
    run.write(row(), row(images=[picture(280)[:-100]]), *[row()] * 22)
    (note,) = run.notes(data.check, UNFILTERED)
    assert "row 1: verl cannot build its prompt" in note and "verl skips its rollouts" in note
    assert "verl skips its rollouts" in run.problem(data.check, {**UNFILTERED, "trainer.use_v1": False})
    (note,) = run.notes(data.check, {"trainer.use_v1": False})
    assert "verl drops such rows" in note


def test_a_mark_without_any_image_is_text_for_verl(run):
    run.write(row(images=[]), *[row()] * 23)
    (note,) = run.notes(data.check, {**GRPO, **MEGATRON})
    assert "row 0: 1 <image> in the prompt and 0 in the column images" in note


def test_structured_messages_are_left_to_verl(run):
    parts = [{"role": "user", "content": [{"type": "text", "text": "red?"}]}]
    run.write(*[row(images=[], prompt=parts)] * 24)
    assert run.notes(data.check, {**GRPO, **MEGATRON}) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_model": {"ground_truth": None}}, "reward_model.ground_truth: None cannot be an answer"),
        ({"reward_model": {"ground_truth": {"a": 5}}}, "reward_model.ground_truth: {'a': 5} cannot be an answer"),
        ({"extra_info": {"index": 3, "decimals": "two"}}, "extra_info.decimals: could not convert string to float"),
        ({"extra_info": {"index": 3, "answer_type": "choice", "choices": [1, 2]}}, "ground truth 'YES' of a row with"),
    ],
)
def test_answers_that_our_reward_cannot_grade(run, changes, message):
    run.write(*[row(**{"extra_info": {"index": 3}} | changes)] * 24)
    problem = run.problem(data.check, OURS)
    assert problem.startswith(f"data.train_files={run.train}: row 0: {message}")
    assert run.notes(data.check) == []  # another reward may accept it
    assert run.notes(data.check, {**OURS, "reward.reward_manager.source": "importlib"}) == []


def test_answers_that_are_numbers(run):
    run.write(*[row(reward_model={"ground_truth": 5.0})] * 24)
    assert run.notes(data.check, OURS) == []


def test_columns_that_no_reward_reads_are_not_required(run):
    run.write(*[{key: value for key, value in row().items() if key in ("prompt", "images")}] * 24)
    shutil.copy(run.train, run.val)
    problems, _ = run.found(data.check)
    assert len(problems) == 2 and all("no column data_source, reward_model" in problem for problem in problems)
    assert run.notes(data.check, {"reward.reward_model.enable": True}) == []
    assert run.notes(data.check, {"reward.reward_manager.name": "mine"}) == []


def test_another_column_of_images(run):
    run.write(*[{"pictures" if key == "images" else key: value for key, value in row().items()}] * 24)
    shutil.copy(run.train, run.val)
    problems, _ = run.found(data.check)  # verl would train without the images
    assert len(problems) == 2 and all("(data.image_key)" in problem for problem in problems)
    assert run.notes(data.check, {"data.image_key": "pictures"}) == []


# --- prompts


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>"])
def test_the_models_own_tokens_in_a_prompt(run, token):
    message = f"row 0: {token} in the prompt is the model's own token for an image or a video"
    for images, settings in (([picture()], {}), ([], MEGATRON)):
        run.write(row("<image>" * len(images) + f"red {token}?", images=images), *[row()] * 23)
        (note,) = run.notes(data.check, {**UNFILTERED, **settings})
        assert message in note and "verl skips its rollouts" in note
        assert message in run.problem(data.check, {**UNFILTERED, **settings, "trainer.use_v1": False})
    run.write(row("<image>red <|im_end|><|vision_start|>?"), *[row()] * 23)
    assert run.notes(data.check, UNFILTERED) == []


def test_long_prompts(run):
    long = row("<image>" + "red " * 100)
    run.write(*[row()] * 20, *[long] * 4)
    assert run.notes(data.check) == []  # only the first rows are read
    run.write(*[long] * 4, *[row()] * 20)
    (note,) = run.notes(data.check)
    assert "4 of the first 16 prompts are longer than data.max_prompt_length=64" in note
    assert "verl drops them; raise it (MAX_PROMPT_LENGTH)" in note
    (note,) = run.notes(data.check, UNFILTERED)
    assert "verl skips the rollouts of those with images, and truncates the others" in note


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


def test_text_rows_leave_the_perceptual_axis_empty(run):
    run.write(*[TEXT_ROW] * 24)
    (note,) = run.notes(data.check, MEGATRON)
    assert "have no image" in note and "+algorithm.durian.weights.perceptual=0" in note
    for changes in ({"algorithm.durian.weights.perceptual": 0}, {"algorithm.durian": "text"}, GRPO):
        assert run.notes(data.check, {**MEGATRON, **changes}) == []


def test_text_rows_on_which_verl_crashes(run):
    run.write(*[{key: value for key, value in row("red?").items() if key != "images"}] * 24)
    message = "16 of the first 16 rows have no image, and verl crashes on a micro batch of such rows"
    assert f"{message}; add rows" in run.problem(data.check, GRPO)
    (note,) = run.notes(data.check, {**GRPO, "data.train_files": [str(run.train), str(run.val)]})
    assert message in note  # micro batches may be mixed
    run.write(*[TEXT_ROW] * 3, *[row()] * 21)
    (note,) = run.notes(data.check)
    assert "3 of the first 16 rows have no image" in note and "PPO_MICRO_BATCH_SIZE" in note


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


# --- machine


def test_packages_that_the_settings_need(run, monkeypatch):
    find_spec, absent = machine.find_spec, ("megatron", "flash_attn")
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name.split(".")[0] in absent else find_spec(name))
    packages, _ = run.found(machine.check_packages, MEGATRON)
    assert [problem.split(":")[0] for problem in packages] == ["megatron.core", "megatron.bridge"]
    assert all('pip install "verl[megatron]"' in problem for problem in packages)
    attention = "actor_rollout_ref.model.override_config.attn_implementation"
    problem = run.problem(machine.check_packages, {attention: "flash_attention_2"})
    assert problem.startswith("flash_attn: not installed") and "ATTENTION=sdpa" in problem
    for other in ({attention: "sdpa"}, {"actor_rollout_ref.actor.strategy": "veomni"}, {"trainer.device": "npu"}):
        assert run.notes(machine.check_packages, {attention: "flash_attention_2", **other}) == []


def test_a_machine_without_gpus(run, monkeypatch):
    monkeypatch.setattr(machine, "visible_gpus", list)
    cuda = {"trainer.device": "cuda", "trainer.n_gpus_per_node": 8}
    problem = run.problem(machine.check_gpus, cuda)
    assert problem.startswith("trainer.n_gpus_per_node=8: PyTorch sees 0 GPUs here; ")
    assert "run_quickstart.sh" in problem
    nodes = {**cuda, "trainer.nnodes": 2}
    problem = run.problem(machine.check_gpus, nodes)
    assert problem.startswith("trainer.nnodes=2, trainer.n_gpus_per_node=8: PyTorch sees 0 GPUs here; set NNODES=1, or")
    for address in ("10.0.0.1:6379", "ray://10.0.0.1:10001"):
        (note,) = run.notes(machine.check_gpus, {**nodes, "ray_kwargs.ray_init.address": address})
        assert f"verl joins the Ray cluster at {address}" in note


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


def test_engines_that_do_not_divide_the_gpus(run):
    """With `hybrid_engine`, verl's default, the training GPUs have rollout engines too."""
    problem = run.problem(machine.check_gpus, {"actor_rollout_ref.rollout.tensor_model_parallel_size": 2})
    assert "1 GPUs are not divisible into rollout engines of 2" in problem
    separate = {
        "trainer.v1.trainer_mode": "separate_async",
        "trainer.n_gpus_per_node": 4,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 8,
    }
    alone = {**separate, "actor_rollout_ref.hybrid_engine": False}
    assert run.notes(machine.check_gpus, alone) == []
    assert "4 GPUs are not divisible" in run.problem(machine.check_gpus, separate)
    assert "4 GPUs are not divisible" in run.problem(machine.check_gpus, {**alone, "trainer.v1.trainer_mode": "sync"})


def test_a_training_state_beyond_the_gpus_is_a_note(run):
    def memory(changes: dict[str, object], model: Model = LARGE) -> list[str]:
        problems, notes = texts(
            machine.check_memory(run.config({"trainer.n_gpus_per_node": 8, **changes}), model, 80e9)
        )
        assert problems == []
        return notes

    (note,) = memory({})
    assert "take an estimated 147 GB per GPU, which has 80 GB" in note
    offload = {"actor_rollout_ref.actor.strategy": "fsdp2", "actor_rollout_ref.actor.fsdp_config.offload_policy": True}
    for fits in ({"trainer.nnodes": 2}, {"actor_rollout_ref.model.lora_rank": 8}, offload):
        assert memory(fits) == []
    assert memory({}, Model("mine", None, None, None, None)) == []


# --- checkpoints


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
    assert run.notes(machine.check_checkpoints, {"trainer.save_freq": 1}) == []


def test_folders_that_cannot_be_written(run):
    (run.folder / "file").touch()
    for folder, reason in ((run.folder / "file" / "x", "is a file"), ("/proc/x", "/proc: No such file or directory")):
        problem = run.problem(machine.check_checkpoints, {"trainer.default_local_dir": folder, "trainer.save_freq": 1})
        assert problem.startswith(f"trainer.default_local_dir={folder}: ") and reason in problem
        assert run.notes(machine.check_checkpoints, {"trainer.default_local_dir": folder}) == []  # nothing is saved


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

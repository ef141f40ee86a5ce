# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What is told before a run: every failure in one line with its remedy, all at once."""

import copy
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from verl_durian.preflight import (
    checkpoints,
    data,
    estimator,
    installation,
    machine,
    memory,
    settings,
    verl_checks,
)
from verl_durian.preflight.__main__ import main
from verl_durian.preflight.compose import compose, compose_what_can_be
from verl_durian.preflight.examine import examine
from verl_durian.preflight.model import Model, check_context, check_weights, count_parameters, read, read_type

LARGE = Model("qwen2_5_vl", 73_411_000_000, 80, 8192, 152064, 128000, None)


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


class Run:
    """A small run with sound settings, and what is told of it with some changes.

    Composing the config takes most of the time: where a test is about one check, that check sees a changed copy.
    """

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
        _, findings = examine(self.settings(*more))
        assert all("\n" not in finding.text for finding in findings)
        return [each.text for each in findings if each.stops], [each.text for each in findings if not each.stops]

    def config(self, changes: dict[str, object] | None = None) -> DictConfig:
        config = copy.deepcopy(self.base)
        for name, value in {**self.own, **(changes or {})}.items():
            OmegaConf.update(config, name, str(value) if isinstance(value, Path) else value, force_add=True)
        return config

    def found(self, check: Any, changes: dict[str, object] | None = None) -> tuple[list[str], list[str]]:
        """Problems and notes of one check."""
        config = self.config(changes)
        findings = check(config) if check is estimator.check else check(config, tiny_model(self.path))
        assert all("\n" not in finding.text for finding in findings)
        return [each.text for each in findings if each.stops], [each.text for each in findings if not each.stops]

    def problem(self, check: Any, changes: dict[str, object] | None = None) -> str:
        (problem,), _ = self.found(check, changes)
        return problem

    def notes(self, check: Any, changes: dict[str, object] | None = None) -> list[str]:
        problems, notes = self.found(check, changes)
        assert problems == []
        return notes


ROLLOUTS = "actor_rollout_ref.rollout.n"
MEGATRON = {"actor_rollout_ref.actor.strategy": "megatron"}  # has no code of its own for the model
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
def tiny_model(path: Path) -> Model | None:
    return read(OmegaConf.create({"path": str(path)}))


@pytest.fixture(scope="module")
def base() -> DictConfig:
    return compose([f"{name}={value}" for name, value in SOUND.items()])


@pytest.fixture
def run(tmp_path, tiny_qwen25vl, base, monkeypatch) -> Run:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where Ray looks for one that runs already
    import verl.trainer.ppo.core_algos  # noqa: F401

    return Run(tmp_path, tiny_qwen25vl, base)


def test_sound_settings_pass(run):
    before = sorted(run.folder.rglob("*"))
    assert run.examined() == ([], [])
    assert sorted(run.folder.rglob("*")) == before


# --- Hydra


def test_overrides_that_hydra_does_not_take(run):
    wrong = {
        "trainer.logger={a": "Hydra cannot read this",
        "trainer.experiment_name=a,b": "Hydra cannot read this",
        "data.train_batch_sizes=3": "verl has no such key; in data there is train_batch_size, ",
        "actor_rollout_ref.rolout.n=3": "in actor_rollout_ref there is rollout;",
        "data.train_batch_size.x=3": "verl has no such key",
        "data.seed.x=1": "verl has no such key",
        "+trainer.nnodes=1": "verl has this key already; write it without the +",
        "data.max_prompt_length=long": "must be an integer",
        "data.filter_overlong_prompts=no": "must be true or false",
        "actor_rollout_ref.rollout.gpu_memory_utilization=half": "must be a number",
        "trainer.n_gpus_per_node=0": "must be an integer, 1 or more",
        "trainer.total_training_steps=x": "must be an integer",
        "data.seed=x": "must be an integer",
        "actor_rollout_ref.model.lora_rank=x": "must be an integer",
        "algorithm.durian.reasoning.num_groups=8": "write it with a + in front",
    }
    problems, _ = run.examined(*wrong)
    told = {override: text for text in problems for override in wrong if text.startswith(f"{override}: ")}
    assert len(told) == len(problems) == len(wrong)
    assert all(wrong[override] in text for override, text in told.items())


def test_values_with_which_verl_runs_are_taken():
    """0 and 1 for truth values, truth values for 0 and 1, and what verl takes for "all" or "none"."""
    taken = [
        "data.filter_overlong_prompts=1",
        "trainer.test_freq=false",
        "actor_rollout_ref.model.lora_rank=-1",
        "trainer.max_actor_ckpt_to_keep=0",
        "trainer.total_training_steps=0",
        "hydra.run.dir=/tmp/run",
        "algorithm.rollout_correction.rollout_is_threshold='0.5_5.0'",
    ]
    config, *findings = compose_what_can_be(taken)
    assert findings == [[], []] and config.data.filter_overlong_prompts == 1


def test_values_that_refer_to_others_are_resolved(run):
    files = {"data.train_files": ["${data.val_files}"], "data.train_batch_size": "${data.val_max_samples}"}
    assert run.notes(data.check, {**files, "data.val_max_samples": 24}) == []


def test_what_the_config_lacks_is_one_line(run, capsys):
    assert main(run.settings("data.train_batch_size=${data.nothing}")) == 2
    assert main([each for each in run.settings() if "rollout.name=" not in each]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("preflight: Interpolation key 'data.nothing' not found")
    assert second.startswith("preflight: Missing mandatory value: actor_rollout_ref.rollout.name")


def test_durian_that_is_a_text_is_one_line(run):
    problem = run.problem(estimator.check, {"algorithm.durian": "text"})
    assert problem.startswith("algorithm.durian='text': must be a mapping with the keys weights, ")
    assert run.notes(data.check, {"algorithm.durian": "text"}) == []


def test_lengths_beyond_the_models_context(run):
    (note,) = run.notes(check_context, {"data.max_response_length": 10**6})
    assert "data.max_response_length=1000000: 1000064 tokens, and the model reads" in note
    assert "MAX_RESPONSE_LENGTH" in note
    problem = run.problem(check_context, {"actor_rollout_ref.rollout.max_model_len": 10**6})
    assert problem.startswith("actor_rollout_ref.rollout.max_model_len=1000000: the model reads ")


def test_what_only_training_needs_is_not_asked_for_where_nothing_is_trained(run):
    alone = ("algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=1", "data.train_batch_size=48")
    problems, notes = run.examined(*alone)
    assert any("compares the rollouts" in note for note in notes)
    assert any("the training set has 24 rows" in problem for problem in problems)
    assert run.examined(*alone, "trainer.val_only=True") == ([], [])
    problems, _ = run.examined(*alone, "trainer.val_only=True", "trainer.val_before_train=False")
    assert problems != []


def test_what_is_not_about_hydra_is_told_with_it(run):
    run.train.unlink()
    problems, _ = run.examined("data.seeed=1", "+algorithm.durian.weight=1")
    assert [re.split("[=:]", problem)[0] for problem in problems] == [
        "data.seeed",
        "algorithm.durian.weight",
        "data.train_files",
    ]


def test_a_value_of_another_kind_is_told_without_what_follows_from_its_default(run):
    problems, _ = run.examined("actor_rollout_ref.rollout.n=x", "data.max_prompt_length=2O")  # verl's default is 1, 512
    assert sorted(problems) == [
        "actor_rollout_ref.rollout.n=x: must be an integer, 1 or more",
        "data.max_prompt_length=2O: must be an integer, 1 or more",
    ]
    problems, _ = run.examined("trainer.max_actor_ckpt_to_keep=two")
    assert problems == ["trainer.max_actor_ckpt_to_keep=two: must be an integer"]


def test_a_group_that_does_not_exist(run):
    with pytest.raises(ValueError, match="Hydra cannot compose the config: .*model_engine"):
        examine(run.settings("model_engine=fsdp3"))


# --- estimator


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"algorithm.adv_estimator": "durain"}, "did you mean durian? verl knows durian, gae, "),
        ({"algorithm.adv_estimator": "sft"}, "algorithm.adv_estimator=sft: verl knows durian, gae, "),
        ({"algorithm.adv_estimator": "grpo_passk", "actor_rollout_ref.rollout.n": 1}, "grpo_passk compares the roll"),
        ({"algorithm.durian.reasoning.groups": 3}, "Allowed under algorithm.durian.reasoning: num_groups, confidence"),
        ({"algorithm.durian.weights.original": -1}, "weights.original=-1"),
        ({"algorithm.norm_adv_by_std_in_grpo": False}, "has no meaning for durian"),
    ],
)
def test_the_estimator(run, changes, told):
    assert told in run.problem(estimator.check, changes)


def test_what_may_be_meant_is_a_note(run):
    """verl gives a rollout alone its reward for an advantage; the user's modules may register an estimator."""
    for name in ("durian", "grpo"):
        (*_, note) = reversed(run.notes(estimator.check, {"algorithm.adv_estimator": name, ROLLOUTS: 1}))
        assert note.startswith(f"{ROLLOUTS}=1: {name} compares the rollouts of a prompt with each other, ")
    filtered = {"algorithm.adv_estimator": "reinforce_plus_plus", ROLLOUTS: 1, "algorithm.filter_groups.enable": True}
    assert run.notes(estimator.check, filtered) == []  # a group of one is never dropped
    for module in ("actor_rollout_ref.model.external_lib", "data.custom_cls.path"):
        (note,) = run.notes(estimator.check, {"algorithm.adv_estimator": "mine", module: "mine.py"})
        assert note.startswith("algorithm.adv_estimator=mine: verl knows ")


def test_few_prompts_are_a_note(run):
    few = {"data.train_batch_size": 2}
    (note,) = run.notes(estimator.check, few)
    assert "data.train_batch_size=2" in note and "num_groups=12" in note and "that prompt's GRPO" in note
    assert run.notes(estimator.check, {**few, "algorithm.durian.reasoning.num_groups": 1}) == []
    assert run.notes(estimator.check, {**few, "algorithm.durian.weights.reasoning": 0}) == []
    assert run.notes(estimator.check, {**few, "algorithm.adv_estimator": "grpo"}) == []


# --- what verl and the installation say


def test_verls_own_check(run):
    def refused(changes: dict[str, object]) -> str:
        (finding,) = verl_checks.check(run.config(changes))
        return finding.text

    assert verl_checks.check(run.config()) == []
    problem = refused({"actor_rollout_ref.actor.ppo_mini_batch_size": 32})
    assert problem.startswith("verl refuses these settings: ") and "actor.ppo_mini_batch_size (32)" in problem
    assert "Invalid loss_agg_mode: mean" in refused({"actor_rollout_ref.actor.loss_agg_mode": "mean"})


def test_settings_that_crash_and_packages_that_are_needed(run, monkeypatch):
    there = installation.find_spec
    absent = ("megatron", "flash_attn")
    monkeypatch.setattr(installation, "find_spec", lambda name: None if name.split(".")[0] in absent else there(name))
    monkeypatch.setattr(settings, "_vllm_keeps_image_normalization_in_a_buffer", lambda: True)
    problems, _ = run.examined("actor_rollout_ref.rollout.load_format=dummy", "model_engine=megatron")
    *packages, dummy = problems
    assert [problem.split(":")[0] for problem in packages] == ["megatron.core", "megatron.bridge"]
    assert all('pip install "verl[megatron]"' in problem for problem in packages)
    assert "set actor_rollout_ref.rollout.load_format=auto" in dummy
    attention = "actor_rollout_ref.model.override_config.attn_implementation"
    (missing,) = installation.check_packages(run.config({attention: "flash_attention_2"}))
    assert missing.text.startswith("flash_attn: not installed") and "ATTENTION=sdpa" in missing.text
    assert installation.check_packages(run.config({attention: "sdpa"})) == []
    for other in ({"actor_rollout_ref.actor.strategy": "veomni"}, {"trainer.device": "npu"}):
        assert installation.check_packages(run.config({attention: "flash_attention_2", **other})) == []


def test_a_plugin_that_verl_may_not_load(run):
    """In a process of its own, as plugins are loaded once; and as the command line."""
    program = [sys.executable, "-m", "verl_durian.preflight", *run.settings()]
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none"}
    done = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "unset VERL_USE_EXTERNAL_PLUGINS" in done.stderr
    # Another estimator does without the plugin.
    done = subprocess.run([*program, "algorithm.adv_estimator=grpo"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "note: plugins allowed" in done.stderr


# --- model


def test_models_that_cannot_be(tmp_path, tiny_qwen25vl):
    def refused(path: Path | str) -> str:
        with pytest.raises(ValueError) as error:
            read(OmegaConf.create({"path": str(path)}))
        assert str(error.value).startswith(f"actor_rollout_ref.model.path={path}: ") and "\n" not in str(error.value)
        return str(error.value)

    assert "verl cannot read it" in refused("absent/model") and "correct the path" in refused("absent/model")
    assert "no such folder" in refused("/absent/model")
    (empty := tmp_path / "empty").mkdir()
    assert "holds no config.json" in refused(empty)
    part = Path(shutil.copytree(tiny_qwen25vl, tmp_path / "part"))
    (part / "tokenizer.json").unlink()
    assert "verl cannot read it" in refused(part)
    (part / "config.json").write_text(json.dumps({"model_type": "none"}))
    assert "verl cannot read it" in refused(part)


def test_a_folder_without_weights(run, tmp_path, tiny_qwen25vl):
    part = Path(shutil.copytree(tiny_qwen25vl, tmp_path / "part"))
    (part / "model.safetensors").unlink()

    def stops(strategy: str) -> list[bool]:
        changes = {"actor_rollout_ref.model.path": part, "actor_rollout_ref.actor.strategy": strategy}
        return [finding.stops for finding in check_weights(run.config(changes)) if "holds no weights" in finding.text]

    assert stops("fsdp2") == [True]
    assert stops("megatron") == [False]  # may have them in a checkpoint of its own
    (part / "model.safetensors").touch()
    assert stops("fsdp2") == []


def test_a_config_and_a_tokenizer_of_another_folder(tmp_path, tiny_qwen25vl):
    """As verl reads them: the weights' folder needs neither."""
    names = ("config.json", "generation_config.json")
    weights, config, tokenizer = (tmp_path / name for name in ("weights", "config", "tokenizer"))
    for folder in (weights, config, tokenizer):
        folder.mkdir()
    for file in tiny_qwen25vl.iterdir():
        folder = config if file.name in names else weights if file.suffix == ".safetensors" else tokenizer
        shutil.copy(file, folder)
    shutil.copy(config / "config.json", tokenizer)  # of which verl's processor needs one
    paths = {"path": weights, "hf_config_path": config, "tokenizer_path": tokenizer}
    settings = OmegaConf.create({name: str(folder) for name, folder in paths.items()})
    model = read(settings)
    assert model.takes_images and model.parameters == tiny_model(tiny_qwen25vl).parameters
    assert read_type(settings) == "qwen2_5_vl"
    settings.hf_config_path = None
    assert read_type(settings) is None


def test_a_model_with_code_of_its_own(run, tmp_path, tiny_qwen25vl):
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
    assert not memory.can_be_estimated(run.config(), model)
    assert read_type(settings) == "mine"


@pytest.mark.parametrize("strategy", ["veomni", "torchtitan"])
def test_a_strategy_whose_memory_is_not_known_is_not_estimated(run, strategy):
    own = [each for each in run.settings(f"model_engine={strategy}") if "actor.strategy" not in each]
    _, findings = examine([*own, "trainer.save_freq=1"])
    assert not any("estimate" in finding.text for finding in findings)
    assert not any(finding.stops and strategy not in finding.text for finding in findings)


def test_a_model_whose_class_is_not_transformers_own_is_not_counted():
    config = transformers.PretrainedConfig(architectures=["DeepseekV3ForCausalLM"])
    assert count_parameters(config) is None


def test_a_proxy_between_us_and_the_hub_is_no_matter_of_the_start(monkeypatch):
    def fail(*_):
        raise httpx.ProxyError("403 Forbidden")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    assert read_type(OmegaConf.create({"path": "absent/model"})) is None


def test_a_column_of_images_that_is_no_list(run):
    run.write(*[{**row(), "images": 5}] * 24)
    assert "row 0: images=5 must be a list (data.image_key)" in run.problem(data.check)


def test_a_model_that_cannot_be_read_is_no_matter_of_the_start(tmp_path):
    for path in ("/absent", "absent/model", "hdfs:/model", str(tmp_path)):
        assert read_type(OmegaConf.create({"path": path})) is None


def test_a_model_that_cannot_be_is_told_with_the_rest(run):
    problems, _ = run.examined("actor_rollout_ref.model.path=absent/model", "data.val_files=absent.parquet")
    assert [problem.split("=")[0] for problem in problems] == ["actor_rollout_ref.model.path", "data.val_files"]


# --- data


def test_files_that_are_not_there(run):
    problem = run.problem(data.check, {"data.train_files": "data/geometry3k/train.parquet"})
    assert problem.startswith("data.train_files=data/geometry3k/train.parquet: there is no such file")
    assert problem.endswith("verl-durian prepare geometry3k --output data/geometry3k")
    problem = run.problem(data.check, {"data.val_files": ["/data/a.parquet", str(run.val)]})
    assert problem.startswith("data.val_files=/data/a.parquet: there is no such file; correct the path")


def test_files_that_cannot_be_read(run):
    run.train.write_bytes(run.train.read_bytes()[:200])
    assert "cannot be read" in run.problem(data.check)
    other = run.train.rename(run.train.with_suffix(".csv"))
    assert "verl reads .parquet, .json, .jsonl" in run.problem(data.check, {"data.train_files": other})


def test_files_without_rows(run):
    """`datasets` fails on them, also where another file has rows."""
    pq.write_table(pq.read_table(run.val).slice(0, 0), run.train)
    told = "the file has no rows, and verl cannot read it; write it again or leave it out"
    assert run.problem(data.check) == f"data.train_files={run.train}: {told}"
    assert run.problem(data.check, {"data.train_files": [str(run.val), str(run.train)]}).endswith(told)
    empty = run.folder / "empty.jsonl"
    empty.touch()
    assert (
        run.problem(data.check, {"data.train_files": run.val, "data.val_files": empty})
        == f"data.val_files={empty}: {told}"
    )


def test_files_that_only_datasets_can_find(run):
    files = ["hf://datasets/a/b/train.parquet", "hdfs://a/train.parquet", str(run.folder / "*.parquet")]
    assert [note.split(": is not checked")[0] for note in run.notes(data.check, {"data.train_files": files})] == [
        f"data.train_files={file}" for file in files
    ]


def test_jsonl_is_read_too(run):
    file = run.folder / "train.jsonl"
    rows = [row("red?", images=[]) for _ in range(24)]
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    notes = run.notes(data.check, {"data.train_files": file})
    assert any("the first 16 rows have no image" in note for note in notes)


UNFILTERED = {"data.filter_overlong_prompts": False}


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (row(reward_model={"style": "rule"}), "row 0 has no reward_model.ground_truth"),
        (row(prompt="red?"), "row 0: prompt must be a list of messages"),
        ({"question": "red?", "answer": "yes"}, "no column prompt, data_source, reward_model, but question, answer"),
    ],
)
def test_rows_that_cannot_be_used(run, broken, told):
    run.write(*[broken] * 24)
    problem = run.problem(data.check)
    assert problem.startswith(f"data.train_files={run.train}: ") and told in problem


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (row("red?"), "row 1 has 0 <image> in its prompt and 1 in its column images"),
        (row("<image><image>red?"), "row 1 has 2 <image> in its prompt and 1 in its column images"),
        (row("<image><video>red?"), "row 1 has 1 <video> in its prompt and 0 in its column videos"),
        (row(images=[b"no picture"]), "row 1: image 0 is no picture"),
        (row(images=[None]), "row 1: image 0 is no picture"),
    ],
)
def test_rows_on_which_verls_data_set_fails(run, broken, told):
    """verl's filter for long prompts leaves them out, without it they end the run."""
    from transformers import AutoProcessor
    from verl.utils.dataset.rl_dataset import RLHFDataset

    run.write(row(), broken, *[row()] * 22)
    assert told in run.problem(data.check, UNFILTERED)
    (note,) = run.notes(data.check)
    assert told in note and note.endswith("verl leaves such rows out (data.filter_overlong_prompts)")
    processor = AutoProcessor.from_pretrained(run.path)
    config = run.config({"data.filter_overlong_prompts_workers": None})
    assert len(RLHFDataset([str(run.train)], processor.tokenizer, config.data, processor)) == 23
    config.data.filter_overlong_prompts = False
    with pytest.raises(Exception):  # noqa: B017
        RLHFDataset([str(run.train)], processor.tokenizer, config.data, processor)[1]


def test_a_mark_without_any_image_stays_a_text_for_verl(run):
    run.write(row(images=[]), *[row()] * 23)
    (note,) = run.notes(data.check, {"algorithm.adv_estimator": "grpo", **MEGATRON})
    assert "row 0 has 1 <image> in its prompt and 0 in its column images" in note


def test_structured_messages_are_left_to_verl(run):
    parts = [{"role": "user", "content": [{"type": "text", "text": "red?"}]}]
    run.write(*[row(images=[], prompt=parts)] * 24)
    assert run.notes(data.check, {"algorithm.adv_estimator": "grpo", **MEGATRON}) == []


OURS = {"reward.custom_reward_function.path": "pkg://verl_durian.reward"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reward_model": {"ground_truth": None}}, "reward_model.ground_truth: None cannot be an answer"),
        ({"reward_model": {"ground_truth": [5, 6]}}, "reward_model.ground_truth: [5, 6] cannot be an answer"),
        ({"reward_model": {"ground_truth": b"5"}}, "reward_model.ground_truth: b'5' cannot be an answer"),
        ({"reward_model": {"ground_truth": {"a": 5}}}, "reward_model.ground_truth: {'a': 5} cannot be an answer"),
        ({"extra_info": {"index": 3, "decimals": "two"}}, "extra_info.decimals: could not convert string to float"),
        ({"extra_info": {"index": 3, "answer_type": "choice", "choices": [1, 2]}}, "ground truth 'YES' of a row with"),
    ],
)
def test_answers_that_our_reward_cannot_grade(run, changes, told):
    base = {"extra_info": {"index": 3}}
    run.write(*[row(**base | changes)] * 24)
    problem = run.problem(data.check, OURS)
    assert problem.startswith(f"data.train_files={run.train}: row 0: {told}")
    assert problem.endswith("(data_source=set, extra_info.index=3)")
    assert run.notes(data.check) == []  # another reward may take it
    assert run.notes(data.check, {**OURS, "reward.reward_manager.source": "importlib"}) == []


def test_answers_that_are_numbers_are_taken(run):
    numbers = {"answer_type": "choice", "choices": [30, 45], "decimals": 2.0}
    run.write(*[row(reward_model={"ground_truth": "B"}, extra_info=numbers)] * 24)
    assert run.notes(data.check, OURS) == []
    for truth in (5, 5.0):
        run.write(*[row(reward_model={"ground_truth": truth})] * 24)
        assert run.notes(data.check, OURS) == []


def test_columns_that_no_reward_reads_are_not_asked_for(run):
    run.write(*[{key: value for key, value in row().items() if key in ("prompt", "images")}] * 24)
    shutil.copy(run.train, run.val)
    problems, _ = run.found(data.check)
    assert len(problems) == 2 and all("no column data_source, reward_model" in problem for problem in problems)
    assert run.notes(data.check, {"reward.reward_model.enable": True}) == []
    assert run.notes(data.check, {"reward.reward_manager.name": "mine"}) == []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("1.5", "visual_entropy='1.5' is no finite number of nats"),
        ("high", "visual_entropy='high' is no finite number of nats"),
        ([1.0], "visual_entropy=[1.0] is no finite number of nats"),
        ({"nats": 1.0}, "visual_entropy={'nats': 1.0} is no finite number of nats"),
        (float("inf"), "visual_entropy=inf is no finite number of nats"),
        (float("-inf"), "visual_entropy=-inf is no finite number of nats"),
        (None, "visual_entropy=None is missing for an image or a video"),
        (float("nan"), "visual_entropy=nan is missing for an image or a video"),
    ],
)
def test_visual_entropies_that_training_refuses(run, value, told):
    good = value if isinstance(value, (str, list, dict)) else 1.0
    rows = [row(visual_entropy=good) for _ in range(24)]
    number = 0 if good is value else 2
    rows[2]["visual_entropy"] = value
    run.write(*rows)
    problem = run.problem(data.check)
    assert problem.startswith(f"data.train_files={run.train}: row {number}: {told}; ")
    assert run.notes(data.check, {"algorithm.adv_estimator": "grpo"}) == []
    assert run.notes(data.check, {"algorithm.durian.weights.perceptual": 0}) == []
    assert run.notes(data.check, {"trainer.val_only": True}) == []


def test_visual_entropies_that_training_takes(run):
    for value in (1, 0.5):
        run.write(*[row(visual_entropy=value)] * 24)
        assert run.notes(data.check) == []
    run.write(*[row(visual_entropy=1.0)] * 20, *[row("red?", images=[], visual_entropy=None)] * 4)
    assert run.notes(data.check) == []


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>"])
def test_the_models_own_tokens_in_a_prompt_are_named(run, token):
    told = f"row 0 has {token} in its prompt, the model's own token for an image or a video, with nothing behind it"
    for images, unfiltered in (([picture()], {}), ([], MEGATRON)):
        run.write(row("<image>" * len(images) + f"red {token}?", images=images), *[row()] * 23)
        (note,) = run.notes(data.check, {**UNFILTERED, **unfiltered})
        assert told in note and "verl has no rollouts of such rows" in note
        assert told in run.problem(data.check, {**UNFILTERED, **unfiltered, "trainer.use_v1": False})
    for harmless in ("<|im_end|>", "<|vision_start|>", "<|endoftext|>"):
        run.write(row(f"<image>red {harmless}?"), *[row()] * 23)
        assert run.notes(data.check, UNFILTERED) == []


def test_another_column_of_images(run):
    rows = [row() for _ in range(24)]
    for each in rows:
        each["pictures"] = each.pop("images")
    run.write(*rows)
    shutil.copy(run.train, run.val)
    problems, _ = run.found(data.check)  # verl would train without the images
    assert len(problems) == 2 and all("(data.image_key)" in problem for problem in problems)
    assert run.notes(data.check, {"data.image_key": "pictures"}) == []


def test_prompts_that_are_too_long(run):
    run.write(*[row()] * 20, *[row("<image>" + "red " * 100)] * 4)
    assert run.notes(data.check) == []  # beyond the rows that are read
    run.write(*[row("<image>" + "red " * 100)] * 4, *[row()] * 20)
    (note,) = run.notes(data.check)
    assert "4 of the first 16 prompts are longer than data.max_prompt_length=64" in note
    assert "verl leaves them out; raise it (MAX_PROMPT_LENGTH)" in note
    (note,) = run.notes(data.check, UNFILTERED)
    assert "verl has no rollouts of those with images, and cuts the others" in note


def test_lengths_are_those_that_verl_counts(run, tiny_qwen25vl):
    from transformers import AutoProcessor
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = run.config({"data.filter_overlong_prompts_workers": None})  # forks do not go with threads
    rows = [row(), row("red?", images=[]), row("<image>a<image>", images=[picture(140), picture(84)])]
    run.write(*rows)
    processor = AutoProcessor.from_pretrained(tiny_qwen25vl)
    lengths = [data._prompt_tokens(each, config, tiny_model(tiny_qwen25vl)) for each in rows]
    for longest in {*lengths, *(length - 1 for length in lengths)}:
        config.data.max_prompt_length = longest
        kept = RLHFDataset([str(run.train)], processor.tokenizer, config.data, processor)
        assert len(kept) == sum(length <= longest for length in lengths)


def test_too_few_rows_for_a_step(run):
    run.write(*[row()] * 23)
    assert "the training set has 23 rows" in run.problem(data.check)
    run.write(*[row()] * 30)
    assert "the training set has 10 rows" in run.problem(data.check, {"data.train_max_samples": 10})


def test_text_only_data_leave_the_perceptual_axis_empty(run):
    run.write(*[row("red?", images=[])] * 24)
    (note,) = run.notes(data.check, MEGATRON)
    assert "have no image" in note and "+algorithm.durian.weights.perceptual=0" in note
    assert run.notes(data.check, {**MEGATRON, "algorithm.durian.weights.perceptual": 0}) == []
    assert run.notes(data.check, {**MEGATRON, "algorithm.adv_estimator": "grpo"}) == []


def test_rows_without_image_on_which_verl_crashes(run):
    texts = [{key: value for key, value in row("red?").items() if key != "images"}] * 24
    run.write(*texts)
    problem = run.problem(data.check, {"algorithm.adv_estimator": "grpo"})
    assert "16 of the first 16 rows have no image, and verl crashes on a micro batch of such rows; add rows" in problem
    both = {"algorithm.adv_estimator": "grpo", "data.train_files": [str(run.train), str(run.val)]}
    (note,) = run.notes(data.check, both)  # micro batches may be mixed
    assert "16 of the first 16 rows have no image" in note
    run.write(*[row("red?", images=[])] * 3, *[row()] * 21)
    (note,) = run.notes(data.check)
    assert "3 of the first 16 rows have no image" in note and "PPO_MICRO_BATCH_SIZE" in note


def test_images_that_the_model_cannot_take(run, tmp_path):
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
    assert all("takes texts alone" in problem for problem in problems)
    run.write(*[row("red?", images=[])] * 24)
    shutil.copy(run.train, run.val)
    assert run.notes(data.check, {"algorithm.adv_estimator": "grpo"}) == []


def test_images_that_cannot_be_scored(run):
    config = run.config()
    other = Model("llava", 1, 1, 1, 1, 1, type("P", (), {"image_processor": None}))
    (finding,) = data._check_perceptual([row()], True, "data.train_files=f", config, other)
    assert "cannot be scored by the vision tower of a llava" in finding.text
    assert data._check_perceptual([row(visual_entropy=1.0)], True, "data.train_files=f", config, other) == []


# --- machine


def test_a_machine_without_gpus(run):
    cuda = {"trainer.device": "cuda", "trainer.n_gpus_per_node": 8}
    problem = run.problem(machine.check, cuda)
    assert (
        problem.startswith("trainer.n_gpus_per_node=8: PyTorch sees 0 GPUs here; ") and "run_quickstart.sh" in problem
    )
    nodes = {**cuda, "trainer.nnodes": 2}
    problem = run.problem(machine.check, nodes)
    assert problem.startswith("trainer.nnodes=2, trainer.n_gpus_per_node=8: PyTorch sees 0 GPUs here; set NNODES=1, or")
    for address in ("10.0.0.1:6379", "ray://10.0.0.1:10001"):
        (note,) = run.notes(machine.check, {**nodes, "ray_kwargs.ray_init.address": address})
        assert f"the Ray cluster at {address} is joined" in note


def test_nodes_that_are_parts_of_one_machine(run, monkeypatch):
    """verl asks Ray for the sum of GPUs alone, where no cluster is joined; what is free now may change."""
    monkeypatch.setattr(machine, "visible_gpus", lambda: [(70 << 30, 80 << 30)] * 7 + [(10 << 30, 80 << 30)])
    half = {"trainer.device": "cuda", "trainer.nnodes": 2, "trainer.n_gpus_per_node": 4, "data.train_batch_size": 24}
    (free, estimate) = run.notes(machine.check, {**half, "actor_rollout_ref.rollout.gpu_memory_utilization": 0.5})
    assert free.startswith("GPU 7: 11 of 86 GB are free now") and estimate.startswith("estimate, not measured: ")


def test_a_cluster_is_found_as_ray_finds_it(monkeypatch):
    assert machine.running_cluster("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert machine.running_cluster(None) == "10.0.0.2:6379"


def test_what_is_not_on_this_machine_may_be_on_the_clusters(run, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    settings = {"trainer.save_freq": 1, "trainer.default_local_dir": "/proc/x", "data.val_files": "/absent.parquet"}
    problems, notes = run.examined(
        "actor_rollout_ref.model.path=/absent", *(f"{name}={value}" for name, value in settings.items())
    )
    assert problems == []
    for name in ("actor_rollout_ref.model.path=/absent", "data.val_files=/absent", "trainer.default_local_dir=/proc/x"):
        assert any(note.startswith(name) for note in notes), notes


def test_engines_that_do_not_divide_the_gpus(run):
    problem = run.problem(machine.check, {"actor_rollout_ref.rollout.tensor_model_parallel_size": 2})
    assert "1 GPUs do not divide into rollout engines of 2" in problem


def test_engines_on_gpus_of_their_own(run):
    """With `hybrid_engine`, verl's default, the training GPUs have engines too; without it only the other GPUs."""
    separate = {
        "trainer.v1.trainer_mode": "separate_async",
        "trainer.n_gpus_per_node": 4,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 8,
        "actor_rollout_ref.rollout.nnodes": 1,
        "actor_rollout_ref.rollout.n_gpus_per_node": 8,
    }
    alone = {**separate, "actor_rollout_ref.hybrid_engine": False}
    assert run.notes(machine.check, alone) == []
    assert "4 GPUs do not divide into rollout engines of 8" in run.problem(machine.check, separate)
    assert "4 GPUs do not divide" in run.problem(machine.check, {**alone, "trainer.v1.trainer_mode": "sync"})


def gpu_settings(run: Run, changes: dict[str, object] | None = None) -> DictConfig:
    settings = {"trainer.n_gpus_per_node": 8, "actor_rollout_ref.rollout.gpu_memory_utilization": 0.6}
    return run.config({**settings, **(changes or {})})


def test_memory_that_may_not_suffice_is_a_note(run):
    tp, nodes = "actor_rollout_ref.rollout.tensor_model_parallel_size", "trainer.nnodes"
    offload = {f"actor_rollout_ref.actor.fsdp_config.{part}_offload": True for part in ("param", "optimizer")}
    sound = {tp: 8, nodes: 4, **offload}
    (estimate,) = memory.check(gpu_settings(run, sound), LARGE, 80e9)
    assert not estimate.stops and estimate.text.startswith("estimate, not measured: ")
    for changes, told in (
        ({tp: 2}, "73 GB of weights on each GPU are more than the rollout engine's 48 GB"),
        ({nodes: 1}, "weights, gradients and optimizer take 147 GB of each GPU"),
        (dict.fromkeys(offload, False) | {nodes: 2}, "lie 55 GB of weights and optimizer"),
    ):
        doubt, estimate = memory.check(gpu_settings(run, sound | changes), LARGE, 80e9)
        assert not doubt.stops and told in doubt.text
    policy = {"actor_rollout_ref.actor.strategy": "fsdp2", "actor_rollout_ref.actor.fsdp_config.offload_policy": True}
    (estimate,) = memory.check(gpu_settings(run, {tp: 8, nodes: 1, **policy}), LARGE, 80e9)
    assert not estimate.stops
    micro = {"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 64, "data.max_response_length": 2048}
    (estimate,) = memory.check(gpu_settings(run, sound | micro), LARGE, 80e9)
    assert not estimate.stops and "lower PPO_MICRO_BATCH_SIZE" in estimate.text


def test_memory_of_the_machine(run):
    offload = {f"actor_rollout_ref.actor.fsdp_config.{part}_offload": True for part in ("param", "optimizer")}
    config = gpu_settings(run, offload)
    (doubt,) = machine.check_host(config, LARGE, 512e9)
    assert not doubt.stops
    assert "put by an estimate 881 GB into the memory of each machine, which has 512 GB" in doubt.text
    assert machine.check_host(config, LARGE, 1024e9) == []
    assert machine.check_host(gpu_settings(run), LARGE, 1e9) == []


# --- checkpoints


def test_room_for_checkpoints(run):
    def room(changes: dict[str, object], free: float) -> list[str]:
        findings = checkpoints.check_room(run.config({"trainer.max_actor_ckpt_to_keep": 3, **changes}), LARGE, free)
        assert not any(finding.stops for finding in findings)
        return [finding.text for finding in findings]

    contents = "actor_rollout_ref.actor.checkpoint.save_contents"
    (note,) = room({}, 2000e9)
    assert "2000 GB are free here, and by an estimate this machine's part of 3 checkpoints takes 881 GB each" in note
    assert room({}, 2700e9) == []
    assert room({contents: ["model"]}, 900e9) == []
    assert "takes 294 GB each" in room({contents: ["model"]}, 800e9)[0]
    assert "takes 147 GB each" in room({contents: ["hf_model"]}, 400e9)[0]
    assert "takes 440 GB each" in room({"trainer.nnodes": 2}, 1000e9)[0]
    assert run.notes(checkpoints.check, {"trainer.save_freq": 1}) == []


def test_a_folder_that_cannot_be_written_to_is_named(run):
    (run.folder / "file").touch()
    for folder, reason in ((run.folder / "file" / "x", "is a file"), ("/proc/x", "/proc: No such file or directory")):
        problem = run.problem(checkpoints.check, {"trainer.default_local_dir": folder, "trainer.save_freq": 1})
        assert problem.startswith(f"trainer.default_local_dir={folder}: ") and reason in problem
        assert run.notes(checkpoints.check, {"trainer.default_local_dir": folder}) == []  # nothing is saved


def test_a_checkpoint_that_is_not_there(run):
    def resume(folder: Path | str) -> dict:
        return {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": folder}

    (run.folder / "global_step_2" / "actor").mkdir(parents=True)
    assert run.notes(checkpoints.check, resume(run.folder / "global_step_2")) == []
    assert "name a folder global_step_N (RESUME)" in run.problem(
        checkpoints.check, resume(run.folder / "global_step_4")
    )
    assert "name a folder global_step_N" in run.problem(checkpoints.check, resume(run.folder))
    problem = run.problem(checkpoints.check, resume(f"{run.folder / 'global_step_2'}/"))  # of which verl makes a number
    assert "name a folder global_step_N" in problem


# --- command line


def test_dry_run_prints_config_and_command_and_tells_the_findings(run, capsys):
    overrides = run.settings("data.train_batch_size=2", "actor_rollout_ref.actor.ppo_mini_batch_size=2")
    assert main(["--dry-run", *overrides, "trainer.logger=[console]"]) == 0
    told = capsys.readouterr()
    text, words = told.out.split("\npython ")
    config = OmegaConf.create(text)
    assert config.data.train_batch_size == 2 and config.actor_rollout_ref.actor.rollout_n == 4
    assert "-m \\\n    verl.trainer.main_ppo" in words and "'trainer.logger=[console]'" in words
    assert "--dry-run" not in words
    assert told.err.startswith("preflight: note: data.train_batch_size=2")

    assert main(["--dry-run", *overrides, "algorithm.adv_estimator=durain"]) == 2
    told = capsys.readouterr()
    assert "adv_estimator: durain" in told.out and "1 problem; nothing is started" in told.err


def test_without_dry_run_only_findings_are_told(run, capsys):
    assert main(run.settings()) == 0
    assert capsys.readouterr() == ("", "preflight: no problem found\n")
    assert main([*run.settings(), "--dryrun"]) == 2
    assert "--dryrun: no setting" in capsys.readouterr().err

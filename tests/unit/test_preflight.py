# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
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

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from verl_durian.preflight import checkpoints, data, estimator, installation, machine, memory, settings, verl_checks
from verl_durian.preflight.__main__ import main
from verl_durian.preflight.compose import compose
from verl_durian.preflight.examine import examine
from verl_durian.preflight.model import Model, check_context, read

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
        "data.filter_overlong_prompts=1": "must be true or false",
        "actor_rollout_ref.rollout.gpu_memory_utilization=half": "must be a number",
        "trainer.n_gpus_per_node=0": "must be an integer, 1 or more",
        "trainer.total_training_steps=x": "must be an integer, 1 or more",
        "data.seed=x": "must be an integer",
        "actor_rollout_ref.model.lora_rank=-3": "must be an integer, 0 or more",
        "algorithm.durian.reasoning.num_groups=8": "write it with a + in front",
    }
    problems, _ = run.examined(*wrong)
    told = {override: text for text in problems for override in wrong if text.startswith(f"{override}: ")}
    assert len(told) == len(problems) == len(wrong)
    assert all(wrong[override] in text for override, text in told.items())


def test_lengths_beyond_the_models_context_are_refused(run):
    problem = run.problem(check_context, {"data.max_response_length": 10**6})
    assert "data.max_response_length=1000000: 1000064 tokens, and the model reads" in problem
    assert "MAX_RESPONSE_LENGTH" in problem


def test_what_only_training_needs_is_not_asked_for_where_nothing_is_trained(run):
    alone = ("algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=1", "trainer.save_freq=1")
    problems, _ = run.examined(*alone)
    assert any("compares the rollouts" in problem for problem in problems)
    assert run.examined(*alone, "trainer.val_only=True") == ([], [])


def test_what_is_not_about_hydra_is_told_with_it(run):
    run.train.unlink()
    problems, _ = run.examined("data.seeed=1", "+algorithm.durian.weight=1", "actor_rollout_ref.rollout.n=1")
    assert [re.split("[=:]", problem)[0] for problem in problems] == [
        "data.seeed",
        "actor_rollout_ref.rollout.n",
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
    assert problems == ["trainer.max_actor_ckpt_to_keep=two: must be an integer, 1 or more"]


def test_a_group_that_does_not_exist(run):
    with pytest.raises(ValueError, match="Hydra cannot compose the config: .*model_engine"):
        examine(run.settings("model_engine=fsdp3"))


# --- estimator


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"algorithm.adv_estimator": "durain"}, "did you mean durian? verl knows durian, gae, "),
        ({"algorithm.adv_estimator": "sft"}, "algorithm.adv_estimator=sft: verl knows durian, gae, "),
        ({"actor_rollout_ref.rollout.n": 1}, "durian compares the rollouts of a prompt with each other; set it to 2"),
        ({"algorithm.adv_estimator": "grpo", "actor_rollout_ref.rollout.n": 1}, "grpo compares the rollouts"),
        (
            {
                "algorithm.adv_estimator": "reinforce_plus_plus",
                "actor_rollout_ref.rollout.n": 1,
                "algorithm.filter_groups.enable": True,
            },
            "drops every prompt whose rollouts are alike, so all",
        ),
        ({"algorithm.durian.reasoning.groups": 3}, "Allowed under algorithm.durian.reasoning: num_groups, confidence"),
        ({"algorithm.durian.weights.original": -1}, "weights.original=-1"),
        ({"algorithm.norm_adv_by_std_in_grpo": False}, "has no meaning for durian"),
    ],
)
def test_the_estimator(run, changes, told):
    assert told in run.problem(estimator.check, changes)


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


def test_a_plugin_that_verl_may_not_load(run):
    """In a process of its own, as plugins are loaded once; and as the command line."""
    program = [sys.executable, "-m", "verl_durian.preflight", *run.settings()]
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none"}
    done = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "unset VERL_USE_EXTERNAL_PLUGINS" in done.stderr


# --- model


def test_models_that_cannot_be(tmp_path, tiny_qwen25vl):
    def refused(path: Path | str) -> str:
        with pytest.raises(ValueError) as error:
            read(OmegaConf.create({"path": str(path)}))
        assert str(error.value).startswith(f"actor_rollout_ref.model.path={path}: ") and "\n" not in str(error.value)
        return str(error.value)

    assert "no such folder, and no model that the hub lets us read" in refused("absent/model")
    (empty := tmp_path / "empty").mkdir()
    assert "holds no config.json" in refused(empty)
    part = Path(shutil.copytree(tiny_qwen25vl, tmp_path / "part"))
    (part / "model.safetensors").unlink()
    assert "holds no weights" in refused(part)
    (part / "model.safetensors").touch()
    (part / "tokenizer.json").unlink()
    assert "transformers cannot read it" in refused(part)
    (part / "config.json").write_text(json.dumps({"model_type": "none"}))
    assert "transformers cannot read it" in refused(part)


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


def test_jsonl_is_read_too(run):
    file = run.folder / "train.jsonl"
    rows = [row("red?", images=[]) for _ in range(24)]
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert "the first 16 rows have no image" in run.problem(data.check, {"data.train_files": file})


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (row("red?"), "row 0 has 0 <image> in its prompt and 1 in its column images"),
        (row("<image><image>red?"), "row 0 has 2 <image> in its prompt and 1 in its column images"),
        (row(images=[]), "row 0 has 1 <image> in its prompt and 0 in its column images"),
        (row(images=[b"no picture"]), "row 0 cannot be made a prompt (image 0: not a picture"),
        (row(reward_model={"style": "rule", "ground_truth": None}), "row 0 has no answer"),
        (row(prompt="red?"), "row 0: prompt must be a list of messages"),
        ({"question": "red?", "answer": "yes"}, "no column prompt, data_source, reward_model, but question, answer"),
    ],
)
def test_rows_that_cannot_be_used(run, broken, told):
    run.write(*[broken] * 24)
    problem = run.problem(data.check)
    assert problem.startswith(f"data.train_files={run.train}: ") and told in problem


def test_another_column_of_images(run):
    rows = [row() for _ in range(24)]
    for each in rows:
        each["pictures"] = each.pop("images")
    run.write(*rows)
    shutil.copy(run.train, run.val)
    problems, _ = run.found(data.check)
    assert len(problems) == 2 and all("(data.image_key)" in problem for problem in problems)
    assert run.notes(data.check, {"data.image_key": "pictures"}) == []


def test_prompts_that_are_too_long(run):
    run.write(*[row()] * 20, *[row("<image>" + "red " * 100)] * 4)
    assert run.notes(data.check) == []  # beyond the rows that are read
    run.write(*[row("<image>" + "red " * 100)] * 4, *[row()] * 20)
    (note,) = run.notes(data.check)
    assert "4 of the first 16 prompts are longer than data.max_prompt_length=64" in note and "will be left out" in note
    assert "raise it (MAX_PROMPT_LENGTH)" in run.problem(data.check, {"data.filter_overlong_prompts": False})
    run.write(*[row("<image>" + "red " * 100)] * 24)
    assert "16 of the first 16 prompts" in run.problem(data.check)


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
    megatron = {"actor_rollout_ref.actor.strategy": "megatron"}  # has no code of its own for the model
    (note,) = run.notes(data.check, megatron)
    assert "have no image" in note and "+algorithm.durian.weights.perceptual=0" in note
    assert run.notes(data.check, {**megatron, "algorithm.durian.weights.perceptual": 0}) == []
    assert run.notes(data.check, {**megatron, "algorithm.adv_estimator": "grpo"}) == []


def test_rows_without_image_on_which_verl_crashes(run):
    run.write(*[row("red?", images=[])] * 24)
    problem = run.problem(data.check, {"algorithm.adv_estimator": "grpo"})
    assert "16 of the first 16 rows have no image, and verl crashes on a micro batch of such rows" in problem
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
    problems, _ = run.found(machine.check, nodes)
    assert len(problems) == 2 and problems[0].startswith("trainer.nnodes=2: no Ray cluster is running")
    (note,) = run.notes(machine.check, {**nodes, "ray_kwargs.ray_init.address": "10.0.0.1:6379"})
    assert "the Ray cluster at 10.0.0.1:6379 is joined" in note


def test_a_cluster_is_found_as_ray_finds_it(monkeypatch):
    assert machine.running_cluster("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert machine.running_cluster(None) == "10.0.0.2:6379"


def test_engines_that_do_not_divide_the_gpus(run):
    problem = run.problem(machine.check, {"actor_rollout_ref.rollout.tensor_model_parallel_size": 2})
    assert "1 GPUs do not divide into rollout engines of 2" in problem


def gpu_settings(run: Run, changes: dict[str, object] | None = None) -> DictConfig:
    settings = {"trainer.n_gpus_per_node": 8, "actor_rollout_ref.rollout.gpu_memory_utilization": 0.6}
    return run.config({**settings, **(changes or {})})


def test_memory_that_cannot_suffice(run):
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
        problem, estimate = memory.check(gpu_settings(run, sound | changes), LARGE, 80e9)
        assert problem.stops and told in problem.text
    policy = {"actor_rollout_ref.actor.strategy": "fsdp2", "actor_rollout_ref.actor.fsdp_config.offload_policy": True}
    (estimate,) = memory.check(gpu_settings(run, {tp: 8, nodes: 1, **policy}), LARGE, 80e9)
    assert not estimate.stops
    micro = {"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 64, "data.max_response_length": 2048}
    (estimate,) = memory.check(gpu_settings(run, sound | micro), LARGE, 80e9)
    assert not estimate.stops and "lower PPO_MICRO_BATCH_SIZE" in estimate.text


def test_memory_of_the_machine(run):
    offload = {f"actor_rollout_ref.actor.fsdp_config.{part}_offload": True for part in ("param", "optimizer")}
    config = gpu_settings(run, offload)
    (problem,) = machine.check_host(config, LARGE, 512e9)
    assert "put 881 GB into the memory of each machine, which has 512 GB" in problem.text
    assert machine.check_host(config, LARGE, 1024e9) == []
    assert machine.check_host(gpu_settings(run), LARGE, 1e9) == []


# --- checkpoints


def test_room_for_checkpoints(run):
    config = run.config({"trainer.max_actor_ckpt_to_keep": 3})
    (problem,) = checkpoints.check_room(config, LARGE, 2000e9)
    assert "2000 GB are free, and 3 checkpoints of 881 GB are to come" in problem.text
    assert checkpoints.check_room(config, LARGE, 2700e9) == []
    assert run.notes(checkpoints.check, {"trainer.save_freq": 1}) == []


def test_a_folder_that_cannot_be_written_to_is_named(run):
    (run.folder / "file").touch()
    for folder, reason in ((run.folder / "file" / "x", "is a file"), ("/proc/x", "/proc: No such file or directory")):
        problem = run.problem(checkpoints.check, {"trainer.default_local_dir": folder})
        assert problem.startswith(f"trainer.default_local_dir={folder}: ") and reason in problem


def test_a_checkpoint_that_is_not_there(run):
    def resume(folder: Path) -> dict:
        return {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": folder}

    (run.folder / "global_step_2" / "actor").mkdir(parents=True)
    assert run.notes(checkpoints.check, resume(run.folder / "global_step_2")) == []
    assert "name a folder global_step_N (RESUME)" in run.problem(
        checkpoints.check, resume(run.folder / "global_step_4")
    )
    assert "name a folder global_step_N" in run.problem(checkpoints.check, resume(run.folder))


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

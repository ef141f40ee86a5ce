# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The checks before a run, except those of its data: each problem in one line with its fix, and what is only a note."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from preflight_run import GRPO, MODEL, NOTE, PROBLEM, Run, listed
from safetensors.torch import load_file

from verl_durian.hooks import known_failures, verl_symbols
from verl_durian.preflight import machine
from verl_durian.preflight.__main__ import examine, main
from verl_durian.preflight.compose import check_estimator, check_values, check_with_verl, compose
from verl_durian.preflight.model import count_parameters, read

ROLLOUTS = "actor_rollout_ref.rollout.n"


@pytest.fixture
def run(tmp_path, tiny_qwen25vl, monkeypatch) -> Run:
    return Run(tmp_path, tiny_qwen25vl, monkeypatch)


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

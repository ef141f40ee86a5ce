# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints saved by verl become Hugging Face folders."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import AutoModelForImageTextToText

from verl_durian.evaluation.checkpoint import hugging_face_folder

RANKS = 2


def save_shards(rank: int, weights: dict[str, torch.Tensor], actor: str) -> None:
    """One rank of a run: saves its part of every weight, as verl's FSDPCheckpointManager does."""
    store = Path(actor).parent / "store"
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("fsdp",))
    shards = {name: distribute_tensor(weight, mesh, [Shard(0)]) for name, weight in weights.items()}
    torch.save(shards, f"{actor}/model_world_size_{RANKS}_rank_{rank}.pt")
    torch.distributed.destroy_process_group()


def save_step(step: Path, model: Path, weights: dict[str, torch.Tensor]) -> None:
    """Writes a folder global_step_20 with the files that verl's merger reads."""
    actor = step / "actor"
    actor.mkdir(parents=True)
    shutil.copytree(model, actor / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": RANKS}))
    torch.multiprocessing.spawn(save_shards, (weights, str(actor)), RANKS)


def test_shards_are_merged_once(tiny_qwen25vl, tmp_path, monkeypatch):
    folder = tmp_path / "global_step_20"
    expected = load_file(tiny_qwen25vl / "model.safetensors")
    save_step(folder, tiny_qwen25vl, expected)
    merged = Path(hugging_face_folder(str(folder)))
    assert merged == folder / "actor_huggingface"
    assert sorted(file.name for file in folder.iterdir()) == ["actor", "actor_huggingface"]
    weights = load_file(merged / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor.bfloat16()) for name, tensor in expected.items())
    assert all((merged / file).exists() for file in ("config.json", "tokenizer.json", "processor_config.json"))

    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert hugging_face_folder(str(folder / "actor")) == str(merged)  # not merged again
    (folder / "actor" / f"model_world_size_{RANKS}_rank_0.pt").write_bytes(b"trained again")
    with pytest.raises(ValueError, match="verl.model_merger failed, see its output above"):
        hugging_face_folder(str(folder))


@pytest.mark.slow
def test_an_adapter_is_merged(tiny_qwen25vl, tmp_path):
    """An adapter in the language model, as verl wraps it, with every B different from 0."""
    options = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=".*visual.*")
    adapted = get_peft_model(AutoModelForImageTextToText.from_pretrained(tiny_qwen25vl), options)
    generator = torch.Generator().manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(generator=generator)
    step = tmp_path / "global_step_20"
    save_step(step, tiny_qwen25vl, {name: weight.detach() for name, weight in adapted.state_dict().items()})
    meta = step / "actor" / "lora_train_meta.json"
    meta.write_text(json.dumps({"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}))

    merged = Path(hugging_face_folder(str(step)))
    assert not (merged / "lora_adapter").exists()
    assert load_file(merged / "model.safetensors").keys() == load_file(tiny_qwen25vl / "model.safetensors").keys()
    weights, start = (
        AutoModelForImageTextToText.from_pretrained(each).state_dict() for each in (merged, tiny_qwen25vl)
    )
    factors = {name: weight.bfloat16().double() for name, weight in adapted.state_dict().items() if "lora_" in name}
    changed = 0
    for name, weight in start.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        expected = weight.bfloat16().double()
        if f"{layer}.lora_A.default.weight" in factors:
            expected += 8 / 4 * factors[f"{layer}.lora_B.default.weight"] @ factors[f"{layer}.lora_A.default.weight"]
            changed += 1
        torch.testing.assert_close(weights[name].double(), expected, rtol=1e-2, atol=1e-3)
    assert changed == len(factors) // 2 > 0

    meta.unlink()
    with pytest.raises(ValueError, match="alpha is unknown: copy the missing lora_train_meta.json"):
        hugging_face_folder(str(step))


def test_other_checkpoints_are_returned_as_they_are(tiny_qwen25vl, tmp_path, monkeypatch):
    assert hugging_face_folder(str(tiny_qwen25vl)) == str(tiny_qwen25vl)
    assert hugging_face_folder("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"
    monkeypatch.chdir(tiny_qwen25vl.parent)
    assert hugging_face_folder(tiny_qwen25vl.name) == str(tiny_qwen25vl)
    touch(tmp_path / "actor/model/huggingface/model-00001-of-00002.safetensors")  # by Megatron with a bridge
    assert hugging_face_folder(str(tmp_path)) == str(tmp_path / "actor/model/huggingface")


def touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["actor/model/huggingface/adapter/adapter_model.safetensors"], "adapter with peft's merge_and_unload"),
        (["actor/model/dist_ckpt/common.pt"], "is in Megatron's own format"),
        (["notes.txt"], "contains neither config.json nor a checkpoint of verl: pass a folder global_step_N"),
        (["checkpoints/global_step_20/actor/fsdp_config.json"], "pass {folder}/checkpoints/global_step_20"),
        (["global_step_20/x", "global_step_100/x", "global_step_3/x"], "pass {folder}/global_step_100, or a Hugging"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tmp_path, files, message):
    for file in files:
        touch(tmp_path / file)
    with pytest.raises(ValueError) as refused:
        hugging_face_folder(str(tmp_path))
    assert message.format(folder=tmp_path) in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path}: ")

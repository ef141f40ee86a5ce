# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of verl's become Hugging Face folders."""

import json
import shutil
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
    meeting = Path(actor).parent / "meeting"
    torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=RANKS)
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


@pytest.fixture(scope="module")
def step(tmp_path_factory, tiny_qwen25vl) -> Path:
    """A checkpoint of all weights. Not to be changed."""
    step = tmp_path_factory.mktemp("checkpoints") / "global_step_20"
    save_step(step, tiny_qwen25vl, load_file(tiny_qwen25vl / "model.safetensors"))
    return step


def test_shards_are_merged_once(step, tiny_qwen25vl, tmp_path, capfd):
    folder = tmp_path / "global_step_20"
    shutil.copytree(step, folder)
    merged = Path(hugging_face_folder(str(folder)))
    assert merged == folder / "actor_huggingface"
    assert sorted(file.name for file in folder.iterdir()) == ["actor", "actor_huggingface"]
    weights, expected = load_file(merged / "model.safetensors"), load_file(tiny_qwen25vl / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor.bfloat16()) for name, tensor in expected.items())
    for file in ("config.json", "tokenizer.json", "processor_config.json"):
        assert (merged / file).exists()

    # Again: nothing is done.
    written = (merged / "model.safetensors").stat().st_mtime_ns
    assert hugging_face_folder(str(folder / "actor")) == str(merged)
    assert (merged / "model.safetensors").stat().st_mtime_ns == written

    # The step is trained anew: what was merged does not pass for it. Here the merger fails, and tells why.
    (folder / "actor" / f"model_world_size_{RANKS}_rank_0.pt").write_bytes(b"another")
    capfd.readouterr()
    with pytest.raises(ValueError, match="verl.model_merger could not merge it, see above"):
        hugging_face_folder(str(folder))
    assert "Error" in capfd.readouterr().err


@pytest.fixture(scope="module")
def adapted(tiny_qwen25vl):
    """The model with an adapter in its language model, as verl wraps it, and every B other than 0."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_qwen25vl)
    options = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=".*visual.*")
    model = get_peft_model(model, options)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(generator=generator)
    return model


def save_adapted(step: Path, model: Path, weights: dict[str, torch.Tensor]) -> None:
    save_step(step, model, {name: weight.detach() for name, weight in weights.items()})
    meta = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
    (step / "actor" / "lora_train_meta.json").write_text(json.dumps(meta))


def test_an_adapter_is_folded_in(adapted, tiny_qwen25vl, tmp_path):
    save_adapted(tmp_path / "global_step_20", tiny_qwen25vl, adapted.state_dict())
    merged = Path(hugging_face_folder(str(tmp_path / "global_step_20")))
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


def test_an_adapter_without_alpha_is_refused(adapted, tiny_qwen25vl, tmp_path):
    save_adapted(tmp_path / "global_step_20", tiny_qwen25vl, adapted.state_dict())
    (tmp_path / "global_step_20" / "actor" / "lora_train_meta.json").unlink()
    with pytest.raises(ValueError, match="lora_train_meta.json is missing beside the shards"):
        hugging_face_folder(str(tmp_path / "global_step_20"))


def test_an_adapter_alone_cannot_be_merged(adapted, tiny_qwen25vl, tmp_path):
    adapter = {name: weight for name, weight in adapted.state_dict().items() if "lora_" in name}
    save_adapted(tmp_path / "global_step_20", tiny_qwen25vl, adapter)
    with pytest.raises(ValueError, match="could not merge it, see above"):
        hugging_face_folder(str(tmp_path / "global_step_20"))
    assert [file.name for file in (tmp_path / "global_step_20").iterdir() if file.name[0] != "."] == ["actor"]


def test_what_is_no_checkpoint_of_verls_stays(tiny_qwen25vl, monkeypatch):
    assert hugging_face_folder(str(tiny_qwen25vl)) == str(tiny_qwen25vl)
    assert hugging_face_folder("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"
    monkeypatch.chdir(tiny_qwen25vl.parent)
    assert hugging_face_folder(tiny_qwen25vl.name) == str(tiny_qwen25vl)


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_megatron_with_a_bridge_has_saved_the_format_itself(tmp_path):
    touch(tmp_path / "actor" / "model" / "huggingface" / "model-00001-of-00002.safetensors")
    assert hugging_face_folder(str(tmp_path)) == str(tmp_path / "actor" / "model" / "huggingface")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("actor/model/huggingface/adapter/adapter_model.safetensors", "holds a LoRA adapter that Megatron saved"),
        ("actor/model/dist_ckpt/common.pt", "holds Megatron's own format"),
        ("notes.txt", "holds neither config.json nor a checkpoint of verl's: name a folder global_step_N"),
        ("global_step_20/actor/fsdp_config.json", "name {folder}/global_step_20"),
        ("checkpoints/global_step_20/actor/fsdp_config.json", "name {folder}/checkpoints/global_step_20"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tmp_path, file, message):
    touch(tmp_path / file)
    with pytest.raises(ValueError) as refused:
        hugging_face_folder(str(tmp_path))
    assert message.format(folder=tmp_path) in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path}: ")


def test_of_several_steps_the_last_is_named(tmp_path):
    touch(tmp_path / "global_step_20" / "x", tmp_path / "global_step_100" / "x", tmp_path / "global_step_3" / "x")
    with pytest.raises(ValueError, match="name .*/global_step_100, or a Hugging Face folder"):
        hugging_face_folder(str(tmp_path))


def test_missing_shards_are_named(step, tmp_path):
    shutil.copytree(step, tmp_path / "step")
    (tmp_path / "step" / "actor" / f"model_world_size_{RANKS}_rank_1.pt").unlink()
    with pytest.raises(ValueError, match="1 of 2 shards are missing, such as model_world_size_2_rank_1.pt"):
        hugging_face_folder(str(tmp_path / "step"))
    assert [file.name for file in (tmp_path / "step").iterdir()] == ["actor"]

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Converts a checkpoint of verl to a Hugging Face folder, which the rollout engine can load."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

MERGED_FROM = "merged_from.json"
"""File in a merged folder: size and modification time of each file that was merged."""


def hugging_face_folder(checkpoint: str) -> str:
    """Returns the folder or hub id of a checkpoint in Hugging Face format.

    Shards saved by FSDP are merged into a folder next to them, including a LoRA adapter, and again when they change.

    Args:
        checkpoint: Such a folder or id, or a checkpoint saved by verl: `global_step_N`, or `global_step_N/actor`.

    Raises:
        ValueError: The folder contains nothing that can be evaluated.
    """
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        return checkpoint
    folder = folder.resolve()
    if (folder / "config.json").exists():
        return str(folder)
    actor = folder / "actor" if (folder / "actor").is_dir() else folder
    if (actor / "fsdp_config.json").exists():
        return str(_merge_shards(actor))
    megatron = actor / "model" / "huggingface"
    adapter = megatron / "adapter"
    if any(megatron.glob("*.safetensors")) and not adapter.exists():
        return str(megatron)
    if (actor / "model").is_dir() or (actor / "dist_ckpt").is_dir():
        raise ValueError(
            f"{checkpoint}: is in Megatron's own format. Where Megatron is installed, merge it to a Hugging Face "
            "FOLDER and pass that: python -m verl.model_merger merge --backend megatron "
            f"--local_dir {actor} --target_dir FOLDER (LoRA: merge {adapter} with peft's merge_and_unload). Runs with "
            "actor_rollout_ref.actor.megatron.use_mbridge=True save such a folder themselves"
        )
    steps = [*folder.glob("global_step_*"), *folder.glob("checkpoints/global_step_*")]
    last = max(steps, key=lambda step: int(step.name.rpartition("_")[2]), default="a folder global_step_N of verl")
    raise ValueError(
        f"{checkpoint}: contains neither config.json nor a checkpoint of verl: pass {last}, or a Hugging Face folder"
    )


def _merge_shards(actor: Path) -> Path:
    """Merges FSDP shards with verl's merger, which writes bfloat16, and then merges a LoRA adapter."""
    files = [*actor.glob("model_world_size_*.pt"), *actor.glob("lora_train_meta.json")]
    source = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(files)}
    merged = actor.with_name(f"{actor.name}_huggingface")
    if (merged / MERGED_FROM).exists() and json.loads((merged / MERGED_FROM).read_text()) == source:
        return merged
    part = merged.with_name(f".{merged.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    print(f"merging {actor} into {merged}", file=sys.stderr)
    merger = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    done = subprocess.run([*merger, "--local_dir", str(actor), "--target_dir", str(part)], stdout=sys.stderr)
    if done.returncode != 0:
        raise ValueError(f"{actor}: verl.model_merger failed, see its output above; it needs the shards of all nodes")
    if (part / "lora_adapter").exists():
        _merge_adapter(part)
    (part / MERGED_FROM).write_text(json.dumps(source))
    shutil.rmtree(merged, ignore_errors=True)
    part.rename(merged)
    return merged


def _merge_adapter(folder: Path) -> None:
    """Replaces the weights W of a model by W + alpha / r * B A, in their own dtype, and removes the adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    adapter = folder / "lora_adapter"
    config = LoraConfig.from_pretrained(str(adapter))
    if not config.lora_alpha:  # verl's merger writes 0 for an unknown alpha, which would leave W unchanged
        raise ValueError(f"{adapter}: alpha is unknown: copy the missing lora_train_meta.json next to the shards")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", use_safetensors=True)
    adapted = get_peft_model(model, config)
    if unknown := adapted.load_adapter(adapter, "default").unexpected_keys:
        raise ValueError(f"{adapter}: the model has no layer for {unknown[0]}")
    merged = adapted.merge_and_unload(safe_merge=True)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    merged.save_pretrained(folder)
    shutil.rmtree(adapter)

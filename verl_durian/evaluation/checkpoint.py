# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as a Hugging Face folder, which is what a rollout engine loads.

    python -m verl_durian.evaluation.checkpoint CHECKPOINT

prints the folder. What verl saved with FSDP is merged first, with its LoRA adapter if it has one, into a folder beside,
and again when it has changed.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

MERGED_FROM = "merged_from.json"
"""In a merged folder: size and time of change of each file that it was merged from."""


def hugging_face_folder(checkpoint: str) -> str:
    """Folder or hub id of a checkpoint in Hugging Face format.

    Args:
        checkpoint: Such a folder or id, or a checkpoint of verl's: `global_step_N`, or `global_step_N/actor`.

    Returns:
        The folder, or `checkpoint` itself where there is none of that name.

    Raises:
        ValueError: the folder holds nothing that can be evaluated.
    """
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        return checkpoint
    folder = folder.resolve()
    if (folder / "config.json").exists():
        return str(folder)
    actor = folder / "actor" if (folder / "actor").is_dir() else folder
    megatron = actor / "model" / "huggingface"
    if (megatron / "adapter").exists():
        raise ValueError(
            f"{checkpoint}: holds a LoRA adapter that Megatron saved: fold {megatron / 'adapter'} into the model that "
            "was trained with peft's merge_and_unload, and name the result"
        )
    if (actor / "fsdp_config.json").exists():
        return str(_merge(actor))
    if any(megatron.glob("*.safetensors")):
        return str(megatron)
    if (actor / "model").is_dir() or (actor / "dist_ckpt").is_dir():
        raise ValueError(
            f"{checkpoint}: holds Megatron's own format: train with actor_rollout_ref.actor.megatron.use_mbridge=True, "
            "or where Megatron is installed `python -m verl.model_merger merge --backend megatron "
            f"--local_dir {actor} --target_dir FOLDER` and name FOLDER"
        )
    steps = [*folder.glob("global_step_*"), *folder.glob("checkpoints/global_step_*")]
    last = max(steps, key=lambda step: int(step.name.rpartition("_")[2]), default="a folder global_step_N of verl's")
    remedy = f"name {last}, or a Hugging Face folder"
    raise ValueError(f"{checkpoint}: holds neither config.json nor a checkpoint of verl's: {remedy}")


def _merge(actor: Path) -> Path:
    """Merges the shards of FSDP with verl's own merger, which writes bfloat16 and leaves a LoRA adapter aside."""
    ranks = json.loads((actor / "fsdp_config.json").read_text())["world_size"]
    shards = [actor / f"model_world_size_{ranks}_rank_{rank}.pt" for rank in range(ranks)]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        raise ValueError(
            f"{actor}: {len(missing)} of {ranks} shards are missing, such as {missing[0]}: copy those of all nodes here"
        )
    files = [*shards, *actor.glob("lora_train_meta.json")]
    source = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    merged = actor.with_name(f"{actor.name}_huggingface")
    if (merged / MERGED_FROM).exists() and json.loads((merged / MERGED_FROM).read_text()) == source:
        return merged
    part = merged.with_name(f".{merged.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    print(f"merging {actor} into {merged}", file=sys.stderr)
    merger = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    done = subprocess.run([*merger, "--local_dir", str(actor), "--target_dir", str(part)], stdout=sys.stderr)
    if done.returncode != 0:
        raise ValueError(f"{actor}: verl.model_merger could not merge it, see above")
    adapter = part / "lora_adapter"
    if adapter.exists():
        from verl_durian.evaluation.adapter import fold_in  # imports much that full weights do not need

        fold_in(part, adapter)
        shutil.rmtree(adapter)
    (part / MERGED_FROM).write_text(json.dumps(source))
    shutil.rmtree(merged, ignore_errors=True)
    part.rename(merged)
    return merged


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m verl_durian.evaluation.checkpoint CHECKPOINT")
    try:
        print(hugging_face_folder(sys.argv[1]))
    except (ValueError, OSError) as error:
        sys.exit(f"verl_durian.evaluation: {error}")

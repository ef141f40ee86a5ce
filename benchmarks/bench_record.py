# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what `algorithm.durian.record` adds to a step of 512 prompts x 8 rollouts of 128 to 2048 tokens.

    python benchmarks/bench_record.py

"copy" is on the critical path (target: at most 600 ms, 1 % of a step of 60 s). Threads then fetch from TransferQueue in
trainer V1 and write the file, while the actor is updated.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import ray
import torch
import transfer_queue as tq
import typer
from gpu_check import make_batch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from verl.protocol import DataProto
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_durian.hooks import record, trainers


class Tokenizer:
    """As fast as one can be: the time of a real one depends on the model, and is spent in the thread."""

    def batch_decode(self, ids: list, skip_special_tokens: bool) -> list[str]:
        return ["x" * len(row) for row in ids]


def put_rows(batch: DataProto) -> tq.KVBatchMeta:
    """Puts what verl's agent loop knows of the rollouts into TransferQueue."""
    names, mask = ("prompts", "responses"), batch.batch["response_mask"].bool()
    rows = [
        {
            "prompts": batch.batch["prompts"][row],
            "responses": batch.batch["responses"][row][mask[row]],
            **{name: values[row] for name, values in batch.non_tensor_batch.items() if name not in (*names, "acc")},
            "extra_fields": {"reward_extra_info": {"acc": float(batch.non_tensor_batch["acc"][row])}},
        }
        for row in range(len(batch))
    ]
    keys = [f"key{row}" for row in range(len(batch))]
    tags = [{"status": "success"} for _ in keys]
    tq.kv_batch_put(keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(rows), tags=tags)
    return tq.KVBatchMeta(keys=keys, tags=tags, partition_id="train")


def make_data(prompts: int, rollouts: int, tokens: int) -> DataProto:
    """A batch with advantages, as an older trainer has it."""
    batch = make_batch(prompts, rollouts, tokens, torch.int64)
    mask = batch["response_mask"]
    asked = torch.ones(len(mask), 512, dtype=torch.long)
    return DataProto.from_dict(
        tensors={
            **{name: batch[name] for name in ("token_level_rewards", "response_mask")},
            "old_log_probs": batch["batch"]["old_log_probs"],
            "advantages": mask * torch.randn(len(mask), 1),
            "prompts": asked,
            "responses": torch.ones_like(mask),
            "attention_mask": torch.cat([asked, mask], dim=1),
        },
        non_tensors={
            "uid": batch["index"],
            "visual_entropy": batch["non_tensor_batch"]["visual_entropy"].astype(object),
            "acc": np.arange(len(mask)) % 2,
            record.ROW: np.arange(len(mask), dtype=np.float64).astype(object),
        },
    )


def milliseconds(function: Callable[[], object], times: list[float]) -> None:
    start = time.perf_counter()
    function()
    times.append((time.perf_counter() - start) * 1e3)


def main(prompts: int = 512, rollouts: int = 8, tokens: int = 2048, repeats: int = 9) -> None:
    console = Console()
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+algorithm.durian={record: null, record_texts: false}"])
    config.transfer_queue.enable = True
    config.transfer_queue.backend.SimpleStorage.num_data_storage_units = 2
    OmegaConf.resolve(config)
    ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=500_000_000, log_to_driver=False)
    tq.init(config.transfer_queue)
    data = make_data(prompts, rollouts, tokens)
    meta = put_rows(data)
    table = Table("texts", "copy ms", "fetch ms", "write ms", "file KB")
    for texts in (False, True):
        copy, fetch, thread = [], [], []
        with tempfile.TemporaryDirectory() as folder:
            trainer = object.__new__(get_trainer_cls("sync"))
            trainer.config, trainer.tokenizer, trainer.global_steps = config, Tokenizer(), 0
            config.algorithm.durian.record, config.algorithm.durian.record_texts = folder, texts
            names = ["visual_entropy", record.ROW, "acc", *(["prompts", "responses"] if texts else [])]
            for trainer.global_steps in range(repeats):
                milliseconds(partial(trainers._fetch, meta, names), fetch)
                milliseconds(partial(record.recorder(trainer).add, trainer, data), copy)
                milliseconds(record.recorder(trainer).flush, thread)
            size = max(file.stat().st_size for file in Path(folder).iterdir()) // 1000
        shown = (f"{median(times):.0f}" for times in (copy, fetch, thread))
        table.add_row("yes" if texts else "no", *shown, str(size))
    console.print(f"{prompts} prompts x {rollouts} rollouts x {tokens} tokens, median of {repeats} steps", table)
    tq.close()
    ray.shutdown()


if __name__ == "__main__":
    typer.run(main)

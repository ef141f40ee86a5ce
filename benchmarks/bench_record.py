# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What `algorithm.durian.record` adds to a step of trainer V1: the time of its advantage step with and without.

    python benchmarks/bench_record.py

The rollouts are in TransferQueue, as in a training: 512 prompts x 8 rollouts of 128 to 2048 tokens. "added ms" is on
the critical path (to be at most 600, 1 % of a step of 60 s); a thread writes the file while the actor is updated.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import ray
import torch
import transfer_queue as tq
import typer
from gpu_check import make_batch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_durian.hooks import record


class Tokenizer:
    """As fast as one can be: the time of a real one depends on the model, and is spent in the thread."""

    def batch_decode(self, ids: list, skip_special_tokens: bool) -> list[str]:
        return ["x" * len(row) for row in ids]


def put_rows(prompts: int, rollouts: int, tokens: int) -> tq.KVBatchMeta:
    """Puts rollouts into TransferQueue as verl's agent loop and the passes through the models do."""
    batch = make_batch(prompts, rollouts, tokens, torch.int64)
    keys, rows = [], []
    for row, uid in enumerate(batch["index"]):
        mask = batch["response_mask"][row].bool()
        keys.append(f"{uid}_{row % rollouts}_0")
        rows.append(
            {
                "uid": uid,
                "prompts": torch.ones(512, dtype=torch.long),
                "responses": torch.ones(int(mask.sum()), dtype=torch.long),
                "response_mask": torch.ones(int(mask.sum()), dtype=torch.long),
                "rm_scores": batch["token_level_rewards"][row][mask],
                "old_log_probs": batch["batch"]["old_log_probs"][row][mask],
                "visual_entropy": float(batch["non_tensor_batch"]["visual_entropy"][row]),
                record.ROW: float(row),
                "extra_fields": {"reward_extra_info": {"acc": float(row % 2)}},
            }
        )
    tags = [{"status": "success"} for _ in keys]
    tq.kv_batch_put(keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(rows), tags=tags)
    return tq.KVBatchMeta(keys=keys, tags=tags, partition_id="train")


def main(prompts: int = 512, rollouts: int = 8, tokens: int = 2048, repeats: int = 9) -> None:
    console = Console()
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+algorithm.durian={record: null, record_texts: false}"])
    config.transfer_queue.enable = True
    OmegaConf.resolve(config)
    config.transfer_queue.backend.SimpleStorage.num_data_storage_units = 2
    ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=500_000_000, log_to_driver=False)
    tq.init(config.transfer_queue)
    meta = put_rows(prompts, rollouts, tokens)
    table = Table("estimator", "texts", "without ms", "with ms", "added ms", "thread ms", "file KB")
    for estimator in ("grpo", "durian"):
        for texts in (False, True):
            times: dict[bool, list[float]] = {False: [], True: []}
            written, size = [], 0
            with tempfile.TemporaryDirectory() as folder:
                trainer = object.__new__(get_trainer_cls("sync"))
                trainer.config, trainer.tokenizer = config, Tokenizer()
                config.algorithm.adv_estimator, config.algorithm.durian.record_texts = estimator, texts
                for trainer.global_steps in range(repeats):
                    for recorded in (False, True):
                        config.algorithm.durian.record = folder if recorded else None
                        start = time.perf_counter()
                        trainer._compute_advantage(meta, {})
                        times[recorded].append((time.perf_counter() - start) * 1e3)
                    start = time.perf_counter()
                    record._recorders[trainer].flush()
                    written.append((time.perf_counter() - start) * 1e3)
                size = max(file.stat().st_size for file in Path(folder).iterdir()) // 1000
            without, with_record = median(times[False]), median(times[True])
            shown = (without, with_record, with_record - without, median(written))
            table.add_row(estimator, "yes" if texts else "no", *(f"{value:.0f}" for value in shown), str(size))
    console.print(f"{prompts} prompts x {rollouts} rollouts x {tokens} tokens, median of {repeats} steps", table)
    tq.close()
    ray.shutdown()


if __name__ == "__main__":
    typer.run(main)

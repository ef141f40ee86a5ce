# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A run as training leaves it, without training: records by the real estimator and recorder, and metrics.jsonl."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import OmegaConf
from pictures import encoded
from PIL import Image, ImageDraw
from verl.protocol import DataProto

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import durian_advantages
from verl_durian.algo.metrics import durian_metrics
from verl_durian.hooks.record import ROW, recorder

ROLLOUTS = 8
"""Of each prompt."""


class Trainer(SimpleNamespace):
    """What is recorded of one of verl's trainers."""

    __hash__ = object.__hash__


def make_trainer(
    records: Path, estimator: str, train_files: list[str], seed: int, rollouts: int, experiment: str, **options: object
) -> Trainer:
    """A trainer in its first step that records to a folder; `options` are further ones of `algorithm.durian`."""
    config = {
        "algorithm": {"adv_estimator": estimator, "durian": {"record": str(records), **options}},
        "data": {"train_files": train_files, "seed": seed, "prompt_key": "prompt", "image_key": "images"},
        "trainer": {"experiment_name": experiment, "project_name": "verl"},
        "actor_rollout_ref": {"rollout": {"n": rollouts}},
    }
    return Trainer(config=OmegaConf.create(config), global_steps=1)


def write_training_set(file: Path, rows: int = 64) -> Path:
    """Rows in verl's format, each with an image of its number."""

    def picture(row: int) -> bytes:
        image = Image.new("RGB", (400, 300), (row * 37 % 256, row * 91 % 256, row * 53 % 256))
        ImageDraw.Draw(image).text((150, 120), f"row {row}", fill="white", font_size=40)
        return encoded(image)

    questions = [f"<image>What is the area of figure {row}? Give a number." for row in range(rows)]
    table = pa.table(
        {
            "prompt": [[{"role": "user", "content": question}] for question in questions],
            "images": [[{"bytes": picture(row), "path": None}] for row in range(rows)],
            "reward_model": [{"style": "rule", "ground_truth": str(row)} for row in range(rows)],
        }
    )
    pq.write_table(table, file, row_group_size=20)
    return file


def write_run(
    folder: Path,
    *,
    estimator: str = "durian",
    seed: int = 1,
    steps: int = 12,
    prompts: int = 48,
    train_file: Path | None = None,
    train_rows: int = 64,
    texts: bool = False,
    metrics: bool = True,
    meaning: float = 1.0,
) -> Path:
    """Writes a run in which accuracy rises, faster with durian.

    `meaning` is how much visual entropy and confidence say about difficulty, 0 for nothing.
    """
    random, options = np.random.default_rng(seed), DurianConfig()
    ease = np.random.default_rng(0).normal(0, 1.5, train_rows)
    entropy = 5 + 0.4 * (np.random.default_rng(1).normal(size=train_rows) - meaning * ease)
    files = [str(train_file)] if train_file else []
    trainer = make_trainer(folder / "records", estimator, files, seed, ROLLOUTS, experiment=folder.name)
    trainer.total_training_steps = 1  # each step is written at once, as the last one is
    lines = []
    for step in range(1, steps + 1):
        rows = random.choice(train_rows, prompts, replace=False)
        gain = (1.5 if estimator == "durian" else 1.0) * step / steps
        logits = ease[rows] + gain - 0.5
        accuracy = (random.random((prompts, ROLLOUTS)) < 1 / (1 + np.exp(-logits))[:, None]).astype(float).ravel()
        prompt = np.repeat(np.arange(prompts), ROLLOUTS)
        reward = 0.9 * accuracy + 0.1
        log_probs = (0.3 * (meaning * logits + random.normal(size=prompts)) - 2)[prompt]
        uids = np.array([f"{step:06}-{number:06}" for number in range(prompts)])[prompt]
        scores, entropies, levels = map(torch.from_numpy, (reward, entropy[rows][prompt], log_probs))
        found = durian_advantages(scores, uids, entropies, levels, options)
        lengths = torch.from_numpy(random.integers(2, 20, len(prompt)))
        mask = torch.arange(20) < lengths.unsqueeze(-1)
        advantages = found.advantage if estimator == "durian" else found.original
        data = DataProto.from_dict(
            tensors={
                "token_level_rewards": scores.unsqueeze(-1),
                "response_mask": mask.long(),
                "old_log_probs": mask * levels.unsqueeze(-1).float(),
                "advantages": mask * advantages.unsqueeze(-1),
            },
            non_tensors={"uid": uids, "visual_entropy": entropies.numpy(), "acc": accuracy, ROW: rows[prompt]},
        )
        trainer.global_steps = step
        recorder(trainer).add(trainer, data)
        if texts:
            questions = [f"user\nWhat is the area of figure {row}? Give a number.\nassistant\n" for row in rows[prompt]]
            answers = [f"<think>...</think> \\boxed{{{int(right)}}} <script>" for right in accuracy]
            file = folder / "records" / f"step_{step:08}.parquet"
            table = pq.read_table(file).append_column("prompt", [questions]).append_column("answer", [answers])
            pq.write_table(table, file)
        logged = {"critic/score/mean": reward.mean(), "actor/entropy": 0.5 - 0.3 * step / steps}
        if estimator == "durian":
            logged |= durian_metrics(found, torch.from_numpy(accuracy))
        if step % 4 == 0:
            logged |= {f"val-core/{name}/acc/mean@1": accuracy.mean() for name in ("shape", "color")}
        lines.append(json.dumps({"step": step, "data": logged}))
    if metrics:
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder

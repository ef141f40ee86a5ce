# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A run as training leaves it, without training: records by the real estimator, and metrics.jsonl."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import durian_advantages
from verl_durian.algo.metrics import durian_metrics


def write_training_set(file: Path, rows: int = 64) -> Path:
    """Rows in verl's format, each with an image of its number."""

    def picture(row: int) -> bytes:
        image = Image.new("RGB", (400, 300), (row * 37 % 256, row * 91 % 256, row * 53 % 256))
        ImageDraw.Draw(image).text((150, 120), f"row {row}", fill="white", font_size=40)
        content = BytesIO()
        image.save(content, "PNG")
        return content.getvalue()

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
    rollouts: int = 8,
    train_file: Path | None = None,
    train_rows: int = 64,
    texts: bool = False,
    metrics: bool = True,
    meaning: float = 1.0,
) -> Path:
    """Writes a run in which accuracy rises, faster with durian.

    Args:
        folder: The folder of the run.
        estimator: durian or grpo.
        seed: Of the rewards.
        steps: Number of steps, each a record.
        prompts: Prompts per step.
        rollouts: Rollouts per prompt.
        train_file: The training set that the records name.
        train_rows: Its number of rows.
        texts: Whether the records have prompts and answers.
        metrics: Whether there is a metrics.jsonl.
        meaning: How much visual entropy and confidence say about difficulty, 0 for nothing.
    """
    random, options = np.random.default_rng(seed), DurianConfig()
    ease = np.random.default_rng(0).normal(0, 1.5, train_rows)
    entropy = 5 + 0.4 * (np.random.default_rng(1).normal(size=train_rows) - meaning * ease)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, steps + 1):
        rows = random.choice(train_rows, prompts, replace=prompts > train_rows)
        gain = (1.5 if estimator == "durian" else 1.0) * step / steps
        logits = ease[rows] + gain - 0.5
        accuracy = (random.random((prompts, rollouts)) < 1 / (1 + np.exp(-logits))[:, None]).astype(float).ravel()
        prompt = np.repeat(np.arange(prompts), rollouts)
        reward = 0.9 * accuracy + 0.1
        log_probs = (0.3 * (meaning * logits + random.normal(size=prompts)) - 2)[prompt]
        uids = np.array([f"{step:06}-{number:06}" for number in range(prompts)])[prompt]
        found = durian_advantages(
            torch.from_numpy(reward),
            uids,
            torch.from_numpy(entropy[rows][prompt]),
            torch.from_numpy(log_probs),
            options,
        )
        data = _record(found, options) | {
            "step": np.full(len(prompt), step),
            "uid": uids,
            "row": rows[prompt],
            "rollout": np.tile(np.arange(rollouts, dtype=np.int32), prompts),
            "reward": reward,
            "accuracy": accuracy,
            "response_length": random.integers(20, 200, len(prompt)).astype(np.int32),
        }
        data["advantage"] = data["advantage_durian" if estimator == "durian" else "advantage_grpo"]
        if texts:
            questions = [f"What is the area of figure {row}? Give a number." for row in rows[prompt]]
            data["prompt"] = [f"user\n{question}\nassistant\n" for question in questions]
            data["answer"] = [f"<think>...</think> \\boxed{{{int(right)}}} <script>" for right in accuracy]
        metadata = {
            "version": 1,
            "estimator": estimator,
            "experiment": folder.name,
            "project": "test",
            "seed": seed,
            "weights": vars(options.weights),
            "confidence": options.reasoning.confidence,
            "num_groups": options.reasoning.num_groups,
            "quantiles": options.perceptual.quantiles,
            "threshold_source": {"perceptual": "batch", "reasoning": "batch"},
            "epsilon": options.epsilon,
            "thresholds": {
                "perceptual": found.perceptual.thresholds.tolist(),
                "reasoning": found.reasoning.thresholds.tolist(),
            },
            "train_files": [str(train_file)] if train_file else [],
            "prompt_key": "prompt",
            "image_key": "images",
            "rollout_n": rollouts,
        }
        table = pa.table(data).replace_schema_metadata({"verl_durian": json.dumps(metadata)})
        (folder / "records").mkdir(exist_ok=True)
        pq.write_table(table, folder / "records" / f"step_{step:08}.parquet")
        logged = {"critic/score/mean": reward.mean(), "actor/entropy": 0.5 - 0.3 * step / steps}
        if estimator == "durian":
            logged |= durian_metrics(found, torch.from_numpy(accuracy))
        if step % 4 == 0:
            logged |= {f"val-core/{name}/acc/mean@1": accuracy.mean() for name in ("shape", "color")}
        lines.append(json.dumps({"step": step, "data": logged}))
    if metrics:
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _record(found: Any, options: DurianConfig) -> dict[str, np.ndarray]:
    """The columns that the estimator knows, per rollout."""
    prompt, eps = found.prompt, options.epsilon
    centred = found.scores - found.rewards.mean[prompt]
    terms = {"original": centred / (found.rewards.std[prompt] + eps)}
    columns = {"std_original": found.rewards.std[prompt].numpy()}
    for name in ("perceptual", "reasoning"):
        axis = getattr(found, name)
        std = axis.rewards.std[axis.group[prompt]]
        terms[name] = centred / (std + eps)
        columns[f"std_{name}"] = std.numpy()
        columns[f"{name}_group"] = axis.group[prompt].numpy().astype(np.int32) + 1
    columns |= {f"term_{name}": term.numpy() for name, term in terms.items()}
    return columns | {
        "visual_entropy": found.perceptual.difficulty[prompt].numpy(),
        "confidence": found.reasoning.difficulty[prompt].numpy(),
        "advantage_grpo": terms["original"].numpy(),
        "advantage_durian": found.advantage.numpy(),
    }

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What the start can do, before any training: accuracy by cell, and how well the difficulty signals predict it.

    python -m recipes.evidence.difficulty DATA MODEL

samples rollouts for the split dev of each family in DATA (see `task.py`) and prints, and writes to
DATA/difficulty.json, the accuracy of each cell, and Spearman's rank correlation of severity d, visual entropy H and
confidence L with the pass rate of a prompt. The comparison itself does not use dev.
"""

import argparse
import io
import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import torch
from PIL import Image
from scipy.stats import spearmanr
from tqdm import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from recipes.quickstart.make_start import chat_text
from verl_durian.entropy.visual_entropy import visual_entropy

from .reward import compute_score
from .runs import NUM_GROUPS
from .task import FAMILIES, KINDS, LEVELS

ROLLOUTS = 16
BATCH = 36
MAX_REPLY_TOKENS = 16
SIGNALS = ("severity", "visual_entropy", "confidence")


@torch.no_grad()
def features_of(
    model: Qwen2_5_VLForConditionalGeneration, pixels: torch.Tensor, grids: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """F of each picture: the output of the last block of the tower, as `verl-durian score --feature-layer blocks`."""
    features = model.model.visual(pixels, grid_thw=grids).last_hidden_state
    return features.split(grids.prod(dim=-1).tolist())


@torch.no_grad()
def measure(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, rows: list[dict], seed: int = 0
) -> pd.DataFrame:
    """Measures each prompt.

    Returns:
        One row per prompt: the columns of `extra_info`, `visual_entropy` in nats, `confidence` (mean log-probability of
        a token over the rollouts), `greedy` (accuracy of the greedy reply) and `pass_rate` (accuracy of `ROLLOUTS`
        replies at temperature 1).
    """
    torch.manual_seed(seed)
    measured = []
    for start in tqdm(range(0, len(rows), BATCH), desc="prompts", unit="batch"):
        part = rows[start : start + BATCH]
        images = [Image.open(io.BytesIO(row["images"][0]["bytes"])) for row in part]
        texts = [chat_text(processor, row["prompt"][0]["content"]) for row in part]
        batch = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        features = features_of(model, batch["pixel_values"], batch["image_grid_thw"])

        def replies(**options: object) -> tuple[list[str], torch.Tensor]:
            found = model.generate(
                **batch,  # noqa: B023
                max_new_tokens=MAX_REPLY_TOKENS,
                return_dict_in_generate=True,
                output_logits=True,
                **options,
            )
            tokens = found.sequences[:, -len(found.logits) :]
            log_probs = torch.stack(found.logits, dim=1).log_softmax(dim=-1).gather(-1, tokens.unsqueeze(-1))
            kept = tokens != processor.tokenizer.pad_token_id
            mean = (log_probs.squeeze(-1) * kept).sum(dim=-1) / kept.sum(dim=-1)
            return processor.batch_decode(tokens, skip_special_tokens=True), mean

        greedy, _ = replies(do_sample=False)
        sampled, log_probs = replies(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=ROLLOUTS)
        for number, row in enumerate(part):
            gold = row["reward_model"]["ground_truth"]
            own = slice(number * ROLLOUTS, (number + 1) * ROLLOUTS)
            correct = [compute_score("", text, gold)["acc"] for text in sampled[own]]
            measured.append(
                {
                    **row["extra_info"],
                    "visual_entropy": visual_entropy(features[number]).item(),
                    "confidence": log_probs[own].mean().item(),
                    "greedy": compute_score("", greedy[number], gold)["acc"],
                    "pass_rate": sum(correct) / ROLLOUTS,
                }
            )
    return pd.DataFrame(measured)


def correlations(prompts: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of each signal with the pass rate, of all prompts and of each kind of question."""
    groups = {"all": prompts, **dict(list(prompts.groupby("kind")))}
    return {
        name: {signal: round(float(spearmanr(group[signal], group["pass_rate"]).statistic), 3) for signal in SIGNALS}
        for name, group in groups.items()
    }


def entropy_by_severity(prompts: pd.DataFrame) -> dict[str, float]:
    """Spearman's rank correlation of visual entropy with severity, for each corruption and for all."""
    groups = {"all": prompts, **dict(list(prompts.groupby("corruption")))}
    return {
        name: round(float(spearmanr(group["severity"], group["visual_entropy"]).statistic), 3)
        for name, group in groups.items()
    }


def shared_stds(prompts: pd.DataFrame) -> dict[str, list[float]]:
    """Std of the rewards in the groups of the arm durian, from easy to difficult by what the signal says.

    Groups of visual entropy by quartiles (25, 50 and 25 %), and `NUM_GROUPS` groups of confidence.
    """
    groups = {
        "visual_entropy": pd.qcut(prompts["visual_entropy"], [0, 0.25, 0.75, 1], labels=False),
        "confidence": pd.qcut(-prompts["confidence"], NUM_GROUPS, labels=False),
    }
    mean = {name: prompts["pass_rate"].groupby(group).mean() for name, group in groups.items()}
    return {name: ((p * (1 - p)) ** 0.5).round(3).tolist() for name, p in mean.items()}


def summary(prompts: pd.DataFrame) -> dict:
    """Accuracies by cell, correlations, stds of groups, and how pass rates are distributed."""
    result: dict = {
        column: prompts.pivot_table(values=column, index="kind", columns="level")
        .loc[list(KINDS), list(LEVELS)]
        .round(3)
        .to_dict("index")
        for column in ("pass_rate", "greedy")
    }
    result["spearman_with_pass_rate"] = correlations(prompts)
    result["spearman_of_entropy_with_severity"] = entropy_by_severity(prompts)
    result["shared_std"] = shared_stds(prompts)
    counts = pd.cut(prompts["pass_rate"], [-0.01, 0.0, 0.25, 0.5, 0.75, 0.9999, 1.0]).value_counts(sort=False)
    result["share_of_prompts_by_pass_rate"] = {
        name: round(count / len(prompts), 3)
        for name, count in zip(("0", "to 1/4", "to 1/2", "to 3/4", "below 1", "1"), counts, strict=True)
    }
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure the difficulty of the task for a model.")
    parser.add_argument("data", type=Path, help="folder written by recipes.evidence.task")
    parser.add_argument("model", type=Path, help="folder of the model")
    args = parser.parse_args()
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
    processor = Qwen2_5_VLProcessor.from_pretrained(args.model)
    found = {}
    for family in FAMILIES:
        prompts = measure(model, processor, pq.read_table(args.data / family / "dev.parquet").to_pylist())
        found[family] = summary(prompts)
        prompts.to_csv(args.data / family / "difficulty.csv", index=False)
        for name, value in found[family].items():
            nested = isinstance(next(iter(value.values())), dict)
            print(f"\n{family}: {name}", pd.DataFrame(value).T if nested else pd.Series(value), sep="\n")
    (args.data / "difficulty.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A training run of the comparison in one process: rollouts and updates by transformers, advantages and loss by verl.

Every rollout comes from the policy that it updates, as in verl with one update per step. verl spends most of its time
on things that a model of two million parameters does not need, such as one vLLM request for each rollout; here a run
takes a minute on one core, and the same seed gives the same run. For runs in verl itself, see `in_verl.py`.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from transformers import Cache, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from verl.protocol import DataProto
from verl.trainer.ppo import ray_trainer
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla
from verl.workers.config import ActorConfig

from recipes.quickstart.make_start import chat_text

from . import arms  # noqa: F401  registers the estimators
from .reward import compute_score
from .runs import ARMS, RESAMPLED, ROLLOUTS, STEPS, TEST_EVERY, Run

MAX_RESPONSE_LENGTH = 16
VALIDATION_BATCH = 144


class Reading(NamedTuple):
    """What the model has read so far, for each rollout."""

    cache: Cache
    mask: torch.Tensor
    """Attention mask, (rollouts, length)."""
    logits: torch.Tensor
    """Of the next token, (rollouts, vocabulary)."""


def read_prompts(model: Qwen2_5_VLForConditionalGeneration, prompts: Mapping, repeats: int) -> Reading:
    """Reads each prompt once, for `repeats` rollouts of each."""
    output = model.model(**prompts, use_cache=True)
    output.past_key_values.batch_repeat_interleave(repeats)
    logits = model.lm_head(output.last_hidden_state[:, -1]).repeat_interleave(repeats, dim=0)
    return Reading(output.past_key_values, prompts["attention_mask"].repeat_interleave(repeats, dim=0), logits)


def read_on(
    model: Qwen2_5_VLForConditionalGeneration, reading: Reading, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads tokens, (rollouts, length); returns the logits after each of them and the new attention mask."""
    mask = torch.cat([reading.mask, torch.ones_like(tokens)], dim=-1)
    deltas = model.model.rope_deltas
    positions = mask.cumsum(dim=-1)[:, -tokens.shape[1] :] - 1
    positions = positions + deltas.repeat_interleave(len(tokens) // len(deltas), dim=0)
    output = model.model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=positions.expand(3, -1, -1),
        past_key_values=reading.cache,
    )
    return model.lm_head(output.last_hidden_state), mask


@torch.no_grad()
def respond(
    model: Qwen2_5_VLForConditionalGeneration, prompts: Mapping, uniform: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Responses to prompts.

    Args:
        model: The policy.
        prompts: Output of the processor.
        uniform: Random numbers in [0, 1) that choose the tokens at temperature 1, (rollouts, MAX_RESPONSE_LENGTH);
            rollouts of a prompt are adjacent. None: one greedy response to each prompt.

    Returns:
        Tokens and response mask, both (rollouts, length). The end token belongs to the response.
    """
    ends = model.generation_config
    repeats = 1 if uniform is None else len(uniform) // len(prompts["input_ids"])
    reading = read_prompts(model, prompts, repeats)
    active = torch.ones(len(reading.mask), dtype=torch.bool)
    tokens, masks = [], []
    for position in range(MAX_RESPONSE_LENGTH):
        if uniform is None:
            chosen = reading.logits.argmax(dim=-1)
        else:
            below = reading.logits.double().softmax(dim=-1).cumsum(dim=-1)
            chosen = (below <= uniform[:, position, None] * below[:, -1:]).sum(dim=-1)
        tokens.append(chosen.where(active, ends.pad_token_id))
        masks.append(active)
        active = active & (chosen != ends.eos_token_id)
        if not active.any():
            break
        logits, mask = read_on(model, reading, tokens[-1][:, None])
        reading = Reading(reading.cache, mask, logits[:, -1])
    return torch.stack(tokens, dim=-1), torch.stack(masks, dim=-1).long()


def log_probabilities(
    model: Qwen2_5_VLForConditionalGeneration, prompts: Mapping, tokens: torch.Tensor
) -> torch.Tensor:
    """Log-probabilities of the tokens of responses, (rollouts, length); rollouts of a prompt are adjacent."""
    reading = read_prompts(model, prompts, len(tokens) // len(prompts["input_ids"]))
    logits = torch.cat([reading.logits[:, None], read_on(model, reading, tokens[:, :-1])[0]], dim=1)
    return logits.log_softmax(dim=-1).gather(-1, tokens[..., None]).squeeze(-1)


def process(processor: Qwen2_5_VLProcessor, rows: pd.DataFrame) -> Mapping:
    """The prompts of rows in verl's format, as input of the model."""
    images = [Image.open(io.BytesIO(images[0]["bytes"])) for images in rows["images"]]
    texts = [chat_text(processor, prompt[0]["content"]) for prompt in rows["prompt"]]
    return processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")


def accuracy(processor: Qwen2_5_VLProcessor, rows: pd.DataFrame, tokens: torch.Tensor) -> np.ndarray:
    """Accuracy of responses, 0 or 1; the responses to a row are adjacent."""
    answers = np.repeat([each["ground_truth"] for each in rows["reward_model"]], len(tokens) // len(rows))
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    return np.array([compute_score("", text, answer)["acc"] for text, answer in zip(texts, answers, strict=True)])


def validate(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, rows: pd.DataFrame
) -> dict[str, float]:
    """Accuracy of greedy responses, by cell."""
    found = []
    for start in range(0, len(rows), VALIDATION_BATCH):
        part = rows.iloc[start : start + VALIDATION_BATCH]
        found.append(accuracy(processor, part, respond(model, process(processor, part))[0]))
    cells = pd.Series(np.concatenate(found)).groupby(rows["data_source"].to_numpy()).mean()
    return cells.round(6).to_dict()


def advantages(
    rows: pd.DataFrame, rewards: torch.Tensor, log_probs: torch.Tensor, mask: torch.Tensor, settings: Any
) -> torch.Tensor:
    """The advantages that verl's trainers compute, with the plugin's hooks, (rollouts, length).

    Args:
        rows: The prompts.
        rewards: Of each rollout, (rollouts,).
        log_probs: (rollouts, length).
        mask: Response mask, (rollouts, length).
        settings: verl's node `algorithm`.
    """
    token_rewards = torch.zeros_like(log_probs)
    token_rewards[torch.arange(len(mask)), mask.sum(dim=-1) - 1] = rewards
    columns = {
        "uid": rows.index.to_numpy().astype(str).astype(object),
        "visual_entropy": rows["visual_entropy"].to_numpy(),
        "true_difficulty": rows["true_difficulty"].to_numpy(),
    }
    data = DataProto.from_dict(
        {"token_level_rewards": token_rewards, "old_log_probs": log_probs, "response_mask": mask},
        {name: np.repeat(values, ROLLOUTS) for name, values in columns.items()} | {"acc": rewards.numpy()},
    )
    return ray_trainer.compute_advantage(data, settings.adv_estimator, config=settings).batch["advantages"]


def train(run: Run, data: Path, model_folder: Path) -> dict[str, Any]:
    """Trains one run.

    Args:
        run: The run.
        data: The folder written by `task.py`, with visual entropy.
        model_folder: The folder of the start.

    Returns:
        The fields `validation`, `reward` and `weight` of its result.
    """
    torch.set_num_threads(1)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
    processor = Qwen2_5_VLProcessor.from_pretrained(model_folder)
    training, validation = (
        pd.read_parquet(data / run.family / f"{split}.parquet") for split in ("train", run.validation)
    )
    settings = OmegaConf.from_dotlist([setting.lstrip("+") for setting in (*ARMS[run.arm], *run.settings)]).algorithm
    actor = ActorConfig(strategy="fsdp", rollout_n=ROLLOUTS, use_dynamic_bsz=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.rate, weight_decay=0.01)  # verl's defaults
    random = np.random.default_rng(run.seed)
    order = np.concatenate([random.permutation(len(training)) for _ in range(1 + STEPS * run.batch // len(training))])
    if run.variant == RESAMPLED:
        random = np.random.default_rng([run.seed, 1])
    accuracies, rewards_of_steps = {0: validate(model, processor, validation)}, []
    number, square = np.zeros(ROLLOUTS + 1, dtype=int), np.zeros(ROLLOUTS + 1)
    for step in range(1, STEPS + 1):
        rows = training.iloc[order[(step - 1) * run.batch : step * run.batch]]
        prompts = process(processor, rows)
        uniform = torch.from_numpy(random.random((run.batch * ROLLOUTS, MAX_RESPONSE_LENGTH)))
        tokens, mask = respond(model, prompts, uniform)
        rewards = torch.from_numpy(accuracy(processor, rows, tokens)).float()
        log_probs = log_probabilities(model, prompts, tokens)
        advantage = advantages(rows, rewards, log_probs.detach(), mask, settings)
        loss, _ = compute_policy_loss_vanilla(log_probs.detach(), log_probs, advantage, mask, config=actor)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        rewards_of_steps.append(round(rewards.mean().item(), 6))
        passes = rewards.view(-1, ROLLOUTS).sum(dim=-1).long().numpy()
        of_prompt = advantage[:, 0].view(-1, ROLLOUTS).square().sum(dim=-1).numpy()
        np.add.at(number, passes, 1)
        np.add.at(square, passes, of_prompt)
        if step % TEST_EVERY == 0 or step == STEPS:
            accuracies[step] = validate(model, processor, validation)
    weight = {"prompts": number.tolist(), "squares": square.round(3).tolist()}
    return {"validation": accuracies, "reward": rewards_of_steps, "weight": weight}

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the start weights of the comparison: a model that sees, and uses what it sees the less, the harder a question.

    python -m recipes.evidence.make_start OUT

The tiny Qwen2.5-VL of the quickstart is trained by supervised learning in three phases, on examples of both families
that no split contains:

1. eyes: the vision tower predicts at every image token shape, color and size, the color to the right, the number of
   equal shapes in the picture, and the third of severity, with a linear head that is discarded;
2. seeing: the language model learns, with the tower frozen, to write intermediate results and the answer. What remains
   wrong is what cannot be seen or is too difficult;
3. habit: for a few steps, only a share of the replies is true. It falls with severity and with the number of steps, see
   `true_share`. The others repeat one answer or guess. Reinforcement learning has to make the model prefer looking.

Writes OUT/seeing.safetensors and OUT/start.safetensors (float16). `start.safetensors` in this folder comes from a run
with OMP_NUM_THREADS=1.
"""

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from recipes.quickstart.make_start import View, optimize, reply_loss, save_weights, whiten_patches
from recipes.quickstart.model import make_model

from .model import processor_of_task
from .task import (
    COLORS,
    FAMILIES,
    GRID,
    KINDS,
    LEVELS,
    NUMBERS,
    RADIUS,
    SHAPES,
    Example,
    Question,
    examples,
    generator,
)

STEPS = {"eyes": 500, "seeing": 1000, "habit": 200}
BATCH = {"eyes": 48, "seeing": 64, "habit": 64}
EMPTY_WEIGHT = 0.5
"""Weight of image tokens where there is nothing to predict in the loss of phase eyes."""
HEADS = [1 + len(names) for names in (SHAPES, COLORS, RADIUS, COLORS, NUMBERS, LEVELS)]
"""Numbers of classes that phase eyes predicts at an image token, with one for none."""

GUESSES = 1 / 3
"""Share of guesses among the replies in phase habit that are not true; the others are the habit."""
HABITS = {**dict.fromkeys(KINDS, "red"), "count": "3"}
"""The answer that the model repeats."""


def true_share(example: Example) -> float:
    """Share of true replies in phase habit."""
    return 1 - 0.7 * example.severity - 0.08 * (example.steps - 1)


def reply(question: Question, facts: tuple[str, ...], answer: str) -> str:
    """A reply in the form that rewards read, which takes `facts` for true."""
    thought = ", ".join(f"{name} {fact}" for name, fact in zip(question.names, facts, strict=True))
    return f"<think> {thought}</think>\\boxed{{{answer}}}"


def true_reply(question: Question) -> str:
    """The reply that is right."""
    return reply(question, question.facts, question.answer)


def habitual_reply(example: Example, random: np.random.Generator) -> str:
    """A true reply with the probability `true_share`, else the habit or a guess, with facts that fit it."""
    question = example.question
    if random.random() < true_share(example):
        return true_reply(question)
    words = list(NUMBERS if question.kind == "count" else COLORS)
    guess, other = HABITS[question.kind], words[random.integers(len(words))]
    if random.random() < GUESSES:
        guess = words[random.integers(len(words))]
    facts: tuple[str, ...] = (guess,)
    if question.kind == "compare":
        facts = tuple(random.permutation([f"large {guess}", f"small {other}"]).tolist())
    elif question.kind == "hop":
        facts = (other, guess)
    return reply(question, facts, guess)


def labels(batch: list[Example]) -> torch.Tensor:
    """What phase eyes predicts at every image token, 0 for none, shape (len(HEADS), examples * GRID * GRID)."""
    shapes, colors, sizes = list(SHAPES), list(COLORS), list(RADIUS)
    found = torch.zeros(len(HEADS), len(batch), GRID, GRID, dtype=torch.long)
    for number, example in enumerate(batch):
        things = example.question.things
        frequency = Counter(thing.shape for thing in things)
        for thing in things:
            names = shapes.index(thing.shape), colors.index(thing.color), sizes.index(thing.size)
            found[:3, number, thing.row, thing.column] = 1 + torch.tensor(names)
            found[4, number, thing.row, thing.column] = frequency[thing.shape]
        found[5, number] = 1 + LEVELS.index(example.level)
    found[3, ..., :-1] = found[1, ..., 1:]
    return found.flatten(1)


class Lessons:
    """Batches of examples, half of each family."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, seed: int) -> None:
        self._model, self._processor = model, processor
        families = [examples(family, generator(seed, "start", family)) for family in FAMILIES]
        self._examples: Iterator[Example] = itertools.chain.from_iterable(zip(*families, strict=True))
        self._random = generator(seed, "habit")

    def batch(self, phase: str) -> tuple[list[Example], torch.Tensor, torch.Tensor]:
        """Examples with the output of the image processor: pixel values and grids."""
        batch = list(itertools.islice(self._examples, BATCH[phase]))
        pixels = self._processor.image_processor(images=[example.picture for example in batch], return_tensors="pt")
        return batch, pixels["pixel_values"], pixels["image_grid_thw"]

    def eyes_loss(self, head: nn.Linear) -> torch.Tensor:
        """The loss of phase eyes on a new batch."""
        batch, pixels, grids = self.batch("eyes")
        logits = head(self._model.model.visual(pixels, grid_thw=grids).pooler_output)
        loss = logits.new_zeros(())
        for part, label in zip(logits.split(HEADS, dim=1), labels(batch), strict=True):
            weight = torch.ones(part.shape[1])
            weight[0] = EMPTY_WEIGHT
            loss = loss + functional.cross_entropy(part, label, weight=weight)
        return loss

    def reply_loss(self, phase: str) -> torch.Tensor:
        """The loss of the phases seeing and habit on a new batch."""
        batch, pixels, grids = self.batch(phase)
        with torch.no_grad():
            tokens = self._model.get_image_features(pixels, grids).pooler_output
        views = [View(part, grid) for part, grid in zip(tokens, grids, strict=True)]
        if phase == "habit":
            replies = [habitual_reply(example, self._random) for example in batch]
        else:
            replies = [true_reply(example.question) for example in batch]
        messages = [f"<image>{example.question.text}" for example in batch]
        return reply_loss(self._model, self._processor, messages, replies, views)


def make_start(out: Path, seed: int = 0) -> None:
    """Runs the three phases and writes the weights after each.

    Args:
        out: The folder, created if missing.
        seed: For initial weights and all batches.
    """
    out.mkdir(parents=True, exist_ok=True)
    processor = processor_of_task()
    model = make_model(processor.tokenizer, seed)
    lessons = Lessons(model, processor, seed)

    tower = model.model.visual
    whiten_patches(tower, torch.cat([lessons.batch("eyes")[1] for _ in range(4)]))
    head = nn.Linear(model.config.vision_config.out_hidden_size, sum(HEADS))
    optimize("eyes", STEPS["eyes"], [*tower.parameters(), *head.parameters()], lambda step: lessons.eyes_loss(head))
    save_weights(model, out / "eyes.safetensors")

    parameters = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    for phase, name in (("seeing", "seeing"), ("habit", "start")):
        optimize(phase, STEPS[phase], parameters, lambda step, phase=phase: lessons.reply_loss(phase))
        save_weights(model, out / f"{name}.safetensors")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the start weights of the comparison (about 15 minutes).")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make_start(args.out, args.seed)


if __name__ == "__main__":
    main()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the start weights of the quickstart: a model that can see, but mostly gives a habitual answer.

    python -m recipes.quickstart.make_start OUT

A few dozen steps of reinforcement learning can teach a small model to use what it sees, but not to see. So supervised
learning in three phases prepares the start, on new pictures of the shapes in the split `sft`:

1. eyes: the vision tower alone learns to predict, at every image token, where the shape is and which shape and color
   it has, with a linear head that is then discarded. Close-ups first, full pictures in the last quarter;
2. seeing: with the tower frozen, the language model learns to describe the picture in its thought and to answer
   accordingly;
3. habit: for a few steps, most replies describe the same thing regardless of the picture, and some have a wrong format.
   Reinforcement learning then only has to make the model use what it sees.

Writes OUT/seeing.safetensors, OUT/start.safetensors (float16) and OUT/accuracy.json: greedy accuracy on the split dev.
`start.safetensors` in this folder comes from a run with OMP_NUM_THREADS=1. Runs on one machine are bit-identical;
another processor may round differently and give other weights.
"""

import argparse
import io
import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from verl_durian.reward import compute_score

from .data import (
    BACKGROUND_CYCLE,
    COLORS,
    KINDS,
    ROWS_PER_KIND,
    SHAPES,
    SIZES,
    Painter,
    Question,
    make_rows,
    plain_questions,
    prompt_text,
    shape_coverage,
    split_images,
)
from .model import make_model, make_processor

STEPS = {"eyes": 1200, "seeing": 600, "habit": 30}
LEARNING_RATE = {"eyes": 1e-3, "seeing": 1e-3, "habit": 2e-4}
BATCH = {"eyes": 48, "seeing": 64, "habit": 64}
WARMUP_STEPS = 30
MAX_REPLY_TOKENS = 16

TOKEN_PIXELS = 28
"""Side in pixels of the square that one image token covers."""
CELLS = 8
"""The place of the shape is predicted for CELLS x CELLS cells of every image token."""
CLOSE_UP = 84
CLOSE_UP_SHARE = 0.75
"""Share of the steps of phase eyes on close-ups of the shape, CLOSE_UP pixels a side."""
COVERED = 0.02
"""Minimum share of the shape in the pixels of an image token that counts as showing it."""
GROUND_WEIGHT = 0.3
"""Weight of the many tokens without the shape in the loss of phase eyes."""
PLACE_WEIGHT = 5.0
"""Weight of the place in the loss of phase eyes."""

HABIT_THING = "brown triangle"
TRUE_SHARE = {"color": 0.4, "shape": 0.25, "yesno": 0.2}
"""Share of replies in phase habit about what the picture shows, by kind of question."""
RANDOM_SHARE = 0.15
"""Share of replies in phase habit about a random thing; the rest are about HABIT_THING."""
FORMS = ("<think> a {thought}</think>\\boxed{{{answer}}}", "\\boxed{{{answer}}}", "{answer}")
FORM_SHARE = (0.85, 0.10, 0.05)


def think(question: Question, thing: str) -> tuple[str, str]:
    """The thought about a question if the picture shows `thing`, and the answer that follows.

    The thought is "red circle", or for yes/no "blue? red, not there": what the question names, what the picture shows,
    and whether they are equal. Small models learn to compare much faster when they write down both.
    """
    color, shape = thing.split()
    if question.kind != "yesno":
        return thing, color if question.kind == "color" else shape
    named = next(word for word in re.findall(r"\w+", question.text) if word in COLORS + SHAPES)
    seen = color if named in COLORS else shape
    verdict = "there" if seen == named else "not there"
    return f"{named}? {seen}, {verdict}", "yes" if seen == named else "no"


def optimize(phase: str, steps: int, parameters: list[nn.Parameter], loss_of_step: Callable) -> None:
    """Runs one phase: AdamW with a linear warm-up and cosine decay to a tenth (constant in the short phase habit).

    Args:
        phase: One of `STEPS`.
        steps: Number of updates.
        parameters: The trained parameters.
        loss_of_step: Returns the loss of a new batch, given the step.
    """
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE[phase], betas=(0.9, 0.99), weight_decay=0.01)
    progress = tqdm(range(steps), desc=phase, unit="step")
    for step in progress:
        rate = LEARNING_RATE[phase]
        if phase != "habit":
            rate *= min(1.0, (step + 1) / WARMUP_STEPS) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of_step(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


class EyeLessons:
    """Batches of phase eyes: pictures, and what each of their image tokens shows."""

    def __init__(self, processor: Qwen2_5_VLProcessor, seed: int) -> None:
        self._image_processor = processor.image_processor
        self._rng = random.Random(f"{seed}-eyes")
        self._painter = Painter()
        self._questions = [asked[0] for asked in split_images("sft").values()]

    def _draw(self, close_up: bool) -> tuple[Question, Image.Image, Image.Image]:
        """A question, a picture for it and the mask of the shape."""
        rng = self._rng
        question, background, size = rng.choice(self._questions), rng.choice(BACKGROUND_CYCLE), rng.choice(SIZES)
        picture = self._painter.paint(question.image, background, size, rng)
        coverage = shape_coverage(question.image, size)
        if not close_up:
            return question, picture, coverage
        box = coverage.point(lambda value: 255 * (value > 40)).getbbox()
        assert box is not None  # every picture of easy-vqa has a shape
        left, top, right, bottom = box

        def window(low: int, high: int) -> int:
            """A random start of a window in the picture that contains low..high."""
            ends = (max(0, high - CLOSE_UP), min(low, size - CLOSE_UP))
            return rng.randint(min(ends), max(ends))

        x, y = window(left, right), window(top, bottom)
        window_box = (x, y, x + CLOSE_UP, y + CLOSE_UP)
        return question, picture.crop(window_box), coverage.crop(window_box)

    def batch(self, close_up: bool) -> tuple[dict, torch.Tensor, torch.Tensor, torch.Tensor]:
        """A batch.

        Returns:
            The output of the image processor; for every image token the share of the shape in its cells,
            `(tokens, CELLS**2)`, and the indices of color and shape, each `(tokens,)`, 0 without the shape.
        """
        cells, colors, shapes, pictures = [], [], [], []
        for _ in range(BATCH["eyes"]):
            question, picture, coverage = self._draw(close_up)
            side = picture.width // TOKEN_PIXELS
            small = coverage.resize((side * CELLS, side * CELLS), Image.Resampling.BOX)
            part = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)
            part = part.view(side, CELLS, side, CELLS).transpose(1, 2).reshape(side * side, CELLS * CELLS)
            covered = part.mean(dim=1) >= COVERED
            color, shape = question.thing.split()
            cells.append(part)
            colors.append(covered * (1 + COLORS.index(color)))
            shapes.append(covered * (1 + SHAPES.index(shape)))
            pictures.append(picture)
        pixels = self._image_processor(images=pictures, do_resize=False, return_tensors="pt")
        return pixels, torch.cat(cells), torch.cat(colors), torch.cat(shapes)


def whiten_patches(tower: nn.Module, patches: torch.Tensor) -> None:
    """Sets the patch embedding to the leading principal components of the patches, scaled to about equal variance.

    Neighboring pixels are similar, so random filters respond mostly to the mean color of a patch. Edges, which
    distinguish shapes, are in the components of small variance.

    Args:
        tower: The vision tower.
        patches: Output of the image processor, `(patches, values)`.
    """
    weight = tower.patch_embed.proj.weight
    values = patches.double() - patches.double().mean(dim=0)
    variances, directions = torch.linalg.eigh(values.T @ values / len(values))
    variances, directions = variances.flip(0)[: len(weight)], directions.flip(1)[:, : len(weight)]
    filters = 0.5 * directions / (variances + 0.01 * variances[3]).sqrt()  # three mean colors come first
    with torch.no_grad():
        weight.copy_(filters.T.reshape(weight.shape))


def train_eyes(model: Qwen2_5_VLForConditionalGeneration, lessons: EyeLessons, steps: int) -> None:
    """Phase 1: the vision tower predicts at every image token where the shape is, its color and its shape."""
    tower = model.model.visual
    whiten_patches(tower, torch.cat([lessons.batch(close_up=True)[0]["pixel_values"] for _ in range(4)]))
    sizes = [CELLS * CELLS, 1 + len(COLORS), 1 + len(SHAPES)]
    head = nn.Linear(model.config.vision_config.out_hidden_size, sum(sizes))
    color_weights, shape_weights = (torch.tensor([GROUND_WEIGHT] + [1.0] * len(names)) for names in (COLORS, SHAPES))

    def loss_of_step(step: int) -> torch.Tensor:
        pixels, cells, colors, shapes = lessons.batch(close_up=step < CLOSE_UP_SHARE * steps)
        tokens = tower(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"]).pooler_output
        place_logits, color_logits, shape_logits = head(tokens).split(sizes, dim=1)
        return (
            PLACE_WEIGHT * functional.binary_cross_entropy_with_logits(place_logits, cells)
            + functional.cross_entropy(color_logits, colors, weight=color_weights)
            + functional.cross_entropy(shape_logits, shapes, weight=shape_weights)
        )

    optimize("eyes", steps, [*tower.parameters(), *head.parameters()], loss_of_step)


@dataclass(frozen=True)
class View:
    """A picture after the trained vision tower."""

    tokens: torch.Tensor
    """Output of the tower, `(image tokens, hidden size)`."""
    grid: torch.Tensor
    """`image_grid_thw` of the image processor, `(3,)`."""


@torch.no_grad()
def see_all(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, images: list[str], seed: int
) -> dict[str, list[View]]:
    """Paints every image on each background of the cycle and computes its tokens once, for phases 2 and 3."""
    rng = random.Random(f"{seed}-views")
    painter = Painter()
    views = {}
    for image in tqdm(images, desc="views", unit="image"):
        pictures = [painter.paint(image, background, rng.choice(SIZES), rng) for background in BACKGROUND_CYCLE]
        pixels = processor.image_processor(images=pictures, return_tensors="pt")
        tokens = model.get_image_features(pixels["pixel_values"], pixels["image_grid_thw"]).pooler_output
        views[image] = [View(part.clone(), grid) for part, grid in zip(tokens, pixels["image_grid_thw"], strict=True)]
    return views


def chat_text(processor: Qwen2_5_VLProcessor, message: str) -> str:
    """A user message with `<image>` in it after the chat template, with one placeholder for the image."""
    before, after = message.split("<image>")
    parts = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
    return processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)


class ReplyLessons:
    """Batches for the language model: views of pictures, questions and replies."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, seed: int) -> None:
        asked = split_images("sft")
        self._model = model
        self._processor = processor
        self._views = see_all(model, processor, [questions[0].image for questions in asked.values()], seed)
        self._seed = seed
        self._pools: dict[str, dict[str, list[Question]]] = {kind: defaultdict(list) for kind in KINDS}
        for question in plain_questions(asked):
            self._pools[question.kind][question.answer].append(question)

    def begin(self, phase: str) -> Callable[[Question], str]:
        """Seeds the random choices of a phase; returns the function that writes its replies."""
        self._rng = random.Random(f"{self._seed}-{phase}")
        return {"seeing": self._true_reply, "habit": self._habitual_reply}[phase]

    def _draw(self) -> tuple[Question, View]:
        """A question and a view of its image; kinds and answers are equally frequent."""
        pools = self._pools[self._rng.choice(KINDS)]
        question = self._rng.choice(pools[self._rng.choice(sorted(pools))])
        return question, self._rng.choice(self._views[question.image])

    def _true_reply(self, question: Question) -> str:
        thought, answer = think(question, question.thing)
        return FORMS[0].format(thought=thought, answer=answer)

    def _habitual_reply(self, question: Question) -> str:
        luck, thing = self._rng.random(), question.thing
        if luck >= 1 - RANDOM_SHARE:
            thing = f"{self._rng.choice(COLORS)} {self._rng.choice(SHAPES)}"
        elif luck >= TRUE_SHARE[question.kind]:
            thing = HABIT_THING
        thought, answer = think(question, thing)
        return self._rng.choices(FORMS, FORM_SHARE)[0].format(thought=thought, answer=answer)

    def loss(self, batch_size: int, reply_of: Callable[[Question], str]) -> torch.Tensor:
        """The loss on the replies of a new batch, without the prompts."""
        messages, replies, views = [], [], []
        for _ in range(batch_size):
            question, view = self._draw()
            messages.append(prompt_text(question.text))
            replies.append(reply_of(question))
            views.append(view)
        return reply_loss(self._model, self._processor, messages, replies, views)


def reply_loss(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    messages: list[str],
    replies: list[str],
    views: list[View],
) -> torch.Tensor:
    """The loss of the language model on replies, without the prompts.

    Args:
        model: The model.
        processor: Its processor.
        messages: The user messages, each with one `<image>`.
        replies: The reply to each, without the end token.
        views: The picture of each.
    """
    tokenizer, image_token = processor.tokenizer, processor.image_token
    texts, reply_lengths = [], []
    for message, reply, view in zip(messages, replies, views, strict=True):
        reply += tokenizer.eos_token
        prompt = chat_text(processor, message).replace(image_token, image_token * len(view.tokens))
        texts.append(prompt + reply)
        reply_lengths.append(len(tokenizer(reply).input_ids))
    batch = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    ids = batch["input_ids"]
    is_image = ids == model.config.image_token_id
    embeddings = model.get_input_embeddings()(ids)
    embeddings = embeddings.masked_scatter(is_image[..., None], torch.cat([view.tokens for view in views]))
    from_the_end = torch.arange(ids.shape[1], 0, -1)
    is_reply = from_the_end <= torch.tensor(reply_lengths)[:, None]
    return model(
        input_ids=ids,
        inputs_embeds=embeddings,
        attention_mask=batch["attention_mask"],
        image_grid_thw=torch.stack([view.grid for view in views]),
        mm_token_type_ids=is_image.int(),
        labels=ids.masked_fill(~is_reply, -100),
    ).loss


def train_replies(model: Qwen2_5_VLForConditionalGeneration, lessons: ReplyLessons, phase: str, steps: int) -> None:
    """Phases 2 and 3: the language model learns replies; the vision tower is frozen."""
    reply_of = lessons.begin(phase)
    parameters = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    optimize(phase, steps, parameters, lambda step: lessons.loss(BATCH[phase], reply_of))


@torch.no_grad()
def greedy_accuracy(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, rows: list[dict]
) -> dict[str, float]:
    """Accuracy of greedy replies by kind, by kind and background, and the share of well-formed replies."""
    scores = defaultdict(list)
    for start in tqdm(range(0, len(rows), BATCH["seeing"]), desc="dev", unit="batch"):
        part = rows[start : start + BATCH["seeing"]]
        images = [Image.open(io.BytesIO(row["images"][0]["bytes"])) for row in part]
        texts = [chat_text(processor, row["prompt"][0]["content"]) for row in part]
        batch = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        tokens = model.generate(**batch, do_sample=False, max_new_tokens=MAX_REPLY_TOKENS)
        replies = processor.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, reply in zip(part, replies, strict=True):
            score = compute_score(row["data_source"], reply, row["reward_model"]["ground_truth"])
            kind, background = row["extra_info"]["kind"], row["extra_info"]["background"]
            scores[kind].append(score["acc"])
            scores[f"{kind}/{background}"].append(score["acc"])
            scores["format"].append(score["format"])
    return {name: round(sum(values) / len(values), 3) for name, values in sorted(scores.items())}


def save_weights(model: Qwen2_5_VLForConditionalGeneration, path: Path) -> None:
    """Saves the parameters in float16, atomically."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, unfinished, metadata={"format": "pt"})
    unfinished.rename(path)


def make_start(out: Path, steps: dict[str, int] = STEPS, seed: int = 0) -> dict[str, dict[str, float]]:
    """Runs the three phases and writes weights and accuracies.

    Args:
        out: The folder, created if missing.
        steps: Number of updates of each phase.
        seed: Seed of initial weights and all batches.

    Returns:
        Accuracies on dev after the phases "seeing" and "habit".
    """
    out.mkdir(parents=True, exist_ok=True)
    processor = make_processor()
    model = make_model(processor.tokenizer, seed)
    dev = list(make_rows("dev", ROWS_PER_KIND["dev"]))
    train_eyes(model, EyeLessons(processor, seed), steps["eyes"])
    lessons = ReplyLessons(model, processor, seed)
    accuracy = {}
    for phase, name in (("seeing", "seeing"), ("habit", "start")):
        train_replies(model, lessons, phase, steps[phase])
        save_weights(model, out / f"{name}.safetensors")
        accuracy[phase] = greedy_accuracy(model, processor, dev)
        print(phase, accuracy[phase], flush=True)
    (out / "accuracy.json").write_text(json.dumps(accuracy, indent=1) + "\n")
    return accuracy


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the start weights of the quickstart (10 to 15 minutes).")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    for phase, number in STEPS.items():
        parser.add_argument(f"--{phase}-steps", type=int, default=number)
    args = parser.parse_args()
    make_start(args.out, {phase: getattr(args, f"{phase}_steps") for phase in STEPS}, args.seed)


if __name__ == "__main__":
    main()

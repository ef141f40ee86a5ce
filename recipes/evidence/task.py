# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Questions about colored shapes whose difficulty is known: severity of a corruption and number of reasoning steps.

    python -m recipes.evidence.task OUT

writes OUT/{aligned,anti}/{train,dev,test}.parquet in verl's format. A picture has 4 x 4 cells, 7 of them with a shape.
Every answer is one of six colors or one of the numbers 1 to 6.

- Severity d, uniform in [0, 1]: how strongly the picture is corrupted. In the family `aligned`, by noise or clutter,
  which raise visual entropy; in the family `anti`, by blur or coarse pixels, which lower it. They are two tasks.
- Steps, 1 to 4: read a color, compare two sizes, count, read the color beside a shape.

Kind, corruption, answer and third of severity are crossed: each combination is equally frequent. So no answer is right
more often than 1 in 6, whatever is known of the difficulty of a question.
"""

import argparse
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from recipes.quickstart.data import write_parquet

COLORS = {
    "red": (215, 45, 45),
    "green": (45, 165, 70),
    "blue": (50, 85, 215),
    "yellow": (240, 215, 50),
    "purple": (150, 65, 190),
    "black": (25, 25, 25),
}
BACKGROUND = (200, 200, 200)
SHAPES = ("circle", "square", "triangle", "cross")
NUMBERS = ("1", "2", "3", "4", "5", "6")
KINDS = ("read", "compare", "count", "hop")
"""The kinds of questions; the position, from 1, is the number of reasoning steps."""
FAMILIES = {"aligned": ("noise", "clutter"), "anti": ("blur", "pixels")}
"""The corruptions of a family: visual entropy rises with severity in `aligned` and falls in `anti`."""
LEVELS = ("low", "medium", "high")
"""Thirds of severity. A cell of the tables is a kind and a level."""
CELLS = tuple(itertools.product(KINDS, LEVELS))

GRID, CELL = 4, 28
"""Cells a side, and pixels a side of a cell: exactly one image token of Qwen2.5-VL."""
SIDE = GRID * CELL
SHAPES_IN_PICTURE = 7
RADIUS = {"small": 7, "large": 12}

CYCLE = len(CELLS) * 2 * len(NUMBERS)
"""Rows in which each combination of cell, corruption and answer occurs once."""
ROWS = {"train": 14 * CYCLE, "dev": 3 * CYCLE, "test": 3 * CYCLE}
SEED = 1
"""Of the published comparison. Seed 0 was used to design the task and the start."""


@dataclass(frozen=True)
class Thing:
    """A shape in a cell of the picture."""

    row: int
    column: int
    shape: str
    color: str
    size: str
    """A key of `RADIUS`."""


@dataclass
class Question:
    """A question about a scene."""

    kind: str
    text: str
    names: tuple[str, ...]
    """What the thought is about: the shapes in the text, or a shape and `right`."""
    facts: tuple[str, ...]
    """What is true of each name, such as "red", "small red" or "3"."""
    answer: str
    things: list[Thing] = field(default_factory=list)
    """The scene."""


def pick(random: np.random.Generator, choices: list | tuple) -> str:
    """One of the choices, equally likely."""
    return choices[random.integers(len(choices))]


def ask(kind: str, answer: int, random: np.random.Generator) -> Question:
    """Draws a scene and a question about it.

    Args:
        kind: One of `KINDS`.
        answer: Which of the six colors or numbers is right, from 0.
        random: For everything else.
    """
    places = [divmod(int(place), GRID) for place in random.permutation(GRID * GRID)]
    color = list(COLORS)[answer]
    subject, other, *rest = random.permutation(SHAPES).tolist()
    things: list[Thing] = []

    def add(shape: str, color: str, size: str = "", place: tuple[int, int] | None = None) -> Thing:
        place = place or places[0]
        places.remove(place)
        size = size or pick(random, list(RADIUS))
        things.append(Thing(*place, shape, color or pick(random, list(COLORS)), size))
        return things[-1]

    if kind == "read":
        add(subject, color)
        question = Question(kind, f"color of the {subject}?", (subject,), (color,), color)
        rest.append(other)
    elif kind == "compare":
        sizes = random.permutation(list(RADIUS)).tolist()
        shapes = zip((subject, other), sizes, strict=True)
        pair = [add(shape, color if size == "large" else "", size) for shape, size in shapes]
        facts = tuple(f"{thing.size} {thing.color}" for thing in pair)
        question = Question(kind, f"color of the larger, {subject} or {other}?", (subject, other), facts, color)
    elif kind == "count":
        for _ in range(answer + 1):
            add(subject, "")
        number = NUMBERS[answer]
        question = Question(kind, f"number of {subject} shapes?", (subject,), (number,), number)
        rest.append(other)
    else:
        row, column = next(place for place in places if place[1] + 1 < GRID)
        first = add(subject, "", place=(row, column))
        rest.append(other)
        add(pick(random, rest), color, place=(row, column + 1))
        names, facts = (subject, "right"), (first.color, color)
        question = Question(kind, f"color right of the {subject}?", names, facts, color)
    while len(things) < SHAPES_IN_PICTURE:
        add(pick(random, rest), "")
    question.things = things
    return question


def mask(shape: str, radius: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Which points are in a shape around the origin."""
    if shape == "circle":
        return x * x + y * y <= radius * radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.9 * radius
    if shape == "triangle":
        return (abs(y) <= radius) & (abs(x) <= (y + radius) / 2)
    return (np.minimum(abs(x), abs(y)) <= 0.3 * radius) & (np.maximum(abs(x), abs(y)) <= radius)


def draw(things: list[Thing], random: np.random.Generator) -> np.ndarray:
    """Draws a scene without corruption: float64, shape (SIDE, SIDE, 3), 0 to 255."""
    picture = np.empty((SIDE, SIDE, 3))
    picture[:] = BACKGROUND
    y, x = np.mgrid[:CELL, :CELL] + 0.5 - CELL / 2
    for thing in things:
        radius = RADIUS[thing.size]
        shift = random.integers(-1, 2, size=2)
        top, left = thing.row * CELL, thing.column * CELL
        inside = mask(thing.shape, radius, y - shift[0], x - shift[1])
        picture[top : top + CELL, left : left + CELL][inside] = COLORS[thing.color]
    return picture


def corrupt(picture: np.ndarray, corruption: str, severity: float, random: np.random.Generator) -> np.ndarray:
    """Applies a corruption of severity 0 (nothing) to 1; returns pixels from 0 to 255, uint8."""
    if corruption == "noise":
        picture = picture + random.normal(0, 160 * severity, picture.shape)
    elif corruption == "clutter":
        picture = picture.copy()
        for _ in range(round(160 * severity)):
            height, width = random.integers(2, 10, size=2)
            top, left = random.integers(SIDE - height), random.integers(SIDE - width)
            picture[top : top + height, left : left + width] = random.integers(256, size=3)
    elif corruption == "blur":
        picture = gaussian_filter(picture, (8 * severity, 8 * severity, 0))
    else:
        coarse = round(SIDE / (1 + 15 * severity))  # at severity 1 there are 7 x 7 pixels
        small = Image.fromarray(np.uint8(picture)).resize((coarse, coarse), Image.Resampling.BOX)
        picture = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.NEAREST), dtype=np.float64)
    return picture.round().clip(0, 255).astype(np.uint8)


@dataclass
class Example:
    """A question with its picture and difficulty."""

    question: Question
    corruption: str
    severity: float
    picture: np.ndarray
    """uint8, shape (SIDE, SIDE, 3)."""

    @property
    def level(self) -> str:
        """The third of the severity."""
        return LEVELS[min(int(len(LEVELS) * self.severity), len(LEVELS) - 1)]

    @property
    def steps(self) -> int:
        """The number of reasoning steps, 1 to 4."""
        return 1 + KINDS.index(self.question.kind)


def examples(family: str, random: np.random.Generator) -> Iterator[Example]:
    """Draws examples without end; every `CYCLE` contain each combination once, in random order."""
    combinations = list(itertools.product(KINDS, range(len(LEVELS)), FAMILIES[family], range(len(NUMBERS))))
    while True:
        for at in random.permutation(len(combinations)):
            kind, level, corruption, answer = combinations[at]
            question = ask(kind, answer, random)
            severity = (level + random.random()) / len(LEVELS)
            clean = draw(question.things, random)
            yield Example(question, corruption, severity, corrupt(clean, corruption, severity, random))


def generator(*seed: str | int) -> np.random.Generator:
    """A generator of random numbers that depends on all arguments."""
    return np.random.default_rng(list("/".join(map(str, seed)).encode()))


def make_rows(family: str, split: str, rows: int, seed: int = SEED) -> Iterator[dict]:
    """The rows of one split in verl's format.

    `true_difficulty` is the number of steps plus the severity divided by 2: its integer part and its fraction.
    """
    for index, example in enumerate(itertools.islice(examples(family, generator(seed, family, split)), rows)):
        buffer = io.BytesIO()
        Image.fromarray(example.picture).save(buffer, "PNG")
        kind = example.question.kind
        yield {
            "data_source": f"{kind}_{example.level}",
            "prompt": [{"role": "user", "content": f"<image>{example.question.text}"}],
            "images": [{"bytes": buffer.getvalue()}],
            "ability": "vision",
            "reward_model": {"style": "rule", "ground_truth": example.question.answer},
            "true_difficulty": example.steps + example.severity / 2,
            "extra_info": {
                "split": split,
                "index": index,
                "kind": kind,
                "level": example.level,
                "severity": example.severity,
                "corruption": example.corruption,
            },
        }


def write_data(out: Path, rows: dict[str, int] = ROWS, seed: int = SEED) -> None:
    """Writes all splits of both families.

    Args:
        out: The folder, created if missing.
        rows: Number of rows of each split; multiples of `CYCLE` for exact balance.
        seed: For all random numbers.
    """
    for family in FAMILIES:
        (out / family).mkdir(parents=True, exist_ok=True)
        for split, number in rows.items():
            write_parquet(list(make_rows(family, split, number, seed)), out / family / f"{split}.parquet")


def contact_sheet(family: str, seed: int = SEED) -> Image.Image:
    """Example pictures: a row for each corruption, severities 0 to 1 in six columns."""
    columns = 6
    sheet = Image.new("RGB", (columns * (SIDE + 4), 2 * (SIDE + 4)), "white")
    for line, corruption in enumerate(FAMILIES[family]):
        for column in range(columns):
            random = generator(seed, "sheet", column)
            clean = draw(ask(KINDS[column % len(KINDS)], column, random).things, random)
            picture = Image.fromarray(corrupt(clean, corruption, column / (columns - 1), random))
            sheet.paste(picture, (column * (SIDE + 4), line * (SIDE + 4)))
    return sheet


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the questions of the comparison as parquet files.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    write_data(args.out, seed=args.seed)
    for family in FAMILIES:
        contact_sheet(family, args.seed).save(args.out / f"{family}.png")


if __name__ == "__main__":
    main()

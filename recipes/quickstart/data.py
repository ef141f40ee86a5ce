# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The questions of the quickstart: easy-vqa's shapes, half of them on photographs and textures.

    python -m recipes.quickstart.data OUT

writes OUT/{sft,train,dev,test}.parquet in verl's format and a data card OUT/README.md. Nothing is downloaded: the
package easy-vqa contains 4,000 training and 1,000 test images with questions, scikit-image the backgrounds. No image
is in two of the files. Choose settings on dev; test is for final results.
"""

import argparse
import io
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import easy_vqa
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skimage
from PIL import Image
from tqdm import tqdm

COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
KINDS = ("color", "shape", "yesno")

THINKING_PROMPT = "Think in <think> </think>, then answer in \\boxed{}."
"""Precedes the question in the user message; the paper's thinking prompt is longer."""

SIZES = (112, 140)
"""Side of a picture in pixels. Multiples of 28, which give 16 or 25 image tokens in Qwen2.5-VL. With two sizes, the
prompts of a batch have different lengths."""

BACKGROUND_FILES = {
    "photo": {
        "astronaut.png": "NASA, public domain",
        "camera.png": "Lav Varshney, CC0",
        "chelsea.png": "Stefan van der Walt, CC0",
        "coffee.png": "Rachel Michetti, CC0",
        "rocket.jpg": "SpaceX, public domain",
    },
    "texture": {
        "brick.png": "CC0Textures, CC0",
        "grass.png": "linolafett, CC0",
        "gravel.png": "CC0Textures, CC0",
    },
}
"""Files in the wheel of scikit-image and their sources. A third kind, `flat`, is the background of easy-vqa itself."""

BACKGROUND_CYCLE = ("flat", "photo", "flat", "texture")
"""The images of a split get these backgrounds in turn: half are flat, a quarter each has one of the other kinds."""

BACKGROUND_WASH = 0.5
"""Share of white mixed into a photograph or texture, to keep dark shapes visible."""

SPLITS = {"sft": ("train", 2000), "train": ("train", 1200), "dev": ("train", 340), "test": ("test", 880)}
"""For each split: the part of easy-vqa with its images, and their number."""

SPLIT_SEED = 0
"""Assigns images to splits. Fixed, because the start weights were trained on the images of sft."""

ROWS_PER_KIND = {"sft": 800, "train": 800, "dev": 128, "test": 256}

_NEGATION = re.compile(r"\b(not|no)\b")


@dataclass(frozen=True)
class Question:
    """One question of easy-vqa."""

    text: str
    answer: str
    """One word."""
    kind: str
    """One of `KINDS`."""
    image: str
    """Path of the image file."""
    thing: str
    """What the image shows, such as "red circle"."""


def kind_of(answer: str) -> str:
    """The kind of a question with this answer."""
    if answer in ("yes", "no"):
        return "yesno"
    return "shape" if answer in SHAPES else "color"


def _thing_in(questions: list[tuple[str, str]]) -> str | None:
    """What an image shows according to its questions and answers; None if they do not determine it."""
    seen = set()
    for text, answer in questions:
        words = set(re.findall(r"\w+", text)).intersection(COLORS + SHAPES)
        if kind_of(answer) != "yesno":
            seen |= words | {answer}
        elif (answer == "yes") != (_NEGATION.search(text) is not None):
            seen |= words
    if len(seen) < 2:
        return None
    color, shape = sorted(seen, key=SHAPES.__contains__)
    return f"{color} {shape}"


def read_questions(part: str) -> dict[str, list[Question]]:
    """The questions of easy-vqa's part "train" or "test", by image id, for all images with known color and shape."""
    read, paths = {
        "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
        "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
    }[part]
    asked = defaultdict(list)
    for text, answer, image in zip(*read(), strict=True):
        asked[image].append((text, answer))
    path = paths()
    known = {image: thing for image, pairs in sorted(asked.items()) if (thing := _thing_in(pairs))}
    return {
        image: [Question(text, answer, kind_of(answer), path[image], thing) for text, answer in asked[image]]
        for image, thing in known.items()
    }


def split_images(split: str) -> dict[str, list[Question]]:
    """The images of one split with their questions, by image id.

    sft, train and dev divide easy-vqa's training images among them; test has easy-vqa's test images.
    """
    part, size = SPLITS[split]
    questions = read_questions(part)
    images = sorted(questions)
    random.Random(f"{SPLIT_SEED}-{part}").shuffle(images)
    earlier = list(SPLITS.values())[: list(SPLITS).index(split)]
    before = sum(other_size for other_part, other_size in earlier if other_part == part)
    return {image: questions[image] for image in images[before : before + size]}


def plain_questions(images: dict[str, list[Question]]) -> list[Question]:
    """The questions without a negation ("is there not a red shape?"), which are too hard for the tiny model."""
    return [question for asked in images.values() for question in asked if not _NEGATION.search(question.text)]


def shape_coverage(path: str, size: int) -> Image.Image:
    """The mask of the shape in an easy-vqa image, enlarged: a gray picture, 255 inside the shape and 0 outside."""
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)
    distance = np.abs(pixels - np.median(pixels, axis=(0, 1))).sum(axis=2)
    coverage = Image.fromarray(np.uint8(255 * distance / distance.max()))
    return coverage.resize((size, size), Image.Resampling.BICUBIC)


class Painter:
    """Paints enlarged shapes of easy-vqa on a background."""

    def __init__(self) -> None:
        folder = Path(skimage.__file__).parent / "data"  # skimage.data could download files
        self._backgrounds = {
            kind: [np.asarray(Image.open(folder / name).convert("RGB"), dtype=np.float32) for name in files]
            for kind, files in BACKGROUND_FILES.items()
        }

    def _crop(self, background: str, size: int, rng: random.Random) -> np.ndarray:
        image = rng.choice(self._backgrounds[background])
        top, left = (rng.randrange(image.shape[axis] - size + 1) for axis in (0, 1))
        crop = image[top : top + size, left : left + size]
        return crop + BACKGROUND_WASH * (255.0 - crop)

    def paint(self, path: str, background: str, size: int, rng: random.Random) -> Image.Image:
        """Paints one RGB picture of `size` x `size` pixels.

        Args:
            path: An image file of easy-vqa: a shape of one color on a light, uniform background.
            background: "flat" keeps that background; "photo" and "texture" replace it by a random crop.
            size: Side of the picture in pixels.
            rng: Chooses the crop.
        """
        picture = Image.open(path).convert("RGB")
        if background == "flat":
            return picture.resize((size, size), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture, dtype=np.float32).reshape(-1, 3)
        color = pixels[np.abs(pixels - np.median(pixels, axis=0)).sum(axis=1).argmax()]
        alpha = np.asarray(shape_coverage(path, size), dtype=np.float32)[..., None] / 255
        mixed = alpha * color + (1 - alpha) * self._crop(background, size, rng)
        return Image.fromarray(np.uint8(mixed.round()))


def pick_balanced(questions: list[Question], per_kind: int, rng: random.Random) -> list[Question]:
    """Samples at most `per_kind` (an even number) questions of each kind, in random order.

    Answers "yes" and "no" are equally frequent; in easy-vqa itself most are "no".
    """
    pools = defaultdict(list)
    for question in questions:
        pools[question.kind, question.answer if question.kind == "yesno" else ""].append(question)
    picked = []
    for (kind, _), pool in sorted(pools.items()):
        picked += rng.sample(pool, min(len(pool), per_kind // 2 if kind == "yesno" else per_kind))
    rng.shuffle(picked)
    return picked


def prompt_text(question: str) -> str:
    """The user message: the thinking prompt, then the image and the question."""
    return f"{THINKING_PROMPT}<image>{question}"


def make_rows(split: str, per_kind: int, seed: int = 0) -> Iterator[dict]:
    """The rows of one split in verl's format; all questions about an image have the same picture.

    Args:
        split: One of `SPLITS`.
        per_kind: Maximum number of rows of each kind of question; even.
        seed: Seed of questions, sizes and crops. The images of a split do not depend on it.
    """
    rng = random.Random(f"{seed}-{split}")
    painter = Painter()
    images = split_images(split)
    backgrounds = {qs[0].image: BACKGROUND_CYCLE[n % len(BACKGROUND_CYCLE)] for n, qs in enumerate(images.values())}
    pictures: dict[str, bytes] = {}
    picked = pick_balanced(plain_questions(images), per_kind, rng)
    for index, question in enumerate(tqdm(picked, desc=split, unit="row")):
        if question.image not in pictures:
            picture = painter.paint(question.image, backgrounds[question.image], rng.choice(SIZES), rng)
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            pictures[question.image] = buffer.getvalue()
        yield {
            "data_source": f"easy_vqa_{question.kind}",
            "prompt": [{"role": "user", "content": prompt_text(question.text)}],
            "images": [{"bytes": pictures[question.image]}],
            "ability": "vision",
            "reward_model": {"style": "rule", "ground_truth": question.answer},
            "extra_info": {
                "split": split,
                "index": index,
                "answer": question.answer,
                "kind": question.kind,
                "background": backgrounds[question.image],
                "image": f"{SPLITS[split][0]}/{Path(question.image).name}",
                "thing": question.thing,
            },
        }


def write_parquet(rows: list[dict], path: Path) -> None:
    """Writes rows to a parquet file, atomically."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    pq.write_table(pa.Table.from_pylist(rows), unfinished)
    unfinished.rename(path)


def data_card(splits: dict[str, list[dict]], seed: int) -> str:
    """The text of the dataset's README.md."""
    lines = []
    for split, rows in splits.items():
        extras = [row["extra_info"] for row in rows]
        kinds = Counter(extra["kind"] for extra in extras)
        backgrounds = Counter(extra["background"] for extra in extras)
        counts = [len(rows), len({extra["image"] for extra in extras}), *(kinds[kind] for kind in KINDS)]
        shares = [f"{backgrounds[kind] / len(rows):.0%}" for kind in ("flat", *BACKGROUND_FILES)]
        lines.append(" | ".join(["", split, *map(str, counts), *shares, ""]).strip())
    table = "\n".join(lines)
    sources = "\n".join(
        f"  - {kind}: `{name}` ({origin})" for kind, files in BACKGROUND_FILES.items() for name, origin in files.items()
    )
    return f"""# Quickstart questions

Questions about one colored shape, in verl's format. Made by `python -m recipes.quickstart.data` with seed {seed}.

| split | rows | images | color | shape | yes/no | flat | photo | texture |
|---|---|---|---|---|---|---|---|---|
{table}

No image is in two splits: sft, train and dev have different training images of easy-vqa, test has its test images.
Choose settings on dev; keep test for final results. Half of the yes/no questions have the answer yes; questions with
"not" or "no" are excluded.

## Sources

- Shapes and questions: easy-vqa 1.0 (https://github.com/vzhou842/easy-VQA), by Victor Zhou, MIT license.
  Pictures are enlarged from 64 to {" or ".join(map(str, SIZES))} pixels a side.
- Backgrounds: random crops of files in the wheel of scikit-image, mixed with {BACKGROUND_WASH:.0%} of white. The crops
  of all splits come from the same files:
{sources}
- flat: the uniform, light background of easy-vqa.
"""


def write_data(out: Path, per_kind: dict[str, int] = ROWS_PER_KIND, seed: int = 0) -> None:
    """Writes all splits and the data card.

    Args:
        out: The folder, created if missing.
        per_kind: Maximum number of rows of each kind of question, by split; even.
        seed: Seed of questions, sizes and crops. The images of a split do not depend on it.
    """
    out.mkdir(parents=True, exist_ok=True)
    splits = {split: list(make_rows(split, per_kind[split], seed)) for split in SPLITS}
    for split, rows in splits.items():
        write_parquet(rows, out / f"{split}.parquet")
    (out / "README.md").write_text(data_card(splits, seed))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the questions of the quickstart as parquet files.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_data(args.out, seed=args.seed)


if __name__ == "__main__":
    main()

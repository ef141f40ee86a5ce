# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The quickstart's questions: easy-vqa's shapes, half of them laid over photographs and textures.

    python -m recipes.quickstart.data OUT

writes OUT/{sft,train,dev,test}.parquet in verl's row format and a data card OUT/README.md. Everything comes out of two
Python packages: easy-vqa (4,000 training and 1,000 test images with questions) and scikit-image (the backgrounds).
No image is in two of the files. Settings are to be chosen on dev; test is for final results.
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
"""Stands before the question in the user message, where the paper has its own, longer thinking prompt."""

SIZES = (112, 140)
"""Side of a picture in pixels: multiples of 28, which Qwen2.5-VL turns into 16 or 25 image tokens. Two sizes keep
the lengths within a batch apart."""

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
"""Files inside scikit-image's wheel, with their origin. The shape keeps easy-vqa's own background if it is `flat`."""

BACKGROUND_CYCLE = ("flat", "photo", "flat", "texture")
"""Backgrounds are dealt to the images of a split in this order: half flat, a quarter each of the others."""

BACKGROUND_WASH = 0.5
"""Share of white mixed into a photograph or texture, so that a dark shape stays visible on it."""

SPLITS = {"sft": ("train", 2000), "train": ("train", 1200), "dev": ("train", 340), "test": ("test", 880)}
"""Split: the part of easy-vqa that it takes images from, and how many of them."""

SPLIT_SEED = 0
"""Shares out the images. Fixed, since the start weights that ship have seen the images of sft."""

ROWS_PER_KIND = {"sft": 800, "train": 800, "dev": 128, "test": 256}

_NEGATION = re.compile(r"\b(not|no)\b")


@dataclass(frozen=True)
class Question:
    """One question of easy-vqa.

    Attributes:
        text: The question.
        answer: Its answer, one word.
        kind: One of `KINDS`.
        image: Path of the image's file.
        thing: What the image shows, such as "red circle".
    """

    text: str
    answer: str
    kind: str
    image: str
    thing: str


def kind_of(answer: str) -> str:
    """The kind of a question, from its answer."""
    if answer in ("yes", "no"):
        return "yesno"
    return "shape" if answer in SHAPES else "color"


def _read_thing(questions: list[tuple[str, str]]) -> str | None:
    """What an image shows, from its questions and answers; None if they do not tell."""
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
    """All questions of one part of easy-vqa about images of which color and shape are known.

    Args:
        part: "train" or "test".

    Returns:
        The questions by image id.
    """
    read, paths = {
        "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
        "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
    }[part]
    asked = defaultdict(list)
    for text, answer, image in zip(*read(), strict=True):
        asked[image].append((text, answer))
    path = paths()
    known = {image: thing for image, pairs in sorted(asked.items()) if (thing := _read_thing(pairs))}
    return {
        image: [Question(text, answer, kind_of(answer), path[image], thing) for text, answer in asked[image]]
        for image, thing in known.items()
    }


def split_images(split: str) -> dict[str, list[Question]]:
    """The images of one split with their questions.

    sft, train and dev share out easy-vqa's training images one after the other; test takes easy-vqa's test images.
    """
    part, size = SPLITS[split]
    questions = read_questions(part)
    images = sorted(questions)
    random.Random(f"{SPLIT_SEED}-{part}").shuffle(images)
    before = 0
    for other, (other_part, other_size) in SPLITS.items():
        if other == split:
            break
        before += other_size if other_part == part else 0
    return {image: questions[image] for image in images[before : before + size]}


def plain_questions(images: dict[str, list[Question]]) -> list[Question]:
    """The questions about some images, without those like "is there not a red shape?".

    Comparing and negating at once is beyond the tiny model.
    """
    return [question for asked in images.values() for question in asked if not _NEGATION.search(question.text)]


def shape_coverage(path: str, size: int) -> Image.Image:
    """Where the shape of an easy-vqa image is, enlarged: a gray picture, 255 inside the shape and 0 outside."""
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)
    distance = np.abs(pixels - np.median(pixels, axis=(0, 1))).sum(axis=2)
    coverage = Image.fromarray(np.uint8(255 * distance / distance.max()))
    return coverage.resize((size, size), Image.Resampling.BICUBIC)


class Painter:
    """Draws pictures: a shape of easy-vqa at a new size, over a background."""

    def __init__(self) -> None:
        folder = Path(skimage.__file__).parent / "data"  # read directly, so that nothing can start a download
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
        """Draws one picture.

        Args:
            path: An image file of easy-vqa: one shape of a single color on a light, even ground.
            background: "flat" keeps the ground; "photo" and "texture" put a random crop in its place.
            size: Side of the picture in pixels.
            rng: Chooses the crop.

        Returns:
            An RGB picture of `size` x `size` pixels.
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
    """Draws equally many questions of each kind, in random order; yes and no equally often.

    In easy-vqa itself most yes/no answers are "no".

    Args:
        questions: What to draw from.
        per_kind: How many of each kind, at most; an even number.
        rng: Draws.
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
    """The rows of one split in verl's format.

    All questions about one image share one picture.

    Args:
        split: One of `SPLITS`.
        per_kind: Rows of each kind of question, at most; an even number.
        seed: Draws questions, sizes and crops; which images a split has does not depend on it.
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
    """Writes rows under a temporary name, then renames: a reader never meets half a file."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    pq.write_table(pa.Table.from_pylist(rows), unfinished)
    unfinished.rename(path)


def data_card(splits: dict[str, list[dict]], seed: int) -> str:
    """The text of the data set's README.md, with counts taken from the rows."""
    lines = [
        "# Quickstart questions",
        "",
        "Questions about one colored shape, in verl's row format. Made by",
        f"`python -m recipes.quickstart.data` with seed {seed}.",
        "",
        "| split | rows | images | color | shape | yes/no | flat | photo | texture |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for split, rows in splits.items():
        extras = [row["extra_info"] for row in rows]
        kinds = Counter(extra["kind"] for extra in extras)
        grounds = Counter(extra["background"] for extra in extras)
        images = len({extra["image"] for extra in extras})
        counts = [str(kinds[kind]) for kind in KINDS]
        shares = [f"{grounds[kind] / len(rows):.0%}" for kind in ("flat", "photo", "texture")]
        lines.append(f"| {split} | {len(rows)} | {images} | " + " | ".join(counts + shares) + " |")
    lines += [
        "",
        "No image is in two splits: sft, train and dev hold different training images of easy-vqa, test holds its",
        "test images. Choose settings on dev; keep test for final results. Yes/no questions hold as many yes as no;",
        'those with a "not" or "no" in them are left out.',
        "",
        "## Sources",
        "",
        "- Shapes and questions: easy-vqa 1.0 (https://github.com/vzhou842/easy-VQA), by Victor Zhou, MIT licence.",
        f"  Pictures are enlarged from 64 to {' or '.join(map(str, SIZES))} pixels a side.",
        "- Backgrounds: random crops of files inside scikit-image's wheel, mixed with"
        f" {BACKGROUND_WASH:.0%} of white. The crops of all splits come from the same files:",
    ]
    for kind, files in BACKGROUND_FILES.items():
        lines += [f"  - {kind}: `{name}` ({origin})" for name, origin in files.items()]
    lines.append("- flat: easy-vqa's own even, light ground.")
    return "\n".join(lines) + "\n"


def write_data(out: Path, per_kind: dict[str, int] = ROWS_PER_KIND, seed: int = 0) -> None:
    """Writes all splits and the data card.

    Args:
        out: Folder, made if missing.
        per_kind: Rows of each kind of question by split; even numbers.
        seed: Draws questions, sizes and crops; which images a split has does not depend on it.
    """
    out.mkdir(parents=True, exist_ok=True)
    splits = {split: list(make_rows(split, per_kind[split], seed)) for split in SPLITS}
    for split, rows in splits.items():
        write_parquet(rows, out / f"{split}.parquet")
    unfinished = out / ".README.md.unfinished"
    unfinished.write_text(data_card(splits, seed))
    unfinished.rename(out / "README.md")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the quickstart's questions as parquet files.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_data(args.out, seed=args.seed)


if __name__ == "__main__":
    main()

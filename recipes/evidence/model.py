# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The model of the comparison as a Hugging Face folder: the tiny Qwen2.5-VL of the quickstart, with words of the task.

    python -m recipes.evidence.model OUT

writes the folder OUT with the weights of start.safetensors (made by `make_start.py`).
"""

import argparse
from pathlib import Path

from transformers import Qwen2_5_VLProcessor

from recipes.quickstart.model import make_processor, write_model

from .task import COLORS, NUMBERS, RADIUS, SHAPES, SIDE

START_WEIGHTS = Path(__file__).with_name("start.safetensors")


def processor_of_task() -> Qwen2_5_VLProcessor:
    """The processor; every word of the questions and replies is one token."""
    questions = [
        text
        for shape in SHAPES
        for text in (
            f"color of the {shape}?",
            f"color of the larger, {shape} or {shape}?",
            f"number of {shape} shapes?",
        )
    ]
    questions += [f"color right of the {shape}?" for shape in SHAPES]
    replies = [f"{{{word}}} {word}, {word}" for word in (*COLORS, *NUMBERS, *RADIUS, *SHAPES, "right")]
    return make_processor(questions + replies, SIDE, SIDE)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the model of the comparison.")
    parser.add_argument("out", type=Path, help="the folder; replaced if it exists")
    parser.add_argument("--weights", type=Path, default=START_WEIGHTS, help="default: start.safetensors")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_model(args.out, args.weights, processor_of_task())


if __name__ == "__main__":
    main()

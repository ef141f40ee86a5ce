# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Small data files of the five benchmarks, in the schema of `verl-durian prepare`, with questions of the quickstart."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pictures import encoded

from recipes.quickstart.data import Painter, Question, plain_questions, prompt_text, split_images
from verl_durian.prepare.rows import SCHEMA

SPLITS = {
    "mathverse": "testmini",
    "mathvision": "test",
    "mathvista": "testmini",
    "wemath": "testmini",
    "hallusionbench": "image",
}
WEMATH_KEYS = ("2steps_1", "2steps_2", "2steps_multi", "3steps_1", "3steps_2", "3steps_3", "3steps_multi")


def metadata(name: str) -> Iterator[dict[str, Any]]:
    """The metadata of each question."""
    if name == "wemath":
        yield from ({"problem": n // len(WEMATH_KEYS), "key": key} for n, key in enumerate(2 * WEMATH_KEYS))
    elif name == "hallusionbench":
        for n in range(12):
            place = {"set_id": str(n // 4), "figure_id": str(n % 2), "question_id": str(n // 2 % 2)}
            yield {"category": "VD", "subcategory": "figure", **place}
    else:
        yield from ({} for _ in range(8))


def write_benchmarks(folder: Path) -> None:
    """Writes folder/NAME/SPLIT.parquet for each benchmark."""
    rng, painter = random.Random(0), Painter()
    asked: dict[str, list[Question]] = {}
    for question in plain_questions(split_images("test")):
        asked.setdefault(question.kind, []).append(question)
    for name, split in SPLITS.items():
        rows = []
        for index, place in enumerate(metadata(name)):
            kind = "yesno" if name == "hallusionbench" else ("color", "shape")[index % 2]
            question = asked[kind].pop(rng.randrange(len(asked[kind])))
            extra_info = {
                **{"split": split, "index": index, "id": f"{name}-{index}", "question": question.text, "choices": []},
                **{"answer_type": "yes_no" if kind == "yesno" else "number", "metadata": json.dumps(place)},
            }
            rows.append(
                {
                    "data_source": name,
                    "prompt": [{"role": "user", "content": prompt_text(question.text)}],
                    "images": [{"bytes": encoded(painter.paint(question.image, "flat", 112, rng)), "path": None}],
                    "ability": "vqa" if kind == "yesno" else "math",
                    "reward_model": {"style": "rule", "ground_truth": question.answer},
                    "extra_info": extra_info,
                }
            )
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / name / f"{split}.parquet")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Small data files of the five benchmarks, in the schema of `verl-durian prepare`, with questions of the quickstart."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipes.quickstart.data import Painter, Question, plain_questions, prompt_text, split_images

SPLITS = {
    "mathverse": "testmini",
    "mathvision": "test",
    "mathvista": "testmini",
    "wemath": "testmini",
    "hallusionbench": "image",
}

_TEXT = pa.string()
SCHEMA = pa.schema(
    {
        "data_source": _TEXT,
        "prompt": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": _TEXT})),
        "ability": _TEXT,
        "reward_model": pa.struct({"style": _TEXT, "ground_truth": _TEXT}),
        "extra_info": pa.struct(
            {
                **{"split": _TEXT, "index": pa.int64(), "id": _TEXT, "question": _TEXT, "answer_type": _TEXT},
                **{"choices": pa.list_(_TEXT), "metadata": _TEXT},
            }
        ),
    }
)

WEMATH_KEYS = ("2steps_1", "2steps_2", "2steps_multi", "3steps_1", "3steps_2", "3steps_3", "3steps_multi")


def write_benchmarks(folder: Path) -> None:
    """Writes folder/NAME/SPLIT.parquet for each benchmark."""
    rng, painter = random.Random(0), Painter()
    asked: dict[str, list[Question]] = {}
    for question in plain_questions(split_images("test")):
        asked.setdefault(question.kind, []).append(question)

    def row(name: str, kind: str, index: int, metadata: dict[str, Any]) -> dict[str, Any]:
        question = asked[kind].pop(rng.randrange(len(asked[kind])))
        picture = io.BytesIO()
        painter.paint(question.image, "flat", 112, rng).save(picture, "PNG")
        return {
            "data_source": name,
            "prompt": [{"role": "user", "content": prompt_text(question.text)}],
            "images": [{"bytes": picture.getvalue(), "path": None}],
            "ability": "vqa" if name == "hallusionbench" else "math",
            "reward_model": {"style": "rule", "ground_truth": question.answer},
            "extra_info": {
                "split": SPLITS[name],
                "index": index,
                "id": f"{name}-{index}",
                "question": question.text,
                "answer_type": "yes_no" if kind == "yesno" else "number",
                "choices": [],
                "metadata": json.dumps(metadata),
            },
        }

    def figure(n: int) -> dict[str, str]:
        place = {"set_id": str(n // 4), "figure_id": str(n % 2), "question_id": str(n // 2 % 2)}
        return {"category": "VD", "subcategory": "figure", **place}

    kinds = ("color", "shape")
    sets = {
        "mathverse": [row("mathverse", "color", n, {"problem_index": n}) for n in range(8)],
        "mathvision": [row("mathvision", "shape", n, {"level": 1}) for n in range(8)],
        "mathvista": [row("mathvista", kinds[n % 2], n, {}) for n in range(8)],
        "wemath": [
            row("wemath", kinds[n % 2], n, {"problem": n // len(WEMATH_KEYS), "key": key})
            for n, key in enumerate(2 * WEMATH_KEYS)
        ],
        "hallusionbench": [row("hallusionbench", "yesno", n, figure(n)) for n in range(12)],
    }
    for name, rows in sets.items():
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / name / f"{SPLITS[name]}.parquet")

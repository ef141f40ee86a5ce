# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Geometry3K: geometry problems with four choices, which the paper's training does not show."""

from verl_durian.prepare.base import TRAINING, DatasetSpec, Dropped, Problem, Row, text


def _problem(row: Row) -> Problem:
    if not row["images"]:
        raise Dropped("no image")
    metadata = {"choices": row["choices"], "letter": row["ground_truth"]}
    return Problem(text(row, "problem"), row["images"], text(row, "answer"), "number", metadata=metadata)


SPEC = DatasetSpec(
    name="geometry3k",
    title="Geometry3K",
    hub_id="hiyouga/geometry3k",
    license="MIT",
    splits={split: f"data/{split}-*.parquet" for split in ("train", "validation", "test")},
    columns={
        "images": ["images"],
        "text": ["problem", "answer", "ground_truth"],
        "id": ["id"],
        "texts": ["choices"],
    },
    pixels=TRAINING,
    identify=lambda row: str(row["id"]),
    problem=_problem,
    treatment=(
        "The choices are not shown and `answer`, the value of the right choice, is graded, as in the paper's "
        "framework. The choices and the right letter (the source's `ground_truth`) are in the metadata.",
    ),
)

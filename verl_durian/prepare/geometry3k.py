# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Geometry3K: geometry problems, with four choices each, which the paper's training does not show."""

from verl_durian.prepare.data_set import DataSet, Dropped, Problem, Row, text
from verl_durian.prepare.images import TRAINING


def _problem(row: Row) -> Problem:
    if not row["images"]:
        raise Dropped("no image")
    return Problem(
        question=text(row, "problem"),
        images=row["images"],
        answer=text(row, "answer"),
        answer_type="number",
        metadata={"choices": row["choices"], "letter": row["ground_truth"]},
    )


GEOMETRY3K = DataSet(
    name="geometry3k",
    title="Geometry3K",
    hub_id="hiyouga/geometry3k",
    licence="MIT",
    splits={split: f"data/{split}-*.parquet" for split in ("train", "validation", "test")},
    columns={
        "images": "images",
        "problem": "text",
        "answer": "text",
        "id": "id",
        "choices": "texts",
        "ground_truth": "text",
    },
    pixels=TRAINING,
    identify=lambda row: str(row["id"]),
    problem=_problem,
    treatment=(
        "The choices are not shown, and `answer`, the value of the right choice, is what is graded, as in the paper's "
        "framework; the choices and the right letter (the source's `ground_truth`) are in the metadata.",
    ),
)

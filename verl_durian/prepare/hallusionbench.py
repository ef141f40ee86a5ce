# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""HallusionBench: yes/no questions about figures, in groups that share a figure or a question."""

from verl_durian.prepare.base import EVALUATION, DatasetSpec, Dropped, Problem, Row, picture, text

_ANSWERS = {"0": "no", "1": "yes"}
_GROUP = ("category", "subcategory", "set_id", "figure_id", "question_id")


def _problem(row: Row) -> Problem:
    question, answer = text(row, "question"), text(row, "gt_answer")
    image = picture(row, "image")
    if answer not in _ANSWERS:
        raise Dropped("gt_answer is neither 0 nor 1", answer)
    metadata = {name: row[name] for name in _GROUP}
    return Problem(f"{question}\nAnswer yes or no.", [image], _ANSWERS[answer], "yes_no", metadata=metadata)


SPEC = DatasetSpec(
    name="hallusionbench",
    title="HallusionBench",
    hub_id="lmms-lab/HallusionBench",
    license="BSD-3-Clause",
    splits={"image": "data/image-*.parquet"},
    columns={"id": _GROUP, "text": ["question", "gt_answer"], "image": ["image"]},
    pixels=EVALUATION,
    identify=lambda row: "_".join(str(row[name]) for name in _GROUP),
    problem=_problem,
    treatment=(
        "Only the split `image`, as in the paper. `gt_answer` 1 becomes yes, 0 becomes no, and the question ends "
        "with: Answer yes or no.",
    ),
    ability="vqa",
)

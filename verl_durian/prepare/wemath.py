# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""We-Math: problems of two or three steps, with a separate question for each step."""

import re

from verl_durian.prepare.base import EVALUATION, DatasetSpec, Dropped, Problem, Row, picture, text
from verl_durian.prepare.choices import letter_of, read_choices, write_choices

_KEY = re.compile(r"2steps_(1|2|multi)|3steps_(1|2|3|multi)")


def _problem(row: Row) -> Problem:
    question, option, answer, key = (text(row, column) for column in ("question", "option", "answer", "key"))
    image = picture(row, "image_path")
    if not _KEY.fullmatch(key):
        raise Dropped("unknown key", key)
    choices = read_choices(option)
    if not choices:
        raise Dropped("the options cannot be separated", option)
    letter = letter_of(answer, choices)
    if letter is None:
        raise Dropped("the answer is none of the choices", f"{answer} of {choices}")
    metadata = {
        "problem": f"{key.partition('_')[0]}-{row['ID']}",
        "key": key,
        "knowledge_concept": row["knowledge concept"],
        "question_number": row["question number"],
    }
    return Problem(f"{question}\n{write_choices(choices)}", [image], letter, "choice", choices, metadata)


SPEC = DatasetSpec(
    name="wemath",
    title="We-Math",
    hub_id="We-Math/We-Math",
    license="CC-BY-NC-4.0",
    splits={"testmini": "data/testmini-*.parquet"},
    columns={
        "id": ["ID"],
        "text": ["question", "option", "answer", "key"],
        "image": ["image_path"],
        "value": ["knowledge concept", "question number"],
    },
    pixels=EVALUATION,
    identify=lambda row: f"{row['ID']}_{row['key']}",
    problem=_problem,
    treatment=(
        "`option`, a single text, is parsed as a list of choices and written line by line.",
        "The metadata link the steps: rows of the same `problem` differ in `key`, `2steps_1` to `3steps_multi`.",
    ),
)

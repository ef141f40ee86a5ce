# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""We-Math: problems of two or three steps, and a question of its own for each step."""

import re

from verl_durian.prepare.choices import letter_of, read_choices, write_choices
from verl_durian.prepare.data_set import DataSet, Dropped, Problem, Row, picture, text
from verl_durian.prepare.images import EVALUATION

_KEY = re.compile(r"2steps_(1|2|multi)|3steps_(1|2|3|multi)")


def _problem(row: Row) -> Problem:
    question, option, answer, key = (text(row, column) for column in ("question", "option", "answer", "key"))
    image = picture(row, "image_path")
    if not _KEY.fullmatch(key):
        raise Dropped("unknown key", key)
    choices = read_choices(option)
    if not choices:
        raise Dropped("the options cannot be told apart", option)
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


WEMATH = DataSet(
    name="wemath",
    title="We-Math",
    hub_id="We-Math/We-Math",
    licence="CC-BY-NC-4.0",
    splits={"testmini": "data/testmini-*.parquet"},
    columns={
        "ID": "id",
        "knowledge concept": "value",
        "question": "text",
        "option": "text",
        "answer": "text",
        "image_path": "image",
        "key": "text",
        "question number": "value",
    },
    pixels=EVALUATION,
    identify=lambda row: f"{row['ID']}_{row['key']}",
    problem=_problem,
    treatment=(
        "`option`, one text, is read as a list of choices and written out line by line.",
        "The metadata tie the steps together: rows of one `problem` differ in `key`, `2steps_1` to `3steps_multi`.",
    ),
)

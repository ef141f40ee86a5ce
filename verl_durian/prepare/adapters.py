# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The datasets: two training sets and five benchmarks. `DATASETS` has them by name."""

import re
from collections.abc import Callable, Sequence

from verl_durian.prepare.base import TRAINING, DatasetSpec, Dropped, Problem, Row
from verl_durian.prepare.choices import LETTERS, add_choices, letter_of, letter_of_text, read_choices, write_choices
from verl_durian.reward import last_boxed


def _text(row: Row, column: str) -> str:
    """The stripped text of a column; raises `Dropped` if it is empty."""
    value = (row[column] or "").strip()
    if not value:
        raise Dropped(f"no {column}")
    return value


def _letter(answer: str, choices: Sequence[str], find: Callable[..., str | None] = letter_of) -> str:
    """The letter of the right choice; raises `Dropped` if there is none."""
    letter = find(answer, choices)
    if letter is None:
        raise Dropped("the answer is none of the choices", f"{answer} of {choices}")
    return letter


GEOMETRY3K = DatasetSpec(
    name="geometry3k",
    hub_id="hiyouga/geometry3k",
    license="MIT",
    splits={split: f"data/{split}-*.parquet" for split in ("train", "validation", "test")},
    ids=["id"],
    image="images",
    columns=["problem", "answer", "ground_truth", "choices"],
    pixels=TRAINING,
    problem=lambda row: Problem(_text(row, "problem"), _text(row, "answer")),
    metadata=lambda row: {"choices": row["choices"], "letter": row["ground_truth"]},
    treatment="The choices are not shown and `answer`, the value of the right choice, is graded, as in the paper's "
    "framework. The metadata contain the choices and the right letter.",
)


def _virl39k(row: Row) -> Problem:
    question, boxed = _text(row, "question"), _text(row, "answer")
    content = last_boxed(boxed)
    answer = (boxed if content is None else content).strip()
    if wrapped := re.fullmatch(r"\\text\{([^{}]*)\}", answer):
        answer = wrapped[1].strip()
    if not answer:
        raise Dropped("no answer")
    if answer.lower() in ("yes", "no"):
        return Problem(question, answer.lower(), "yes_no")
    choices = read_choices(question)
    if (named := re.fullmatch(rf"\(?([{LETTERS}])[.:)]\s*(.+)", answer, re.DOTALL)) and named[2] in choices:
        return Problem(question, named[1], "choice", choices)
    bare = answer.strip("().")
    if bare not in tuple(LETTERS):
        return Problem(question, answer)
    letter = letter_of(answer, choices)  # None if the list in the question has other items, such as steps
    return Problem(question, letter or bare, "choice", choices if letter else ())


_VIRL39K_METADATA = ("category", "source", "PassRate_32BTrained", "PassRate_7BBase")
VIRL39K = DatasetSpec(
    name="virl39k",
    hub_id="TIGER-Lab/ViRL39K",
    license="MIT",
    splits={"train": "39Krelease.parquet"},
    ids=["qid"],
    columns=["question", "answer", *_VIRL39K_METADATA],
    archive="images.zip",
    pixels=TRAINING,
    problem=_virl39k,
    metadata=lambda row: {name: row[name] for name in _VIRL39K_METADATA},
    treatment="Rows without an image are dropped: verl 0.9 can crash on a micro batch of such rows. The answer is the "
    "content of its last `\\boxed{}`. A letter A to J, alone or before the text of that choice, makes a choice row, "
    "yes or no a yes_no row. The pass rates are in the metadata (-1: none).",
)


def _mathverse(row: Row) -> Problem:
    question, answer, kind = (row["question"] or "").strip(), _text(row, "answer"), _text(row, "question_type")
    if kind == "free-form":
        return Problem(question or _QUESTION_IN_IMAGE, answer)
    if kind != "multi-choice":
        raise Dropped("unknown question_type", kind)
    choices = read_choices(row["question_for_eval"] or "")
    letter = _letter(answer, choices)
    return Problem(add_choices(question, choices) if question else _QUESTION_IN_IMAGE, letter, "choice", choices)


_QUESTION_IN_IMAGE = "Answer the question in the image."
_MATHVERSE_METADATA = ("problem_index", "problem_version", "question_type")
MATHVERSE = DatasetSpec(
    name="mathverse",
    hub_id="AI4Math/MathVerse",
    license="MIT",
    splits={"testmini": "testmini.parquet"},
    ids=["sample_index"],
    columns=["question", "answer", "question_for_eval", *_MATHVERSE_METADATA, "metadata"],
    problem=_mathverse,
    metadata=lambda row: {**(row["metadata"] or {}), **{name: row[name] for name in _MATHVERSE_METADATA}},
    treatment=f"A question that is only in the image (version Vision Only) becomes: {_QUESTION_IN_IMAGE} The choices "
    "are parsed from `question_for_eval`, and appended to a question that has text but does not list them.",
)


_BRACED_UNIT = re.compile(
    r"\{(?:square|cubic)?(?:degrees?|inch(?:es)?|feet|foot|(?:centi|milli|kilo)?meters?|units?)\}$"
)


def _mathvision(row: Row) -> Problem:
    # In the source, the `\f` of `\frac` has become a form feed, which is whitespace.
    row = {**row, "answer": (row["answer"] or "").replace("\f", r"\f")}
    question, answer = _text(row, "question"), _BRACED_UNIT.sub("", _text(row, "answer"))  # 69{degrees}
    options = [option.strip() for option in row["options"] or []]
    if not options:
        return Problem(question, answer)
    in_image = options == list(LETTERS[: len(options)])
    letter = _letter(answer, options)
    return Problem(add_choices(question, options), letter, "choice", [] if in_image else options)


MATHVISION = DatasetSpec(
    name="mathvision",
    hub_id="MathLLMs/MathVision",
    license="MIT",
    splits={"test": "data/test-*.parquet"},
    ids=["id"],
    image="decoded_image",
    columns=["question", "answer", "options", "level", "subject"],
    problem=_mathvision,
    metadata=lambda row: {"subject": row["subject"], "level": row["level"]},
    treatment="`<image1>` becomes `<image>`. The options are appended as choices. Options that are only letters, which "
    "mark parts of the image, are written on one line.",
)


def _mathvista(row: Row) -> Problem:
    question, answer, kind = _text(row, "question"), _text(row, "answer"), _text(row, "question_type")
    if row["unit"]:
        question = f"{question} (Unit: {row['unit']})"
    if kind == "multi_choice":
        choices = row["choices"] or []
        letter = _letter(answer, choices, letter_of_text)
        return Problem(f"{question}\n{write_choices(choices)}", letter, "choice", choices)
    if kind != "free_form":
        raise Dropped("unknown question_type", kind)
    hint, decimals = {"integer": "an integer", "list": "a list, such as [1, 2, 3]"}.get(row["answer_type"]), None
    if row["answer_type"] == "float" and (row["precision"] or 0) > 0:  # null or NaN: not given
        decimals = int(row["precision"])
        hint = f"a number with {decimals} decimal place{'s' if decimals > 1 else ''}"
    return Problem(f"{question}\nThe answer is {hint}." if hint else question, answer, decimals=decimals)


_MATHVISTA_METADATA = ("question_type", "answer_type", "unit", "precision")
MATHVISTA = DatasetSpec(
    name="mathvista",
    hub_id="AI4Math/MathVista",
    license="CC-BY-SA-4.0",
    splits={"testmini": "data/testmini-*.parquet"},
    ids=["pid"],
    image="decoded_image",
    columns=["question", "answer", "choices", *_MATHVISTA_METADATA, "metadata"],
    problem=_mathvista,
    metadata=lambda row: {**(row["metadata"] or {}), **{name: row[name] for name in _MATHVISTA_METADATA}},
    treatment="The choices are appended to the question, and the letter of the choice with the answer's text is "
    "graded. Other questions state the form of the answer, as the dataset's own `query` does, and its unit. A number "
    "is right if it rounds to the ground truth at the decimal places asked for.",
)


def _wemath(row: Row) -> Problem:
    question, option, answer, key = (_text(row, column) for column in ("question", "option", "answer", "key"))
    if not re.fullmatch("2steps_(1|2|multi)|3steps_(1|2|3|multi)", key):
        raise Dropped("unknown key", key)
    choices = read_choices(option)
    if not choices:
        raise Dropped("the options cannot be separated", option)
    return Problem(f"{question}\n{write_choices(choices)}", _letter(answer, choices), "choice", choices)


WEMATH = DatasetSpec(
    name="wemath",
    hub_id="We-Math/We-Math",
    license="CC-BY-NC-4.0",
    splits={"testmini": "data/testmini-*.parquet"},
    ids=["ID", "key"],
    image="image_path",
    columns=["question", "option", "answer", "knowledge concept", "question number"],
    problem=_wemath,
    metadata=lambda row: {
        "problem": f"{row['key'].strip().partition('_')[0]}-{row['ID']}",
        "key": row["key"].strip(),
        "knowledge_concept": row["knowledge concept"],
        "question_number": row["question number"],
    },
    treatment="`option` is written line by line. In the metadata, the steps of a `problem` differ in their `key`.",
)


def _hallusionbench(row: Row) -> Problem:
    question, answer = _text(row, "question"), _text(row, "gt_answer")
    if answer not in ("0", "1"):
        raise Dropped("gt_answer is neither 0 nor 1", answer)
    return Problem(f"{question}\nAnswer yes or no.", "yes" if answer == "1" else "no", "yes_no")


_HALLUSIONBENCH_GROUP = ("category", "subcategory", "set_id", "figure_id", "question_id")
HALLUSIONBENCH = DatasetSpec(
    name="hallusionbench",
    hub_id="lmms-lab/HallusionBench",
    license="BSD-3-Clause",
    splits={"image": "data/image-*.parquet"},
    ids=_HALLUSIONBENCH_GROUP,
    columns=["question", "gt_answer"],
    ability="vqa",
    problem=_hallusionbench,
    metadata=lambda row: {name: row[name] for name in _HALLUSIONBENCH_GROUP},
    treatment="Only the split `image`, as in the paper. `gt_answer` 1 becomes yes, 0 becomes no, and the question ends "
    "with: Answer yes or no.",
)

DATASETS = {spec.name: spec for spec in (GEOMETRY3K, VIRL39K, MATHVERSE, MATHVISION, MATHVISTA, WEMATH, HALLUSIONBENCH)}

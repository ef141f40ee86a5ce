# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The questions of the benchmarks, and the verdicts on their answers from verl's validation dump."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from verl_durian.evaluation.paper import BENCHMARKS


class Question(NamedTuple):
    """A row of a benchmark."""

    benchmark: str
    id: str
    metadata: dict[str, Any]
    """The keys that the benchmark's own score requires, see `BENCHMARKS`."""


class Verdict(NamedTuple):
    """The result of one question."""

    question: Question
    answered: bool
    """False if verl returned no answer, for example because the prompt is too long; this counts as wrong."""
    correct: bool
    formatted: bool


def read_questions(files: Sequence[Path]) -> list[Question]:
    """Reads the questions of data files that `verl-durian prepare` wrote.

    Raises:
        ValueError: A file is not one of a benchmark, or lacks what the scores require.
    """
    questions = []
    for file in files:
        try:
            rows = pq.read_table(file, columns=["data_source", "extra_info"]).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{file}: cannot be read: {error}") from error
        for number, row in enumerate(rows):
            try:
                questions.append(_question(row))
            except ValueError as error:
                raise ValueError(f"{file} row {number}: {error}") from error
    if not questions:
        raise ValueError("the data files contain no questions")
    counts = Counter(f"{question.benchmark} {question.id}" for question in questions)
    if repeated := [name for name, count in counts.items() if count > 1]:
        more = ", ..." if len(repeated) > 3 else ""
        raise ValueError(f"the data files contain questions more than once: {', '.join(repeated[:3])}{more}")
    return questions


def _question(row: dict[str, Any]) -> Question:
    benchmark, extra = row.get("data_source"), row.get("extra_info") or {}
    if benchmark not in BENCHMARKS:
        raise ValueError(f"data_source {benchmark!r} must be one of {', '.join(BENCHMARKS)}")
    if not extra.get("id"):
        raise ValueError("extra_info has no id: write the file with `verl-durian prepare`")
    try:
        metadata = dict(json.loads(extra.get("metadata") or "{}"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"extra_info.metadata must be a JSON object: {error}") from error
    missing = [key for key in BENCHMARKS[benchmark].metadata if key not in metadata]
    if missing:
        raise ValueError(f"extra_info.metadata lacks {', '.join(missing)}: write the file with `verl-durian prepare`")
    return Question(benchmark, extra["id"], metadata)


def read_verdicts(dump: Path, questions: Sequence[Question]) -> list[Verdict]:
    """Reads the verdict on each question from a dump of verl with the reward of `named_reward.py`.

    Args:
        dump: `trainer.validation_data_dir`/0.jsonl, with one line per answer in any order.
        questions: All questions of the data files.

    Returns:
        Verdicts in the order of the questions.

    Raises:
        ValueError: The dump does not belong to these questions.
    """
    verdicts: dict[tuple[str, str], Verdict] = {}
    by_name = {(question.benchmark, question.id): question for question in questions}
    with dump.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                answer = json.loads(line)
                name = answer["data_source"], answer["id"]
                correct, formatted = answer["acc"] == 1, answer["format"] == 1
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"{dump} line {number}: {error} is missing: the dump must be one of recipes/run_eval.sh"
                ) from error
            if name not in by_name:
                raise ValueError(
                    f"{dump} line {number}: the data files do not contain the question {' '.join(name)}: pass the "
                    "files that were evaluated"
                )
            if name in verdicts:
                raise ValueError(
                    f"{dump} line {number}: a second answer to {' '.join(name)}: evaluate with "
                    "actor_rollout_ref.rollout.val_kwargs.n=1"
                )
            verdicts[name] = Verdict(by_name[name], True, correct, formatted)
    if not verdicts:
        raise ValueError(f"{dump}: no question was answered: see the errors in verl's output")
    return [verdicts.get(name, Verdict(question, False, False, False)) for name, question in by_name.items()]

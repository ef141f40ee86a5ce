# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The questions of the benchmarks, and the verdicts on them that verl's validation dumped."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_durian.evaluation.paper import BENCHMARKS

_NAMED = 3
"""Questions that an error names at most."""


@dataclass(frozen=True)
class Question:
    """A row of a benchmark."""

    benchmark: str
    id: str
    metadata: dict[str, Any]
    """What the benchmark's own scores need, see `BENCHMARKS`."""

    @property
    def name(self) -> str:
        """As errors call it."""
        return f"{self.benchmark} {self.id}"


@dataclass(frozen=True)
class Verdict:
    """What became of a question."""

    question: Question
    answered: bool
    """False: verl could not, such as a prompt that is too long. It then counts as wrong."""
    right: bool
    formatted: bool


def read_questions(files: Sequence[Path]) -> list[Question]:
    """The questions of data files that `verl-durian prepare` wrote.

    Raises:
        ValueError: a file is none of a benchmark, or does not tell what the scores need.
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
        raise ValueError("there are no questions in the data files")
    twice = [name for name, count in Counter(question.name for question in questions).items() if count > 1]
    if twice:
        raise ValueError(f"questions that are in the data files more than once: {_some(twice)}")
    return questions


def _question(row: dict[str, Any]) -> Question:
    benchmark, extra = row.get("data_source"), row.get("extra_info") or {}
    if benchmark not in BENCHMARKS:
        raise ValueError(f"data_source {benchmark!r} is none of {', '.join(BENCHMARKS)}")
    if not extra.get("id"):
        raise ValueError("extra_info has no id: write the file with `verl-durian prepare`")
    try:
        metadata = dict(json.loads(extra.get("metadata") or "{}"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"extra_info.metadata is no JSON object: {error}") from error
    missing = [key for key in BENCHMARKS[benchmark].metadata if key not in metadata]
    if missing:
        raise ValueError(f"extra_info.metadata lacks {', '.join(missing)}: write the file with `verl-durian prepare`")
    return Question(benchmark, extra["id"], metadata)


def read_verdicts(dump: Path, questions: Sequence[Question]) -> list[Verdict]:
    """The verdict on each question, from what verl dumped with the reward of `named_reward.py`.

    Args:
        dump: verl's `trainer.validation_data_dir`/0.jsonl: a line for each answer, in any order.
        questions: All that were asked.

    Returns:
        Verdicts in the order of the questions.

    Raises:
        ValueError: the dump is not that of these questions.
    """
    answers: dict[str, dict[str, Any]] = {}
    known = {question.name for question in questions}
    with dump.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                answer = json.loads(line)
                name = f"{answer['data_source']} {answer['id']}"
                answer["acc"], answer["format"]
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"{dump} line {number}: {error} is missing: the dump must be one of recipes/run_eval.sh"
                ) from error
            if name not in known:
                raise ValueError(f"{dump} line {number}: the question {name} is not in the data files: name the same")
            if name in answers:
                raise ValueError(
                    f"{dump} line {number}: a second answer to {name}: evaluate with "
                    "actor_rollout_ref.rollout.val_kwargs.n=1"
                )
            answers[name] = answer
    if not answers:
        raise ValueError(f"{dump}: no question was answered: the errors are in verl's output")
    return [_verdict(question, answers.get(question.name)) for question in questions]


def _verdict(question: Question, answer: dict[str, Any] | None) -> Verdict:
    if answer is None:
        return Verdict(question, answered=False, right=False, formatted=False)
    return Verdict(question, answered=True, right=answer["acc"] == 1, formatted=answer["format"] == 1)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")

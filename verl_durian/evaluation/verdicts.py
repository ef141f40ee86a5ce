# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The questions of the benchmarks, and the verdicts on their answers from verl's validation dump."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq

from verl_durian.evaluation.paper import BENCHMARKS


def read_questions(files: Sequence[Path]) -> pd.DataFrame:
    """Reads the questions of data files that `verl-durian prepare` wrote.

    Returns:
        One row per question, with the index `benchmark` and `id`, and the metadata that the benchmark's score requires.

    Raises:
        ValueError: A file is not one of a benchmark, lacks what the scores require, or repeats a question.
    """
    questions = []
    for file in files:
        try:
            rows = pq.read_table(file, columns=["data_source", "extra_info"]).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{file}: cannot be read: {error}") from error
        for number, row in enumerate(rows):
            try:
                questions.append(_question(row["data_source"], row["extra_info"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{file} row {number}: {error!r}: write the file with `verl-durian prepare`, which knows "
                    f"{', '.join(BENCHMARKS)}"
                ) from error
    if not questions:
        raise ValueError("the data files contain no questions")
    table = pd.DataFrame(questions).set_index(["benchmark", "id"])
    if repeated := list(table.index[table.index.duplicated()]):
        raise ValueError(f"the data files contain {len(repeated)} questions more than once: {' '.join(repeated[0])}")
    return table


def _question(benchmark: str, extra_info: dict[str, Any]) -> dict[str, Any]:
    metadata = json.loads(extra_info["metadata"] or "{}")
    if not extra_info["id"]:
        raise ValueError("extra_info has no id")
    required = {key: metadata[key] for key in BENCHMARKS[benchmark].metadata}
    return {"benchmark": benchmark, "id": extra_info["id"], **required}


def read_verdicts(dump: Path, questions: pd.DataFrame) -> pd.DataFrame:
    """Reads the verdict on each question from a dump of verl with the reward of `named_reward.py`.

    Args:
        dump: `trainer.validation_data_dir`/0.jsonl, with one line per answer in any order.
        questions: All questions of the data files.

    Returns:
        The questions with the columns `answered`, `correct` and `formatted`: all False without an answer, for example
        because the prompt is too long.

    Raises:
        ValueError: The dump does not belong to these questions.
    """
    try:
        with dump.open(encoding="utf-8") as lines:
            answers = pd.DataFrame(map(json.loads, lines))
        if answers.empty:
            raise ValueError(f"{dump}: no question was answered: see the errors in verl's output")
        answers = answers.set_index(["data_source", "id"])[["acc", "format"]]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{dump}: {error}: the dump must come from recipes/run_eval.sh") from error
    refused = {
        "is not in the data files: pass the files that were evaluated": ~answers.index.isin(questions.index),
        "has a second answer: evaluate with actor_rollout_ref.rollout.val_kwargs.n=1": answers.index.duplicated(),
    }
    for problem, found in refused.items():
        if found.any():
            raise ValueError(f"{dump} line {found.argmax() + 1}: {' '.join(answers.index[found.argmax()])} {problem}")
    answers = answers.reindex(questions.index)
    return questions.assign(
        answered=answers["acc"].notna(), correct=answers["acc"] == 1, formatted=answers["format"] == 1
    )

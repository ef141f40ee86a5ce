# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What a dataset is: a `DatasetSpec` describes its source, and its adapter turns a source row into a `Problem`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

AnswerType = Literal["number", "choice", "yes_no"]
Row = Mapping[str, Any]
"""A row of the source as Python objects; an image is a dict with `bytes` and `path`."""


@dataclass(frozen=True)
class PixelRange:
    """Allowed number of pixels of an image, both ends included."""

    least: int
    most: int


TRAINING = PixelRange(262_144, 4_194_304)
"""Range of the training data in the paper's framework."""
EVALUATION = PixelRange(262_144, 1_000_000)
"""Range of the evaluation that the paper follows."""


class Dropped(Exception):
    """Raised for a row that is left out: the reason, which rows share, and a detail about this row."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Problem:
    """The content of one row."""

    question: str
    """Text for the model, choices included. `<image>` marks the place of an image, `<image2>` that of the second."""
    images: Sequence[Row]
    answer: str
    """A letter (`choice`), `yes` or `no` (`yes_no`), otherwise the value: a number, LaTeX or text."""
    answer_type: AnswerType
    choices: Sequence[str] = ()
    """Texts of the choices from A on; empty if the dataset does not have them as text."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Fields for evaluation and analysis, serializable as JSON."""
    decimals: int | None = None
    """Number of decimal places that the question asks for."""


@dataclass(frozen=True)
class DatasetSpec:
    """Where a dataset is, what it contains and how its rows are converted."""

    name: str
    """Name in the command and in the column `data_source`."""
    title: str
    hub_id: str
    license: str
    splits: Mapping[str, str]
    """For each split, the pattern of its parquet files in the hub repository."""
    columns: Mapping[str, Sequence[str]]
    """Columns to read, by type (a key of `sources.COLUMN_TYPES`)."""
    pixels: PixelRange
    identify: Callable[[Row], str]
    """Returns the id of a row."""
    problem: Callable[[Row], Problem]
    """Converts a row to a problem, or raises `Dropped`."""
    treatment: Sequence[str]
    """How the rows are changed: sentences for the data card."""
    ability: str = "math"
    archive: str | None = None
    """Zip file in the repository with the images whose paths are in the column `image`."""

    @property
    def column_names(self) -> list[str]:
        """All columns to read."""
        return [name for names in self.columns.values() for name in names]


def dataset_spec(name: str) -> DatasetSpec:
    """Returns the `SPEC` of the adapter `verl_durian/prepare/NAME.py`."""
    return import_module(f"verl_durian.prepare.{name}").SPEC


def text(row: Row, column: str) -> str:
    """Returns the stripped text of a column; raises `Dropped` if it is empty."""
    value = (row[column] or "").strip()
    if not value:
        raise Dropped(f"no {column}")
    return value


def picture(row: Row, column: str) -> Row:
    """Returns the image of a column; raises `Dropped` if there is none."""
    if row[column] is None:
        raise Dropped("no image")
    return row[column]

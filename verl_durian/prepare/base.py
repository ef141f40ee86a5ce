# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Types of datasets: a `DatasetSpec` describes the source, and its adapter converts a source row to a `Problem`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

AnswerType = Literal["choice", "number", "yes_no"]
ANSWER_TYPES = get_args(AnswerType)
Row = Mapping[str, Any]
"""A row of the source as Python objects; an image is a dict with `bytes` and `path`."""


class PixelRange(NamedTuple):
    """Allowed number of pixels of an image, both ends included."""

    least: int
    most: int


TRAINING = PixelRange(262_144, 4_194_304)
"""Range of the training data in the paper's framework."""
EVALUATION = PixelRange(262_144, 1_000_000)
"""Range of the evaluation that the paper follows."""


class Dropped(Exception):
    """Raised for a row that is dropped: the reason, which several rows may share, and a detail about this row."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Problem:
    """Question and answer of one row."""

    question: str
    """Text for the model, choices included. `<image>` or `<image1>` marks the place of an image."""
    answer: str
    """A letter (`choice`), `yes` or `no` (`yes_no`), otherwise the value: a number, LaTeX or text."""
    answer_type: AnswerType = "number"
    choices: Sequence[str] = ()
    """Texts of the choices from A on; empty if the dataset does not have them as text."""
    decimals: int | None = None
    """Number of decimal places that the question asks for."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Where a dataset is, what it contains and how its rows are converted."""

    name: str
    """Name in the command and in the column `data_source`."""
    hub_id: str
    license: str
    splits: Mapping[str, str]
    """For each split, the pattern of its parquet files in the hub repository."""
    ids: Sequence[str]
    """Columns that identify a row."""
    image: str = "image"
    """Column with an image, a list of images, or a list of paths in `archive`."""
    columns: Sequence[str]
    """Other columns to read."""
    archive: str | None = None
    """Zip file in the repository with the images, if the source has only their paths."""
    pixels: PixelRange = EVALUATION
    ability: str = "math"
    problem: Callable[[Row], Problem]
    """Converts a row to a problem, or raises `Dropped`."""
    metadata: Callable[[Row], Mapping[str, Any]]
    """Returns the fields of a row for evaluation and analysis, serializable as JSON."""
    treatment: str
    """Description of the conversion for the data card, in sentences."""

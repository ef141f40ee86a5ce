# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What the sets have in common: a set is described by a `DataSet`, whose adapter makes a `Problem` of a source row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from verl_durian.prepare.images import PixelRange

AnswerType = Literal["number", "choice", "yes_no"]
Row = Mapping[str, Any]
"""A row of the source, as Python objects; an image is a dict with `bytes` and `path`."""


class Dropped(Exception):
    """A row that is left out, for a reason that others share; the detail is about this one."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Problem:
    """What is asked in a row."""

    question: str
    """For the model, choices included. It may mark the places of images: `<image>`, or `<image2>` for the second."""
    images: Sequence[Row]
    answer: str
    """A letter if it is a choice, `yes` or `no` if it is that, else the value: a number, LaTeX or a text."""
    answer_type: AnswerType
    choices: Sequence[str] = ()
    """Of a choice, the texts from A on; empty where the set does not have them as text."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What evaluation and analysis need; JSON can hold it."""
    decimals: int | None = None
    """Of a number, the decimal places that the question asks for."""


@dataclass(frozen=True)
class DataSet:
    """A set: where it is, what is in it, and how its rows are read."""

    name: str
    """As the command and the column `data_source` have it."""
    title: str
    hub_id: str
    licence: str
    splits: Mapping[str, str]
    """Pattern of the parquet files of each split in the repository on the hub."""
    columns: Mapping[str, str]
    """The columns that are read, with their types: see `sources.TYPES`."""
    pixels: PixelRange
    identify: Callable[[Row], str]
    """The id of a row."""
    problem: Callable[[Row], Problem]
    """Makes a problem of a row, or raises `Dropped`."""
    treatment: Sequence[str]
    """What is done to its rows: sentences for the data card."""
    ability: str = "math"
    archive: str | None = None
    """Archive with the images that the column `image` names by their paths, beside the parquet file."""


def text(row: Row, column: str) -> str:
    """A text of a row without the blanks around it.

    Raises:
        Dropped: there is none.
    """
    value = (row[column] or "").strip()
    if not value:
        raise Dropped(f"no {column}")
    return value


def picture(row: Row, column: str) -> Row:
    """The image of a row of a set that is about images.

    Raises:
        Dropped: there is none.
    """
    if row[column] is None:
        raise Dropped("no image")
    return row[column]

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Scores on disk, shared by all runs."""

import json
import logging
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from verl_durian.files import room_for, whole_file

logger = logging.getLogger(__name__)


class Score(NamedTuple):
    """The score of one row's images and videos."""

    key: str
    """`Media.key`."""
    entropy: float
    """Visual entropy H in nats (Eq. 9), NaN if there is an error."""
    patches: int
    """Patches P, the rows of F (Eq. 5), 0 if there is an error."""
    error: str = ""
    """Why the row cannot be scored; not stored."""


def default_cache_dir() -> Path:
    """VERL_DURIAN_CACHE, or ~/.cache/verl_durian."""
    return Path(os.environ.get("VERL_DURIAN_CACHE", "~/.cache/verl_durian")).expanduser()


class EntropyCache:
    """Scores of one vision tower. The folder is named after the fingerprint of the tower.

    Each run appends to its own file `<folder>/<random>.jsonl`, one line per score:

        {"key": "<32 hexadecimal digits>", "entropy": <nats>, "patches": <number>}

    So runs never wait for each other, even on a network file system, and a killed run leaves at most one incomplete
    line. `<folder>/<identity>.npy` has the scores of a training set: if its files are unchanged, no image is read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._file = folder / f"{uuid.uuid4().hex}.jsonl"

    def scores(self) -> Iterator[Score]:
        """All stored scores."""
        for file in sorted(self.folder.glob("*.jsonl")):
            try:
                lines = file.read_bytes().splitlines()
            except PermissionError:
                logger.warning("%s belongs to another user and cannot be read: skipped", file)
                continue
            for number, line in enumerate(lines, start=1):
                try:
                    yield Score(**json.loads(line))
                except (ValueError, TypeError):
                    logger.warning("%s line %d is damaged: skipped", file, number)

    def add(self, scores: Iterable[Score]) -> None:
        """Appends the scores that have no error. When it returns, they are kept even if this process is killed.

        Raises:
            ValueError: the folder is not writable.
            OSError: the scores cannot be written; the message names the file.
        """
        if not self._file.exists():
            self.require_writable()
        with room_for(self._file), self._file.open("a") as file:
            for key, entropy, patches, error in scores:
                if not error:
                    file.write(json.dumps({"key": key, "entropy": entropy, "patches": patches}) + "\n")

    def require_writable(self) -> None:
        """Creates the folder. Raises ValueError if it is not writable."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"the cache folder {self.folder} is not writable ({error.strerror}): set another one with --cache or "
                "the environment variable VERL_DURIAN_CACHE"
            ) from error

    def column(self, identity: str, rows: int) -> np.ndarray | None:
        """The entropies that `keep_column` has stored, or None."""
        file = self.folder / f"{identity}.npy"
        if not file.exists():
            return None
        try:
            column = np.load(file)
        except (OSError, ValueError, EOFError) as error:
            logger.warning("%s is damaged (%s): all images are read again", file, error)
            return None
        return column if column.shape == (rows,) else None

    def keep_column(self, identity: str, entropies: np.ndarray) -> None:
        """Stores the entropies of a training set. `identity` must change with the images and their order."""
        with whole_file(self.folder / f"{identity}.npy") as file:
            np.save(file, entropies)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Visual entropies on disk, shared by everything that scores."""

import json
import logging
import math
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from verl_durian.files import room_for, whole_file

logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """The score of one row's images and videos."""

    key: str
    """`Media.key`: 32 hexadecimal digits."""
    entropy: float
    """Visual entropy H in nats (Eq. 9)."""
    patches: int
    """Patches P, the rows of F (Eq. 5)."""


def default_cache_dir() -> Path:
    """VERL_DURIAN_CACHE, or ~/.cache/verl_durian."""
    return Path(os.environ.get("VERL_DURIAN_CACHE", "~/.cache/verl_durian")).expanduser()


class EntropyCache:
    """Entropies by content, for one vision tower: the folder is named by the tower's fingerprint.

    Each process that scores appends to a file of its own, `<folder>/<random>.jsonl`, one line an entry:

        {"key": "<32 hexadecimal digits>", "entropy": <nats>, "patches": <number>}

    So writers never wait for each other, on a network file system neither, and a killed one leaves at worst an
    unfinished last line. Lines that are not of this form, or whose entropy is more than that number of patches can
    have, are passed over, and their images scored again. Files may be concatenated or deleted at will.

    The scores of a training set whose files have not changed are in `<folder>/<identity>.npy`, so that no image has to
    be read to find its key.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._file = folder / f"{uuid.uuid4().hex}.jsonl"

    def entries(self) -> Iterator[Entry]:
        """All sound entries; of two with one key the later one holds."""
        for file in sorted(self.folder.glob("*.jsonl")):
            with file.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    entry = _entry(line)
                    if entry is None:
                        logger.warning("%s line %d is damaged and is passed over", file, number)
                    else:
                        yield entry

    def add(self, entries: Iterable[Entry]) -> None:
        """Appends entries; they survive a kill of this process as soon as this returns.

        Raises:
            OSError: they cannot be written; the message names the file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with room_for(self._file), self._file.open("a") as file:
            file.writelines(f"{json.dumps(entry._asdict())}\n" for entry in entries)

    def require_writable(self) -> None:
        """Raises ValueError if nothing can be written to the folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"the cache folder {self.folder} cannot be written ({error.strerror}): name another one with --cache "
                "or the environment variable VERL_DURIAN_CACHE"
            ) from error

    def column(self, identity: str, rows: int) -> np.ndarray | None:
        """The entropies of a training set that `keep_column` has kept, NaN for a row without image; None if unknown."""
        file = self.folder / f"{identity}.npy"
        try:
            column = np.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            logger.warning("%s is damaged (%s) and is passed over", file, error)
            return None
        return column if column.dtype == np.float64 and column.shape == (rows,) else None

    def keep_column(self, identity: str, entropies: np.ndarray) -> None:
        """Keeps the entropies of a training set; `identity` must change with any of its images or their order.

        Raises:
            OSError: they cannot be written.
        """
        with whole_file(self.folder / f"{identity}.npy") as file:
            np.save(file, entropies)


def _entry(line: bytes) -> Entry | None:
    try:
        entry = Entry(**json.loads(line))
        bytes.fromhex(entry.key)
        # H <= log(P - 1); the rest is rounding.
        sound = len(entry.key) == 32 and -1e-9 <= entry.entropy <= math.log(max(entry.patches - 1, 1)) + 1e-9
    except (ValueError, TypeError):
        return None
    return entry if sound and type(entry.entropy) is float and type(entry.patches) is int else None

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Scores parts of a data set on all machines of a Ray cluster, or on this one alone.

Two passes of Ray Data: the first reads every row and names its images by their content; the second scores those that
are not in the cache, each once. Only names and numbers come back, about 100 bytes a row.
"""

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import ray
import torch
from ray.data import DataContext
from tqdm import tqdm  # type: ignore[import-untyped]

from verl_durian.entropy.cache import EntropyCache, Entry
from verl_durian.entropy.packets import BLOCK_BYTES
from verl_durian.entropy.parts import Part
from verl_durian.entropy.readers import Rows, name_rows
from verl_durian.entropy.vision_tower import TowerSettings
from verl_durian.entropy.workers import Placement, scores

logger = logging.getLogger(__name__)

_TRIES = 3
"""Times that workers may die one after another without a score between."""
_DEATHS = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)


@dataclass(frozen=True)
class Problem:
    """A row whose images or videos cannot be scored."""

    file: str
    row: int
    reason: str


@dataclass
class Scores:
    """The rows of all parts, in order."""

    keys: np.ndarray
    """`Media.key` of each row, empty for a row without images. dtype S32"""
    entropies: np.ndarray
    """H in nats of each row, NaN for a row without images or with a problem. float64"""
    patches: np.ndarray
    """P of each row, 0 where H is NaN. int32"""
    problems: list[Problem]
    """In the order of the rows."""
    images: int
    """Images and videos of all rows."""
    encoded: int
    """Images and videos that had to be encoded, because the cache did not know them."""
    seconds: float
    """What that took, from the start of the workers."""


def score_parts(
    parts: Sequence[Part],
    settings: TowerSettings,
    state: Mapping[str, torch.Tensor],
    cache: EntropyCache,
    placement: Placement,
) -> Scores:
    """Scores every row of the parts, in the Ray cluster that this process has joined.

    Args:
        parts (Sequence[Part]): The rows.
        settings (TowerSettings): What the tower is.
        state (Mapping[str, torch.Tensor]): Its tensors.
        cache (EntropyCache): What is known already, and where to keep what is found out.
        placement (Placement): Where the work is done.

    Raises:
        ValueError: there is something to score, and the cache cannot be written.
        RuntimeError: a process of Ray failed for another reason than an image.
    """
    with _ray_data():
        rows = name_rows(parts)
        table = _Table(rows.keys)
        for entry in cache.entries():
            table.put(entry)

        todo = table.rows_without_score()
        if len(todo) > 0:
            cache.require_writable()
        encoded, start, deaths = int(rows.images[todo].sum()), time.monotonic(), 0
        with tqdm(total=encoded, desc="visual entropy", unit=" images", disable=len(todo) == 0) as progress:
            while len(todo) > 0:
                try:
                    for some in scores(rows, todo, settings, state, placement):
                        good = [Entry(score.key, score.entropy, score.patches) for score in some if not score.error]
                        cache.add(good)
                        for entry in good:
                            table.put(entry)
                        table.errors.update({score.key.encode(): score.error for score in some if score.error})
                        progress.update(sum(score.images for score in some))
                        deaths = 0
                    break
                except _DEATHS as error:
                    deaths += 1
                    if deaths == _TRIES or "creation task" in str(error):  # the constructor fails again
                        raise
                    logger.warning("a worker died, and the rows left are scored by new ones: %s", _last_line(error))
                todo = table.rows_without_score()
        seconds = time.monotonic() - start

    entropies, patches = table.scores_of(rows.keys)
    problems = _problems(rows, table.errors)
    return Scores(rows.keys, entropies, patches, problems, int(rows.images.sum()), encoded, seconds)


class _Table:
    """The score of each distinct key, 52 bytes each."""

    def __init__(self, keys: np.ndarray):
        self.keys, self.rows = np.unique(keys, return_index=True)
        """Ascending, and the first row of each."""
        self.entropies = np.full(len(self.keys), np.nan)
        self.patches = np.zeros(len(self.keys), np.int32)
        self.errors: dict[bytes, str] = {}

    def put(self, entry: Entry) -> None:
        """Keeps an entry, if it is of a key of the table."""
        key = np.bytes_(entry.key)
        place = np.searchsorted(self.keys, key)
        if place < len(self.keys) and self.keys[place] == key:
            self.entropies[place], self.patches[place] = entry.entropy, entry.patches

    def rows_without_score(self) -> np.ndarray:
        """The first row of each key that has neither a score nor an error, ascending."""
        failed = np.isin(self.keys, np.array(list(self.errors), "S32"))
        return np.sort(self.rows[np.isnan(self.entropies) & (self.keys != b"") & ~failed])

    def scores_of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entropy and patches of each row."""
        places = np.searchsorted(self.keys, keys)
        return self.entropies[places], self.patches[places]


def _problems(rows: Rows, errors: Mapping[bytes, str]) -> list[Problem]:
    """Of the rows that could not be read, and of all that share images that could not be scored."""
    reasons = dict(rows.errors)
    for row in np.flatnonzero(np.isin(rows.keys, np.array(list(errors), "S32"))).tolist():
        reasons[row] = errors[rows.keys[row]]
    return [Problem(*rows.place(row), reason) for row, reason in sorted(reasons.items())]


@contextmanager
def _ray_data() -> Iterator[None]:
    """Small blocks, which share out the rows among the workers; our own progress bars; and errors in one message."""
    log = logging.getLogger("ray.data")
    level, context = log.level, DataContext.get_current()
    before = context.enable_progress_bars, context.target_max_block_size
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # Before Ray 2.64 there is no other way to say how often a dead worker's rows are tried again.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            yield
    except _DEATHS as error:
        raise RuntimeError(
            f"processes of Ray died: {_last_line(error)} What was scored is kept. Memory is the likeliest cause: try "
            "fewer --workers, and a smaller --max-patches"
        ) from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"a process of Ray failed, what was scored is kept: {_last_line(error)}") from error
    finally:
        context.enable_progress_bars, context.target_max_block_size = before
        log.setLevel(level)


def _last_line(error: Exception) -> str:
    told = [line.strip() for line in str(error).splitlines() if line.strip()]
    return told[-1] if told else repr(error)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Worker processes that make verl's rows. What is imported here is imported by each of them: little."""

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread

from verl_durian.prepare.data_set import Row
from verl_durian.prepare.rows import Converted, convert


class Workers:
    """Makes rows in order, with a few batches under way at a time, whatever the size of the set."""

    def __init__(self, pool: ProcessPoolExecutor, ahead: int):
        self._pool, self._ahead = pool, ahead

    def convert(self, name: str, split: str, batches: Iterable[Sequence[Row]]) -> Iterator[list[Converted]]:
        """What becomes of the rows of a split.

        Args:
            name (str): Of the set.
            split (str): Which split they are of.
            batches (Iterable[Sequence[Row]]): Its rows.
        """
        waiting: deque[Future[list[Converted]]] = deque()
        first = 0
        for rows in batches:
            if len(waiting) == self._ahead:
                yield waiting.popleft().result()
            waiting.append(self._pool.submit(convert, name, split, list(enumerate(rows, first))))
            first += len(rows)
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def start_workers(number: int | None) -> Iterator[Workers]:
    """Starts processes, one a core if no number is given, and ends them.

    Raises:
        ValueError: one of them was killed.
    """
    number = number or len(os.sched_getaffinity(0))
    pool = ProcessPoolExecutor(number, get_context("spawn"), initializer=_end_with_parent)
    try:
        yield Workers(pool, 2 * number)
    except BrokenProcessPool as error:
        _drop_rows_on_their_way(pool)
        raise ValueError("a worker was killed, perhaps for want of memory: give fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _drop_rows_on_their_way(pool: ProcessPoolExecutor) -> None:
    """Python before 3.11.5 would wait for ever until somebody takes them (python/cpython#94777)."""
    if sys.version_info < (3, 11, 5):
        pool._call_queue._reader.close()  # type: ignore[attr-defined]


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed: waiting for work it would not see that none will come."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()

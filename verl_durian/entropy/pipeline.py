# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Scores rows in one pass of Ray Data: read, compute the key, look it up, score, store.

One `Reader` on the machine of this process reads every row, computes its key and attaches the images of rows whose
score is neither in the cache nor already on its way. `Worker`s, one per GPU or CPU core of the cluster, score these
rows. This process appends their scores to the cache as soon as they arrive.
"""

import logging
import math
import os
import pickle
import sys
import time
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from tqdm import tqdm  # type: ignore[import-untyped]

from verl_durian.entropy.cache import EntropyCache, Entry
from verl_durian.entropy.data_files import DataFile, DatasetRows
from verl_durian.entropy.placement import Placement, threads_of_gpu_worker
from verl_durian.entropy.reader import Reader
from verl_durian.entropy.scorer import Score, Scorer, to_arrays
from verl_durian.entropy.vision_tower import TowerSettings

_BLOCK_BYTES = {"cpu": 1 << 17, "cuda": 8 << 20}
"""Stored images per block of Ray Data, which a worker gets at a time: on a CPU two to eight photographs, so that all
workers finish at about the same time; on a GPU enough for a forward pass. A killed run loses the blocks of workers."""
_BLOCK_ROWS = {"cpu": 32, "cuda": 512}
"""Most rows in a block: a video file or a URL is stored in a few bytes."""
_BLOCKS = 4
"""Least number of blocks per worker, so that all workers of a small data set have work."""
_BLOCKS_PER_WORKER = 2
"""A worker computes the eigenvalues of one block while its tower encodes the next."""
_ATTEMPTS = 3
"""Passes in a row that may end with a dead process before a single result has arrived."""
_DEATHS = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """A row whose images or videos cannot be scored."""

    file: str
    row: int
    reason: str


@dataclass
class Scores:
    """The scores of all rows, in the order of the sources."""

    keys: np.ndarray
    """`Media.key` of each row, empty for a row without images or whose images cannot be read. dtype S32"""
    entropies: np.ndarray
    """H of each row in nats, NaN for a row without images or with a problem. float64"""
    patches: np.ndarray
    """P of each row, 0 where H is NaN. int32"""
    problems: list[Problem]
    """In the order of the rows."""
    images: int
    """Number of images and videos."""
    encoded: int
    """Number of images and videos that were not in the cache."""
    seconds: float
    """Duration of the pass."""


def score_rows(
    sources: Sequence[DataFile | DatasetRows],
    settings: TowerSettings,
    state: Mapping[str, torch.Tensor],
    cache: EntropyCache,
    placement: Placement,
) -> Scores:
    """Scores every row of the sources in the Ray cluster that this process has joined.

    Args:
        sources (Sequence[DataFile | DatasetRows]): Only this machine needs access to local files.
        settings (TowerSettings): Settings of the vision tower.
        state (Mapping[str, torch.Tensor]): Its tensors. The workers of a machine share one copy.
        cache (EntropyCache): Known scores, to which new scores are appended.
        placement (Placement): Where the towers run.

    Raises:
        ValueError: the cache cannot be written.
        RuntimeError: a source cannot be read, or a process of Ray failed.
    """
    first = list(accumulate((source.rows for source in sources), initial=0))
    collected, start, attempt = _Collected(first[-1], cache), time.monotonic(), 0
    with _ray_data(_BLOCK_BYTES[placement.device]):
        while len(collected.keys) > 0:
            known, received = {*collected.known, *collected.failed}, collected.received()
            try:
                with tqdm(total=first[-1], desc="visual entropy", unit=" rows") as progress:
                    for results in _results(sources, first, known, settings, state, placement):
                        collected.add(results)
                        progress.update(len(results))
                break
            except _DEATHS as error:
                attempt = 1 if collected.received() > received else attempt + 1
                if attempt == _ATTEMPTS:
                    raise
                logger.warning("a worker died; new workers score the remaining rows: %s", _reason(error))
    if not collected.arrived.all():
        raise RuntimeError(f"Ray Data lost {int((~collected.arrived).sum())} of {first[-1]} rows: run it again")
    return collected.scores(sources, first, time.monotonic() - start)


class _Collected:
    """The results that have arrived so far."""

    def __init__(self, rows: int, cache: EntropyCache):
        self.cache = cache
        self.known = {entry.key.encode(): (entry.entropy, entry.patches) for entry in cache.entries()}
        self.failed: dict[bytes, str] = {}
        """Why the rows with a key cannot be scored."""
        self.unreadable: dict[int, str] = {}
        """Why a row has no key."""
        self.keys, self.images = np.zeros(rows, "S32"), np.zeros(rows, np.int32)
        self.arrived = np.zeros(rows, bool)
        self.encoded = 0
        self.writable = False

    def received(self) -> int:
        """Number of distinct keys with a score or an error."""
        return len(self.known) + len(self.failed)

    def add(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Adds the rows of a block of `Worker`, and stores their scores in the cache."""
        entries = [Entry(row["key"], row["entropy"], row["patches"]) for row in results if row["patches"]]
        if entries:
            if not self.writable:
                self.cache.require_writable()
                self.writable = True
            self.cache.add(entries)
            self.known.update({entry.key.encode(): (entry.entropy, entry.patches) for entry in entries})
        for row in results:
            number, key = row["row"], row["key"].encode()
            self.keys[number], self.images[number], self.arrived[number] = key, row["images"], True
            self.encoded += row["images"] if row["encoded"] else 0
            if row["error"] and key:
                self.failed[key] = row["error"]
            elif row["error"]:
                self.unreadable[number] = row["error"]

    def scores(self, sources: Sequence[DataFile | DatasetRows], first: Sequence[int], seconds: float) -> Scores:
        """The scores of all rows; rows with equal keys have equal scores."""
        entropies, patches = np.full(len(self.keys), np.nan), np.zeros(len(self.keys), np.int32)
        errors = dict(self.unreadable)
        for number, key in enumerate(self.keys.tolist()):
            if key in self.known:
                entropies[number], patches[number] = self.known[key]
            elif key:
                errors[number] = self.failed[key]
        problems = []
        for number, reason in sorted(errors.items()):
            source = bisect_right(first, number) - 1
            problems.append(Problem(sources[source].name, number - first[source], reason))
        return Scores(self.keys, entropies, patches, problems, int(self.images.sum()), self.encoded, seconds)


def _results(
    sources: Sequence[DataFile | DatasetRows],
    first: Sequence[int],
    known: set[bytes],
    settings: TowerSettings,
    state: Mapping[str, torch.Tensor],
    placement: Placement,
) -> Iterator[list[dict[str, Any]]]:
    """The results of the pass, a block at a time and in any order, as `Worker` returns them."""
    for module in settings.remote_code:
        ray.cloudpickle.register_pickle_by_value(sys.modules[module])  # other processes cannot import it
    items = [{"source": number} for number in range(len(sources))]
    block_rows = min(_BLOCK_ROWS[placement.device], math.ceil(first[-1] / placement.workers / _BLOCKS))
    blocks = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Reader,
        fn_constructor_kwargs={
            "sources_ref": ray.put((list(sources), list(first))),
            "known_ref": ray.put(known),
            "folder": os.getcwd(),
            "row_bytes": _BLOCK_BYTES[placement.device] // block_rows,
        },
        batch_size=None,
        compute=ActorPoolStrategy(size=1),
        num_cpus=0,  # a trainer may have taken all CPUs
        resources={f"node:{ray.util.get_node_ip_address()}": 1e-3},
        max_restarts=0,
    )
    blocks = blocks.map_batches(
        Worker,
        fn_constructor_kwargs={
            "settings": settings,
            "state_ref": ray.put(to_arrays(state)),
            "placement": placement,
            "fingerprint": settings.fingerprint(placement.device),
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(placement.workers, first[-1]), enable_true_multi_threading=True),
        num_cpus=1 if placement.device == "cpu" else 0,
        num_gpus=1 if placement.device == "cuda" else 0,
        max_concurrency=_BLOCKS_PER_WORKER,
        max_restarts=0,  # for restarts Ray prints a warning at each start; `score_rows` starts new workers
    )
    for block in blocks.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield block.to_pylist()  # type: ignore[union-attr]


class Worker:
    """Scores the rows that have images attached. The tower is loaded when the first such row arrives."""

    def __init__(self, settings: TowerSettings, state_ref: ray.ObjectRef, placement: Placement, fingerprint: str):
        self.settings, self.state_ref, self.placement, self.fingerprint = settings, state_ref, placement, fingerprint
        self._loading = Lock()
        self._scorer: Scorer | None = None

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Replaces the column `media` by `entropy`, `patches` and `encoded`.

        A generator, because Ray Data hides the message of an exception in a function behind one of its own.
        """
        media = [pickle.loads(stored) for stored in block["media"].to_pylist() if stored is not None]
        scores = {score.key: score for score in self._loaded_scorer().score(media)} if media else {}
        encoded = block["media"].is_valid().to_pylist()
        of_rows = [
            scores[key] if new else Score(key, error=error)
            for key, error, new in zip(block["key"].to_pylist(), block["error"].to_pylist(), encoded, strict=True)
        ]
        yield pa.table(
            {
                "row": block["row"],
                "key": block["key"],
                "images": block["images"],
                "error": [score.error for score in of_rows],
                "entropy": [score.entropy for score in of_rows],
                "patches": pa.array([score.patches for score in of_rows], pa.int32()),
                "encoded": encoded,
            }
        )

    def _loaded_scorer(self) -> Scorer:
        with self._loading:
            if self._scorer is None:
                self._scorer = self._load_scorer()
            return self._scorer

    def _load_scorer(self) -> Scorer:
        device = self.placement.device
        if self.settings.fingerprint(device) != self.fingerprint:
            raise RuntimeError(
                f"{ray.util.get_node_ip_address()} would compute other scores than the machine of the command: install "
                "the same packages (torch, torchvision, transformers, ...) and set the same environment variables of "
                "qwen_vl_utils there"
            )
        threads = threads_of_gpu_worker() if device == "cuda" else 1
        return Scorer(self.settings, ray.get(self.state_ref), device, self.placement.max_patches, threads)


@contextmanager
def _ray_data(block_bytes: int) -> Iterator[None]:
    """Sets the block size, replaces Ray's progress bars and tracebacks by our own bar and a RuntimeError."""
    log = logging.getLogger("ray.data")
    level = log.level
    context = DataContext.get_current()
    before = context.enable_progress_bars, context.target_max_block_size, context.max_errored_blocks
    context.enable_progress_bars, context.target_max_block_size, context.max_errored_blocks = False, block_bytes, 0
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # Before Ray 2.64 max_restarts can only be given as `ray_remote_args`.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            yield
    except _DEATHS as error:
        raise RuntimeError(
            f"processes of Ray died: {_reason(error)} The scores so far are in the cache. The most likely cause is "
            "memory: try fewer --workers and a smaller --max-patches"
        ) from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"a process of Ray failed; the scores so far are in the cache: {_reason(error)}") from error
    finally:
        context.enable_progress_bars, context.target_max_block_size, context.max_errored_blocks = before
        log.setLevel(level)


def _reason(error: ray.exceptions.RayError) -> str:
    """The message of the exception in the other process, without its traceback and Ray's advice on retries."""
    cause = getattr(error, "cause", None)
    lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
    return (lines[0] if cause else lines[-1]) if lines else repr(error)

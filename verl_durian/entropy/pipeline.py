# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Scores rows in one pass: read, compute the key, look it up, score, store.

This process reads every row. It sends rows whose score is neither cached nor being computed to `Worker`s, one per free
GPU or CPU core of the Ray cluster that it has joined, and appends their scores to the cache.
"""

import logging
import math
import os
import pickle
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.util import ActorPool
from tqdm import tqdm  # type: ignore[import-untyped]

from verl_durian.entropy.cache import EntropyCache, Score
from verl_durian.entropy.data_files import Cells, DataFile, DatasetRows
from verl_durian.entropy.media import Media, MediaError, collect
from verl_durian.entropy.scorer import Scorer, to_arrays
from verl_durian.entropy.vision_tower import TowerSettings

logger = logging.getLogger(__name__)

MAX_PATCHES = {"cpu": 2048, "cuda": 16384}
"""Patches (14 x 14 pixels) per forward pass. The 7B tower in float32 needs up to 0.3 GB and 2 GB for activations."""
_THREADS = 8
_READ_ROWS = 2 * _THREADS
"""Rows whose images are read and hashed in parallel, and held in memory at the same time."""
_BLOCK_BYTES = {"cpu": 1 << 17, "cuda": 4 << 20}
"""Size of a block of stored images, the unit of work of a worker: on a CPU two to eight photographs, so that all
workers finish at about the same time; on a GPU enough for a forward pass. A killed run loses unfinished blocks."""
_BLOCK_ROWS = {"cpu": 32, "cuda": 128}
"""Maximum rows per block: a video file or a URL is stored in a few bytes."""
_CALLS = {"cpu": 2, "cuda": 8}
"""Blocks that a worker scores at the same time: its tower encodes one while it decodes the others."""
_RETRIES = 2
"""Number of times that a block is retried after its worker died, for example because memory ran out."""


@dataclass(frozen=True)
class Placement:
    """Device (`cpu` or `cuda`), number of processes with a tower each, and patches per forward pass."""

    device: str
    workers: int
    max_patches: int


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
    """`Media.key` of each row, empty if it has no images or they cannot be read. dtype S32"""
    entropies: np.ndarray
    """H of each row in nats, NaN for a row without images or with a problem. float64"""
    patches: np.ndarray
    """P of each row, 0 where H is NaN. int32"""
    problems: list[Problem]
    images: int
    """Number of images and videos."""
    encoded: int
    """Number of those that were not in the cache."""
    seconds: float


def place(device: str | None = None, workers: int | None = None, max_patches: int | None = None) -> Placement:
    """Chooses where to score in the Ray cluster.

    Args:
        device: Default: `cuda` if the cluster has GPUs, else `cpu`.
        workers: Default: the number of free GPUs, or of free CPUs but at most the cores of this machine.
        max_patches: Default: `MAX_PATCHES` of the device.

    Raises:
        ValueError: fewer GPUs or CPUs are free than requested, or none.
    """
    device = device or ("cuda" if ray.cluster_resources().get("GPU") else "cpu")
    resource = "GPU" if device == "cuda" else "CPU"
    free = int(ray.available_resources().get(resource, 0))
    if device == "cpu":  # Ray may have been started with more CPUs than there are cores
        free = min(free, len(os.sched_getaffinity(0)) * sum(node["Alive"] for node in ray.nodes()))
    if free < (workers or 1):
        raise ValueError(
            f"{workers or 1} workers need one {resource} each, but Ray has {max(free, 0)} free: wait for other jobs to "
            "end, or choose fewer --workers or another --device"
        )
    return Placement(device, workers or free, max_patches or MAX_PATCHES[device])


@contextmanager
def resources_released() -> Iterator[None]:
    """Waits on exit, at most a minute, until as many CPUs and GPUs are free as on entry.

    The trainer counts free GPUs right after scoring, but Ray releases those of a worker only when its process ends.
    """
    before = ray.available_resources()
    yield
    for _ in range(600):
        free = ray.available_resources()
        if all(free.get(name, 0) >= before.get(name, 0) for name in ("CPU", "GPU")):
            return
        time.sleep(0.1)
    logger.warning("durian: fewer CPUs or GPUs are free than before scoring: another job may have taken them")


def score_rows(
    sources: Sequence[DataFile | DatasetRows],
    settings: TowerSettings,
    state: Mapping[str, torch.Tensor],
    cache: EntropyCache,
    placement: Placement,
) -> Scores:
    """Scores every row of the sources.

    Args:
        sources: Only this machine needs access to local files.
        settings: Settings of the vision tower.
        state: Its tensors. The workers of a machine share one copy.
        cache: Known scores, to which new scores are appended.
        placement: Where the towers run.

    Raises:
        ValueError: the cache cannot be written.
        RuntimeError: a source cannot be read, or a worker failed.
    """
    start, rows = time.monotonic(), sum(source.rows for source in sources)
    keys, images, encoded = np.zeros(rows, "S32"), np.zeros(rows, np.int32), np.zeros(rows, bool)
    scores = {score.key: score for score in cache.scores()}
    unreadable: dict[int, str] = {}
    progress = tqdm(total=rows, desc="visual entropy", unit=" rows")

    def new_rows() -> Iterator[Media]:
        seen, known = set(scores), len(scores)
        for row, media in enumerate(_read(sources)):
            if isinstance(media, MediaError):
                unreadable[row] = str(media)
            elif media is not None:
                keys[row], images[row], encoded[row] = media.key, len(media), media.key not in seen
                if encoded[row]:
                    if len(seen) == known:  # the first: no worker has started yet
                        cache.require_writable()
                    seen.add(media.key)
                    yield media
                    continue
            progress.update()

    # At least two blocks per call, so that all workers of a small data set have work.
    block_rows = min(_BLOCK_ROWS[placement.device], math.ceil(rows / placement.workers / _CALLS[placement.device] / 2))
    blocks = _blocks(new_rows(), block_rows, _BLOCK_BYTES[placement.device])
    with progress:
        for of_block in _scored(blocks, settings, state, placement):
            cache.add(of_block)
            scores |= {score.key: score for score in of_block}
            progress.update(len(of_block))

    none = Score("", math.nan, 0)
    of_rows = [scores.get(key.decode(), none) for key in keys]
    places = [(source.name, number) for source in sources for number in range(source.rows)]
    errors = [unreadable.get(row, score.error) for row, score in enumerate(of_rows)]
    return Scores(
        keys,
        np.array([score.entropy for score in of_rows], np.float64),
        np.array([score.patches for score in of_rows], np.int32),
        [Problem(*place, error) for place, error in zip(places, errors, strict=True) if error],
        int(images.sum()),
        int(images[encoded].sum()),
        time.monotonic() - start,
    )


def _read(sources: Sequence[DataFile | DatasetRows]) -> Iterator[Media | MediaError | None]:
    """The images of each row, or the reason why they cannot be read."""
    with ThreadPoolExecutor(_THREADS) as threads:
        for source in sources:
            cells = islice(source.cells(), source.rows)
            try:
                while read := list(threads.map(_collected, islice(cells, _READ_ROWS))):
                    yield from read
            except (OSError, ValueError, pa.ArrowException) as error:
                raise RuntimeError(f"{source.name} cannot be read: {error}") from error


def _collected(cells: Cells) -> Media | MediaError | None:
    try:
        return collect(*cells)
    except MediaError as error:
        return error


def _blocks(rows: Iterable[Media], most_rows: int, most_bytes: int) -> Iterator[list[bytes]]:
    """Groups pickled rows into blocks. A row above the limit is a block of its own."""
    block: list[bytes] = []
    for media in rows:
        row = pickle.dumps(media)
        if block and (len(block) == most_rows or sum(map(len, block)) + len(row) > most_bytes):
            yield block
            block = []
        block.append(row)
    if block:
        yield block


class Worker:
    """Scores blocks in its own process, with its own tower."""

    def __init__(self, settings: TowerSettings, placement: Placement):
        self.settings, self.placement = settings, placement
        self._loading = Lock()
        self._scorer: Scorer | None = None

    def score(self, block: list[bytes], state: Mapping[str, np.ndarray], fingerprint: str) -> list[Score]:
        """The scores of a block, in any order. The first block loads the tower."""
        device = self.placement.device
        with self._loading:
            if self._scorer is None:
                if self.settings.fingerprint(device) != fingerprint:
                    raise RuntimeError(
                        f"{ray.util.get_node_ip_address()} would compute different scores than the machine of the "
                        "command: install the same packages (torch, torchvision, transformers, ...) and set the same "
                        "environment variables of qwen_vl_utils there"
                    )
                self._scorer = Scorer(self.settings, state, device, self.placement.max_patches)
        return self._scorer.score(pickle.loads(row) for row in block)


def _scored(
    blocks: Iterable[list[bytes]], settings: TowerSettings, state: Mapping[str, torch.Tensor], placement: Placement
) -> Iterator[list[Score]]:
    """The scores of the blocks, in any order."""
    for module in settings.remote_code:
        ray.cloudpickle.register_pickle_by_value(sys.modules[module])  # other processes cannot import it
    worker_class = ray.remote(Worker).options(
        num_cpus=1 if placement.device == "cpu" else 0,
        num_gpus=1 if placement.device == "cuda" else 0,
        max_concurrency=_CALLS[placement.device],
        max_restarts=-1,
        max_task_retries=_RETRIES,
    )
    # Not an argument of the worker: Ray would print a warning, because a worker may restart.
    arrays, fingerprint = ray.put(to_arrays(state)), settings.fingerprint(placement.device)
    workers: list[Any] = []
    pool = ActorPool([])
    try:
        for block in blocks:
            if not workers:  # none if all scores are in the cache
                workers = [worker_class.remote(settings, placement) for _ in range(placement.workers)]
                pool = ActorPool(workers * _CALLS[placement.device])
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda worker, block: worker.score.remote(block, arrays, fingerprint), block)
        while pool.has_next():
            yield pool.get_next_unordered()
    except (RayActorError, OutOfMemoryError) as error:
        raise RuntimeError(
            f"Ray processes died: {str(error).splitlines()[-1]} The scores so far are in the cache. Most likely, "
            "memory ran out: try fewer --workers and a smaller --max-patches"
        ) from error
    except RayError as error:
        cause = getattr(error, "cause", error)
        raise RuntimeError(f"a Ray process failed; the scores so far are in the cache: {cause}") from error
    finally:
        for worker in workers:
            ray.kill(worker)

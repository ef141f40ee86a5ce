# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Scores parts of a data set on all machines of a Ray cluster, or on this one alone.

Two passes of Ray Data: the first reads every row and names its images by their content; the second scores those that
are not in the cache, each once. Only names and numbers come back, about 50 bytes a row.
"""

import logging
import math
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext, Dataset
from tqdm import tqdm  # type: ignore[import-untyped]

from verl_durian.scoring.entropy_cache import EntropyCache, Entry
from verl_durian.scoring.media import MediaError, collect
from verl_durian.scoring.parts import Part
from verl_durian.scoring.scorer import Score, Scorer, to_arrays
from verl_durian.vision_tower import TowerSettings

MAX_PATCHES = {"cpu": 2048, "cuda": 16384}
"""Patches (14 x 14 pixels) encoded in one pass: up to 0.3 GB and 2 GB of activations of the 7B tower in float32."""
_BATCH_ROWS = {"cpu": 32, "cuda": 512}
"""Rows that a worker scores at once."""
_BLOCK_BYTES = 2 << 20
"""Of stored images, that are given to a worker together and are lost with it; or as many as make `_BATCH_ROWS`."""
_SHARE = 0.5
"""Of a CPU in Ray's count, for each worker and each reader: so neither can keep out the other."""
_TRIES = 3
"""How often the rows of a worker that died are given to another."""


@dataclass(frozen=True)
class Placement:
    """Where the work is done."""

    device: str
    """`cpu` or `cuda`."""
    workers: int | None = None
    """Processes with a tower each. None: one a GPU, or one a core."""
    max_patches: int | None = None
    """Patches encoded in one pass. None: `MAX_PATCHES`."""
    data_are_here: bool = True
    """Whether only this machine reaches the data; else every machine of the cluster reads."""


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
        RuntimeError: a process of Ray failed for another reason than an image.
    """
    with _ray_data():
        rows = _read_rows(parts, placement)
        table = _Table(rows.keys)
        for entry in cache.entries():
            table.put(entry)

        todo = table.rows_without_score()
        encoded, start = int(rows.images[todo].sum()), time.monotonic()
        if len(todo) > 0:
            with tqdm(total=encoded, desc="visual entropy", unit=" images") as progress:
                for scores in _score_rows(parts, rows, todo, settings, state, placement):
                    good = [Entry(score.key, score.entropy, score.patches) for score in scores if not score.error]
                    cache.add(good)
                    for entry in good:
                        table.put(entry)
                    table.errors.update({score.key: score.error for score in scores if score.error})
                    progress.update(sum(score.images for score in scores))

    entropies, patches = table.scores_of(rows.keys)
    return Scores(
        rows.keys,
        entropies,
        patches,
        _problems(parts, rows, table.errors),
        int(rows.images.sum()),
        encoded,
        time.monotonic() - start,
    )


@dataclass
class _Rows:
    """What the first pass tells of each row."""

    first: np.ndarray
    """The number of each part's first row, counting through all parts. shape is (parts,)"""
    keys: np.ndarray
    images: np.ndarray
    errors: dict[int, str]
    """Of rows whose images cannot be read."""


def _read_rows(parts: Sequence[Part], placement: Placement) -> _Rows:
    first = np.cumsum([0, *(part.rows for part in parts)])
    rows = _Rows(first[:-1], np.zeros(first[-1], "S32"), np.zeros(first[-1], np.int32), {})
    if len(parts) == 0:
        return rows
    parts_ref = ray.put(list(parts))
    names = _read(range(len(parts)), partial(_name, parts_ref=parts_ref, folder=_folder(placement)), placement)
    with tqdm(total=len(rows.keys), desc="reading", unit=" rows") as progress:
        for batch in _batches(names):
            numbers = rows.first[batch["part"]] + batch["offset"]
            rows.keys[numbers], rows.images[numbers] = batch["key"].astype("S32"), batch["images"]
            failed = batch["error"] != ""
            rows.errors.update(zip(numbers[failed].tolist(), batch["error"][failed].tolist(), strict=True))
            progress.update(len(numbers))
    return rows


def _name(batch: Mapping[str, np.ndarray], parts_ref: ray.ObjectRef, folder: str) -> Iterator[dict[str, list[Any]]]:
    """For Ray Data: the key of each row of the parts whose numbers are in the batch."""
    os.chdir(folder)
    parts = ray.get(parts_ref)
    for number in batch["part"].tolist():
        names: dict[str, list[Any]] = {"part": [], "offset": [], "key": [], "images": [], "error": []}
        for cells in parts[number].cells():
            key, images, error = "", 0, ""
            try:
                media = collect(cells.images, cells.videos, cells.by_datasets)
            except MediaError as problem:
                error = str(problem)
            else:
                if media is not None:
                    key, images = media.key, len(media)
            offset = cells.row - parts[number].first
            for column, value in zip(names.values(), (number, offset, key, images, error), strict=True):
                column.append(value)
        yield names


def _score_rows(
    parts: Sequence[Part],
    rows: _Rows,
    todo: np.ndarray,
    settings: TowerSettings,
    state: Mapping[str, torch.Tensor],
    placement: Placement,
) -> Iterator[list[Score]]:
    """Scores the rows of these numbers, some at a time."""
    part_of = np.searchsorted(rows.first, todo, side="right") - 1
    offsets = {number: todo[part_of == number] - rows.first[number] for number in np.unique(part_of).tolist()}
    take = partial(_take, parts_ref=ray.put(list(parts)), offsets_ref=ray.put(offsets), folder=_folder(placement))
    cores = max(1, min(int(ray.available_resources().get("CPU", 1)), len(ray.nodes()) * (os.cpu_count() or 1)))
    gpus = int(ray.available_resources().get("GPU", 0)) if placement.device == "cuda" else 0
    workers = min(placement.workers or gpus or cores, len(todo))
    scored = _read(offsets, take, placement).map_batches(
        _Worker,
        fn_constructor_kwargs={
            "state_ref": ray.put(to_arrays(state)),
            "settings": settings,
            "device": placement.device,
            "max_patches": placement.max_patches or MAX_PATCHES[placement.device],
            "threads": max(1, cores // gpus - 1) if gpus else 1,
        },
        batch_size=min(_BATCH_ROWS[placement.device], math.ceil(len(todo) / workers)),
        compute=ActorPoolStrategy(size=workers),
        num_cpus=_SHARE,
        num_gpus=1 if gpus else 0,
        max_task_retries=_TRIES,
    )
    for batch in _batches(scored):
        columns = [batch[field.name].tolist() for field in fields(Score)]
        yield [Score(*values) for values in zip(*columns, strict=True)]
    _wait_for_gpus(gpus)


def _batches(dataset: Dataset) -> Iterator[dict[str, np.ndarray]]:
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="numpy")
    except ray.exceptions.RayError as error:
        told = [line for line in str(error).splitlines() if line.strip()]
        raise RuntimeError(
            f"a process of Ray failed: {told[-1] if told else error!r}. What was scored is kept. Where processes died "
            f"over the same rows {_TRIES + 1} times, memory is the likeliest cause: try fewer --workers, and on a GPU a "
            "smaller --max-patches"
        ) from error


def _wait_for_gpus(gpus: int) -> None:
    """Waits until so many are free: Ray lends them until a worker's process has ended, and verl counts them next."""
    for _ in range(600):
        if ray.available_resources().get("GPU", 0) >= gpus:
            return
        time.sleep(0.1)


class _Worker(Scorer):
    """A scorer whose tower uses the one copy of the weights in the object store of its machine."""

    def __init__(self, state_ref: ray.ObjectRef, **arguments: Any):
        super().__init__(state=ray.get(state_ref), **arguments)


def _take(
    batch: Mapping[str, np.ndarray], parts_ref: ray.ObjectRef, offsets_ref: ray.ObjectRef, folder: str
) -> Iterator[dict[str, list[bytes]]]:
    """For Ray Data: the images of the rows to be scored, of the parts whose numbers are in the batch."""
    os.chdir(folder)
    parts, offsets = ray.get([parts_ref, offsets_ref])
    for number in batch["part"].tolist():
        wanted = set((parts[number].first + offsets[number]).tolist())
        media = (
            pickle.dumps(collect(cells.images, cells.videos, cells.by_datasets))
            for cells in parts[number].cells()
            if cells.row in wanted
        )
        while some := list(islice(media, 16)):
            yield {"media": some}


def _folder(placement: Placement) -> str:
    """Where readers work: paths of images may be relative to where the command was given."""
    return os.getcwd() if placement.data_are_here else os.curdir


def _read(numbers: Any, function: Callable[..., Any], placement: Placement) -> Dataset:
    """Has the parts of these numbers read, each by a task of its own."""
    here = {f"node:{ray.util.get_node_ip_address()}": 1e-3} if placement.data_are_here else None
    parts = ray.data.from_items([{"part": number} for number in numbers], override_num_blocks=len(numbers))
    return parts.map_batches(function, batch_size=1, num_cpus=_SHARE, resources=here)


class _Table:
    """The score of each distinct key, 44 bytes each."""

    def __init__(self, keys: np.ndarray):
        self.keys, self.rows = np.unique(keys, return_index=True)
        """Ascending, and the first row of each."""
        self.entropies = np.full(len(self.keys), np.nan)
        self.patches = np.zeros(len(self.keys), np.int32)
        self.errors: dict[str, str] = {}

    def put(self, entry: Entry) -> None:
        """Keeps an entry, if it is of a key of the table."""
        key = np.bytes_(entry.key)
        place = np.searchsorted(self.keys, key)
        if place < len(self.keys) and self.keys[place] == key:
            self.entropies[place], self.patches[place] = entry.entropy, entry.patches

    def rows_without_score(self) -> np.ndarray:
        """The first row of each key that has none, ascending."""
        return np.sort(self.rows[np.isnan(self.entropies) & (self.keys != b"")])

    def scores_of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entropy and patches of each row."""
        places = np.searchsorted(self.keys, keys)
        return self.entropies[places], self.patches[places]


def _problems(parts: Sequence[Part], rows: _Rows, errors: Mapping[str, str]) -> list[Problem]:
    """The problems of all rows: those that could not be read, and all that share images that could not be scored."""
    reasons = dict(rows.errors)
    broken = np.array([key.encode() for key in errors], "S32")
    for row in np.flatnonzero(np.isin(rows.keys, broken)).tolist():
        reasons[row] = errors[rows.keys[row].decode()]
    problems = []
    for row, reason in sorted(reasons.items()):
        number = int(np.searchsorted(rows.first, row, side="right")) - 1
        part = parts[number]
        problems.append(Problem(part.file, part.first + row - int(rows.first[number]), reason))
    return problems


@contextmanager
def _ray_data() -> Iterator[None]:
    """Small blocks, which share out the rows among the workers, and no progress bars that count blocks."""
    log = logging.getLogger("ray.data")
    level, context = log.level, DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK_BYTES
    log.setLevel(logging.ERROR)
    try:
        with DataContext.current(context), warnings.catch_warnings():
            # Before Ray 2.64 there is no other way to say how often a dead worker's rows are tried again.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            yield
    finally:
        log.setLevel(level)

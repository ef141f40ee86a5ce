# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Scores rows in one process: decode -> preprocess -> encode -> eigenvalues.

The tower encodes in the calling thread. What comes before and after it runs beside it, in threads: PIL and LAPACK let
go of Python's lock.
"""

import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from threading import Lock

import numpy as np
import torch

from verl_durian.entropy.media import Media, MediaError, decode
from verl_durian.entropy.vision_tower import TowerSettings, VisionTower
from verl_durian.entropy.visual_entropy import scatter_matrix, spectral_entropy


@dataclass
class Score:
    """What came of the images and videos of one row."""

    key: str
    """`Media.key`."""
    entropy: float = math.nan
    """H in nats (Eq. 9); NaN where there is an error."""
    patches: int = 0
    """P, the rows of F (Eq. 5)."""
    images: int = 0
    """Images and videos."""
    error: str = ""


@dataclass
class _Row:
    """The images and videos of one row, ready for the tower."""

    media: Media
    pixel_values: torch.Tensor
    """shape is (patches of all images and videos, values of a patch)"""
    grid_thw: torch.Tensor
    """shape is (images and videos, 3)"""


class Scorer:
    """Scores rows with one vision tower.

    A row's number does not depend on the rows scored beside it, nor on `max_patches` or `threads`.

    Args:
        settings (TowerSettings): What the tower is.
        state (Mapping[str, np.ndarray]): The tower's tensors, as `to_arrays` makes them; used in place.
        device (str): `cpu` or `cuda`.
        max_patches (int): Patches encoded in one pass. A row with more goes alone.
        threads (int): Threads that decode, preprocess and find eigenvalues.
    """

    def __init__(
        self, settings: TowerSettings, state: Mapping[str, np.ndarray], device: str, max_patches: int, threads: int
    ):
        self.tower = VisionTower(settings, from_arrays(state), device)
        self.max_patches = max_patches
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        self._encoding = Lock()

    def score(self, rows: Iterable[Media]) -> list[Score]:
        """Scores rows, in any order. While one pass is encoded, the next is made ready and the last one's eigenvalues
        are found. May be called in several threads: they take turns with the tower."""
        torch.set_num_threads(1)  # as many processes as cores; and the bits of a sum depend on the number of threads
        scores: list[Score] = []
        entropies: list[tuple[Score, Future[float]]] = []
        passes = self._passes(rows, scores)
        with ThreadPoolExecutor(1) as assembler:
            upcoming = assembler.submit(next, passes, None)
            while (one_pass := upcoming.result()) is not None:
                upcoming = assembler.submit(next, passes, None)
                with self._encoding:
                    encoded = self._encode(one_pass, scores)
                scores += _collect(entropies)
                entropies = encoded
        return scores + _collect(entropies)

    def _passes(self, rows: Iterable[Media], failed: list[Score]) -> Iterator[list[_Row]]:
        """Consecutive rows together, up to `max_patches`; a row that cannot be decoded is put among the failed."""
        one_pass: list[_Row] = []
        patches = 0
        for media, future in self._prepared_ahead(rows):
            try:
                row = future.result()
            except MediaError as error:
                failed.append(Score(media.key, images=len(media), error=str(error)))
                continue
            if one_pass and patches + len(row.pixel_values) > self.max_patches:
                yield one_pass
                one_pass, patches = [], 0
            one_pass.append(row)
            patches += len(row.pixel_values)
        if one_pass:
            yield one_pass

    def _prepared_ahead(self, rows: Iterable[Media]) -> Iterator[tuple[Media, "Future[_Row]"]]:
        """Prepares a few rows ahead of the one that is asked for."""
        ahead: deque[tuple[Media, Future[_Row]]] = deque()
        for media in rows:
            ahead.append((media, self._pool.submit(self._prepare, media)))
            if len(ahead) > self.threads:
                yield ahead.popleft()
        yield from ahead

    def _prepare(self, media: Media) -> _Row:
        images, videos = decode(media, self.tower.settings.image_processor.patch_size)
        try:
            return _Row(media, *self.tower.preprocess(images, videos))
        except ValueError as error:  # such as sides in a ratio that the processor refuses, once it has resized them
            raise MediaError(str(error)) from error

    def _encode(self, one_pass: list[_Row], failed: list[Score]) -> list[tuple[Score, "Future[float]"]]:
        """One pass of the tower. Returns each row's score with its entropy to come."""
        features = chain.from_iterable(self._features(one_pass))
        encoded = []
        for row in one_pass:
            patches = torch.cat([next(features) for _ in row.grid_thw])  # of all images and videos, in one F
            try:
                matrix = scatter_matrix(patches).cpu()
            except ValueError as error:
                failed.append(Score(row.media.key, images=len(row.media), error=str(error)))
            else:
                score = Score(row.media.key, patches=len(patches), images=len(row.media))
                encoded.append((score, self._pool.submit(_entropy, matrix)))
        return encoded

    def _features(self, one_pass: list[_Row]) -> Iterator[list[torch.Tensor]]:
        """F of each image and video, encoded `max_patches` at a time or one that has more."""
        pixel_values = torch.cat([row.pixel_values for row in one_pass])
        grids = torch.cat([row.grid_thw for row in one_pass])
        ends = grids.prod(dim=-1).cumsum(dim=0).tolist()
        start = first = 0
        for number, end in enumerate(ends, start=1):
            if number == len(ends) or ends[number] - start > self.max_patches:
                yield self.tower.features(pixel_values[start:end], grids[first:number])
                start, first = end, number


def _entropy(matrix: torch.Tensor) -> float:
    return spectral_entropy(matrix).item()


def _collect(entropies: list[tuple[Score, "Future[float]"]]) -> list[Score]:
    for score, entropy in entropies:
        score.entropy = entropy.result()
    return [score for score, _ in entropies]


def to_arrays(state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays that processes of one machine share through Ray's object store. NumPy knows no bfloat16."""
    return {
        name: (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
        for name, tensor in state.items()
    }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """What `to_arrays` was given, on the memory of the arrays."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: value.view(torch.bfloat16) if value.dtype == torch.int16 else value for name, value in state.items()}

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Scores rows in one process: decode -> preprocess -> encode -> eigenvalues.

The tower encodes in the calling thread. The other stages run in threads beside it: PIL and LAPACK release the GIL.
"""

import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch

from verl_durian.entropy.media import Media, MediaError, decode
from verl_durian.entropy.vision_tower import TowerSettings, VisionTower
from verl_durian.entropy.visual_entropy import scatter_matrix, spectral_entropy


@dataclass
class Score:
    """The score of one row."""

    key: str
    """`Media.key`."""
    entropy: float = math.nan
    """H in nats (Eq. 9), NaN if there is an error."""
    patches: int = 0
    """P, the rows of F (Eq. 5)."""
    error: str = ""


_Row = tuple[str, torch.Tensor, torch.Tensor]
"""`Media.key` of a row, and its images and videos as `VisionTower.preprocess` returns them."""


class Scorer:
    """Scores rows with one vision tower.

    Args:
        settings: Settings of the tower.
        state: Tensors of the tower as `to_arrays` returns them; not copied on a CPU.
        device: `cpu` or `cuda`.
        max_patches: Patches per forward pass. A larger image gets a pass of its own.
        threads: Threads that decode, preprocess and compute eigenvalues.
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
        """Scores rows and returns the scores in any order.

        Several threads may call this: they share the tower, which encodes rows of one call while those of another are
        prepared.
        """
        torch.set_num_threads(1)  # there are as many workers as cores
        scores: list[Score] = []
        pending: list[tuple[Score, Future[float]]] = []
        for one_pass in self._passes(rows, scores):
            with self._encoding:
                encoded = self._encode(one_pass, scores)
            scores += _finished(pending)
            pending = encoded
        return scores + _finished(pending)

    def _passes(self, rows: Iterable[Media], failed: list[Score]) -> Iterator[list[_Row]]:
        """Groups consecutive rows up to `max_patches`. Rows that cannot be decoded are appended to `failed`."""
        one_pass: list[_Row] = []
        patches = 0
        for media, future in self._prepared_ahead(rows):
            try:
                row = future.result()
            except MediaError as error:
                failed.append(Score(media.key, error=str(error)))
                continue
            if one_pass and patches + len(row[1]) > self.max_patches:
                yield one_pass
                one_pass, patches = [], 0
            one_pass.append(row)
            patches += len(row[1])
        if one_pass:
            yield one_pass

    def _prepared_ahead(self, rows: Iterable[Media]) -> Iterator[tuple[Media, "Future[_Row]"]]:
        """Prepares one row per thread ahead of the current one."""
        ahead: deque[tuple[Media, Future[_Row]]] = deque()
        for media in rows:
            ahead.append((media, self._pool.submit(self._prepare, media)))
            if len(ahead) > self.threads:
                yield ahead.popleft()
        yield from ahead

    def _prepare(self, media: Media) -> _Row:
        images, videos = decode(media, self.tower.settings.image_processor.patch_size)
        try:
            return media.key, *self.tower.preprocess(images, videos)
        except ValueError as error:  # for example an aspect ratio that the processor refuses after resizing
            raise MediaError(str(error)) from error

    def _encode(self, one_pass: list[_Row], failed: list[Score]) -> list[tuple[Score, "Future[float]"]]:
        """Encodes rows. Returns their scores, each with the future of its entropy."""
        keys, pixel_values, grids = zip(*one_pass, strict=True)
        features = iter(self._features(torch.cat(pixel_values), torch.cat(grids)))
        encoded = []
        for key, grid_thw in zip(keys, grids, strict=True):
            of_row = torch.cat([next(features) for _ in grid_thw])  # one F of all images and videos
            try:
                matrix = scatter_matrix(of_row).cpu()
            except ValueError as error:
                failed.append(Score(key, error=str(error)))
            else:
                encoded.append((Score(key, patches=len(of_row)), self._pool.submit(_entropy, matrix)))
        return encoded

    def _features(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> list[torch.Tensor]:
        """F of each image and video, in one forward pass, or in one per image if that has too many patches."""
        if len(pixel_values) <= self.max_patches:
            return self.tower.features(pixel_values, grid_thw)
        images = zip(pixel_values.split(grid_thw.prod(dim=-1).tolist()), grid_thw.split(1), strict=True)
        return [features for image in images for features in self.tower.features(*image)]


def _entropy(matrix: torch.Tensor) -> float:
    return spectral_entropy(matrix).item()


def _finished(pending: list[tuple[Score, "Future[float]"]]) -> list[Score]:
    for score, entropy in pending:
        score.entropy = entropy.result()
    return [score for score, _ in pending]


def to_arrays(state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Converts tensors to arrays, which processes of a machine share in Ray's object store. NumPy has no bfloat16."""
    return {
        name: (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
        for name, tensor in state.items()
    }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The inverse of `to_arrays`, without a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # weights are only read
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: value.view(torch.bfloat16) if value.dtype == torch.int16 else value for name, value in state.items()}

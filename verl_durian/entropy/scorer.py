# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Scores rows with one vision tower: decode -> preprocess -> encode -> eigenvalues."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock

import numpy as np
import torch

from verl_durian.entropy.cache import Score
from verl_durian.entropy.media import Media, decode
from verl_durian.entropy.vision_tower import TowerSettings, VisionTower
from verl_durian.entropy.visual_entropy import scatter_matrix, spectral_entropy

_Row = tuple[str, torch.Tensor, torch.Tensor]
"""`Media.key` of a row, and its images and videos as `VisionTower.preprocess` returns them."""


class Scorer:
    """Scores rows with one vision tower.

    Args:
        settings: Settings of the tower.
        state: Tensors of the tower as `to_arrays` returns them; not copied on a CPU.
        device: `cpu` or `cuda`.
        max_patches: Maximum patches per forward pass. A larger image gets its own pass.
    """

    def __init__(self, settings: TowerSettings, state: Mapping[str, np.ndarray], device: str, max_patches: int):
        self.tower = VisionTower(settings, _from_arrays(state, getattr(torch, settings.precision)), device)
        self.max_patches = max_patches
        self._encoding = Lock()

    def score(self, rows: Iterable[Media]) -> list[Score]:
        """Scores rows and returns the scores in any order.

        Several threads call this at the same time: the tower encodes rows of one call while the other calls decode
        images and compute eigenvalues. PIL and LAPACK release the GIL.
        """
        torch.set_num_threads(1)  # each core or GPU has a worker with several calls
        scores: list[Score] = []
        for one_pass in self._passes(rows, scores):
            keys, pixel_values, grids = zip(*one_pass, strict=True)
            with self._encoding:
                features = iter(self._features(torch.cat(pixel_values), torch.cat(grids)))
            for key, grid_thw in zip(keys, grids, strict=True):
                of_row = torch.cat([next(features) for _ in grid_thw])  # one F for all of a row
                try:
                    entropy = spectral_entropy(scatter_matrix(of_row).cpu())
                except ValueError as error:  # NaN or inf
                    scores.append(Score(key, math.nan, 0, str(error)))
                else:
                    scores.append(Score(key, entropy.item(), len(of_row)))
        return scores

    def _passes(self, rows: Iterable[Media], failed: list[Score]) -> Iterator[list[_Row]]:
        """Groups consecutive rows up to `max_patches`. Rows that cannot be decoded are appended to `failed`."""
        one_pass: list[_Row] = []
        patches = 0
        for media in rows:
            try:
                inputs = self.tower.preprocess(*decode(media, self.tower.settings.image_processor.patch_size))
            except ValueError as error:  # MediaError, or for example an aspect ratio that the processor rejects
                failed.append(Score(media.key, math.nan, 0, str(error)))
                continue
            if one_pass and patches + len(inputs[0]) > self.max_patches:
                yield one_pass
                one_pass, patches = [], 0
            one_pass.append((media.key, *inputs))
            patches += len(inputs[0])
        if one_pass:
            yield one_pass

    def _features(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> list[torch.Tensor]:
        """F of each image and video: in one forward pass, or one per image if there are too many patches."""
        if len(pixel_values) <= self.max_patches:
            return self.tower.features(pixel_values, grid_thw)
        images = zip(pixel_values.split(grid_thw.prod(dim=-1).tolist()), grid_thw.split(1), strict=True)
        return [features for image in images for features in self.tower.features(*image)]


def to_arrays(state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Converts tensors to arrays of their 16-bit halves, which processes of a machine share in Ray's object store.

    NumPy has no bfloat16.
    """
    return {name: tensor.contiguous().view(torch.int16).numpy() for name, tensor in state.items()}


def _from_arrays(arrays: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The inverse of `to_arrays`, without a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # weights are only read
        return {name: torch.from_numpy(array).view(dtype) for name, array in arrays.items()}

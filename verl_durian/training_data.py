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
"""Sees to it that every row of a training set has its visual entropy before the first step."""

import logging
from typing import Any

import datasets
import numpy as np
import torch

from verl_durian.config import DurianConfig
from verl_durian.normalization import perceptual_thresholds

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)


def add_visual_entropy(dataset: Any, config: Any) -> None:
    """Gives the training set the column ``algorithm.durian.perceptual.key`` if it has none.

    A column of that name is used as it is. Without it the images are scored once by the frozen vision tower of the
    policy's checkpoint; the results stay on disk, so that the next run finds them. Nothing is done where the
    perceptual axis has weight 0.

    Args:
        dataset: verl's training set, an ``RLHFDataset`` or what ``data.custom_cls`` made.
        config: verl's whole config.

    Raises:
        ValueError: a custom data set without the column, whose images cannot be told; a column with a wrong value,
            naming the row; a setting of the images that scoring does not know.
    """
    options = DurianConfig.from_algorithm(config.algorithm)
    key = options.perceptual.key
    if options.weights.perceptual == 0:
        return
    rows = getattr(dataset, "dataframe", None)
    if not isinstance(rows, datasets.Dataset):
        if key not in dataset[0]:
            raise ValueError(
                f"the rows of {type(dataset).__name__} (data.custom_cls) have no {key!r}, and it holds no "
                "`dataframe` whose images could be scored: add the visual entropy in nats to every row"
            )
        return
    if key not in rows.column_names:
        if {dataset.image_key, dataset.video_key} & set(rows.column_names):
            entropy = _score(dataset, config)
        else:
            entropy = np.full(len(rows), np.nan)
        dataset.dataframe = rows = rows.add_column(key, entropy)
    _check(rows, key, [name for name in (dataset.image_key, dataset.video_key) if name in rows.column_names])


def dataset_thresholds(dataset: Any, options: DurianConfig) -> list[float]:
    """The quantiles of the training set's visual entropies in nats, each row with an image once.

    Args:
        dataset: verl's training set, after ``add_visual_entropy``.
        options: tells the quantiles, and the column with the visual entropies.

    Raises:
        ValueError: a custom data set that does not show all its rows, or one without any image.
    """
    rows = getattr(dataset, "dataframe", None)
    where = "algorithm.durian.perceptual.thresholds=dataset"
    if not isinstance(rows, datasets.Dataset):
        raise ValueError(
            f"{where}: {type(dataset).__name__} (data.custom_cls) holds no `dataframe` whose quantiles could be taken: "
            "give the thresholds in nats as a list of numbers"
        )
    values = _values(rows, options.perceptual.key)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        raise ValueError(f"{where}: no row of the training set has an image")
    return perceptual_thresholds(torch.from_numpy(values), options.perceptual.quantiles).tolist()


def _values(rows: datasets.Dataset, key: str) -> np.ndarray:
    """Visual entropy of each row in nats, NaN where it is null."""
    return np.array(rows.with_format("arrow")[key].to_pylist(), dtype=np.float64)


def _score(dataset: Any, config: Any) -> np.ndarray:
    """Scores on the free GPUs of all machines, which the trainer takes afterwards; or on the CPUs where it trains on
    none. In fully asynchronous training the trainer starts first, and the GPUs of the rollouts are free."""
    from verl.utils.fs import copy_to_local

    from verl_durian.scoring.entropy_cache import EntropyCache, default_cache_dir
    from verl_durian.scoring.parts import Columns, dataset_parts
    from verl_durian.scoring.pipeline import score_parts
    from verl_durian.scoring.workers import given_back, place
    from verl_durian.vision_tower import read_tower

    patch_size = getattr(getattr(dataset.processor, "image_processor", None), "patch_size", None)
    for setting, known in (("mm_processor_kwargs", None), ("image_patch_size", patch_size)):
        value = config.data.get(setting)
        if value and value != known:
            raise ValueError(
                f"data.{setting}={value} changes the images, and scoring does not know it: remove it, or bring the "
                f"visual entropy in nats as a column {DurianConfig.from_algorithm(config.algorithm).perceptual.key!r}"
            )
    device = config.trainer.device
    if device not in ("cpu", "cuda"):
        logger.warning("durian: the images are scored on the CPU, as nothing else than cuda is known (%s)", device)
        device = "cpu"
    model_path = copy_to_local(config.actor_rollout_ref.model.path)
    rows = dataset.dataframe
    logger.info("durian: scoring the images of %d rows with the vision tower of %s", len(rows), model_path)
    parts = dataset_parts("the training set", rows, Columns(dataset.image_key, dataset.video_key))
    settings, state = read_tower(model_path)
    cache = EntropyCache(default_cache_dir() / settings.fingerprint(device))
    with given_back():
        try:
            placement = place(device)
        except ValueError as error:
            raise ValueError(
                f"the images of the training set cannot be scored: no {device} is free in Ray. Score them before with "
                "`verl-durian score`, and train with the files that it writes"
            ) from error
        scores = score_parts(parts, settings, state, cache, placement)
    if scores.problems:
        problem = scores.problems[0]
        raise ValueError(
            f"training row {problem.row}: {problem.reason}; and {len(scores.problems) - 1} more rows whose images "
            "cannot be scored. `verl-durian score` names them all: remove them from the training set"
        )
    return scores.entropies


def _check(rows: datasets.Dataset, key: str, media_keys: list[str]) -> None:
    """Tells of rows without image, and refuses a column that cannot be right."""
    values = _values(rows, key)
    if np.isinf(values).any():
        raise ValueError(f"training row {int(np.isinf(values).argmax())}: {key} is infinite")
    without = np.flatnonzero(np.isnan(values))
    if media_keys:
        media = rows.select(without).select_columns(media_keys).with_format("arrow")
        for batch, start in zip(media.iter(batch_size=64), range(0, len(without), 64), strict=True):
            for offset, row in enumerate(batch.to_pylist()):
                if any(row.values()):
                    raise ValueError(
                        f"training row {without[start + offset]} has an image or a video, and no {key}: take rows that "
                        "cannot be scored out of the data"
                    )
    if len(without) == len(rows):
        logger.warning(
            "durian: no training row has an image: there is no perceptual axis, and its weight goes to each prompt's "
            "own GRPO advantage (metric durian/rows_without_image is 1)"
        )
    elif len(without) > 0:
        logger.warning(
            "durian: %d of %d training rows have no image; they take their own GRPO advantage for the perceptual one "
            "(metric durian/rows_without_image)",
            len(without),
            len(rows),
        )
    if len(without) < len(rows):
        low, high = np.nanquantile(values, [0.25, 0.75])
        logger.info("durian: visual entropy of the training set, nats: Q25 %.4f, Q75 %.4f", low, high)

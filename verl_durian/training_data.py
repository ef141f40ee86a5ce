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
import ray

from verl_durian.config import DurianConfig

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
        ValueError: a custom data set without the column, whose images cannot be told.
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
        if dataset.image_key in rows.column_names:
            entropy = _score(rows, dataset.image_key, config)
        else:
            entropy = np.full(len(rows), np.nan)
        dataset.dataframe = rows = rows.add_column(key, entropy)
    values = np.array(rows.with_format("arrow")[key], dtype=np.float64)
    without_image = int(np.isnan(values).sum())
    if without_image:
        logger.warning(
            "durian: %d of %d training rows have no image; they take their own GRPO advantage for the perceptual one "
            "(metric durian/rows_without_image)",
            without_image,
            len(rows),
        )
    if without_image < len(rows):
        low, high = np.nanquantile(values, [0.25, 0.75])
        logger.info("durian: visual entropy of the training set, nats: Q25 %.4f, Q75 %.4f", low, high)


def _score(rows: datasets.Dataset, image_key: str, config: Any) -> np.ndarray:
    """Scores where the policy's weights will be: on a GPU before the workers take them, or here if there is none."""
    from verl_durian.scoring import score_dataset

    model_path = config.actor_rollout_ref.model.path
    for setting in ("mm_processor_kwargs", "image_patch_size"):
        if config.data.get(setting):
            logger.warning(
                "durian: data.%s=%s is not applied to the images that are scored", setting, config.data[setting]
            )
    logger.info("durian: scoring the images of %d rows with the vision tower of %s", len(rows), model_path)
    if config.trainer.device != "cuda":
        return score_dataset(rows, image_key, model_path)
    # The trainer's own process has no GPU.
    task = ray.remote(num_gpus=1)(score_dataset)
    return ray.get(task.remote(rows, image_key, model_path, device="cuda"))

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Adds visual entropy to every row of the training set before the first step."""

import hashlib
import logging
import math
import os
import pickle
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets.table import list_table_cache_files

from verl_durian.algo.config import DurianConfig, Perceptual
from verl_durian.algo.groups import perceptual_thresholds
from verl_durian.entropy.data_files import Columns, DatasetRows

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)


def add_visual_entropy(dataset: Any, config: Any) -> None:
    """Adds the column ``algorithm.durian.perceptual.key`` to the training set unless it has one.

    An existing column is validated and used. Otherwise the frozen vision tower of the policy's checkpoint scores the
    images once; the scores are cached on disk for the next run. Does nothing if the perceptual axis has weight 0.

    Args:
        dataset: verl's training set, an ``RLHFDataset`` or the class of ``data.custom_cls``.
        config: verl's complete config.

    Raises:
        ValueError: a custom dataset without the column and without images to score; an invalid value in the column (the
            message names the row); an image setting that scoring does not support.
    """
    options = DurianConfig.from_algorithm(config.algorithm)
    key = options.perceptual.key
    if options.weights.perceptual == 0:
        return
    rows: Any = getattr(dataset, "dataframe", None)
    columns = Columns(getattr(dataset, "image_key", ""), getattr(dataset, "video_key", ""))
    in_memory = isinstance(rows, datasets.Dataset)
    if key not in (rows.column_names if in_memory else dataset[0]):
        if not (in_memory and (columns.images or columns.videos)):
            raise ValueError(
                f"{type(dataset).__name__} (data.custom_cls) has no column {key!r} and no images to score: add the "
                "visual entropy in nats to every row, or the attributes `dataframe` and `image_key` or `video_key`"
            )
        dataset.dataframe = rows = with_column(rows, key, _score(dataset, columns, config, options.perceptual))
    if in_memory:
        _check_column(rows, key, columns)
    else:
        _entropies([dataset[0][key]], key)


def dataset_thresholds(dataset: Any, options: DurianConfig) -> list[float]:
    """Computes quantiles of visual entropy over the training set, in nats. Every row with an image counts once.

    Raises:
        ValueError: a custom dataset without a ``dataframe``, or a dataset without images.
    """
    option = "algorithm.durian.perceptual.thresholds=dataset"
    rows = getattr(dataset, "dataframe", None)
    if not isinstance(rows, datasets.Dataset):
        raise ValueError(
            f"{option}: {type(dataset).__name__} (data.custom_cls) has no `dataframe` to compute quantiles from: set "
            "the thresholds to a list of numbers in nats"
        )
    values = torch.from_numpy(_column(rows, options.perceptual.key))
    if values.isnan().all():
        raise ValueError(f"{option}: no row of the training set has an image")
    thresholds = perceptual_thresholds(values, options.perceptual.quantiles).tolist()
    in_words = ", ".join(f"{threshold:.4f}" for threshold in thresholds)
    logger.info("durian: thresholds of visual entropy of the training set, nats: [%s]", in_words)
    return thresholds


def is_entropy(value: Any) -> bool:
    """Whether a value is a valid visual entropy: a finite number, or null or NaN for a row without images."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return value is None or (number and not math.isinf(value))


def _entropies(column: list[Any], key: str) -> np.ndarray:
    """The column as float64 with NaN for null. Raises ValueError for the first invalid value."""
    for row, value in enumerate(column):
        if not is_entropy(value):
            raise ValueError(
                f"training row {row}: {key} is {str(value)[:100]!r} ({type(value).__name__}): it must be a finite "
                "number in nats, or null if the row has no image"
            )
    return np.array(column, dtype=np.float64)


def _column(rows: datasets.Dataset, key: str) -> np.ndarray:
    return _entropies(rows.with_format("arrow")[key].to_pylist(), key)


def with_column(rows: datasets.Dataset, key: str, values: np.ndarray) -> datasets.Dataset:
    """Adds a column below the index of `filter` and `select`: `add_column` on top would copy all columns to disk."""
    if rows._indices is None:
        return rows.add_column(key, values)
    column = np.full(len(rows.data), np.nan)
    column[rows._indices.column(0).to_numpy()] = values
    below = datasets.Dataset(rows.data, rows.info).add_column(key, column)
    result, given = datasets.Dataset(below.data, below.info, indices_table=rows._indices), rows.format
    columns, kwargs = [*given["columns"], key], given["format_kwargs"]
    return result.with_format(given["type"], columns, given["output_all_columns"], **kwargs)


def _check_column(rows: datasets.Dataset, key: str, columns: Columns) -> None:
    """Raises ValueError for a row with images but without visual entropy; logs quartiles and rows without images."""
    values = _column(rows, key)
    without = np.flatnonzero(np.isnan(values))
    if columns.present_in(rows.column_names):
        media = DatasetRows("the training set", rows.select(without), columns).cells()
        for row, (images, videos, _) in zip(without, media, strict=True):
            if images or videos:
                raise ValueError(
                    f"training row {row} has an image or a video, but no {key}: remove rows that cannot be scored from "
                    "the data"
                )
    if len(without) > 0:
        logger.warning(
            "durian: %d of %d training rows have no image; their own GRPO advantage replaces the perceptual term "
            "(metric durian/rows_without_image)",
            len(without),
            len(rows),
        )
    if len(without) < len(rows):
        low, high = np.nanquantile(values, [0.25, 0.75])
        logger.info("durian: visual entropy of the training set in nats: Q25 %.4f, Q75 %.4f", low, high)


def _score(dataset: Any, columns: Columns, config: Any, options: Perceptual) -> np.ndarray:
    """Returns the visual entropy of each row in nats, NaN without images; from the cache if nothing has changed.

    Scores on all free GPUs of the cluster, which the trainer takes afterwards, or on the CPUs if it does not train on
    CUDA. In fully asynchronous training, the trainer has already started, and only the GPUs of the rollouts are free.
    """
    from verl.utils.fs import copy_to_local

    from verl_durian.entropy.cache import EntropyCache, default_cache_dir
    from verl_durian.entropy.pipeline import place, resources_released, score_rows
    from verl_durian.entropy.vision_tower import read_tower

    rows = dataset.dataframe
    if not (present := columns.present_in(rows.column_names)):
        return np.full(len(rows), np.nan)
    processor = getattr(dataset, "processor", None)
    patch_size = getattr(getattr(processor, "image_processor", None), "patch_size", None)
    for setting, supported in (("mm_processor_kwargs", None), ("image_patch_size", patch_size)):
        value = config.data.get(setting)
        if value and value != supported:
            raise ValueError(
                f"data.{setting}={value} changes the images, which scoring does not support: remove it, or add the "
                f"visual entropy in nats as a column {options.key!r}"
            )
    device = "cuda" if config.trainer.device == "cuda" else "cpu"
    model = config.actor_rollout_ref.model
    settings, state = read_tower(
        copy_to_local(model.path),
        config_path=copy_to_local(model.hf_config_path) if model.get("hf_config_path") else None,
        processor=processor,
    )
    cache = EntropyCache(default_cache_dir() / settings.fingerprint(device))
    identity = _identity(rows, present)
    if identity is not None and (entropies := cache.column(identity, len(rows))) is not None:
        logger.info("durian: data and vision tower are unchanged, visual entropies are read from %s", cache.folder)
        return entropies
    logger.info(
        "durian: computing the visual entropy of %d rows on %s with the vision tower of %s; scores in %s are reused. "
        "Use `verl-durian score` to do this before training",
        len(rows),
        device,
        model.path,
        cache.folder,
    )
    with resources_released():
        try:
            placement = place(device)
        except ValueError as error:
            raise ValueError(
                f"the images of the training set cannot be scored: Ray has no free {device}. Score them before "
                "training with `verl-durian score`, and train with the files that it writes"
            ) from error
        workers = min(placement.workers, options.score_workers or placement.workers)
        source = DatasetRows("the training set", rows, columns)
        scores = score_rows([source], settings, state, cache, replace(placement, workers=workers))
    if scores.problems:
        problem = scores.problems[0]
        raise ValueError(
            f"training row {problem.row}: {problem.reason}; {len(scores.problems) - 1} more rows have images that "
            "cannot be scored. `verl-durian score` lists them all: remove them from the training set"
        )
    if identity is not None:
        try:
            cache.keep_column(identity, scores.entropies)
        except OSError as error:  # such as a cache of another user, which has all scores
            logger.warning("durian: the next run will read all images again: %s", error)
    return scores.entropies


def _identity(rows: datasets.Dataset, media_columns: list[str]) -> str | None:
    """Returns a hash that changes if any image may have changed since an earlier run, without reading images.

    It covers path, size and modification time of the files of `datasets`, the selection of rows, and how images are
    stored. None for rows in memory, and if the bytes of an image are in another file.
    """
    files = list_table_cache_files(rows.data)
    if not files or not all(_has_bytes(rows.data.column(name)) for name in media_columns):
        return None
    states = [(state.st_size, state.st_mtime_ns) for state in map(os.stat, files)]
    index = None if rows._indices is None else rows._indices.column(0).to_numpy().tobytes()
    content = pickle.dumps((files, states, rows.data, index, repr(rows.features), media_columns))
    return hashlib.sha256(content).hexdigest()[:32]


def _has_bytes(column: pa.ChunkedArray) -> bool:
    """Whether each image of a column is stored with its bytes."""
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.list_flatten(column)
    is_image = pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0
    return is_image and pc.struct_field(column, "bytes").null_count == 0

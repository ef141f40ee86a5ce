# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Sees to it that every row of a training set has its visual entropy before the first step."""

import copy
import hashlib
import logging
import math
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from datasets.table import MemoryMappedTable

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.groups import perceptual_thresholds

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
    if isinstance(rows, pd.DataFrame) and key in rows:
        _finite(rows[key].tolist(), key)
        return
    if not isinstance(rows, datasets.Dataset):
        first = dataset[0]
        if key not in first:
            raise ValueError(
                f"the rows of {type(dataset).__name__} (data.custom_cls) have no {key!r}, and it holds no "
                "`dataframe` whose images could be scored: add the visual entropy in nats to every row"
            )
        _finite([first[key]], key)
        return
    names = _media_names(dataset)
    if key not in rows.column_names:
        if not any(names):
            raise ValueError(
                f"{type(dataset).__name__} (data.custom_cls) has neither an `image_key` nor a `video_key` that names "
                f"the column to score: add them, or the visual entropy in nats as a column {key!r}"
            )
        if set(names) & set(rows.column_names):
            entropy = _score(dataset, config)
        else:
            entropy = np.full(len(rows), np.nan)
        dataset.dataframe = rows = _with_column(rows, key, entropy)
    _check(rows, key, [name for name in names if name in rows.column_names])


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


def _media_names(dataset: Any) -> tuple[str, str]:
    """The columns of images and of videos; empty where a custom data set names none."""
    return getattr(dataset, "image_key", ""), getattr(dataset, "video_key", "")


def _values(rows: datasets.Dataset, key: str) -> np.ndarray:
    """Visual entropy of each row in nats, NaN where it is null."""
    return _finite(rows.with_format("arrow")[key].to_pylist(), key)


def is_entropy(value: Any) -> bool:
    """Whether a value can be a visual entropy: a number that is not infinite; null or NaN where there is no image."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return value is None or (number and not math.isinf(value))


def _finite(column: Iterable[Any], key: str) -> np.ndarray:
    """The column as float64, NaN where it is null. Raises ValueError for the first value that is no finite number."""
    values = []
    for row, value in enumerate(column):
        if not is_entropy(value):
            raise ValueError(
                f"training row {row}: {key} is {str(value)[:100]!r} ({type(value).__name__}): it must be a finite "
                "number in nats, or null where the row has no image"
            )
        values.append(math.nan if value is None else value)
    return np.array(values, dtype=np.float64)


def _with_column(rows: datasets.Dataset, key: str, values: np.ndarray) -> datasets.Dataset:
    """The rows with one more column. Of a set with an index, as `filter` makes it, `add_column` would copy all columns
    to the disk: here the column goes to the table below the index."""
    if rows._indices is None:
        return rows.add_column(key, values)
    index = rows._indices.column(0).to_numpy().astype(np.int64)
    below = copy.copy(rows)
    below._indices = None
    column = np.full(len(below), np.nan)
    column[index] = values
    return below.add_column(key, column).select(index)


def _identity(rows: datasets.Dataset, media_keys: list[str]) -> str | None:
    """Hash of what tells that the images of all rows are the same as at another start, without reading them.

    That is path, size and time of change of the files of `datasets` and of each file that a row names, the rows chosen
    of them, and how their images are stored. None for rows that are in memory, which have no such file, and for columns
    of an unknown type.
    """
    table = rows.data
    blocks = [block for row in getattr(table, "blocks", [[table]]) for block in row]
    known = all(_is_known(table.schema.field(name).type) for name in media_keys)
    if not known or not all(isinstance(block, MemoryMappedTable) for block in blocks):
        return None
    index = None if rows._indices is None else rows._indices.column(0).to_numpy().tobytes()
    features = {name: repr(rows.features[name]) for name in media_keys}
    digest = hashlib.sha256(pickle.dumps((table, index, len(rows), features)))
    for block in blocks:
        digest.update(_file_state(block.path).encode())
    for name in media_keys:
        for chunk in table.column(name).chunks:
            for text in _texts(chunk):
                digest.update(_file_state(text).encode())
    return digest.hexdigest()[:32]


def _is_known(kind: pa.DataType) -> bool:
    """Whether `_texts` finds every text in a column of this type."""
    if pa.types.is_struct(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return all(_is_known(kind.field(number).type) for number in range(kind.num_fields))
    types = pa.types
    return any(
        test(kind) for test in (_is_text, types.is_binary, types.is_large_binary, types.is_primitive, types.is_null)
    )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _texts(array: pa.Array) -> Iterator[str]:
    """Every text in a column of images or videos: paths, URLs, settings. The bytes of pictures are not read."""
    if _is_text(array.type):
        yield from (text for text in array.to_pylist() if text is not None)
    elif pa.types.is_struct(array.type):
        for field in array.flatten():
            yield from _texts(field)
    elif pa.types.is_nested(array.type):
        yield from _texts(array.flatten())


def _file_state(path: str) -> str:
    """Path, size and time of change of a file; empty where there is none."""
    path = path.removeprefix("file://")
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{os.path.abspath(path)} {state.st_size} {state.st_mtime_ns}\n"


def _score(dataset: Any, config: Any) -> np.ndarray:
    """Scores on the free GPUs of all machines, which the trainer takes afterwards; or on the CPUs where it trains on
    none. In fully asynchronous training the trainer starts first, and the GPUs of the rollouts are free."""
    from verl.utils.fs import copy_to_local

    from verl_durian.entropy.cache import EntropyCache, default_cache_dir
    from verl_durian.entropy.parts import Columns, dataset_parts
    from verl_durian.entropy.pipeline import score_parts
    from verl_durian.entropy.vision_tower import read_tower
    from verl_durian.entropy.workers import given_back, place

    processor = getattr(dataset, "processor", None)
    patch_size = getattr(getattr(processor, "image_processor", None), "patch_size", None)
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
    rows, options = dataset.dataframe, DurianConfig.from_algorithm(config.algorithm).perceptual
    model = config.actor_rollout_ref.model
    model_path, config_path = copy_to_local(model.path), model.get("hf_config_path")
    settings, state = read_tower(
        model_path,
        config_path=copy_to_local(config_path) if config_path else None,
        processor=processor,
    )
    cache = EntropyCache(default_cache_dir() / settings.fingerprint(device))
    columns = Columns(*_media_names(dataset))
    identity = _identity(rows, columns.of(rows.column_names))
    if identity is not None and (entropies := cache.column(identity, len(rows))) is not None:
        logger.info("durian: neither the data nor the vision tower has changed: their scores are in %s", cache.folder)
        return entropies
    logger.info(
        "durian: reading the images of %d rows, and scoring those that %s does not know with the vision tower of %s. "
        "`verl-durian score` does so once, before training",
        len(rows),
        cache.folder,
        model_path,
    )
    if not cache.folder.exists():  # one that cannot be written may have all scores
        cache.require_writable()
    parts = dataset_parts("the training set", rows, columns)
    with given_back():
        try:
            placement = place(device)
        except ValueError as error:
            raise ValueError(
                f"the images of the training set cannot be scored: no {device} is free in Ray. Score them before with "
                "`verl-durian score`, and train with the files that it writes"
            ) from error
        workers = min(placement.workers, options.score_workers or placement.workers)
        scores = score_parts(parts, settings, state, cache, replace(placement, workers=workers))
    if scores.problems:
        problem = scores.problems[0]
        raise ValueError(
            f"training row {problem.row}: {problem.reason}; and {len(scores.problems) - 1} more rows whose images "
            "cannot be scored. `verl-durian score` names them all: remove them from the training set"
        )
    if identity is not None:
        try:
            cache.keep_column(identity, scores.entropies)
        except OSError as error:
            logger.warning("durian: the next start reads all images again: %s", error)
    return scores.entropies


def _check(rows: datasets.Dataset, key: str, media_keys: list[str]) -> None:
    """Tells of rows without image, and refuses a column that cannot be right."""
    values = _values(rows, key)
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

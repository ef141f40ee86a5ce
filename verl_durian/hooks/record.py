# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Records the rollouts of each step with `algorithm.durian.record`: rewards, groups, stds and advantages.

One Parquet file a step, `step_00000012.parquet`, has one row per rollout with tokens; docs/options.md explains the
columns. With another estimator, the terms of Durian are computed here, and the advantages stay as they are. If a step
has several updates, its file is written again after each of them. Earlier records of the steps that a process trains
are moved away, so that a folder never mixes two runs.

Threads fetch and write while the trainer goes on. An error is logged once and ends the recording, never the training.
"""

import json
import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import OmegaConf
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import AdvantageEstimator, compute_grpo_outcome_advantage

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import Axis, durian_advantages, entropy_of_rows, sequence_log_probs, warn_once
from verl_durian.files import whole_file
from verl_durian.hooks.checks import is_recorded
from verl_durian.hooks.dataset import with_column
from verl_durian.report.schema import METADATA, SCHEMA, TEXTS, VERSION

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

ROW = "durian_row"
"""Column that `prepare` adds to the training set: the position of each row in `data.train_files`."""

_MAX_WAITING = 2  # updates in memory that are not written yet
_FETCH_SECONDS = 60
_LAST_STEP_SECONDS = 60  # Ray may kill the trainer's process after the last step

Fetch = Callable[[list[str]], dict[str, np.ndarray]]


def prepare(trainer: Any) -> None:
    """Adds the column `ROW` to the training set where row numbers are known.

    Args:
        trainer: One of verl's trainers, after it has loaded the training set. Its run is recorded.

    Raises:
        ValueError: An invalid option, or a verl that does not record.
    """
    if hasattr(AdvantageEstimator, "DURIAN"):
        raise ValueError("algorithm.durian.record: a patched verl (patches/README.md) does not record: remove it")
    with _recorder(trainer).or_stop():
        dataset = trainer.train_dataset
        numbers = _row_numbers(dataset)
        if numbers is None:
            logger.warning("durian: the record has no row numbers, which %s does not tell", type(dataset).__name__)
        else:
            dataset.dataframe = with_column(dataset.dataframe, ROW, numbers)


def _row_numbers(dataset: Any) -> np.ndarray | None:
    """Returns the position of each row in the concatenated `data.train_files`, or None if it is not known."""
    from verl.utils.dataset.rl_dataset import RLHFDataset

    rows, read = getattr(dataset, "dataframe", None), "_read_files_and_tokenize"
    if not isinstance(rows, datasets.Dataset) or getattr(type(dataset), read, None) is not getattr(RLHFDataset, read):
        return None
    if dataset.shuffle and rows.data.num_rows == dataset.max_samples:  # a random selection of neighbours has no index
        return None
    # `filter` and `select` keep an index into the table of all rows.
    index = rows._indices
    return (np.arange(len(rows)) if index is None else index.column(0).to_numpy()).astype(np.float64)


def remember(trainer: Any) -> None:
    """Keeps the trainer of this process, and its settings before numbers replace `thresholds=dataset`."""
    global _older_trainer
    if is_recorded(trainer.config.algorithm):
        _older_trainer = weakref.ref(trainer)
        _recorder(trainer)


def add_of_older_trainer(data: DataProto, adv_estimator: Any, algorithm: Any) -> None:
    """Records an update of an older trainer.

    Args:
        data: The batch with advantages.
        adv_estimator: The estimator that computed them; only that of the run is recorded.
        algorithm: The node `algorithm`.
    """
    if not is_recorded(algorithm) or adv_estimator != algorithm.get("adv_estimator"):
        return
    if (trainer := _older_trainer()) is None:
        warn_once("record", "durian: nothing is recorded, because this trainer is not one of verl's")
    else:
        add(trainer, data)


def add(
    trainer: Any,
    data: DataProto,
    keys: list[str] | None = None,
    fetch: Fetch | None = None,
) -> None:
    """Records an update.

    Args:
        trainer: One of verl's trainers.
        data: The batch with advantages.
        keys: The key in TransferQueue of each row, `{uid}_{session}_{output}`. Each session's last output is recorded.
        fetch: Returns the columns of these names that TransferQueue has. A thread calls it.
    """
    _recorder(trainer).add(trainer, data, keys, fetch)


def _recorder(trainer: Any) -> "Recorder":
    if trainer not in _recorders:
        _recorders[trainer] = Recorder(trainer)
    return _recorders[trainer]


@dataclass
class _Update:
    """An update of the policy, on the CPU, with a row for each rollout, also for those without tokens."""

    step: int
    update: int
    """Number of the update in its step."""
    rows: np.ndarray
    """The rows of the batch that are recorded."""
    uids: np.ndarray
    rollout: np.ndarray
    rewards: torch.Tensor
    lengths: torch.Tensor
    advantages: torch.Tensor
    """Mean over the tokens."""
    log_probs: torch.Tensor | None
    """Sum over the tokens (Eq. 14)."""
    columns: dict[str, Any]
    """`perceptual.key`, `ROW`, `acc`, and token ids of prompts and answers with the mask of those that are no padding;
    what the run lacks is absent."""


class Recorder:
    """Writes the records of a trainer."""

    def __init__(self, trainer: Any):
        config = trainer.config
        options = DurianConfig.from_algorithm(config.algorithm)
        self.options = options
        self.folder = Path(str(options.record)).expanduser()
        self._stopped = False
        with self.or_stop():
            self.about = _about(config, options)
        self._tokenizer = getattr(trainer, "tokenizer", None)
        # Joined at exit. Trainer V1 deletes a batch after its step: fetching must not wait for a slow disk.
        self._writer, self._fetcher = (ThreadPoolExecutor(1, f"durian-record-{name}") for name in ("write", "fetch"))
        self._waiting: list[Future] = []
        self._first_step = 0
        """The first step that this process trains; 0 before it."""
        self._step: int | None = None
        self._updates: dict[int, pa.Table] = {}
        """The tables of the step that was written last, by number of the update."""

    @contextmanager
    def or_stop(self) -> Iterator[None]:
        """Ends the recording instead of raising an exception."""
        try:
            yield
        except Exception as error:
            if not self._stopped:
                self._stopped = True
                logger.warning(
                    "durian: recording to %s has ended because of an error, training goes on (%s: %s)",
                    self.folder,
                    type(error).__name__,
                    error,
                )

    def add(self, trainer: Any, data: DataProto, keys: list[str] | None, fetch: Fetch | None) -> None:
        """Copies what is recorded of an update, and has it written by the thread."""
        with self.or_stop():
            self.options = DurianConfig.from_algorithm(trainer.config.algorithm)
            step, update = _place(trainer)
            self._first_step = self._first_step or step
            if self._stopped or step % self.options.record_every != 0:
                return
            self._waiting = [future for future in self._waiting if not future.done()]
            if len(self._waiting) >= _MAX_WAITING:
                warn_once("record", f"durian: {self.folder} is written too slowly, step {step} is not recorded")
                return
            read = _read(step, update, data, keys, self.options)
            fetched = None if fetch is None else self._fetcher.submit(fetch, self._missing(data))
            self._waiting.append(self._writer.submit(self._write, read, fetched))
            if step >= (_total_steps(trainer) or math.inf):
                self.flush(_LAST_STEP_SECONDS)

    def flush(self, seconds: float | None = None) -> None:
        """Waits until everything is written, at most this long."""
        wait(self._waiting, seconds)

    def _missing(self, data: DataProto) -> list[str]:
        """Returns the columns that trainer V1 has left in TransferQueue."""
        texts = ["prompts", "responses"] if self.options.record_texts else []
        names = [self.options.perceptual.key, ROW, "acc", *texts]
        return [name for name in names if name not in data.non_tensor_batch]

    def _write(self, update: _Update, fetched: Future | None) -> None:
        with self.or_stop():
            if self._stopped or not (update.lengths > 0).any():
                return
            if fetched is not None:
                columns = {name: column[update.rows] for name, column in fetched.result(_FETCH_SECONDS).items()}
                update.columns |= columns
            table = _table(update, self.options, self._tokenizer, self.about)
            if self._step is None:
                self._move_replaced()
            if self._step != update.step:
                self._step, self._updates = update.step, {}
            self._updates[update.update] = table
            updates = [each.replace_schema_metadata(table.schema.metadata) for _, each in sorted(self._updates.items())]
            with whole_file(self.folder / f"step_{update.step:08d}.parquet") as file:
                pq.write_table(pa.concat_tables(updates), file, compression="zstd")

    def _move_replaced(self) -> None:
        """Moves the files of the steps that this process trains, and warns if those before have other settings."""
        files = sorted(self.folder.glob("step_*.parquet"))
        kept = [file for file in files if file.name < f"step_{self._first_step:08d}"]
        if replaced := files[len(kept) :]:
            folder = self.folder / "replaced" / time.strftime("%Y%m%d-%H%M%S")
            folder.mkdir(parents=True)
            for file in replaced:
                file.rename(folder / file.name)
            logger.info("durian: %d records of steps that are trained again are now in %s", len(replaced), folder)
        if kept:
            with suppress(OSError, ValueError, KeyError, TypeError):  # not readable
                found = json.loads(pq.read_schema(kept[-1]).metadata[METADATA])
                if others := [name for name, value in self.about.items() if found.get(name) != value]:
                    logger.warning("durian: earlier records in %s have another %s", self.folder, ", ".join(others))


def _about(config: Any, options: DurianConfig) -> dict[str, Any]:
    """Returns the metadata of a record: what the report needs to know about the run."""
    train_files = OmegaConf.select(config, "data.train_files") or []
    train_files = [train_files] if isinstance(train_files, str) else train_files
    estimator = config.algorithm.adv_estimator
    return {
        "version": VERSION,
        "estimator": str(getattr(estimator, "value", estimator)),
        "experiment": OmegaConf.select(config, "trainer.experiment_name"),
        "project": OmegaConf.select(config, "trainer.project_name"),
        "seed": OmegaConf.select(config, "data.seed"),
        "weights": asdict(options.weights),
        "confidence": options.reasoning.confidence,
        "num_groups": options.reasoning.num_groups,
        "quantiles": options.perceptual.quantiles,
        "threshold_source": {"perceptual": options.perceptual.thresholds, "reasoning": "batch"},
        "epsilon": options.epsilon,
        "train_files": [file if "://" in file else os.path.abspath(os.path.expanduser(file)) for file in train_files],
        "prompt_key": OmegaConf.select(config, "data.prompt_key"),
        "image_key": OmegaConf.select(config, "data.image_key"),
        "rollout_n": OmegaConf.select(config, "actor_rollout_ref.rollout.n"),
    }


_recorders: weakref.WeakKeyDictionary[Any, Recorder] = weakref.WeakKeyDictionary()
_older_trainer: Callable[[], Any] = lambda: None  # noqa: E731


def _place(trainer: Any) -> tuple[int, int]:
    """Returns the step as verl logs it, and the number of the update in it."""
    if hasattr(trainer, "current_param_version"):  # fully asynchronous; logged after the weights are sent
        return trainer.current_param_version + 1, trainer.local_trigger_step - 1
    return trainer.global_steps, getattr(trainer, "local_trigger_step", 0)


def _total_steps(trainer: Any) -> int | None:
    name = "total_train_steps" if hasattr(trainer, "current_param_version") else "total_training_steps"
    return getattr(trainer, name, None)


def _read(step: int, update: int, data: DataProto, keys: list[str] | None, options: DurianConfig) -> _Update:
    batch, columns = data.batch, data.non_tensor_batch
    mask, log_probs, uids = batch["response_mask"], None, np.asarray(columns["uid"])
    small_mask = mask if mask.is_floating_point() else mask.to(torch.uint8)
    if "old_log_probs" in batch.keys():
        scratch = torch.empty_like(batch["old_log_probs"], dtype=torch.float32)
        log_probs = sequence_log_probs(batch["old_log_probs"], small_mask, scratch)
    lengths = mask.sum(dim=-1)
    advantages = torch.cat(  # in blocks that fit into the cache
        [
            (each * kept).sum(dim=-1, dtype=torch.float64)
            for each, kept in zip(batch["advantages"].split(64), small_mask.split(64), strict=True)
        ]
    )
    if keys is None:
        rows = np.arange(len(uids))
        rollout = pd.Series(rows).groupby(pd.factorize(uids)[0]).cumcount().to_numpy()
    else:
        last = {key.rpartition("_")[0]: row for row, key in sorted(enumerate(keys), key=lambda each: _output(each[1]))}
        rows = np.array(sorted(last.values()))
        rollout = np.array([int(keys[row].rsplit("_", 2)[1]) for row in rows])
    of_row = torch.from_numpy(rows).to(mask.device)
    kept = {name: np.asarray(columns[name])[rows] for name in (options.perceptual.key, ROW, "acc") if name in columns}
    return _Update(
        step,
        update,
        rows,
        uids[rows],
        rollout,
        batch["token_level_rewards"].sum(dim=-1)[of_row].cpu(),
        lengths[of_row].cpu(),
        (advantages / lengths.clamp(min=1))[of_row].cpu(),
        None if log_probs is None else log_probs[of_row].cpu(),
        kept | (_token_ids(batch) if options.record_texts and keys is None else {}),
    )


def _output(key: str) -> int:
    """Returns the number of the output in its session."""
    return int(key.rpartition("_")[2])


def _token_ids(batch: Any) -> dict[str, torch.Tensor]:
    """Returns the token ids of prompts and answers of an older trainer, and the mask of those that are no padding."""
    ids = {name: batch[name].to(torch.int32).cpu() for name in ("prompts", "responses")}
    of_prompt, of_answer = batch["attention_mask"].bool().cpu().split([each.shape[1] for each in ids.values()], dim=1)
    return {**ids, "prompts_mask": of_prompt, "responses_mask": of_answer}


def _decode(tokenizer: Any, columns: dict[str, Any], name: str, rows: Any) -> list[str]:
    """Returns the text of these rows."""
    ids, mask = columns[name], columns.get(f"{name}_mask")
    kept = [ids[row] if mask is None else ids[row][mask[row]] for row in rows]
    return tokenizer.batch_decode(kept, skip_special_tokens=True)


def _table(update: _Update, options: DurianConfig, tokenizer: Any, about: dict[str, Any]) -> pa.Table:
    """Returns the rows with tokens, and settings and thresholds as metadata."""
    kept = update.lengths > 0
    rows = kept.numpy()
    uids, lengths = update.uids[rows], update.lengths[kept]
    entropy = log_probs = None
    if (column := update.columns.get(options.perceptual.key)) is not None:
        entropy = torch.from_numpy(entropy_of_rows(column[rows], uids))
    if update.log_probs is not None:
        log_probs = update.log_probs[kept]
        if options.reasoning.confidence == "mean":
            log_probs = log_probs / lengths
    weights = options.weights
    found = durian_advantages(
        update.rewards[kept].double(),
        uids,
        entropy if weights.perceptual > 0 else None,
        log_probs if weights.reasoning > 0 else None,
        options,
    )
    prompt = found.prompt
    lacking = (weights.perceptual > 0 and entropy is None) or (weights.reasoning > 0 and log_probs is None)
    grpo, _ = compute_grpo_outcome_advantage(
        update.rewards.unsqueeze(-1), torch.ones(len(update.rewards), 1), update.uids
    )

    def of_axis(name: str, axis: Axis | None) -> dict[str, Any]:
        names = (f"{name}_group", f"std_{name}", f"term_{name}")
        if axis is None:
            return dict.fromkeys(names)
        group = axis.group[prompt]
        std = torch.where(group >= 0, axis.rewards.std[group], math.nan)
        return dict(zip(names, (torch.where(group >= 0, group + 1.0, math.nan), std, axis.term), strict=True))

    values = {
        "step": np.full(len(uids), update.step),
        "update": np.full(len(uids), update.update),
        "uid": [str(uid) for uid in uids],
        "row": _numbers(update.columns.get(ROW), rows),
        "rollout": update.rollout[rows],
        "reward": found.scores,
        "accuracy": _numbers(update.columns.get("acc"), rows),
        "response_length": lengths,
        "visual_entropy": entropy,
        "confidence": None if found.reasoning is None else found.reasoning.difficulty[prompt],
        "std_original": found.rewards.std[prompt],
        "term_original": found.original,
        **of_axis("perceptual", found.perceptual),
        **of_axis("reasoning", found.reasoning),
        "advantage": update.advantages[kept],
        "advantage_grpo": grpo[kept, 0],
        "advantage_durian": None if lacking else found.advantage,
    }
    schema = SCHEMA
    if options.record_texts:
        schema = pa.schema([*SCHEMA, *TEXTS])
        places = np.flatnonzero(rows)
        _, first = np.unique(prompt.numpy(), return_index=True)
        of_prompt = _decode(tokenizer, update.columns, "prompts", places[first])
        values["prompt"] = [of_prompt[number] for number in prompt.tolist()]
        values["answer"] = _decode(tokenizer, update.columns, "responses", places)
    arrays = [_array(values[field.name], field.type, len(uids)) for field in schema]
    axes = {"perceptual": found.perceptual, "reasoning": found.reasoning}
    thresholds = {name: _thresholds(axis) for name, axis in axes.items()}
    metadata = {METADATA: json.dumps({**about, "thresholds": thresholds}, default=str)}
    return pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata))


def _numbers(column: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """Returns these rows of a column as float64, NaN for what is not a number."""

    def number(value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            return math.nan

    return None if column is None else np.array([number(value) for value in column[rows]])


def _array(values: Any, kind: pa.DataType, length: int) -> pa.Array:
    """Returns values, None for a column without any, as an array with null for NaN."""
    if values is None:
        return pa.nulls(length, kind)
    if isinstance(values, torch.Tensor):
        values = values.numpy()
    return pa.array(values, from_pandas=True).cast(kind)


def _thresholds(axis: Axis | None) -> list[float]:
    return [] if axis is None else [value for value in axis.thresholds.tolist() if math.isfinite(value)]

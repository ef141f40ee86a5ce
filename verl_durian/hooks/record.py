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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict
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
from verl_durian.algo.estimator import durian_advantages, entropy_of_rows, sequence_log_probs, warn_once
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
_NO_TOKEN = -1  # in place of the token ids of padding

Fetch = Callable[[list[str]], dict[str, np.ndarray]]

_recorders: weakref.WeakKeyDictionary[Any, "Recorder"] = weakref.WeakKeyDictionary()
_older_trainer: Callable[[], Any] = lambda: None  # noqa: E731


def prepare(trainer: Any) -> None:
    """Adds the column `ROW` to the training set where row numbers are known.

    Args:
        trainer: One of verl's trainers, after it has loaded the training set. Its run is recorded.

    Raises:
        ValueError: An invalid option, or a verl that does not record.
    """
    if hasattr(AdvantageEstimator, "DURIAN"):
        raise ValueError("algorithm.durian.record: a patched verl (patches/README.md) does not record: remove it")
    remember(trainer)
    with recorder(trainer).or_stop():
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
        recorder(trainer)


def recorder(trainer: Any) -> "Recorder":
    """Returns the recorder of a trainer, a new one at first."""
    if trainer not in _recorders:
        _recorders[trainer] = Recorder(trainer)
    return _recorders[trainer]


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
        recorder(trainer).add(trainer, data)


class Recorder:
    """Writes the records of a trainer."""

    def __init__(self, trainer: Any):
        config = trainer.config
        self.options = DurianConfig.from_algorithm(config.algorithm)
        self.folder = Path(str(self.options.record)).expanduser()
        self._stopped = False
        with self.or_stop():
            self.about = _about(config, self.options)
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

    def add(self, trainer: Any, data: DataProto, keys: list[str] | None = None, fetch: Fetch | None = None) -> None:
        """Copies what is recorded of an update. Threads write it.

        Args:
            trainer: The trainer of this recorder.
            data: The batch with advantages.
            keys: The key in TransferQueue of each row, `{uid}_{session}_{output}`. The last output of each session is
                recorded.
            fetch: Returns the columns of these names that TransferQueue has. A thread calls it.
        """
        with self.or_stop():
            self.options = DurianConfig.from_algorithm(trainer.config.algorithm)
            step, number, last_step = _position(trainer)
            self._first_step = self._first_step or step
            if self._stopped or step % self.options.record_every != 0:
                return
            self._waiting = [future for future in self._waiting if not future.done()]
            if len(self._waiting) >= _MAX_WAITING:
                warn_once("record", f"durian: {self.folder} is written too slowly, step {step} is not recorded")
                return
            names = _names(self.options)
            update = _read(data, keys, names).assign(step=step, update=number)
            missing = [name for name in names if name not in data.non_tensor_batch]
            fetched = None if fetch is None else self._fetcher.submit(fetch, missing)
            self._waiting.append(self._writer.submit(self._write, step, number, update, fetched))
            if step >= last_step:
                self.flush(_LAST_STEP_SECONDS)

    def flush(self, seconds: float | None = None) -> None:
        """Waits until everything is written, at most this long."""
        wait(self._waiting, seconds)

    def _write(self, step: int, number: int, update: pd.DataFrame, fetched: Future | None) -> None:
        with self.or_stop():
            if self._stopped or not (update["response_length"] > 0).any():
                return
            if fetched is not None:
                for name, column in fetched.result(_FETCH_SECONDS).items():
                    update[_names(self.options)[name]] = column[update.index]
            table, thresholds = _table(update, self.options, self._tokenizer)
            if self._step is None:
                self._move_replaced()
            if self._step != step:
                self._step, self._updates = step, {}
            self._updates[number] = table
            of_step = pa.concat_tables(each for _, each in sorted(self._updates.items()))
            metadata = {METADATA: json.dumps({**self.about, "thresholds": thresholds}, default=str)}
            with whole_file(self.folder / f"step_{step:08d}.parquet") as file:
                pq.write_table(of_step.replace_schema_metadata(metadata), file, compression="zstd")

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


def _position(trainer: Any) -> tuple[int, int, float]:
    """Returns the step as verl logs it, the number of the update in it, and the last step."""
    if hasattr(trainer, "current_param_version"):  # fully asynchronous; logged after the weights are sent
        step, number = trainer.current_param_version + 1, trainer.local_trigger_step - 1
        return step, number, getattr(trainer, "total_train_steps", None) or math.inf
    number = getattr(trainer, "local_trigger_step", 0)
    return trainer.global_steps, number, getattr(trainer, "total_training_steps", None) or math.inf


def _names(options: DurianConfig) -> dict[str, str]:
    """Returns the columns that are copied, by their name in the batch or in TransferQueue."""
    texts = {"prompts": "prompt", "responses": "answer"} if options.record_texts else {}
    return {options.perceptual.key: "visual_entropy", ROW: "row", "acc": "accuracy", **texts}


def _read(data: DataProto, keys: list[str] | None, names: dict[str, str]) -> pd.DataFrame:
    """Copies an update to the CPU: the columns of a record, for each rollout, also for those without tokens.

    `log_probs` is the sum over the tokens (Eq. 14); prompts and answers are token ids. Columns that the run lacks are
    absent. The index is the row in `data`.
    """
    batch, mask = data.batch, data.batch["response_mask"]
    small_mask = mask if mask.is_floating_point() else mask.to(torch.uint8)
    lengths = mask.sum(dim=-1)
    advantages = torch.cat(  # in blocks that fit into the cache
        [
            (each * kept).sum(dim=-1, dtype=torch.float64)
            for each, kept in zip(batch["advantages"].split(64), small_mask.split(64), strict=True)
        ]
    )
    sums = {
        "reward": batch["token_level_rewards"].sum(dim=-1),
        "response_length": lengths,
        "advantage": advantages / lengths.clamp(min=1),
    }
    if "old_log_probs" in batch.keys():
        scratch = torch.empty_like(batch["old_log_probs"], dtype=torch.float32)
        sums["log_probs"] = sequence_log_probs(batch["old_log_probs"], small_mask, scratch)
    columns = {name: list(data.non_tensor_batch[key]) for key, name in names.items() if key in data.non_tensor_batch}
    if "prompts" in names and keys is None:
        width = batch["prompts"].shape[1]
        for key, part in (("prompts", slice(width)), ("responses", slice(width, None))):
            padding = batch["attention_mask"][:, part] == 0
            columns[names[key]] = list(batch[key].to(torch.int32).masked_fill(padding, _NO_TOKEN).cpu())
    update = pd.DataFrame({name: each.cpu().numpy() for name, each in sums.items()})
    update["uid"] = data.non_tensor_batch["uid"]
    for name, values in columns.items():
        update[name] = pd.Series(values, dtype=object)
    if keys is None:
        return update.assign(rollout=update.groupby("uid", dropna=False).cumcount())
    parts = pd.DataFrame([key.rsplit("_", 2) for key in keys], columns=["uid", "session", "output"])
    parts = parts.astype({"session": int, "output": int})
    last = parts.sort_values("output").drop_duplicates(["uid", "session"], keep="last")
    return update.assign(rollout=parts["session"]).loc[last.index.sort_values()]


def _table(update: pd.DataFrame, options: DurianConfig, tokenizer: Any) -> tuple[pa.Table, dict[str, list[float]]]:
    """Returns the record of the rows with tokens, and the thresholds of both axes."""
    kept = (update["response_length"] > 0).to_numpy()
    rows, uids, weights = update[kept].copy(), update["uid"].to_numpy(), options.weights
    for name in ("row", "accuracy"):
        if name in rows:
            rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(np.float64)
    if "visual_entropy" in rows:
        rows["visual_entropy"] = entropy_of_rows(rows["visual_entropy"].to_numpy(), uids[kept])
    if "log_probs" in rows and options.reasoning.confidence == "mean":
        rows["log_probs"] /= rows["response_length"]

    def signal(name: str, weight: float) -> torch.Tensor | None:
        return torch.tensor(rows[name].to_numpy()) if weight > 0 and name in rows else None

    entropy, log_probs = signal("visual_entropy", weights.perceptual), signal("log_probs", weights.reasoning)
    scores = torch.tensor(rows["reward"].to_numpy(np.float64))
    found = durian_advantages(scores, uids[kept], entropy, log_probs, options)
    rewards = torch.tensor(update["reward"].to_numpy()).unsqueeze(-1)
    grpo, _ = compute_grpo_outcome_advantage(rewards, torch.ones_like(rewards), uids)
    rows["advantage_grpo"] = grpo[:, 0].numpy()[kept]
    if (weights.perceptual == 0 or entropy is not None) and (weights.reasoning == 0 or log_probs is not None):
        rows["advantage_durian"] = found.advantage.numpy()
    rows["std_original"] = found.rewards.std[found.prompt].numpy()
    rows["term_original"] = found.original.numpy()
    if found.reasoning is not None:
        rows["confidence"] = found.reasoning.difficulty[found.prompt].numpy()
    thresholds: dict[str, list[float]] = {}
    for name, axis in (("perceptual", found.perceptual), ("reasoning", found.reasoning)):
        thresholds[name] = []
        if axis is not None:
            thresholds[name] = axis.thresholds[axis.thresholds.isfinite()].tolist()
            group = axis.group[found.prompt]
            rows[f"{name}_group"] = (group + 1.0).masked_fill(group < 0, math.nan).numpy()
            rows[f"std_{name}"] = axis.rewards.std[group].masked_fill(group < 0, math.nan).numpy()
            rows[f"term_{name}"] = axis.term.numpy()
    if options.record_texts:
        first = rows.drop_duplicates("uid")
        rows["prompt"] = rows["uid"].map(dict(zip(first["uid"], _decode(tokenizer, first["prompt"]), strict=True)))
        rows["answer"] = _decode(tokenizer, rows["answer"])
    rows["uid"] = rows["uid"].astype(str)
    schema = pa.schema([*SCHEMA, *TEXTS]) if options.record_texts else SCHEMA
    table = pa.Table.from_pandas(rows.reindex(columns=schema.names), schema=schema, preserve_index=False)
    return table, thresholds


def _decode(tokenizer: Any, rows: Iterable[torch.Tensor]) -> list[str]:
    return tokenizer.batch_decode([ids[ids != _NO_TOKEN] for ids in rows], skip_special_tokens=True)

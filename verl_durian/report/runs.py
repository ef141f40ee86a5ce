# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Runs as the report sees them: `metrics.jsonl` of verl's logger "file", and the records of `algorithm.durian.record`.

A record is one Parquet file per step with one row per rollout. It is reduced to one row per prompt as soon as it is
read, so that a run of 1,000 steps with 4,096 rollouts fits in memory.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from verl_durian.report.schema import METADATA, SCHEMA, TEXTS, VERSION

METRICS = "metrics.jsonl"
RECORDS = "step_*.parquet"
MAX_RECORDS = 1000
"""Records that are read of a run, evenly spaced: each takes some hundredths of a second."""

COLUMNS = tuple(name for name in SCHEMA.names if name != "update")
REQUIRED = ("step", "uid", "reward", "advantage")
MISSING = {
    "visual_entropy": "No visual entropy in the records: add it with verl-durian score; its term needs a weight > 0.",
    "confidence": "No confidence in the records: they need log-probabilities and a weight of the reasoning term > 0.",
    "accuracy": "No accuracy in the records: pass rates are mean rewards. A reward function can return acc.",
}
"""What to do if a column is null in all rows."""

OF_PROMPT = (
    *("row", "visual_entropy", "confidence", "perceptual_group", "reasoning_group"),
    *("std_original", "std_perceptual", "std_reasoning"),
)
"""Columns that are the same for all rollouts of a prompt."""
AXES = {"perceptual": "S", "reasoning": "M"}
"""Difficulty axes, and how their groups are named."""

FILE_LOGGER = "verl's logger 'file' in trainer.logger, which writes to the path in VERL_FILE_LOGGER_PATH"
SETTINGS = (
    *("estimator", "weights", "confidence", "num_groups", "quantiles", "threshold_source", "epsilon"),
    *("rollout_n", "train_files"),
)
"""Metadata in which the seeds of one setting agree."""
WANTED = re.compile(
    r"durian/(prompts|perceptual|reasoning)/.*|critic/score/mean|response_length/mean|actor/entropy"
    r"|val-core/.+/(acc|reward)/mean@\d+"
)
"""Metrics of `metrics.jsonl` that the report shows."""


@dataclass
class Run:
    """What is known of one training run."""

    name: str
    folder: Path
    label: str = ""
    """Runs with the same label are shown as seeds of the same settings."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Metadata of the last record; empty without records."""
    steps: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per step; columns are named like verl's metrics, `durian/reasoning/M1/...` in addition."""
    prompts: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per recorded step and prompt, see `prompts_of`; empty without records."""
    records: dict[int, Path] = field(default_factory=dict)
    """The record of each step that was read."""
    notes: list[str] = field(default_factory=list)
    """What was left out or is missing, in sentences."""

    @property
    def has_accuracy(self) -> bool:
        """Whether `passed` is the accuracy; it is the reward where the reward function returns no accuracy."""
        return "accuracy" in self.prompts and bool(self.prompts["accuracy"].notna().any())

    @property
    def confidence_unit(self) -> str:
        """Unit of the confidence: per token, unless the run summed it over tokens or did not record which."""
        return "nats per token" if self.settings.get("confidence") == "mean" else "nats"


def read_runs(arguments: Sequence[str]) -> list[Run]:
    """Reads the runs that the command names, each as a path or as LABEL=path.

    Raises:
        ValueError: a run does not exist, is named twice, or contains nothing that can be read.
    """
    named: dict[Path, str] = {}
    for argument in arguments:
        label, path = "", Path(argument)
        if not path.exists() and "=" in argument:
            label, path = argument.split("=", 1)[0], Path(argument.split("=", 1)[1])
        if path.resolve() in {other.resolve() for other in named}:
            raise ValueError(f"{path} is named twice: a copy of a run is not another seed")
        named[path] = label
    runs = [read_run(path, label) for path, label in named.items()]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = str(run.folder)
    _label(runs)
    for run in runs:
        first, last = run.steps.index.min(), run.steps.index.max()
        if last < max(other.steps.index.max() for other in runs if other.label == run.label):
            run.notes.append(f"Steps {first} to {last} only: after them, lines are means of the other runs.")
    return runs


def read_run(path: Path, label: str = "") -> Run:
    """Reads a run: a folder with `metrics.jsonl`, records, or both, or the path of a file like `metrics.jsonl`.

    Raises:
        ValueError: the folder does not exist, has no readable metrics or records, or has those of several runs.
    """
    files = record_files(path)
    run = Run(path.resolve().stem if path.is_file() else path.resolve().name, path, label)
    metrics = path if path.is_file() else path / METRICS
    if not metrics.exists() and not files:
        inside = sorted(file.parent.name for file in path.glob(f"*/{METRICS}"))
        raise ValueError(
            f"{path}: neither {METRICS} nor {RECORDS} in this folder: name the folder of a run that trained with "
            f"algorithm.durian.record=DIR, or with {FILE_LOGGER}"
            + (f". Runs in it: {', '.join(inside)}" if inside else "")
        )
    logged = _read_metrics(metrics, run.notes) if metrics.exists() else pd.DataFrame()
    recorded = _read_records(run, files)
    run.steps = logged.combine_first(recorded).sort_index()
    if run.steps.empty:
        reasons = "".join(f"\n  {note}" for note in run.notes)
        raise ValueError(f"{path}: nothing to report yet: no complete step with metrics of training{reasons}")
    if not metrics.exists():
        run.notes.append(f"No {METRICS}, so no validation curves: name the file, or train with {FILE_LOGGER}.")
    if not files:
        run.notes.append("No records: no weights, difficulty or prompts. algorithm.durian.record=DIR writes them.")
    return run


def record_files(path: Path) -> list[Path]:
    """The records of a run: in its folder or in one folder below; none if the path is a file.

    Raises:
        ValueError: the path does not exist, or there are records in several folders below.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    files = sorted(path.glob(RECORDS)) or sorted(path.glob(f"*/{RECORDS}"))
    if len(folders := sorted({str(file.parent) for file in files})) > 1:
        raise ValueError(f"{path}: the records of several runs: name them one by one: {' '.join(folders)}")
    return files


def read_records(
    files: Sequence[Path], columns: Sequence[str], notes: list[str]
) -> Iterator[tuple[Path, pa.Table, dict[str, Any]]]:
    """Reads records one by one, and adds to the notes what was left out.

    Yields:
        File, table and metadata of each record that can be read, see `read_record`.
    """
    if len(files) > MAX_RECORDS:
        notes.append(f"{len(files):,} records: {MAX_RECORDS:,} of them were read, evenly spaced.")
        files = [files[at] for at in np.linspace(0, len(files) - 1, MAX_RECORDS).round().astype(int)]
    versions, unreadable = set(), []
    for file in files:
        try:
            table, metadata = read_record(file, columns)
        except (OSError, ValueError, pa.ArrowException) as error:
            unreadable.append(f"{file.name}: {' '.join(str(error).split())[:200]}")
            continue
        versions.add(metadata.get("version"))
        yield file, table, metadata
    if unreadable:
        notes.append(f"Records that cannot be read and were left out: {len(unreadable)} (first: {unreadable[0]}).")
    if odd := versions - {VERSION}:
        which = ", ".join("no version" if version is None else f"version {version}" for version in odd)
        notes.append(f"Records of {which}; this release writes version {VERSION}: some values may be missing.")


def _read_metrics(file: Path, notes: list[str]) -> pd.DataFrame:
    """The metrics that the report shows, a row per step."""
    steps: dict[int, dict[str, float]] = {}
    incomplete = []
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                data = {name: value for name, value in entry["data"].items() if WANTED.fullmatch(name)}
                steps.setdefault(int(entry["step"]), {}).update(data)
            except (ValueError, KeyError, TypeError, AttributeError):
                incomplete.append(number)
    if incomplete:
        count, first = len(incomplete), incomplete[0]
        notes.append(f"Lines of {file.name} that are no complete entry and were left out: {count} (first: {first}).")
    frame = pd.DataFrame.from_dict(steps, orient="index")
    return frame.apply(pd.to_numeric, errors="coerce").sort_index()


def _read_records(run: Run, files: Sequence[Path]) -> pd.DataFrame:
    """Fills `prompts`, `records` and `settings` of a run; returns the metrics that follow from them, a row per step."""
    tables, thresholds, settings = [], {}, []
    for file, table, metadata in read_records(files, COLUMNS, run.notes):
        step = table["step"][0].as_py()
        tables.append(prompts_of(table))
        run.records[step] = file
        thresholds[step] = metadata.pop("thresholds", None) or {}
        settings.append(metadata)
    if not tables:
        return pd.DataFrame()
    run.settings = settings[-1]
    shown = ("experiment", "seed", *SETTINGS)
    if differ := [name for name in shown if len({as_text(each.get(name)) for each in settings}) > 1]:
        run.notes.append(f"The records seem to be of several runs: they differ in {', '.join(differ)}. Separate them.")
    prompts = pa.concat_tables(tables).to_pandas()
    accuracy = prompts["accuracy"]
    prompts["passed"] = accuracy if accuracy.notna().any() else prompts["reward"]
    run.notes += [note for name, note in MISSING.items() if prompts[name].isna().all()]
    prompts["key"] = prompts["row"].astype("Int64").astype("string").fillna(prompts["uid"])
    run.prompts = prompts
    return step_metrics(prompts, thresholds)


def read_record(file: Path, columns: Sequence[str] = COLUMNS) -> tuple[pa.Table, dict[str, Any]]:
    """Reads a record with the given columns, null where the file lacks one.

    Returns:
        The table, and the metadata: settings and thresholds. Empty if the file has none.

    Raises:
        ValueError: there is no rollout, a required column is missing or has another type, or the metadata is odd.
        pyarrow.ArrowInvalid: the file is truncated.
    """
    with pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        if lacking := [name for name in REQUIRED if name not in schema.names]:
            raise ValueError(f"no column {lacking[0]!r}")
        table = parquet.read([name for name in columns if name in schema.names])
    if not table.num_rows or ("step" in columns and table["step"].null_count):
        raise ValueError("no rollouts, or rollouts without step")
    metadata = json.loads((schema.metadata or {}).get(METADATA, b"{}"))
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is not a mapping of settings")
    types = {field.name: field.type for field in (*SCHEMA, *TEXTS)}
    arrays = [
        table[name].cast(types[name], safe=False) if name in schema.names else pa.nulls(table.num_rows, types[name])
        for name in columns
    ]
    return pa.table(arrays, list(columns)), metadata


def prompts_of(record: pa.Table) -> pa.Table:
    """Reduces the rollouts of a step to one row per prompt.

    Returns:
        Columns `step`, `uid`, `rollouts`, `reward` and `accuracy` and `response_length` (means), `reward_min`,
        `reward_max`, `reward_sum`, `abs_advantage_sum`, those of `OF_PROMPT`, and `weight`, `weight_grpo` and
        `weight_durian`: the largest |advantage| of a rollout.
    """
    weights = ("advantage", "advantage_grpo", "advantage_durian")
    for name in weights:
        record = record.append_column(f"abs_{name}", pc.abs(record[name]))
    wanted = {
        "step": ("step", "min"),
        "rollouts": ("reward", "count"),
        "reward": ("reward", "mean"),
        "reward_min": ("reward", "min"),
        "reward_max": ("reward", "max"),
        "reward_sum": ("reward", "sum"),
        "accuracy": ("accuracy", "mean"),
        "response_length": ("response_length", "mean"),
        "abs_advantage_sum": ("abs_advantage", "sum"),
        **{name.replace("advantage", "weight"): (f"abs_{name}", "max") for name in weights},
        **{name: (name, "min") for name in OF_PROMPT},
    }
    grouped = record.group_by("uid").aggregate(list(wanted.values()))
    return pa.table(
        {"uid": grouped["uid"]} | {name: grouped["_".join(source)] for name, source in wanted.items()}
    ).replace_schema_metadata(None)


def step_metrics(prompts: pd.DataFrame, thresholds: Mapping[int, Mapping[str, Sequence[float]]]) -> pd.DataFrame:
    """Computes the metrics of `docs/metrics.md` from records, for any estimator; a row per step."""
    count, low, high = prompts["rollouts"], prompts["reward_min"], prompts["reward_max"]
    several = count > 1
    effective = several & (low < high)
    # All rewards but one are equal if and only if the sum is that of one extreme and count - 1 times the other.
    one_low, one_high = (count - 1) * high + low, (count - 1) * low + high
    extreme = np.isclose(prompts["reward_sum"], one_low) | np.isclose(prompts["reward_sum"], one_high)
    shown = {"rows": count, "reward": prompts["reward_sum"], "length": count * prompts["response_length"]}
    shown |= {"several": several, "effective": effective, "mixed": effective & (count > 2)}
    shown["extreme"] = shown["mixed"] & extreme
    sums = pd.DataFrame(shown).groupby(prompts["step"]).sum()
    steps = pd.DataFrame(
        {
            "critic/score/mean": sums["reward"] / sums["rows"],
            "response_length/mean": sums["length"] / sums["rows"],
            "record/accuracy": prompts.groupby("step")["accuracy"].mean(),
            "durian/prompts/frac_reward_zero_std": 1 - sums["effective"] / sums["several"],
            "durian/prompts/extreme": sums["extreme"] / sums["mixed"],
        }
    )
    parts = [steps]
    for axis, letter in AXES.items():
        of_axis = {step: each.get(axis) or [] for step, each in thresholds.items()}
        table = pd.DataFrame.from_dict(of_axis, orient="index")
        width = len(str(len(table.columns) + 1))  # as in the metrics that the estimator logs
        table.columns = [f"durian/{axis}/threshold_{number + 1:0{width}}" for number in table.columns]
        parts.append(table)
        groups = prompts.groupby(["step", f"{axis}_group"])
        rows = groups["rollouts"].sum()
        quantities = {
            "size": groups.size(),
            "std": groups[f"std_{axis}"].mean(),  # the same for all, but for several updates per step
            "mean_reward": groups["reward_sum"].sum() / rows,
            "mean_abs_advantage": groups["abs_advantage_sum"].sum() / rows,
        }
        for quantity, values in quantities.items():
            table = values.unstack()
            table.columns = [f"durian/{axis}/{letter}{int(group):0{width}}/{quantity}" for group in table.columns]
            parts.append(table)
        parts.append(rank_correlation(prompts, axis).rename(f"durian/{axis}/rank_correlation").to_frame())
    frame = pd.concat(parts, axis=1).dropna(axis=1, how="all")
    return frame.replace([np.inf, -np.inf], np.nan)


def difficulty(prompts: pd.DataFrame, axis: str) -> pd.Series:
    """The difficulty of each prompt on an axis: visual entropy, or minus the confidence."""
    return prompts["visual_entropy"] if axis == "perceptual" else -prompts["confidence"]


def rank_correlation(prompts: pd.DataFrame, axis: str) -> pd.Series:
    """Spearman's correlation of difficulty and accuracy over the prompts of each step; NaN if either is constant."""
    pairs = pd.DataFrame({"difficulty": difficulty(prompts, axis), "passed": prompts["passed"]})
    pairs["step"] = prompts["step"]
    pairs = pairs.dropna()
    x, y = (pairs.groupby("step")[name].rank() for name in ("difficulty", "passed"))
    by = pairs["step"]
    x, y = x - x.groupby(by).transform("mean"), y - y.groupby(by).transform("mean")
    covariance, xx, yy = ((a * b).groupby(by).sum() for a, b in ((x, y), (x, x), (y, y)))
    scale = np.sqrt(xx * yy)
    return covariance / scale.where(scale > 0)


def _label(runs: Sequence[Run]) -> None:
    """Labels the runs that the command does not label: seeds of the same settings get the same label."""
    unlabelled = [run for run in runs if not run.label]
    settings = {run.name: {name: as_text(run.settings.get(name)) for name in SETTINGS} for run in unlabelled}
    differ = [name for name in SETTINGS if len({each[name] for each in settings.values()}) > 1]
    for run in unlabelled:
        experiment = str(run.settings.get("experiment") or run.name)
        # The name of an experiment without its seed, and without the time that the quickstart uses as a name.
        base = re.sub(r"[-_. ]?(seed[-_=]?\d+|\d{8}-\d{6})", "", experiment)
        base = base or run.settings.get("estimator") or run.name
        values = settings[run.name]
        details = [
            value if name == "estimator" else f"{name}={value}"
            for name, value in values.items()
            if name in differ and run.settings and value not in base
        ]
        run.label = base + (f" ({', '.join(details)})" if details else "")


def as_text(value: Any) -> str:
    """A setting in short: weights as 0.1/0.2/0.7, files with their last folder."""
    if isinstance(value, dict):
        return "/".join(map(as_text, value.values()))
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else "/".join(Path(str(value)).parts[-2:])

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The weight of a prompt by its pass rate under each normalizer, for simulated prompts or the records of a run.

A batch is a table with one row per rollout and those columns of `algorithm.durian.record` that normalizers need.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import durian_advantages, warn_once
from verl_durian.report.runs import RECORDS, read_records, record_files
from verl_durian.simulate.normalizers import NAMES, RIVALS
from verl_durian.simulate.output import STYLES, print_table
from verl_durian.simulate.prompts import difficulty_signal, draw_pass_rates

Batch = tuple[pd.DataFrame, DurianConfig]
_COLUMNS = ["uid", "reward", "accuracy", "visual_entropy", "confidence"]
_LABELS = {"largest": "Largest |advantage| of a rollout", "relative": "Weight relative to the average prompt"}


def simulated_batches(
    batches: int,
    prompts: int,
    rollouts: int,
    beta: tuple[float, float],
    entropy_correlation: float,
    confidence_correlation: float,
    options: DurianConfig,
    seed: int,
) -> Iterator[Batch]:
    """Draws batches of rewards 0 and 1; the correlations are with the pass rate, see `difficulty_signal`."""
    random = np.random.default_rng(seed)
    for _ in range(batches):
        pass_rate = draw_pass_rates(random, beta, prompts)
        rewards = (random.random((prompts, rollouts)) < pass_rate.numpy()[:, None]).astype(np.float64).flatten()
        entropy, confidence = (
            difficulty_signal(pass_rate, correlation, torch.from_numpy(random.normal(size=prompts))).numpy()
            for correlation in (entropy_correlation, confidence_correlation)
        )
        uid, entropy, confidence = (each.repeat(rollouts) for each in (np.arange(prompts), entropy, confidence))
        columns = (uid, rewards, rewards, entropy, confidence)
        yield pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True))), options


def recorded_batches(path: Path, options: Mapping[str, Any], notes: list[str]) -> Iterator[Batch]:
    """Reads the steps of a run with `algorithm.durian.record`; `options` replace those of the run.

    Records that cannot be read are left out; `notes` then says so.

    Raises:
        ValueError: There are no records, or one cannot be used; the message names it.
    """
    files, file = record_files(path), None
    if not files:
        raise ValueError(f"--records {path}: no {RECORDS} in it: name a run that trained with algorithm.durian.record")
    for file, record, run in read_records(files, (*_COLUMNS, "update"), notes):
        rows = record.to_pandas()
        if lacking := {"weights", "quantiles", "num_groups", "epsilon"} - run.keys():
            raise ValueError(f"{file}: no {min(lacking)} in its metadata, so the options of the run are not known")
        rows = rows.astype(dict.fromkeys(_COLUMNS[1:], np.float64))
        rows["accuracy"] = rows["accuracy"].fillna(rows["reward"])
        if not rows["accuracy"].between(0, 1).all():
            raise ValueError(f"{file}: rewards outside [0, 1] are no pass rate: return `acc` in the reward function")
        perceptual, thresholds = {"quantiles": run["quantiles"]}, (run.get("thresholds") or {}).get("perceptual")
        if rows["visual_entropy"].isna().all():
            warn_once("entropy", f"{file} has no visual entropy: the perceptual term is the GRPO advantage")
        elif thresholds is not None:
            perceptual["thresholds"] = thresholds  # not always quantiles of the batch
        of_run = {
            "weights": run["weights"],
            "perceptual": perceptual,
            "reasoning": {"num_groups": run["num_groups"]},
            "epsilon": run["epsilon"],
        }
        config = DurianConfig.from_algorithm({"durian": {**of_run, **options}})
        for _, of_update in rows.groupby("update", dropna=False):  # each is a batch of its own
            yield of_update[_COLUMNS], config
    if file is None:
        raise ValueError(f"--records {path}: {' '.join(notes)}")


def weights_by_pass_rate(
    batches: Iterable[Batch], normalizers: Sequence[str], filter_groups: bool = False
) -> pd.DataFrame:
    """Computes the weight of a prompt under each normalizer. Prompts with a single rollout are left out of the result.

    Returns:
        One row for each `normalizer` and `pass_rate` (the mean accuracy of a prompt, as a multiple of 1 / rollouts),
        with the share of `prompts` that have this pass rate, and two means over these prompts: `largest`, the largest
        |advantage| of a prompt's rollouts, and `relative`, the sum of a prompt's squared advantages divided by the mean
        over all prompts.

    Raises:
        ValueError: No prompt has rewards that differ, so that all advantages are 0.
    """
    parts = []
    for rows, options in batches:
        if filter_groups:
            rows = rows[rows.groupby("uid")["reward"].transform("nunique") > 1]
        rollouts = rows["uid"].value_counts().max()
        for name in normalizers:
            advantage = _advantages(name, rows, options).numpy()
            of_rows = rows.assign(normalizer=name, largest=np.abs(advantage), squares=np.square(advantage))
            part = of_rows.groupby(["normalizer", "uid"], as_index=False).agg(
                {"reward": "size", "accuracy": "mean", "largest": "max", "squares": "sum"}
            )
            parts.append(part.assign(pass_rate=(part["accuracy"] * rollouts).round() / rollouts))
    prompts = pd.concat(parts).query("reward > 1")
    if not prompts["squares"].any():
        raise ValueError("the rewards of each prompt are equal: all advantages are 0, whatever divides them")
    by_normalizer = prompts.groupby("normalizer")["squares"]
    prompts["relative"] = prompts["squares"] / by_normalizer.transform("mean")
    prompts["prompts"] = 1 / by_normalizer.transform("size")
    table = prompts.groupby(["normalizer", "pass_rate"]).agg({"prompts": "sum", "largest": "mean", "relative": "mean"})
    return table.loc[list(normalizers)].reset_index()


def _advantages(name: str, rows: pd.DataFrame, options: DurianConfig) -> torch.Tensor:
    rewards, entropy, confidence = (
        torch.from_numpy(rows[column].to_numpy(copy=True)) for column in ("reward", "visual_entropy", "confidence")
    )
    if name == "durian":
        return durian_advantages(rewards, rows["uid"].to_numpy(), entropy, confidence, options).advantage
    prompt = torch.from_numpy(pd.factorize(rows["uid"])[0])
    return RIVALS[name](rewards, prompt, torch.zeros_like(prompt))


def print_weights(table: pd.DataFrame) -> None:
    """Prints the result of `weights_by_pass_rate`."""
    rates = [f"{row.pass_rate:.3g} ({row.prompts:.1%} of prompts)" for row in table.itertuples()]
    for column, label in _LABELS.items():
        text = [f"{value:.2f}" for value in table[column]]
        print_table(f"{label}, by pass rate", table.assign(text=text, rates=rates), "rates", "normalizer")


def plot_weights(table: pd.DataFrame) -> Figure:
    """Plots the result of `weights_by_pass_rate`."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, 2), _LABELS.items(), strict=True):
        for name, curve in table.groupby("normalizer", sort=False):
            axes.plot(curve["pass_rate"], curve[column], label=NAMES[name], **STYLES[name])
        axes.set(xlabel="pass rate of the prompt", ylabel=label)
        axes.set_ylim(bottom=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(NAMES), frameon=False)
    return figure

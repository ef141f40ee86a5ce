# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Where does a shared std help? Simulated trainings with Durian, the batch std and GRPO.

    python -m recipes.evidence.sweep [--seeds 2000] [--output FOLDER]

varies one setting of `verl-durian simulate train` at a time, trains with many seeds, and writes sweep.csv and sweep.png
to FOLDER (default: outputs/evidence/analysis): the pass rate, mean over the steps, and its difference to GRPO.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from verl_durian.algo.config import DurianConfig, Reasoning
from verl_durian.simulate.normalizers import NAMES
from verl_durian.simulate.output import STYLES
from verl_durian.simulate.training import PROMPTS, Settings, learning_curves

from .runs import NUM_GROUPS

BASE = Settings(durian=DurianConfig(reasoning=Reasoning(num_groups=NUM_GROUPS)))
NORMALIZERS = ("grpo", "batch_std", "durian")
SUBSETS = PROMPTS[:2]

Values = dict[float, dict[str, Any]]


def _spread(scale: float) -> tuple[float, dict[str, Any]]:
    """The std of the pass rates at the start, and the settings that cause it; their mean stays."""
    a, b = (scale * each for each in BASE.beta)
    return (a * b / (a + b + 1)) ** 0.5 / (a + b), {"beta": (a, b)}


FACTORS: dict[str, Values] = {
    "std of the pass rates at the start": dict(map(_spread, (8, 4, 2, 1, 0.5))),
    "rollouts per prompt": {number: {"rollouts": number} for number in (2, 4, 8, 16, 32)},
    "correlation of both signals with the pass rate": {
        value: {"entropy_correlation": -value, "confidence_correlation": value} for value in (0, 0.25, 0.5, 0.75, 1)
    },
    "noise of confidence (std; signal: 1)": {value: {"noise": value} for value in (0, 0.5, 1, 2, 4)},
}


def sweep(seeds: int) -> pd.DataFrame:
    """One row for each factor, value, normalizer and subset: `pass_rate`, `difference` to GRPO, and its `interval`.

    `interval` is half the width of a 95 % confidence interval.
    """
    columns = ["factor", "value", "normalizer", "prompts", "pass_rate", "difference", "interval"]
    rows = []
    points = [(factor, value, chosen) for factor, values in FACTORS.items() for value, chosen in values.items()]
    for factor, value, chosen in tqdm(points, unit="setting"):
        settings = replace(BASE, seeds=seeds, **chosen)
        curves = {name: learning_curves(name, settings)[:, 1:].mean(dim=1).double() for name in NORMALIZERS}
        for name, curve in curves.items():
            difference = curve - curves["grpo"]
            half = 1.96 * difference.std(dim=0) / seeds**0.5
            for number, subset in enumerate(SUBSETS):
                means = [each[number].item() for each in (curve.mean(dim=0), difference.mean(dim=0), half)]
                rows.append((factor, value, name, subset, *means))
    return pd.DataFrame(rows, columns=columns)


def plot(table: pd.DataFrame) -> Figure:
    """The differences to GRPO in percentage points."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = figure.subplots(len(SUBSETS), len(FACTORS), sharey=True, sharex="col")
    for line, subset in zip(panels, SUBSETS, strict=True):
        for axes, factor in zip(line, FACTORS, strict=True):
            for name in NORMALIZERS[1:]:
                chosen = table[
                    (table["factor"] == factor) & (table["normalizer"] == name) & (table["prompts"] == subset)
                ]
                points = 100 * chosen["difference"], 100 * chosen["interval"]
                axes.errorbar(chosen["value"], points[0], points[1], label=NAMES[name], capsize=3, **STYLES[name])
            axes.axhline(0, color="gray", linewidth=1)
            axes.grid(alpha=0.3)
        line[0].set_ylabel(f"{subset},\ndifference to GRPO in points")
    for axes, (factor, values) in zip(panels[-1], FACTORS.items(), strict=True):
        axes.set_xlabel(factor)
        if factor.startswith("rollouts"):
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(values), list(map(str, values)))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Simulated trainings: where does a shared std help?")
    parser.add_argument("--seeds", type=int, default=2000, help="trainings for each setting and normalizer")
    parser.add_argument("--output", type=Path, default=Path("outputs/evidence/analysis"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = sweep(args.seeds)
    args.output.mkdir(parents=True, exist_ok=True)
    table.round(6).to_csv(args.output / "sweep.csv", index=False)
    plot(table).savefig(args.output / "sweep.png", dpi=120)
    others = table[table["normalizer"] != "grpo"]
    text = [f"{100 * row.difference:+.2f} ±{100 * row.interval:.2f}" for row in others.itertuples()]
    shown = others.assign(text=text).pivot(index=["factor", "value"], columns=["prompts", "normalizer"], values="text")
    print(shown.to_string())


if __name__ == "__main__":
    main()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the comparison."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .comparisons import FAMILIES, RELEVANT, SAME_SEEDS, SUBSETS, values_of
from .runs import ARMS, BASELINE, VERL, robustness_runs
from .stats import interval, iqm

BANDS = (BASELINE, "durian")
"""Arms with a band in the figure of the curves; more would hide each other."""
COLORS = (
    *("#000000", "#d62728", "#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)


def plot_curves(curves: pd.DataFrame) -> Figure:
    """Validation accuracy by step: interquartile mean over seeds, and for `BANDS` its 95 % interval."""
    curves = curves[curves["variant"] == "main"]
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, squeeze=False)
    for line, subset in zip(axes, SUBSETS, strict=True):
        for panel, family in zip(line, FAMILIES, strict=True):
            for arm, color in zip(ARMS, COLORS, strict=True):
                chosen = curves[
                    (curves["subset"] == subset) & (curves["family"] == family) & (curves["arm"] == arm)
                ].pivot_table(values="accuracy", index="step", columns="seed")
                if not len(chosen):
                    continue
                width = 2.5 if arm in BANDS else 1
                panel.plot(chosen.index, iqm(chosen.to_numpy(), axis=1), label=arm, color=color, linewidth=width)
                if arm in BANDS:
                    band = np.array([interval(values) for values in chosen.to_numpy()])
                    panel.fill_between(chosen.index, *band.T, color=color, alpha=0.2, linewidth=0)
            panel.set(title=f"{family}, {subset}", xlabel="step", ylabel="accuracy")
            panel.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_differences(panel: Axes, found: pd.DataFrame, places: Sequence[float], color: str, label: str = "") -> None:
    """Draws differences with their intervals, in percentage points."""
    panel.hlines(places, 100 * found["low"], 100 * found["high"], color=color, alpha=0.6)
    panel.plot(100 * found["difference"], places, "o", color=color, label=label)


def label_differences(panel: Axes, family: str, rows: Sequence[str]) -> None:
    """Labels a panel of `draw_differences`; differences in the grey area are not relevant."""
    panel.axvline(0, color="gray", linewidth=1)
    panel.axvspan(-100 * RELEVANT, 100 * RELEVANT, color="gray", alpha=0.1)
    panel.set_yticks(range(len(rows)), rows)
    panel.set(title=family, xlabel=f"area under the curve, difference to {BASELINE} in points")


def plot_differences(found: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Differences of the arms to the baseline, and as small points those of the seeds on all questions."""
    found = found[(found["variant"] == "main") & (found["metric"] == "area")]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    arms = [arm for arm in reversed(ARMS) if arm != BASELINE]
    for panel, family in zip(figure.subplots(1, 2, sharey=True), FAMILIES, strict=True):
        for subset, shift, color in zip(SUBSETS, (0.12, -0.12), COLORS, strict=False):
            chosen = found[(found["family"] == family) & (found["subset"] == subset)]
            draw_differences(panel, chosen, [arms.index(arm) + shift for arm in chosen["arm"]], color, subset)
        which = {"variant": "main", "family": family, "subset": SUBSETS[0], "metric": "area"}
        baseline = values_of(table, arm=BASELINE, **which)
        for place, arm in enumerate(arms):
            of_seeds = values_of(table, arm=arm, **which)
            points = [100 * (value - baseline[seed]) for seed, value in of_seeds.items() if seed in baseline]
            panel.plot(points, [place + 0.3] * len(points), "|", color=COLORS[0], alpha=0.5)
        label_differences(panel, family, arms)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_robustness(found: pd.DataFrame) -> Figure | None:
    """Differences of durian and the resampled baseline to the baseline; None without robustness runs."""
    colors = {"durian": COLORS[1], BASELINE: COLORS[0]}
    chosen = found[found["arm"].isin(colors) & (found["subset"] == "all") & (found["metric"] == "area")]
    planned = [SAME_SEEDS, *(run.variant for run in robustness_runs(FAMILIES) if run.arm in colors)]
    rows = [variant for variant in reversed(dict.fromkeys(planned)) if variant in set(chosen["variant"])]
    if not rows:
        return None
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    for panel, family in zip(figure.subplots(1, 2, sharex=True, sharey=True), FAMILIES, strict=True):
        for arm, color in colors.items():
            shown = chosen[(chosen["arm"] == arm) & (chosen["family"] == family) & chosen["variant"].isin(rows)]
            draw_differences(panel, shown, [rows.index(variant) for variant in shown["variant"]], color, arm)
        label_differences(panel, family, rows)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_verl(curves: pd.DataFrame) -> Figure | None:
    """Runs in verl itself beside those of the comparison; None without them."""
    curves = curves[(curves["subset"] == "all") & (curves["family"] == FAMILIES[0])]
    arms = list(dict.fromkeys(curves[curves["variant"] == VERL]["arm"]))
    if not arms:
        return None
    figure = Figure(figsize=(11, 4), layout="constrained")
    for panel, arm in zip(figure.subplots(1, len(arms), sharey=True, squeeze=False)[0], arms, strict=True):
        for variant, color, label in (("main", COLORS[8], "one process"), (VERL, COLORS[1], "verl")):
            chosen = curves[(curves["variant"] == variant) & (curves["arm"] == arm)]
            lines = chosen.pivot_table(values="accuracy", index="step", columns="seed")
            panel.plot(lines.index, lines.to_numpy(), color=color, label=[label] + ["_"] * (lines.shape[1] - 1))
        panel.set(title=f"{arm}, {FAMILIES[0]}, all questions", xlabel="step", ylabel="accuracy")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    return figure


def plot_weights(weights: pd.DataFrame) -> Figure:
    """The result of `relative_weights`."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for panel, family in zip(axes, FAMILIES, strict=True):
        for arm, color in zip(ARMS, COLORS, strict=True):
            chosen = weights[(weights["family"] == family) & (weights["arm"] == arm)].sort_values("passes")
            if len(chosen):
                panel.plot(chosen["passes"], chosen["weight"], marker=".", label=arm, color=color)
        panel.set(title=family, xlabel="correct rollouts of 8", ylabel="weight relative to the mean prompt")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure

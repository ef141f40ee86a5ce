# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the report: small matplotlib panels as SVG, which the page shows in its own text colour.

Each panel is one file of some kilobytes that needs no script: a phone shows one per row, a desktop three.
"""

import html
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from verl_durian.report.runs import AXES, Run

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that colour-blind readers can tell apart, and that show on white and on black."""
LINES = ("-", "--", "-.", ":")
GRPO, DURIAN = OKABE_ITO[3], OKABE_ITO[2]
"""Not the first two colours, which are those of the first two runs in other panels."""
TEXT = "#010101"
"""Stands for the text colour: black in a file, that of the page in the page."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "verl-durian",
    "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans"],  # and any other where it is missing; few are wider
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), TEXT
    ),
}
LEGEND_WIDTH = 56
"""Characters of a line of the legend."""
BARS: dict[str, Any] = {"markersize": 4, "linewidth": 1.2, "elinewidth": 1}
MAX_POINTS = 200
"""Points of a curve; more steps are averaged, which also makes noisy curves readable."""
MAX_LINES = 6
"""Groups drawn as lines; more are a heat map."""
MAX_SETS = 6
"""Validation sets with a panel of their own."""
MAX_OUTCOMES = 16
"""Pass rates k/n that are shown as they are; more are rounded."""
BINS = 10
MIN_STEPS = 5
"""Steps that a statement about rank correlations needs."""

LEARNING = {
    "Mean reward of the rollouts": ("critic/score/mean", "reward"),
    "Accuracy of the rollouts": ("record/accuracy", "accuracy"),
    "Response length": ("response_length/mean", "tokens"),
    "Entropy of the policy": ("actor/entropy", "nats per token"),
}
"""Title of a panel: metric and unit."""
SHARES = {
    "Extreme prompts": ("durian/prompts/extreme", "share of mixed prompts"),
    "Zero-variance prompts": ("durian/prompts/frac_reward_zero_std", "share of all prompts"),
}
GROUPS = {
    "size": ("size", "prompts"),
    "std": ("shared std", "std of the rewards"),
    "mean_reward": ("mean reward", "reward"),
    "mean_abs_advantage": ("mean |advantage|", "|advantage|"),
}
"""Quantity of a group: title of the panel and label of the axis."""
DIFFICULTY = {
    "perceptual": ("Visual entropy", "visual entropy in nats"),
    "reasoning": ("Confidence", "confidence in nats"),
}


@dataclass(frozen=True)
class Panel:
    """A drawn panel."""

    name: str
    """Of its file, without suffix."""
    title: str
    svg: str

    @property
    def inline(self) -> str:
        """The SVG as a part of an HTML page."""
        svg = self.svg[self.svg.index("<svg") :].replace(TEXT, "currentColor")
        svg = svg.replace(OKABE_ITO[0].lower(), "var(--blue)")  # lighter on black
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r' id="[A-Za-z]\w*_\d+"', "", svg)  # the same in every panel, and nothing refers to them
        box = re.search(r'viewBox="[^"]*"', svg)[0]  # type: ignore[index]
        return f'<svg {box} role="img" aria-label="{html.escape(self.title)}">{svg[svg.index(">") + 1 :]}'


def learning_panels(runs: Sequence[Run]) -> list[Panel]:
    """Learning curves, a line per label with the range of its seeds."""
    panels = [_curves(runs, title, *spec) for title, spec in LEARNING.items()]
    unit, sets = "accuracy", _validation_sets(runs, "acc")
    if not sets:
        unit, sets = "reward", _validation_sets(runs, "reward")
    if len(sets) > 1:
        means = [replace(run, steps=_mean_of(run.steps, sets)) for run in runs]
        panels.append(_curves(means, "Validation: mean of all sets", "mean", unit))
    for metric, name in list(sets.items())[:MAX_SETS]:
        panels.append(_curves(runs, f"Validation: {name}", metric, unit))
    return [panel for panel in panels if panel]


def share_panels(runs: Sequence[Run]) -> list[Panel]:
    """Shares of extreme and of zero-variance prompts over the steps (Table 4 of the paper)."""
    return [panel for title, spec in SHARES.items() if (panel := _curves(runs, title, *spec))]


def weight_panels(runs: Sequence[Run]) -> list[Panel]:
    """Weight of a prompt by its pass rate under grpo and durian, a panel per label (Fig. 1 of the paper)."""
    panels: list[Panel] = []
    for label in dict.fromkeys(run.label for run in runs):
        seeds = [run for run in runs if run.label == label and not run.prompts.empty]
        if not seeds:
            continue
        prompts = pd.concat([run.prompts for run in seeds])
        mixed = prompts[prompts["reward_min"] < prompts["reward_max"]]
        if mixed.empty:
            continue
        outcomes = int(mixed["rollouts"].max())
        outcomes = outcomes if outcomes <= MAX_OUTCOMES else BINS
        rate = (mixed["passed"] * outcomes).round() / outcomes
        title = f"Weight of a prompt: {label}" if len(runs) > 1 else "Weight of a prompt"
        with _panel(f"weight-{label}", title, _passed(seeds[0]), "largest |advantage|") as (axes, drawn):
            for name, colour, shift, marker in (("grpo", GRPO, -0.004, "o"), ("durian", DURIAN, 0.004, "s")):
                weights = mixed.groupby(rate)[f"weight_{name}"]
                mean, low, high = weights.mean(), weights.quantile(0.1), weights.quantile(0.9)
                if mean.notna().any():
                    spread = [(mean - low).clip(lower=0), (high - mean).clip(lower=0)]
                    at = mean.index + shift
                    axes.errorbar(at, mean, spread, color=colour, marker=marker, label=f"under {name}", **BARS)
            axes.set_ylim(bottom=0)
        panels += drawn
    return panels


def group_panels(run: Run, axis: str) -> list[Panel]:
    """Size, shared std, mean reward and mean |advantage| of each group of an axis over the steps, and thresholds."""
    letter, (name, unit) = AXES[axis], DIFFICULTY[axis]
    panels = [
        _numbered(
            run, rf"durian/{axis}/{letter}(\d+)/{quantity}", f"{axis}-{quantity}", f"{name}: {title}", label, letter
        )
        for quantity, (title, label) in GROUPS.items()
    ]
    pattern = rf"durian/{axis}/threshold_(\d+)"
    panels.append(_numbered(run, pattern, f"{axis}-thresholds", f"{name}: thresholds", unit, "t"))
    return [panel for panel in panels if panel]


def difficulty_panels(run: Run, axis: str) -> list[Panel]:
    """Accuracy against difficulty, binned, and their rank correlation over the steps (Tables 5 and 6)."""
    title, unit = DIFFICULTY[axis]
    passed = "pass rate" if run.prompts.empty else _passed(run)
    panels = []
    if not run.prompts.empty and len(bins := difficulty_bins(run.prompts, axis)):
        name = f"{run.name}-{axis}-accuracy"
        with _panel(name, f"{title} and {passed}", unit, passed) as (axes, drawn):
            axes.errorbar(bins["difficulty"], bins["mean"], bins["interval"], color=OKABE_ITO[0], marker="o", **BARS)
        panels += drawn
    if not (correlations := correlation(run, axis)).empty:
        name = f"{run.name}-{axis}-correlation"
        with _panel(name, f"{title}: rank correlation", "step", "Spearman's correlation") as (axes, drawn):
            _plot(axes, correlations, OKABE_ITO[0])
            axes.axhline(0, color=TEXT, linewidth=1)
            axes.set_ylim(-1, 1)
        panels += drawn
    return panels


def difficulty_bins(prompts: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Accuracy by tenths of the prompts of each step, ordered by difficulty as it was measured (in nats).

    Returns:
        Per bin the mean `difficulty`, the `mean` accuracy and its 95 % `interval`, where a prompt that was seen in
        several steps counts once.
    """
    column = "visual_entropy" if axis == "perceptual" else "confidence"
    known = prompts.dropna(subset=[column, "passed"])
    place = known.groupby("step")[column].rank(pct=True)
    tenth = np.ceil(place * BINS).clip(1, BINS).rename("bin")
    of_prompt = known.groupby([tenth, "key"])["passed"].mean().groupby("bin").agg(["mean", "std", "count"])
    of_prompt["interval"] = (1.96 * of_prompt["std"] / np.sqrt(of_prompt["count"])).fillna(0)
    of_prompt["difficulty"] = known.groupby(tenth)[column].mean()
    return of_prompt


def correlation(run: Run, axis: str) -> pd.Series:
    """The rank correlation of difficulty and accuracy in each step where it is defined."""
    return run.steps.get(f"durian/{axis}/rank_correlation", pd.Series(dtype=float)).dropna()


def verdict(run: Run, axis: str) -> str:
    """One sentence on whether the difficulty of an axis means anything in this run."""
    name = "visual entropy" if axis == "perceptual" else "low confidence"
    values = correlation(run, axis)
    if len(values) < MIN_STEPS:
        return f"Too few steps ({len(values)}) to say whether {name} means difficulty in this run."
    mean, error = values.mean(), 1.96 * values.std() / np.sqrt(len(values))
    measured = f"mean rank correlation with the accuracy {mean:+.2f} ± {error:.2f} over {len(values)} steps"
    if mean + error < -0.1:
        return f"{name.capitalize()} means difficulty in this run: {measured}."
    if mean + error < 0:
        return f"{name.capitalize()} says little about difficulty in this run: {measured}."
    if mean - error > 0:
        return f"{name.capitalize()} does not mean difficulty in this run, rather the opposite: {measured}."
    return (
        f"{name.capitalize()} does not mean difficulty in this run: {measured}. Its groups are close to random groups."
    )


@contextmanager
def _panel(name: str, title: str, xlabel: str, ylabel: str) -> Iterator[tuple[Axes, list[Panel]]]:
    """Axes to draw on; the list then contains the panel."""
    panels: list[Panel] = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.1), layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=xlabel == "step"))
        if ylabel == "prompts":
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        yield axes, panels
        lines, labels = axes.get_legend_handles_labels()
        if len(labels) > 1:
            labels = [textwrap.fill(label, LEGEND_WIDTH) for label in labels]
            columns = max(1, LEGEND_WIDTH // (6 + max(map(len, labels))))
            rows = sum(label.count("\n") + 1 for label in labels[::columns])
            figure.set_figheight(figure.get_figheight() + 0.15 * rows)
            figure.legend(lines, labels, loc="outside lower center", ncols=columns)
        svg = StringIO()
        figure.savefig(svg, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    # Two decimals of a point are enough.
    short = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg.getvalue())
    panels.append(Panel(re.sub(r"[^\w.=-]+", "-", name.lower()), title, short))


def _curves(runs: Sequence[Run], title: str, metric: str, unit: str) -> Panel | None:
    """One metric over the steps, a line per label: mean and range of the seeds. None if no run has it."""
    by_label: dict[str, list[pd.Series]] = {}
    for run in runs:
        if metric in run.steps and run.steps[metric].notna().any():
            by_label.setdefault(run.label, []).append(run.steps[metric].dropna())
    if not by_label:
        return None
    labels = list(dict.fromkeys(run.label for run in runs))
    with _panel(title, title, "step", unit) as (axes, panels):
        for label, seeds in by_label.items():
            number = labels.index(label)
            colour = OKABE_ITO[number % len(OKABE_ITO)]
            table = pd.concat(seeds, axis=1).dropna()  # only steps that all seeds have: a mean of others would jump
            text = f"{label}, {len(seeds)} seeds" if len(seeds) > 1 else label
            _plot(axes, table.mean(axis=1), colour, LINES[number % len(LINES)], text)
            if len(seeds) > 1:
                low, high = _thin(table.min(axis=1)), _thin(table.max(axis=1))
                axes.fill_between(low.index, low, high, color=colour, alpha=0.2, linewidth=0)
    return panels[0]


def _numbered(run: Run, pattern: str, name: str, title: str, label: str, letter: str) -> Panel | None:
    """Metrics with a number in their name over the steps: lines, or a heat map if there are many."""
    numbers = {column: int(match[1]) for column in run.steps if (match := re.fullmatch(pattern, column))}
    table = run.steps[sorted(numbers, key=lambda column: numbers[column])].rename(columns=numbers).dropna(how="all")
    if table.empty:
        return None
    lines = len(table.columns) <= MAX_LINES
    with _panel(
        f"{run.name}-{name}", title, "step", label if lines else f"{letter}1 to {letter}{table.columns[-1]}"
    ) as (axes, panels):
        if lines:
            for number, column in enumerate(table):
                _plot(axes, table[column].dropna(), OKABE_ITO[number], LINES[number % len(LINES)], f"{letter}{column}")
        else:
            table = _thin(table)
            mesh = axes.pcolormesh(_edges(table.index), _edges(table.columns), table.T, cmap="cividis", rasterized=True)
            axes.grid(False)
            axes.figure.colorbar(mesh, label=label)
    return panels[0]


def _plot(axes: Axes, values: pd.Series, colour: str, line: str = "-", label: str | None = None) -> None:
    marker = "." if len(values) <= 25 else ""
    values = _thin(values)
    axes.plot(values.index, values, color=colour, linestyle=line, linewidth=1.2, marker=marker, label=label)


def _thin(steps: pd.DataFrame | pd.Series) -> pd.DataFrame | pd.Series:
    """At most `MAX_POINTS` rows: means of as many consecutive steps each."""
    if len(steps) <= MAX_POINTS:
        return steps
    block = np.arange(len(steps)) * MAX_POINTS // len(steps)
    means = steps.groupby(block).mean()
    means.index = pd.Series(steps.index).groupby(block).mean()
    return means


def _edges(centres: pd.Index) -> np.ndarray:
    """The borders between cells of a heat map with these centres."""
    values = np.asarray(centres, dtype=float)
    middle = (values[1:] + values[:-1]) / 2
    first, last = (middle[0] - values[0], values[-1] - middle[-1]) if len(middle) else (0.5, 0.5)
    return np.concatenate([[values[0] - first], middle, [values[-1] + last]])


def _passed(run: Run) -> str:
    return "pass rate" if run.has_accuracy else "mean reward"


def _validation_sets(runs: Sequence[Run], quantity: str) -> dict[str, str]:
    """Metrics of validation, each with the name of its validation set."""
    pattern = re.compile(rf"val-core/(.+)/{quantity}/mean@\d+")
    names = sorted({name for run in runs for name in run.steps})
    return {name: match[1] for name in names if (match := pattern.fullmatch(name))}


def _mean_of(steps: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The mean of some metrics in the steps that have all of them, as the metric `mean`."""
    present = [column for column in columns if column in steps]
    return steps[present].dropna().mean(axis=1).rename("mean").to_frame()

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
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.special import stdtrit

from verl_durian.report.runs import AXES, Run, difficulty

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
    "axes.titlesize": 9.5,
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
LEGEND_WIDTH = 46
TITLE_WIDTH = 42
"""Characters of a line."""
BARS: dict[str, Any] = {"markersize": 4, "linewidth": 1.2, "elinewidth": 1}
MAX_POINTS = 200
"""Points of a curve; more steps are averaged, which also makes noisy curves readable."""
MAX_LINES = 6
"""Groups drawn as lines; more are a heat map."""
MAX_NAME = 80
"""Characters of a file's name."""
MAX_SETS = 6
"""Validation sets with a panel of their own."""
MAX_OUTCOMES = 16
"""Pass rates k/n that are shown as they are; more are rounded."""
BINS = 10
MIN_STEPS, MIN_PROMPTS = 5, 10
"""Steps or prompts that a statement about rank correlations needs."""
NO_EFFECT = 0.1
"""Rank correlations within plus and minus this mean nothing in practice."""

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
DIFFICULTY = {"perceptual": "visual entropy", "reasoning": "confidence"}
FROM_ZERO = ("prompts", "share of mixed prompts", "share of all prompts")
"""Labels of vertical axes that start at 0."""
READINGS = {
    "Mean reward of the rollouts": "Rises while the policy learns; single steps are noisy.",
    "Accuracy of the rollouts": "If the reward rises without it, other parts such as the format were learned.",
    "Response length": "A drift to 0 or to the maximum length is a warning.",
    "Entropy of the policy": "Near 0, the rollouts of a prompt are the same and have no learning signal.",
    "Validation": "Prompts that are not trained on; where bands overlap, a difference may be chance.",
    "Weight": "All lines are of the same rollouts: where durian is flatter than grpo, extreme prompts dominate less.",
    "Extreme prompts": "The more of them, the more the choice of the std matters.",
    "Zero-variance prompts": "They have no learning signal under either estimator.",
    "size": "The std of a group with few prompts is noisy.",
    "std": "Where the shared std is small, all prompts of the group push harder.",
    "mean_reward": "Groups that do not differ in mean reward do not differ in difficulty.",
    "mean_abs_advantage": "The higher, the larger the part of each of the group's prompts in the update.",
    "perceptual thresholds": "Steady if the batch is large enough, because the policy does not change visual entropy.",
    "reasoning thresholds": "They rise as the policy becomes more certain.",
    "perceptual accuracy": "Falls from left to right if visual entropy means difficulty; bars are 95 % intervals.",
    "reasoning accuracy": "Rises from left to right if low confidence means difficulty; bars are 95 % intervals.",
    "correlation": "Below 0: the harder a prompt by this measure, the lower its accuracy in that step.",
}
"""How to read a panel, by its title, kind, or quantity of a group."""


@dataclass(frozen=True)
class Panel:
    """A drawn panel."""

    name: str
    """Of its file, without suffix."""
    title: str
    reading: str
    """How to read it, in one sentence."""
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
    """Learning curves, a line per label with the range of its runs."""
    panels = [_curves(runs, title, *spec, READINGS[title]) for title, spec in LEARNING.items()]
    unit, sets = "accuracy", _validation_sets(runs, "acc")
    if not sets:
        unit, sets = "reward", _validation_sets(runs, "reward")
    if len(sets) > 1:
        means = [replace(run, steps=_mean_of(run.steps, sets)) for run in runs]
        panels.append(_curves(means, "Validation: mean of all sets", "mean", unit, READINGS["Validation"]))
    for metric, name in list(sets.items())[:MAX_SETS]:
        panels.append(_curves(runs, f"Validation: {name}", metric, unit, READINGS["Validation"]))
    if further := list(sets.values())[MAX_SETS:]:
        runs[0].notes.append(f"Validation sets without a figure of their own: {', '.join(further)}.")
    return [panel for panel in panels if panel]


def share_panels(runs: Sequence[Run]) -> list[Panel]:
    """Shares of extreme and of zero-variance prompts over the steps (Table 4 of the paper)."""
    panels = (_curves(runs, title, *spec, READINGS[title]) for title, spec in SHARES.items())
    return [panel for panel in panels if panel]


def weight_panels(runs: Sequence[Run]) -> list[Panel]:
    """Weight of a prompt by its pass rate under grpo and durian, a panel per label (Fig. 1 of the paper)."""
    by_label: dict[str, tuple[Run, pd.DataFrame]] = {}
    for label in dict.fromkeys(run.label for run in runs if not run.prompts.empty):
        of_label = [run for run in runs if run.label == label and not run.prompts.empty]
        prompts = pd.concat([run.prompts for run in of_label])
        mixed = prompts[prompts["reward_min"] < prompts["reward_max"]]
        if mixed.empty:
            continue
        outcomes = int(mixed["rollouts"].max())
        outcomes = outcomes if outcomes <= MAX_OUTCOMES else BINS
        rate = (mixed["passed"] * outcomes).round() / outcomes
        weights = mixed.groupby(rate)[["weight_grpo", "weight_durian"]]
        parts = {"mean": weights.mean(), "low": weights.quantile(0.1), "high": weights.quantile(0.9)}
        by_label[label] = of_label[0], pd.concat(parts, axis=1)
    panels: list[Panel] = []
    for label, (run, weights) in by_label.items():
        title = f"Rollouts of {label}" if len(runs) > 1 else "Weight of a prompt"
        with _panel(f"weight-{label}", title, _passed(run), "largest |advantage|", READINGS["Weight"]) as (axes, drawn):
            for name, colour, shift, marker in (("grpo", GRPO, -0.004, "o"), ("durian", DURIAN, 0.004, "s")):
                mean, low, high = (weights[part][f"weight_{name}"] for part in ("mean", "low", "high"))
                if mean.notna().any():
                    spread = [(mean - low).clip(lower=0), (high - mean).clip(lower=0)]
                    at = mean.index + shift
                    axes.errorbar(at, mean, spread, color=colour, marker=marker, label=f"under {name}", **BARS)
            axes.set_ylim(0, 1.05 * max(each.max().max() for _, each in by_label.values()))  # the same for all labels
            if run.has_accuracy:
                axes.set(xlim=(-0.03, 1.03), xticks=np.linspace(0, 1, 5))
        panels += drawn
    return panels


def group_panels(run: Run, axis: str) -> list[Panel]:
    """Size, shared std, mean reward and mean |advantage| of each group of an axis over the steps, and thresholds."""
    letter, name = AXES[axis], DIFFICULTY[axis]
    panels = [
        _numbered(
            run,
            rf"durian/{axis}/{letter}(\d+)/{quantity}",
            f"{axis}-{quantity}",
            f"Groups by {name}: {title}",
            label,
            letter,
            READINGS[quantity],
        )
        for quantity, (title, label) in GROUPS.items()
    ]
    pattern, title = rf"durian/{axis}/threshold_(\d+)", f"Thresholds of {name}"
    reading = READINGS[f"{axis} thresholds"]
    panels.append(_numbered(run, pattern, f"{axis}-thresholds", title, _unit(run, axis), "t", reading))
    return [panel for panel in panels if panel]


def difficulty_panels(run: Run, axis: str) -> list[Panel]:
    """Accuracy against difficulty, binned, and their rank correlation over the steps (Tables 5 and 6)."""
    title = DIFFICULTY[axis].capitalize()
    passed = "pass rate" if run.prompts.empty else _passed(run)
    panels = []
    if not run.prompts.empty and len(bins := difficulty_bins(run.prompts, axis)):
        name, reading = f"{run.name}-{axis}-accuracy", READINGS[f"{axis} accuracy"]
        with _panel(name, f"{title} and {passed}", _unit(run, axis), passed, reading) as (axes, drawn):
            spread = np.stack([bins["interval"]] * 2)
            if run.has_accuracy:
                spread = np.minimum(spread, [bins["mean"], 1 - bins["mean"]])
            axes.errorbar(bins["difficulty"], bins["mean"], spread, color=OKABE_ITO[0], marker="o", **BARS)
        panels += drawn
    if not (correlations := correlation(run, axis)).empty:
        name, title = f"{run.name}-{axis}-correlation", f"{title}: rank correlation"
        with _panel(name, title, "step", "Spearman's correlation", READINGS["correlation"]) as (axes, drawn):
            _plot(axes, correlations)
            axes.axhline(0, color=TEXT, linewidth=1)
            axes.set_ylim(-1.05, 1.05)
        panels += drawn
    return panels


def difficulty_bins(prompts: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Accuracy by tenths of the prompts of each step, ordered by difficulty as it was measured (in nats).

    Returns:
        Per bin the mean `difficulty`, the `mean` accuracy and half the width of its 95 % `interval`, where a prompt
        that was seen in several steps counts once; NaN for a single prompt.
    """
    column = "visual_entropy" if axis == "perceptual" else "confidence"
    known = prompts.dropna(subset=[column, "passed"])
    place = known.groupby("step")[column].rank(pct=True)
    tenth = np.ceil(place * BINS).clip(1, BINS).rename("bin")
    of_prompt = known.groupby([tenth, "key"])["passed"].mean().groupby("bin").agg(["mean", "std", "count"])
    of_prompt["interval"] = _interval(of_prompt["std"], of_prompt["count"])
    of_prompt["difficulty"] = known.groupby(tenth)[column].mean()
    return of_prompt


def correlation(run: Run, axis: str) -> pd.Series:
    """The rank correlation of difficulty and accuracy in each step where it is defined."""
    return run.steps.get(f"durian/{axis}/rank_correlation", pd.Series(dtype=float)).dropna()


def verdict(run: Run, axis: str) -> str:
    """One sentence on whether the difficulty of an axis means anything in this run."""
    name = "visual entropy" if axis == "perceptual" else "low confidence"
    steps = correlation(run, axis)
    ranks = _mean_ranks(run.prompts, axis)
    if ranks.empty and steps.empty:
        return f"Not recorded: whether {name} means difficulty in this run."
    if ranks.empty:
        count, least, basis = len(steps), MIN_STEPS, "steps; too narrow where prompts recur"
        mean, error = steps.mean(), _interval(steps.std(), count)
        low, high = mean - error, mean + error
    else:
        count, least, basis = len(ranks), MIN_PROMPTS, "prompts"
        mean = ranks["difficulty"].corr(ranks["passed"], method="spearman")
        low, high = _fisher_interval(mean, count)
    if count < least or np.isnan(mean):
        return f"Too little to say whether {name} means difficulty in this run: {count} values."
    measured = (
        f"rank correlation with the accuracy {mean:+.2f}, 95 % interval {low:+.2f} to {high:+.2f} from {count} {basis}"
    )
    if high < -NO_EFFECT:
        return f"{name.capitalize()} means difficulty in this run: {measured}."
    if low > NO_EFFECT:
        return f"{name.capitalize()} does not mean difficulty in this run, rather the opposite: {measured}."
    if -NO_EFFECT <= low and high <= NO_EFFECT:
        return f"{name.capitalize()} does not mean difficulty in this run, groups are almost random: {measured}."
    return f"Not shown by this run: whether {name} means difficulty ({measured})."


def _mean_ranks(prompts: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Difficulty and accuracy of each prompt as ranks within a step, from 0 to 1, averaged over its steps."""
    if prompts.empty:
        return prompts
    pairs = pd.DataFrame({"difficulty": difficulty(prompts, axis), "passed": prompts["passed"]}).dropna()
    return pairs.groupby(prompts["step"]).rank(pct=True).groupby(prompts["key"]).mean()


def _fisher_interval(rho: float, count: int) -> tuple[float, float]:
    """95 % interval of Spearman's correlation of independent pairs (Bonett and Wright, 2000)."""
    centre = np.arctanh(np.clip(rho, -0.999, 0.999))
    error = 1.96 * np.sqrt((1 + rho**2 / 2) / max(1, count - 3))
    return np.tanh(centre - error), np.tanh(centre + error)


def _interval(std: Any, count: Any) -> Any:
    """Half the width of the 95 % interval of a mean; NaN for a single value."""
    return stdtrit(np.maximum(count - 1, 1), 0.975) * std / np.sqrt(count)


@contextmanager
def _panel(name: str, title: str, xlabel: str, ylabel: str, reading: str) -> Iterator[tuple[Axes, list[Panel]]]:
    """Axes to draw on; the list then contains the panel."""
    panels: list[Panel] = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 2.7), layout="constrained")
        axes = figure.subplots()
        heading = textwrap.fill(title, TITLE_WIDTH)
        figure.suptitle(heading, fontsize=STYLE["axes.titlesize"])
        figure.set_figheight(figure.get_figheight() + 0.17 * heading.count("\n"))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=xlabel == "step", min_n_ticks=1))
        if ylabel == "prompts":
            axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        yield axes, panels
        if ylabel in FROM_ZERO:
            axes.set_ylim(bottom=0)
        lines, labels = axes.get_legend_handles_labels()
        if labels:
            labels = [textwrap.fill(label, LEGEND_WIDTH) for label in labels]
            columns = max(1, LEGEND_WIDTH // (6 + max(map(len, labels))))
            rows = sum(label.count("\n") + 1 for label in labels[::columns])
            figure.set_figheight(figure.get_figheight() + 0.15 * rows)
            figure.legend(lines, labels, loc="outside lower center", ncols=columns)
        svg = StringIO()
        figure.savefig(svg, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    # Two decimals of a point are enough.
    short = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg.getvalue())
    panels.append(Panel(re.sub(r"[^\w.=-]+", "-", name.lower())[:MAX_NAME], title, reading, short))


def _curves(runs: Sequence[Run], title: str, metric: str, unit: str, reading: str) -> Panel | None:
    """One metric over the steps, a line per label: mean and range of its runs. None if no run has it."""
    by_label: dict[str, list[pd.Series]] = {}
    for run in runs:
        if metric in run.steps and run.steps[metric].notna().any():
            by_label.setdefault(run.label, []).append(run.steps[metric].dropna())
    if not by_label:
        return None
    labels = list(dict.fromkeys(run.label for run in runs))
    with _panel(title, title, "step", unit, reading) as (axes, panels):
        for label, of_label in by_label.items():
            number = labels.index(label)
            table = pd.concat(of_label, axis=1).sort_index()
            text = f"{label}, {len(of_label)} runs" if len(of_label) > 1 else label
            line = _plot(axes, table.mean(axis=1), number, text if len(runs) > 1 else None)
            if len(of_label) > 1:
                low, high = _thin(table.min(axis=1)), _thin(table.max(axis=1))
                axes.fill_between(low.index, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return panels[0]


def _numbered(run: Run, pattern: str, name: str, title: str, label: str, letter: str, reading: str) -> Panel | None:
    """Metrics with a number in their name over the steps: lines, or a heat map if there are many groups."""
    numbers = {column: int(match[1]) for column in run.steps if (match := re.fullmatch(pattern, column))}
    table = run.steps[sorted(numbers, key=lambda column: numbers[column])].rename(columns=numbers).dropna(how="all")
    if table.empty:
        return None
    lines = letter == "t" or len(table.columns) <= MAX_LINES
    with _panel(f"{run.name}-{name}", title, "step", label if lines else "group", reading) as (axes, panels):
        if lines:
            for number, column in enumerate(table):
                _plot(axes, table[column].dropna(), number, f"{letter}{column}")
        else:
            table = _thin(table)
            edges = _edges(table.index), _edges(table.columns)
            lowest = 0 if label == "prompts" else None
            mesh = axes.pcolormesh(*edges, table.T, cmap="cividis", rasterized=True, vmin=lowest)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
            axes.yaxis.set_major_formatter(f"{letter}{{x:.0f}}")
            axes.grid(False)
            axes.figure.colorbar(mesh, label=label)
    return panels[0]


def _plot(axes: Axes, values: pd.Series, number: int = 0, label: str | None = None) -> Line2D:
    """Draws the line of a number: its own colour and dashes, and thinner, so that it does not hide the ones before."""
    colour, dashes = OKABE_ITO[number % len(OKABE_ITO)], LINES[number % len(LINES)]
    width, marker = max(0.9, 1.8 - 0.4 * number), "." if len(values) <= 25 else ""
    values = _thin(values)
    (line,) = axes.plot(
        values.index, values, color=colour, linestyle=dashes, linewidth=width, marker=marker, label=label
    )
    return line


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


def _unit(run: Run, axis: str) -> str:
    return f"{DIFFICULTY[axis]} in {run.confidence_unit if axis == 'reasoning' else 'nats'}"


def _passed(run: Run) -> str:
    return "pass rate" if run.has_accuracy else "mean reward"


def _validation_sets(runs: Sequence[Run], quantity: str) -> dict[str, str]:
    """Metrics of validation, each with the name of its validation set."""
    pattern = re.compile(rf"val-core/(.+)/{quantity}/mean@\d+")
    names = sorted({name for run in runs for name in run.steps})
    return {name: match[1] for name in names if (match := pattern.fullmatch(name))}


def _mean_of(steps: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The mean of some metrics in the steps that have all of them, as the metric `mean`."""
    return steps.reindex(columns=list(columns)).dropna().mean(axis=1).rename("mean").to_frame()

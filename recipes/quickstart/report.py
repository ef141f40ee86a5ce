# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Summarizes a training run: a table in the terminal and the figure RUN/learning.png.

    python -m recipes.quickstart.report RUN

reads RUN/metrics.jsonl, which verl's logger "file" writes. Works for every run of verl with this logger.
"""

import argparse
import json
import re
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

METRICS = "metrics.jsonl"
FIGURE = "learning.png"

REWARD = "critic/score/mean"
CORRELATION = "training/rollout_actor_probs_pearson_corr"
MIN_CORRELATION = 0.999
"""Lower values mean that the rollouts come from another policy; on-policy runs in float32 reach 0.9999."""

VALIDATION = re.compile(r"val-core/(?P<source>.+)/acc/mean@\d+")
PANELS = {
    "Mean reward of the rollouts": re.compile(r"critic/score/(mean)"),
    "Validation accuracy": VALIDATION,
    "Shared std by visual entropy": re.compile(r"durian/perceptual/(S\d+)/std"),
    "Mean |advantage| by visual entropy": re.compile(r"durian/perceptual/(S\d+)/mean_abs_advantage"),
}
"""Title of each panel of the figure, and the metrics in it."""

Steps = list[tuple[int, dict[str, float]]]


def read_metrics(run: Path) -> Steps:
    """The metrics of every step of a run, in order; step 0 is the validation before training."""
    lines = (run / METRICS).read_text().splitlines()
    return [(entry["step"], entry["data"]) for entry in map(json.loads, lines)]


def curve(steps: Steps, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it was logged."""
    points = [(step, metrics[name]) for step, metrics in steps if name in metrics]
    return [step for step, _ in points], [value for _, value in points]


def names(steps: Steps, pattern: re.Pattern[str]) -> dict[str, re.Match[str]]:
    """The names of the run's metrics that match, sorted."""
    found = {name for _, metrics in steps for name in metrics}
    return {name: match for name in sorted(found) if (match := pattern.fullmatch(name))}


def kind(source: str) -> str:
    """The kind of question of a data source, "easy_vqa_<kind>" in the quickstart."""
    return source.removeprefix("easy_vqa_")


def make_table(steps: Steps) -> Table:
    """Validation accuracy of each data source before and after training."""
    table = Table("questions", title="Validation accuracy")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")

    def add_row(label: str, before: float, after: float) -> None:
        table.add_row(label, f"{before:.1%}", f"{after:.1%}", f"{100 * (after - before):+.1f} points")

    curves = {kind(match[1]): curve(steps, name)[1] for name, match in names(steps, VALIDATION).items()}
    for label, values in curves.items():
        add_row(label, values[0], values[-1])
    if len(curves) > 1:
        table.add_section()
        add_row("mean", *(sum(values[at] for values in curves.values()) / len(curves) for at in (0, -1)))
    return table


def draw(steps: Steps, file: Path) -> None:
    """Draws reward, validation accuracy and, for Durian, shared std and |advantage| of each perceptual group."""
    panels = {title: found for title, pattern in PANELS.items() if (found := names(steps, pattern))}
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(9, 3.6 * rows), layout="constrained")
    for number, (title, metrics) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, 2, number, title=title, xlabel="step")
        for name, match in metrics.items():
            axes.plot(*curve(steps, name), marker="." if match.re is VALIDATION else "", label=kind(match[1]))
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
        if len(metrics) > 1:
            axes.legend()
    figure.savefig(file, dpi=120)


def report(run: Path, console: Console) -> None:
    """Prints what the training run changed and draws RUN/learning.png.

    Args:
        run: The folder of the run.
        console: Where to print.
    """
    steps = read_metrics(run)
    draw(steps, run / FIGURE)
    console.print(make_table(steps))
    _, rewards = curve(steps, REWARD)
    if rewards:
        _, seconds = curve(steps, "timing_s/step")
        console.print(
            f"{len(rewards)} steps of {sum(seconds) / len(seconds):.1f} s; "
            f"mean reward {rewards[0]:.3f} in the first, {rewards[-1]:.3f} in the last"
        )
    _, correlations = curve(steps, CORRELATION)
    if correlations:
        lowest = min(correlations)
        console.print(f"correlation of the probabilities of rollout and trained policy: at least {lowest:.5f}")
        if lowest < MIN_CORRELATION:
            console.print(f"[red]should be at least {MIN_CORRELATION}: the rollouts come from another policy[/red]")
    console.print(f"metrics: {run / METRICS}\nfigure:  {run / FIGURE}", soft_wrap=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.quickstart.report", description="Summarize a run.")
    parser.add_argument("run", type=Path, help="folder with metrics.jsonl")
    report(parser.parse_args().run, Console())


if __name__ == "__main__":
    main()

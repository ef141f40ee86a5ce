# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What a training run changed: a table in the terminal and RUN/learning.png.

    python -m recipes.quickstart.report RUN

reads RUN/metrics.jsonl, which verl's logger "file" wrote. It works for any run of verl with this logger.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

METRICS = "metrics.jsonl"
FIGURE = "learning.png"

REWARD = "critic/score/mean"
CORRELATION = "training/rollout_actor_probs_pearson_corr"
MIN_CORRELATION = 0.999
"""Below it the rollout does not sample from the policy that is trained; an on-policy run in fp32 has 0.9999."""

VALIDATION = re.compile(r"val-core/(?P<source>.+)/acc/mean@\d+")
GROUP_METRIC = re.compile(r"durian/perceptual/(?P<group>S\d+)/(?P<name>std|mean_abs_advantage)")

Curve = tuple[list[int], list[float]]


def read_metrics(run: Path) -> list[tuple[int, dict[str, float]]]:
    """The metrics of every step of a run, in order; step 0 is the validation before training."""
    lines = (run / METRICS).read_text().splitlines()
    return [(entry["step"], entry["data"]) for entry in map(json.loads, lines)]


def curve(steps: list[tuple[int, dict[str, float]]], name: str) -> Curve:
    """Steps and values of one metric, where it was logged."""
    points = [(step, metrics[name]) for step, metrics in steps if name in metrics]
    return [step for step, _ in points], [value for _, value in points]


def names(steps: list[tuple[int, dict[str, float]]], pattern: re.Pattern[str]) -> dict[str, re.Match[str]]:
    """The names of the run's metrics that match, sorted."""
    found = {name for _, metrics in steps for name in metrics}
    return {name: match for name in sorted(found) if (match := pattern.fullmatch(name))}


def kind(source: str) -> str:
    """The quickstart calls its data sources "easy_vqa_<kind>"."""
    return source.removeprefix("easy_vqa_")


def make_table(steps: list[tuple[int, dict[str, float]]]) -> Table:
    """Validation accuracy of each data source before and after training."""
    table = Table(title="Validation accuracy")
    table.add_column("questions")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    before, after = [], []
    for name, match in names(steps, VALIDATION).items():
        _, values = curve(steps, name)
        before.append(values[0])
        after.append(values[-1])
        table.add_row(kind(match["source"]), *_change(values[0], values[-1]))
    if len(before) > 1:
        table.add_section()
        table.add_row("mean", *_change(sum(before) / len(before), sum(after) / len(after)))
    return table


def _change(before: float, after: float) -> tuple[str, str, str]:
    return f"{before:.1%}", f"{after:.1%}", f"{100 * (after - before):+.1f} points"


def _plot(axes: Axes, curves: dict[str, Curve], title: str, **style: Any) -> None:
    for label, (at, values) in curves.items():
        axes.plot(at, values, label=label, **style)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()


def draw(steps: list[tuple[int, dict[str, float]]], file: Path) -> None:
    """Reward and validation accuracy over the steps and, for Durian, shared std and |A| by perceptual group."""
    groups: dict[str, dict[str, Curve]] = {"std": {}, "mean_abs_advantage": {}}
    for name, match in names(steps, GROUP_METRIC).items():
        groups[match["name"]][match["group"]] = curve(steps, name)
    rows = 2 if groups["std"] else 1
    figure, grid = plt.subplots(rows, 2, figsize=(9, 3.6 * rows), layout="constrained", squeeze=False)
    axes = grid.flatten()
    _plot(axes[0], {"reward": curve(steps, REWARD)}, "Mean reward of the rollouts")
    accuracy = {kind(match["source"]): curve(steps, name) for name, match in names(steps, VALIDATION).items()}
    _plot(axes[1], accuracy, "Validation accuracy", marker="o")
    axes[1].set_ylim(0, 1.02)
    if groups["std"]:
        _plot(axes[2], groups["std"], "Shared std by visual entropy")
        _plot(axes[3], groups["mean_abs_advantage"], "Mean |advantage| by visual entropy")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def report(run: Path, console: Console) -> None:
    """Prints what a run changed and draws RUN/learning.png.

    Args:
        run: The run's folder.
        console: Where to print.
    """
    steps = read_metrics(run)
    draw(steps, run / FIGURE)
    console.print(make_table(steps))
    trained, rewards = curve(steps, REWARD)
    if trained:
        _, seconds = curve(steps, "timing_s/step")
        console.print(
            f"{len(trained)} steps of {sum(seconds) / len(seconds):.1f} s; "
            f"mean reward {rewards[0]:.3f} in the first, {rewards[-1]:.3f} in the last"
        )
    _, correlations = curve(steps, CORRELATION)
    if correlations:
        sound = min(correlations) >= MIN_CORRELATION
        console.print(
            f"rollout against trained policy: correlation of probabilities at least {min(correlations):.5f}"
            + ("" if sound else f" [red](should be {MIN_CORRELATION} or more: the rollout sees something else)[/red]")
        )
    console.print(f"metrics: {run / METRICS}\nfigure:  {run / FIGURE}", soft_wrap=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.quickstart.report", description="What a run changed.")
    parser.add_argument("run", type=Path, help="folder with metrics.jsonl")
    report(parser.parse_args().run, Console())


if __name__ == "__main__":
    main()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the quickstart with several seeds and compares the results.

    python benchmarks/quickstart_seeds.py [--seeds 1,2,3] [--out outputs/seeds] [HYDRA_OVERRIDE ...]

A seed changes the order of the training questions and the rollouts. Prints the test accuracy of each kind of question
before and after training (mean, lowest and highest of the seeds) as a Markdown table, and draws the curves.
"""

import os
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path

import matplotlib
import typer

from recipes.quickstart.report import VALIDATION, curve, kind, names, read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).parents[1]


def main(overrides: list[str] = typer.Argument(None), seeds: str = "1,2,3", out: Path = Path("outputs/seeds")) -> None:  # noqa: B008
    curves = defaultdict(list)
    for seed in seeds.split(","):
        runs = out.resolve() / "runs"
        before = set(runs.iterdir()) if runs.exists() else set()
        subprocess.run(
            ["bash", ROOT / "recipes" / "run_quickstart.sh", f"data.seed={seed}", *(overrides or [])],
            env={**os.environ, "OUT": str(out.resolve())},
            check=True,
        )
        (run,) = set(runs.iterdir()) - before
        steps = read_metrics(run)
        for name, match in names(steps, VALIDATION).items():
            curves[kind(match["source"])].append(curve(steps, name))

    print("| questions | before | after, mean | after, lowest to highest |\n|---|---|---|---|")
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.4), layout="constrained", sharey=True)
    for axis, (questions, of_seed) in zip(axes, sorted(curves.items()), strict=True):
        starts, ends = [values[0] for _, values in of_seed], [values[-1] for _, values in of_seed]
        print(
            f"| {questions} | {statistics.mean(starts):.1%} | {statistics.mean(ends):.1%} "
            f"| {min(ends):.1%} to {max(ends):.1%} |"
        )
        for at, values in of_seed:
            axis.plot(at, values, marker="o")
        axis.set(title=questions, xlabel="step", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy on test questions")
    figure.savefig(out / "seeds.png", dpi=120)
    print(f"figure: {out / 'seeds.png'}")


if __name__ == "__main__":
    typer.run(main)

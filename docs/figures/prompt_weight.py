# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Draws the largest |advantage| of a prompt's rollouts by its pass rate, under GRPO and under Durian.

    python docs/figures/prompt_weight.py

Writes prompt_weight.svg beside this file and prints its numbers as a Markdown table. They are those of

    verl-durian simulate weights --filter-groups --normalizers grpo,durian

whose simulated pass rates resemble the paper's Table 4: 57 % of the prompts have mixed rewards (58 to 64 % in the
paper), and 35 % of those are solved once or 7 times of 8 (36 to 44 %).
"""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from verl_durian.algo.config import DurianConfig
from verl_durian.simulate.normalizers import NAMES
from verl_durian.simulate.weights import simulated_batches, weights_by_pass_rate


def table() -> pd.DataFrame:
    """Computes the weights of prompts solved k = 1 to 7 times of 8."""
    batches = simulated_batches(50, 512, 8, (0.5, 0.4), -0.2, 0.5, DurianConfig(), seed=0)
    weights = weights_by_pass_rate(batches, ["grpo", "durian"], filter_groups=True)
    return weights.assign(solved=(8 * weights["pass_rate"]).astype(int))


def main() -> None:
    """Draws the figure and prints its numbers."""
    print("| solved, of 8 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | share of 1 and 7 in the sum of squares |\n" + 9 * "|---" + "|")
    matplotlib.rcParams["svg.hashsalt"] = "prompt_weight"  # the same file from every run
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    styles = {"grpo": (-0.2, "#9aa5b1"), "durian": (0.2, "#1f77b4")}
    for name, weights in table().groupby("normalizer", sort=False):
        extreme = weights[weights["solved"].isin([1, 7])]
        share = (extreme["prompts"] * extreme["relative"]).sum()
        print(f"| {NAMES[name]} | " + " | ".join(f"{each:.2f}" for each in weights["largest"]) + f" | {share:.0%} |")
        shift, color = styles[name]
        bars = axes.bar(weights["solved"] + shift, weights["largest"], width=0.38, color=color, label=NAMES[name])
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
    axes.set(xlabel="times solved, of 8 rollouts", ylabel="largest |advantage|", xticks=range(1, 8), ylim=(0, 2.8))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", ncols=2)
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics of the runs and the comparisons of the arms, as PROTOCOL.md defines them."""

from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from .runs import BASELINE, RESAMPLED, ROBUSTNESS_SEEDS, SEEDS, Key, Result, robustness_runs, verl_runs
from .stats import compare, holm

DIFFICULTY = Path(__file__).with_name("difficulty.json")
FAMILIES = ("aligned", "anti")
SUBSETS = ("all", "hardest third")
METRICS = {
    "area": "area under the curve",
    "final": "after the last step",
    "reward": "mean reward of the rollouts after the first step",
}
CONFIRMATORY = (("durian", "grpo"), ("durian", "dr_grpo"), ("durian", "durian_permuted"))
"""Pairs of arms; the primary metric is `area` on all questions."""
CONTROLS = (("durian_true", "durian_permuted"), ("durian_perceptual", "durian_permuted"))
"""Pairs of arms, exploratory."""
RELEVANT = 0.02
"""Differences of accuracy below this are not relevant."""
ALPHA = 0.05
SAME_AS_DR_GRPO = "batch_std"
"""With matched advantages; excluded where each arm should count once."""
RATE = "rate"
"""Variants that begin with this choose the learning rate."""
SAME_SEEDS = f"main, seeds 1 to {ROBUSTNESS_SEEDS}"
"""Variant: main runs of the arms in the robustness runs, with the same seeds, to compare like with like."""


def hardest_cells(difficulty: dict) -> dict[str, list[str]]:
    """The third of the cells with the lowest pass rate of the start, of each family."""
    hardest = {}
    for family, found in difficulty.items():
        rates = {
            f"{kind}_{level}": rate for kind, levels in found["pass_rate"].items() for level, rate in levels.items()
        }
        hardest[family] = sorted(rates, key=lambda cell: (rates[cell], cell))[: len(rates) // 3]
    return hardest


def accuracies(results: Iterable[Result], hardest: dict[str, list[str]]) -> pd.DataFrame:
    """Accuracy of each run, step and subset; cells have equal numbers of questions."""
    rows = []
    for result in results:
        for step, cells in result.validation.items():
            for subset, names in zip(SUBSETS, (list(cells), hardest[result.family]), strict=True):
                accuracy = float(np.mean([cells[name] for name in names]))
                rows.append((result.variant, result.family, result.arm, result.seed, subset, step, accuracy))
    return pd.DataFrame(rows, columns=["variant", "family", "arm", "seed", "subset", "step", "accuracy"])


def metrics(curves: pd.DataFrame, results: Iterable[Result]) -> pd.DataFrame:
    """The metrics of each run and subset, in long form with the column `value`."""
    keys = ["variant", "family", "arm", "seed", "subset"]
    trained = curves[curves["step"] > 0].sort_values("step")
    found = trained.groupby(keys)["accuracy"].agg(area="mean", final="last").reset_index()
    rewards = [
        (each.variant, each.family, each.arm, each.seed, SUBSETS[0], float(np.mean(each.reward[1:])))
        for each in results
    ]
    found = found.merge(pd.DataFrame(rewards, columns=[*keys, "reward"]), how="left")
    return found.melt(keys, list(METRICS), "metric").dropna(subset="value")


def values_of(table: pd.DataFrame, **which: str) -> dict[int, float]:
    """The value of each planned seed in the rows with these entries."""
    chosen = table[(table[list(which)] == pd.Series(which)).all(axis=1) & (table["seed"] <= SEEDS)]
    return dict(zip(chosen["seed"], chosen["value"], strict=True))


def baseline_variant(variant: str) -> str:
    """The variant with the baseline of a variant: its own if one is planned there, else `main`."""
    planned = [*robustness_runs(FAMILIES), *verl_runs()]
    own = {run.variant for run in planned if run.arm == BASELINE} - {RESAMPLED}
    return variant if variant in own else "main"


def comparisons(table: pd.DataFrame) -> pd.DataFrame:
    """Every arm against the baseline of its family and `baseline_variant`; with robustness runs also `SAME_SEEDS`."""
    robustness = robustness_runs(FAMILIES)
    if {run.variant for run in robustness} & set(table["variant"]):
        same = (table["variant"] == "main") & (table["seed"] <= ROBUSTNESS_SEEDS)
        same &= table["arm"].isin({run.arm for run in robustness} - {BASELINE})
        table = pd.concat([table[same].assign(variant=SAME_SEEDS), table])
    rows = []
    for (variant, family, arm, subset, metric), _ in table.groupby(
        ["variant", "family", "arm", "subset", "metric"], sort=False
    ):
        which = {"family": family, "subset": subset, "metric": metric}
        first, second = {"variant": variant, "arm": arm}, {"variant": baseline_variant(variant), "arm": BASELINE}
        if variant.startswith(RATE) or first == second:
            continue
        found = compare(values_of(table, **first, **which), values_of(table, **second, **which))
        if found is not None:
            rows.append({**first, **which, **asdict(found)})
    return pd.DataFrame(rows)


def pairs(table: pd.DataFrame, arms: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Compares pairs of arms: area under the validation curve, all questions."""
    rows = []
    for family in FAMILIES:
        for first, second in arms:
            which = {"variant": "main", "family": family, "subset": "all", "metric": "area"}
            found = compare(values_of(table, arm=first, **which), values_of(table, arm=second, **which))
            if found is not None:
                rows.append({"family": family, "comparison": f"{first} - {second}", **asdict(found)})
    return pd.DataFrame(rows)


def confirmatory(table: pd.DataFrame, failed: Collection[Key] = ()) -> pd.DataFrame:
    """The confirmatory comparisons with Holm's correction and their verdicts.

    Args:
        table: The metrics.
        failed: The failed runs. A comparison is incomplete if it lacks a seed for another reason.
    """
    frame = pairs(table, CONFIRMATORY)
    if len(frame):
        frame["p_corrected"] = holm(frame["p"], len(FAMILIES) * len(CONFIRMATORY))
        frame["verdict"] = [verdict(row.low, row.high, row.p_corrected) for row in frame.itertuples()]
        for at, row in frame.iterrows():
            arms = row["comparison"].split(" - ")
            lost = [run for run in failed if (run.variant, run.family) == ("main", row["family"]) and run.arm in arms]
            if row["seeds"] + len({run.seed for run in lost}) < SEEDS:
                frame.loc[at, "verdict"] = "incomplete"
    return frame


def verdict(low: float, high: float, p_corrected: float) -> str:
    """The decision rule of PROTOCOL.md."""
    if p_corrected < ALPHA and low > 0:
        return "positive"
    if p_corrected < ALPHA and high < 0:
        return "negative"
    if -RELEVANT <= low and high <= RELEVANT:
        return "no relevant difference"
    return "undecided"


def relative_weights(results: Iterable[Result]) -> pd.DataFrame:
    """Weight of a prompt by its number of correct rollouts: sum of squared advantages, relative to the mean prompt."""
    rows = []
    for result in results:
        if result.variant == "main" and result.status == "done":
            prompts, squares = (np.array(result.weight[name], dtype=float) for name in ("prompts", "squares"))
            mean = squares.sum() / prompts.sum()
            for passes, (number, square) in enumerate(zip(prompts, squares, strict=True)):
                if number:
                    rows.append((result.family, result.arm, passes, square / number / mean))
    frame = pd.DataFrame(rows, columns=["family", "arm", "passes", "weight"])
    return frame.groupby(["family", "arm", "passes"], sort=False)["weight"].mean().reset_index()

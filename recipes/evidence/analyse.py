# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Tables and figures of the comparison, as PROTOCOL.md defines them.

    python recipes/evidence/analyse.py [RESULTS] [--output FOLDER]

RESULTS is a folder of result files; default: the published ones. Writes to FOLDER (default: outputs/evidence/analysis)
tables.md, comparisons.csv, curves.png, differences.png and weights.png, with the robustness runs also robustness.png,
with the runs in verl also verl.png, and prints the tables. Missing and failed runs are named first.
"""

import argparse
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import friedmanchisquare

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `python recipes/evidence/analyse.py`

from recipes.evidence.runs import (  # noqa: E402
    ARMS,
    BASELINE,
    RESAMPLED,
    RESULTS,
    ROBUSTNESS_SEEDS,
    SEEDS,
    VERL,
    Key,
    Result,
    main_runs,
    read_results,
    robustness_runs,
    verl_runs,
)
from recipes.evidence.stats import compare, holm, interval, iqm  # noqa: E402
from recipes.evidence.task import CELLS  # noqa: E402

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
BANDS = (BASELINE, "durian")
"""Arms with a band in the figure of the curves; more would hide each other."""
RATE = "rate"
"""Variants that begin with this choose the learning rate."""
COLORS = (
    *("#000000", "#d62728", "#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)


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
    """Every arm against the baseline of its family and `baseline_variant`."""
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


def missing_runs(results: Sequence[Result]) -> tuple[int, list[str]]:
    """Planned runs without a result, and those that failed; of the parts robustness and verl only if they were started.

    Returns:
        Their number, and a line for each failed run with the reason, and for each arm with its missing seeds.
    """
    planned, known = main_runs(FAMILIES, ARMS, SEEDS), {each.name for each in results}
    for part in (robustness_runs(FAMILIES, ROBUSTNESS_SEEDS), verl_runs()):
        if any(run.name in known for run in part):
            planned += part
    failed = [each for each in results if each.status == "failed"]
    lines = [f"{each.name}: failed {each.attempts} times: {each.error.splitlines()[0]}" for each in failed]
    missing: dict[str, list[str]] = {}
    for run in planned:
        if run.name not in known:
            arm, _, seed = run.name.rpartition("/")
            missing.setdefault(arm, []).append(seed)
    lines += [f"{arm}: missing seeds {', '.join(seeds)}" for arm, seeds in missing.items()]
    return len(failed) + sum(map(len, missing.values())), lines


def in_points(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Accuracies in percent and differences in percentage points, as text with one interval column."""
    shown = pd.DataFrame({name: frame[name] for name in columns})
    shown["accuracy %"] = (100 * frame["value"]).map("{:.1f}".format)
    shown["difference"] = (100 * frame["difference"]).map("{:+.2f}".format)
    shown["95 % interval"] = [f"[{100 * row.low:+.2f}, {100 * row.high:+.2f}]" for row in frame.itertuples()]
    shown["mean ± std"] = [f"{100 * row.mean:+.2f} ± {100 * row.std:.2f}" for row in frame.itertuples()]
    shown.loc[frame["std"].isna(), ["95 % interval", "mean ± std"]] = "-"  # a single seed
    shown["positive"] = [f"{row.positive} of {row.seeds}" for row in frame.itertuples()]
    for name, form in (("better", "{:.2f}"), ("p", "{:.4f}"), ("p_corrected", "{:.4f}"), ("verdict", "{}")):
        if name in frame:
            shown[name] = frame[name].map(form.format)
    return shown


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown."""
    lines = [list(map(str, frame.columns)), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_cell(results: Iterable[Result]) -> pd.DataFrame:
    """Accuracy in percent of each cell before and after training, mean over the seeds."""
    rows = [
        {"family": each.family, "cell": cell, "arm": arm, "accuracy": 100 * accuracy}
        for each in results
        if each.variant == "main" and each.arm in (BASELINE, "durian")
        for arm, step in (("start", 0), (each.arm, max(each.validation)))
        for cell, accuracy in each.validation[step].items()
    ]
    table = pd.DataFrame(rows).pivot_table(values="accuracy", index="cell", columns=["family", "arm"])
    columns = [(family, arm) for family in FAMILIES for arm in ("start", BASELINE, "durian")]
    table = table.reindex([f"{kind}_{level}" for kind, level in CELLS], columns=columns).dropna(axis=1)
    table.columns = [f"{family}: {arm}" for family, arm in table.columns]
    return table.map("{:.0f}".format).reset_index()


def difference_between_arms(table: pd.DataFrame) -> str:
    """A line for each family: Friedman's test of whether the arms differ at all, with the seeds as blocks."""
    lines = []
    for family in FAMILIES:
        which = (table["variant"] == "main") & (table["family"] == family) & (table["subset"] == "all")
        chosen = table[which & (table["metric"] == "area") & (table["arm"] != SAME_AS_DR_GRPO)]
        values = chosen.pivot_table(values="value", index="seed", columns="arm").dropna()
        if min(values.shape) > 2:
            p = friedmanchisquare(*values.to_numpy().T).pvalue
            lines.append(f"- {family}: {values.shape[1]} arms, {len(values)} seeds, p = {p:.3f}")
    return "\n".join(lines)


def report(results: Sequence[Result], table: pd.DataFrame) -> str:
    """The text of tables.md."""
    number, lost = missing_runs(results)
    done = [each for each in results if each.status == "done"]
    parts = [f"# Results of the comparison\n\nPlanned runs that are missing or failed: {number}."]
    if lost:
        parts.append("\n".join(f"- {line}" for line in lost))
    parts.append(
        "Accuracies are interquartile means over the seeds, in percent. Differences are paired by seed, in percentage "
        "points: interquartile mean, its 95 % interval, mean and standard deviation, number of seeds with a positive "
        "difference. better: probability of improvement."
    )
    parts.append("## Confirmatory comparisons\n\nArea under the validation curve, all questions.")
    decided = confirmatory(table, [each for each in results if each.status == "failed"])
    columns = ["family", "comparison"]
    parts.append(markdown(in_points(decided, columns)) if len(decided) else "No pair of arms has a seed in common.")
    others = pairs(table, CONTROLS)
    if len(others):
        parts.append(f"## Other pairs (exploratory)\n\n{markdown(in_points(others, columns))}")
    if lines := difference_between_arms(table):
        parts.append(f"## Do the arms differ at all? (exploratory)\n\nFriedman's test, area, all questions.\n\n{lines}")
    every = comparisons(table)
    every["part"] = every["variant"].map(lambda variant: variant if variant in ("main", VERL) else "robustness")
    titles = {"main": "All arms", "robustness": "Robustness: variants", VERL: "Runs in verl"}
    for part, title in titles.items():
        of_part = every[every["part"] == part]
        if not len(of_part):
            continue
        parts.append(f"## {title} against {BASELINE} (exploratory)")
        for subset in SUBSETS:
            for metric, name in METRICS.items():
                chosen = of_part[(of_part["subset"] == subset) & (of_part["metric"] == metric)]
                if len(chosen):
                    columns = ["family", "arm"] if part == "main" else ["variant", "family", "arm"]
                    shown = in_points(chosen.sort_values("family", kind="stable"), columns)
                    parts.append(f"### {subset.capitalize()}, {name}\n\n{markdown(shown)}")
    if any(each.variant == "main" for each in done):
        parts.append(f"## Accuracy by cell, before and after training\n\n{markdown(by_cell(done))}")
        weights = relative_weights(done).pivot(index=["family", "arm"], columns="passes", values="weight")
        shown = weights.map("{:.2f}".format).reset_index()
        parts.append(f"## Weight of a prompt by its correct rollouts, relative to the mean prompt\n\n{markdown(shown)}")
    rates = table[table["variant"].str.startswith(RATE) & (table["subset"] == "all")]
    if len(rates):
        mean = rates.pivot_table(values="value", index=["metric", "variant"], columns="family", margins=True).iloc[:-1]
        shown = (100 * mean).map("{:.1f}".format).reset_index()
        parts.append(f"## Learning rates: {BASELINE} on dev\n\n{markdown(shown)}")
    return "\n\n".join(parts) + "\n"


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
    """Differences of durian to the baseline of the same variant; None without robustness runs."""
    chosen = found[(found["arm"] == "durian") & (found["subset"] == "all") & (found["metric"] == "area")]
    variants = list(dict.fromkeys(run.variant for run in robustness_runs(FAMILIES) if run.arm == "durian"))
    rows = [variant for variant in reversed(variants) if variant in set(chosen["variant"])]
    if not rows:
        return None
    rows.append("main")
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    for panel, family in zip(figure.subplots(1, 2, sharey=True), FAMILIES, strict=True):
        shown = chosen[(chosen["family"] == family) & chosen["variant"].isin(rows)]
        draw_differences(panel, shown, [rows.index(variant) for variant in shown["variant"]], COLORS[1])
        label_differences(panel, family, rows)
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


def analyse(folder: Path, output: Path, difficulty: Path = DIFFICULTY) -> str:
    """Writes tables and figures; returns the text of tables.md.

    Raises:
        ValueError: No run has ended.
    """
    results = read_results(folder)
    done = [result for result in results if result.status == "done"]
    if not done:
        raise ValueError(f"{folder}: no run has ended; start them with `bash recipes/run_evidence.sh`")
    curves = accuracies(done, hardest_cells(json.loads(difficulty.read_text())))
    table = metrics(curves, done)
    text = report(results, table)
    output.mkdir(parents=True, exist_ok=True)
    (output / "tables.md").write_text(text)
    found = comparisons(table)
    found.to_csv(output / "comparisons.csv", index=False)
    figures: dict[str, Figure | None] = {"curves": plot_curves(curves), "weights": plot_weights(relative_weights(done))}
    figures["verl"] = plot_verl(curves)
    if len(found):
        figures |= {"differences": plot_differences(found, table), "robustness": plot_robustness(found)}
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(output / f"{name}.png", dpi=120)
    return text


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Tables and figures of the comparison.")
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS, help="default: the published results")
    parser.add_argument("--output", type=Path, default=Path("outputs/evidence/analysis"))
    args = parser.parse_args()
    try:
        print(analyse(args.results, args.output))
    except ValueError as error:
        sys.exit(str(error))
    print(f"tables and figures: {args.output}")


if __name__ == "__main__":
    main()

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
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import friedmanchisquare

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `python recipes/evidence/analyse.py`

from recipes.evidence import figures  # noqa: E402
from recipes.evidence.comparisons import (  # noqa: E402
    CONTROLS,
    DIFFICULTY,
    FAMILIES,
    METRICS,
    RATE,
    SAME_AS_DR_GRPO,
    SUBSETS,
    accuracies,
    comparisons,
    confirmatory,
    hardest_cells,
    metrics,
    pairs,
    relative_weights,
)
from recipes.evidence.runs import (  # noqa: E402
    ARMS,
    BASELINE,
    BATCH,
    LEARNING_RATE,
    MATCHED,
    RESULTS,
    ROBUSTNESS_SEEDS,
    SEEDS,
    VERL,
    Result,
    main_runs,
    read_results,
    robustness_runs,
    verl_runs,
)
from recipes.evidence.task import CELLS  # noqa: E402


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
    shown.loc[frame["low"].isna(), "95 % interval"] = "-"  # fewer than three seeds
    shown.loc[frame["std"].isna(), "mean ± std"] = "-"  # a single seed
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


def friedman(values: pd.DataFrame, column: str) -> str:
    """A line for each family: Friedman's test of whether values differ by `column` at all, with the seeds as blocks."""
    lines = []
    for family in FAMILIES:
        by_seed = values[values["family"] == family].pivot_table(values="value", index="seed", columns=column).dropna()
        by_seed = by_seed.round(5)  # result files have six digits; equal accuracies must be ties
        if min(by_seed.shape) > 2:
            p = friedmanchisquare(*by_seed.to_numpy().T).pvalue
            lines.append(f"- {family}: {by_seed.shape[1]} {column}s, {len(by_seed)} seeds, p = {p:.3f}")
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
    area = table[(table["subset"] == "all") & (table["metric"] == "area")]
    if lines := friedman(area[(area["variant"] == "main") & (area["arm"] != SAME_AS_DR_GRPO)], "arm"):
        parts.append(f"## Do the arms differ at all? (exploratory)\n\nFriedman's test, area, all questions.\n\n{lines}")
    variants = ["main"]  # those that change only settings of durian
    for run in robustness_runs(FAMILIES):
        if (run.batch, run.rate) == (BATCH, LEARNING_RATE) and MATCHED in run.settings:
            variants.append(run.variant)
    if lines := friedman(area[(area["arm"] == "durian") & area["variant"].isin(variants)], "variant"):
        parts.append(
            f"## Do b and the weights matter? (exploratory)\n\nFriedman's test, area, all questions.\n\n{lines}"
        )
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
    drawn: dict[str, Figure | None] = {
        "curves": figures.plot_curves(curves),
        "weights": figures.plot_weights(relative_weights(done)),
        "verl": figures.plot_verl(curves),
    }
    if len(found):
        drawn |= {"differences": figures.plot_differences(found, table), "robustness": figures.plot_robustness(found)}
    for name, figure in drawn.items():
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

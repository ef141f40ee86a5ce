# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The statistics of the comparison, its tables on synthetic runs, and the queue with runs that do nothing."""

import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pretended_run
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats as scipy_stats

from recipes.evidence import analyse, comparisons, figures, in_verl, run, runs, stats, sweep
from recipes.evidence.runs import ARMS, Result, Run
from recipes.evidence.task import CELLS

ROOT = Path(__file__).parents[2]


def test_iqm_is_the_mean_of_the_middle_half():
    assert stats.iqm([0, 1, 2, 3, 4, 5, 6, 100]) == pytest.approx(3.5)


def test_intervals_cover_the_truth_and_handle_ties():
    values = np.random.default_rng(0).normal(1, 1, 200)
    low, high = stats.interval(values, np.mean)
    assert low < 1 < high and high - low == pytest.approx(2 * 1.96 / 200**0.5, rel=0.2)
    assert stats.interval([0.25] * 8) == (0.25, 0.25)
    assert np.isnan(stats.interval([0.25])).all() and np.isnan(stats.interval([0.25, 0.5])).all()


def test_sign_flip_test_equals_that_of_scipy():
    differences = np.random.default_rng(1).normal(0.5, 1, 8)
    expected = scipy_stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip_p(differences) == pytest.approx(expected.pvalue)
    assert stats.sign_flip_p(np.ones(8)) == 2 / 256
    assert stats.sign_flip_p(np.zeros(8)) == 1
    assert stats.sign_flip_p([0.01] * 7 + [3e-7]) == 4 / 256  # equal but for rounding


def test_holm_by_hand():
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03], tests=3), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03], tests=6), [0.06, 0.16, 0.15])


def test_probability_of_improvement_by_hand():
    assert stats.probability_of_improvement([1, 2], [1, 0]) == pytest.approx((0.5 + 1 + 1 + 1) / 4)


def test_six_comparisons_can_be_significant_with_eight_seeds_and_seven_cannot():
    smallest = stats.sign_flip_p(np.ones(8))
    planned = len(comparisons.FAMILIES) * len(comparisons.CONFIRMATORY)
    assert stats.holm([smallest], planned)[0] < comparisons.ALPHA < stats.holm([smallest], planned + 1)[0]


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.01, 0.05, 0.01, "positive"),
        (-0.05, -0.03, 0.01, "negative"),
        (-0.01, 0.01, 0.5, "no relevant difference"),
        (-0.01, 0.03, 0.01, "undecided"),
        (0.01, 0.05, 0.2, "undecided"),
    ],
)
def test_verdicts(low, high, p, expected):
    assert comparisons.verdict(low, high, p) == expected


DIFFICULTY = {
    family: {
        "pass_rate": {
            kind: {level: 0.9 - 0.2 * k - 0.05 * n for n, level in enumerate(("low", "medium", "high"))}
            for k, kind in enumerate(("read", "compare", "count", "hop"))
        }
    }
    for family in comparisons.FAMILIES
}


def synthetic(planned: Run, gain: float) -> Result:
    """A run whose accuracy rises from 0.3 by `gain` more than 0.3."""
    noise = np.random.default_rng([planned.seed, len(planned.arm), planned.family == "anti"]).normal(0, 0.005)
    shared = np.random.default_rng(planned.seed).normal(0, 0.05)  # of all arms of a seed
    validation = {
        step: {f"{kind}_{level}": 0.3 + (0.3 + gain + shared + noise) * step / 30 for kind, level in CELLS}
        for step in range(0, 31, 5)
    }
    weight = {"prompts": [10] * 9, "squares": [0, 5, 6, 7, 8, 7, 6, 5, 0]}
    head = {name: getattr(planned, name) for name in ("arm", "family", "seed", "variant")}
    how = {"status": "done", "attempts": 1, "seconds": 200.0, "settings": [], "versions": {}}
    return Result(**head, **how, validation=validation, reward=[0.3 + gain] * 30, weight=weight)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """All main runs; durian is better than all others in the family aligned alone."""
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    for planned in runs.main_runs(comparisons.FAMILIES, ARMS):
        gain = 0.1 if planned.arm == "durian" and planned.family == "aligned" else 0.0
        synthetic(planned, gain).write(tmp_path / f"results/{planned.name}.json")
    (tmp_path / "difficulty.json").write_text(json.dumps(DIFFICULTY))
    return tmp_path / "results"


def test_an_effect_is_found_where_it_is_and_nowhere_else(results, tmp_path):
    text = analyse.analyse(results, tmp_path / "out", tmp_path / "difficulty.json")
    assert "missing or failed: 0." in text
    curves = comparisons.accuracies(runs.read_results(results), comparisons.hardest_cells(DIFFICULTY))
    decided = comparisons.confirmatory(comparisons.metrics(curves, runs.read_results(results))).set_index(
        ["family", "comparison"]
    )
    for comparison in comparisons.CONFIRMATORY:
        name = " - ".join(comparison)
        assert decided.loc[("aligned", name), "verdict"] == "positive"
        assert decided.loc[("aligned", name), "difference"] == pytest.approx(0.1 * 105 / 180, abs=0.01)
        assert decided.loc[("anti", name), "verdict"] == "no relevant difference"
    names = "comparisons.csv curves.png differences.png tables.md weights.png"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names.split()
    found = pd.read_csv(tmp_path / "out/comparisons.csv")
    assert len(found) == (len(ARMS) - 1) * len(comparisons.FAMILIES) * (2 * 2 + 1)


def test_runs_of_the_other_parts_are_shown_and_counted_once_started(results, tmp_path):
    others = [*runs.robustness_runs(comparisons.FAMILIES), *runs.verl_runs()]
    for planned in others[:-1]:
        gain = 0.1 if planned.family == "anti" and planned.variant == "b12" else 0.0
        synthetic(planned, gain).write(results / f"{planned.name}.json")
    text = analyse.analyse(results, tmp_path / "out", tmp_path / "difficulty.json")
    assert "missing or failed: 1." in text and "- verl/aligned/durian: missing seeds 2\n" in text
    assert {"robustness.png", "verl.png"} < {file.name for file in (tmp_path / "out").iterdir()}
    found = pd.read_csv(tmp_path / "out/comparisons.csv").set_index(["variant", "family", "arm"]).sort_index()
    assert set(found.loc[("b12", "anti", "durian"), "seeds"]) == {4}
    means = {}
    for arm in ("durian", "grpo"):
        curves = [json.loads((results / f"main/aligned/{arm}/{seed}.json").read_text()) for seed in (1, 2, 3, 4)]
        means[arm] = np.mean(
            [[list(each["validation"][str(step)].values()) for step in range(5, 31, 5)] for each in curves]
        )
    same = found.loc[(comparisons.SAME_SEEDS, "aligned", "durian")]
    same = same[(same["subset"] == "all") & (same["metric"] == "area")]
    assert same["seeds"].item() == 4 and same["mean"].item() == pytest.approx(means["durian"] - means["grpo"])
    tested = [line for line in text.partition("## Do b and the weights")[2].splitlines() if "variants, " in line]
    assert [line.partition(", p")[0] for line in tested] == [
        "- aligned: 10 variants, 4 seeds",
        "- anti: 10 variants, 4 seeds",
    ]
    drawn = figures.plot_robustness(found.reset_index())
    rows = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert rows[-2:] == ["resampled", comparisons.SAME_SEEDS] and {"b24", "unmatched", "lr2e-05"} < set(rows)
    assert set(found.loc[("resampled", "anti")].index) == {"grpo"}
    assert set(found.loc[("batch16", "anti")].index) == set(found.loc[("verl", "aligned")].index) == {"durian"}


def test_differences_between_arms_are_found_whatever_the_seeds_are():
    of_seeds = np.array([0.1, 0.4, 0.7])
    equal = np.array([[0.01, 0.02, 0.03], [0.02, 0.03, 0.01], [0.03, 0.01, 0.02]])  # each arm has each rank once
    ordered = np.array([[0.01, 0.01, 0.01], [0.02, 0.02, 0.02], [0.03, 0.03, 0.03]])
    tied = np.array([[0.0, 0.0, 0.0], [1e-7, -1e-7, 1e-7], [0.03, 0.03, 0.03]])  # 1e-7: rounding in the result files
    for arms, statistic in ((equal, 0), (ordered, 6), (tied, 6)):
        rows = [("anti", str(arm), seed, arms[arm, seed] + of_seeds[seed]) for arm in range(3) for seed in range(3)]
        line = analyse.friedman(pd.DataFrame(rows, columns=["family", "arm", "seed", "value"]), "arm")
        p = np.exp(-statistic / 2)  # chi-square with 2 degrees of freedom
        assert line == f"- anti: 3 arms, 3 seeds, p = {p:.3f}"


def test_a_variant_with_its_own_baseline_is_never_compared_with_another(results, tmp_path):
    for planned in runs.robustness_runs(comparisons.FAMILIES):
        if planned.arm == "durian":
            synthetic(planned, 0).write(results / f"{planned.name}.json")
    analyse.analyse(results, tmp_path / "out", tmp_path / "difficulty.json")
    found = set(pd.read_csv(tmp_path / "out/comparisons.csv")["variant"])
    assert {"main", "b1", "unmatched", "weights_0.7_0.1_0.2"} < found
    assert not found & {"batch16", "batch64", "lr2e-05", "lr0.0001"}


def test_missing_and_failed_runs_are_named_and_their_seeds_left_out(results, tmp_path):
    (results / "main/anti/mad/3.json").unlink()
    failed = runs.read_results(results)[0]
    failed = replace(failed, arm="durian", family="aligned", seed=5, status="failed", error="ValueError: bad\nmore")
    failed = replace(failed, attempts=2, validation={}, reward=[], weight={})
    failed.write(results / "main/aligned/durian/5.json")
    text = analyse.analyse(results, tmp_path / "out", tmp_path / "difficulty.json")
    assert "missing or failed: 2." in text
    assert "- main/anti/mad: missing seeds 3\n" in text
    assert "- main/aligned/durian/5: failed 2 times: ValueError: bad\n" in text
    found = pd.read_csv(tmp_path / "out/comparisons.csv").set_index(["family", "arm"])
    assert set(found.loc[("anti", "mad"), "seeds"]) == set(found.loc[("aligned", "durian"), "seeds"]) == {7}
    assert set(found.loc[("anti", "durian"), "seeds"]) == {8}


def test_the_documentation_has_the_tables_of_the_published_results(tmp_path):
    text = analyse.analyse(runs.RESULTS, tmp_path)
    assert (ROOT / "docs/evidence-tables.md").read_text() == text
    page = (ROOT / "docs/evidence.md").read_text()
    found = runs.read_results(runs.RESULTS)
    curves = comparisons.accuracies(found, comparisons.hardest_cells(json.loads(comparisons.DIFFICULTY.read_text())))
    decided = comparisons.confirmatory(comparisons.metrics(curves, found))
    assert len(decided) == 6
    for row in decided.itertuples():
        first, second = row.comparison.split(" - ")
        difference, low, high = (f"{100 * value:+.2f}" for value in (row.difference, row.low, row.high))
        cells = f"`{row.family}`", f"`{first}` - `{second}`", difference, f"{low} to {high}", f"{row.positive} of 8"
        assert f"| {' | '.join(cells)} | {row.p_corrected:.2f} | {row.verdict} |" in page


def test_one_seed_of_two_arms_is_analysed(tmp_path):
    for planned in runs.main_runs(["anti"], ["grpo", "durian"], 1):
        synthetic(planned, 0).write(tmp_path / f"results/{planned.name}.json")
    (tmp_path / "difficulty.json").write_text(json.dumps(DIFFICULTY))
    text = analyse.analyse(tmp_path / "results", tmp_path / "out", tmp_path / "difficulty.json")
    assert "| anti | durian - grpo |" in text and "| - | - |" in text and "| incomplete |" in text
    assert "nan" not in text


def test_without_a_result_the_analysis_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "recipes/evidence/analyse.py", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 1 and "no run has ended" in done.stderr


def test_hardest_third_are_the_cells_with_the_lowest_pass_rate():
    assert comparisons.hardest_cells(DIFFICULTY)["anti"] == ["hop_high", "hop_medium", "hop_low", "count_high"]


def test_runs_of_a_seed_come_together_and_names_are_unique():
    planned = runs.main_runs(comparisons.FAMILIES, ARMS) + runs.robustness_runs(comparisons.FAMILIES)
    assert len({each.name for each in planned}) == len(planned)
    assert [each.seed for each in planned[: 2 * len(ARMS)]] == [1] * 2 * len(ARMS)
    for planned_run in runs.verl_runs():
        settings = in_verl.command(planned_run, Path("data"), Path("model"), Path("out"))[0]
        keys = [setting.partition("=")[0].lstrip("+") for setting in settings if "=" in setting]
        assert len(keys) == len(set(keys))  # Hydra refuses to add a key twice


def write_run(out: Path, steps: int = runs.STEPS) -> None:
    """Writes what a run leaves: metrics.jsonl and records of two prompts a step, with 1 and 4 correct rollouts."""
    cells = {f"val-core/{kind}_{level}/acc/mean@1": 0.5 for kind, level in CELLS}
    lines = [{"step": 0, "data": cells}]
    for step in range(1, steps + 1):
        data = {"critic/score/mean": 0.25, **(cells if step % runs.TEST_EVERY == 0 else {})}
        lines.append({"step": step, "data": data})
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (out / "records").mkdir(exist_ok=True)
    for step in range(1, steps + 1):
        rewards = [1.0] + [0.0] * 7 + [1.0] * 4 + [0.0] * 4
        columns = {"step": [step] * 16, "uid": ["a"] * 8 + ["b"] * 8, "reward": rewards, "advantage": [0.5] * 16}
        pq.write_table(pa.table(columns), out / f"records/step_{step}.parquet")


def test_what_remains_of_a_run(tmp_path):
    write_run(tmp_path)
    found = in_verl.outcome(tmp_path)
    assert sorted(found["validation"]) == list(range(0, runs.STEPS + 1, runs.TEST_EVERY))
    assert set(found["validation"][0]) == {f"{kind}_{level}" for kind, level in CELLS}
    assert found["reward"] == [0.25] * runs.STEPS
    assert found["weight"]["prompts"] == [0, runs.STEPS, 0, 0, runs.STEPS, 0, 0, 0, 0]
    assert found["weight"]["squares"][1] == runs.STEPS * 8 * 0.25


def test_a_run_that_stops_early_has_no_outcome(tmp_path):
    write_run(tmp_path, steps=7)
    with pytest.raises(ValueError, match=f"7 of {runs.STEPS} steps"):
        in_verl.outcome(tmp_path)


def test_the_queue_repeats_a_failed_run_once_and_continues(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PROCESSES", multiprocessing.get_context("spawn"))
    monkeypatch.setattr(run, "run_process", pretended_run.run_process)
    planned = runs.main_runs(["anti"], ["durian"], 3)
    planned[0:0] = [replace(planned[0], arm="grpo")]
    synthetic(planned[0], 0).write(tmp_path / f"results/{planned[0].name}.json")  # already there
    assert run.work(planned, tmp_path, jobs=2) == 1
    found = {(each.arm, each.seed): each for each in runs.read_results(tmp_path / "results")}
    ended = [(found["durian", seed].status, found["durian", seed].attempts) for seed in (1, 2, 3)]
    assert ended == [("done", 1), ("done", 2), ("failed", 2)]
    assert found["durian", 1].validation == {0: {"read_low": 0.5}}
    assert "exit code 1" in found["durian", 3].error and "no luck" in found["durian", 3].error
    assert run.work(planned, tmp_path, jobs=2) == 0  # nothing is repeated
    assert (tmp_path / "3.tries").read_text() == "xx"


def test_the_sweep_covers_every_factor_and_pairs_with_grpo(tmp_path):
    table = sweep.sweep(seeds=5)
    assert len(table) == sum(map(len, sweep.FACTORS.values())) * len(sweep.NORMALIZERS) * len(sweep.SUBSETS)
    assert (table[table["normalizer"] == "grpo"]["difference"] == 0).all()
    spread = list(sweep.FACTORS["std of the pass rates at the start"])
    for value, settings in sweep.FACTORS["std of the pass rates at the start"].items():
        assert value == pytest.approx(scipy_stats.beta(*settings["beta"]).std())
    assert spread == sorted(spread)
    # The base settings are part of every factor but the correlations.
    base = table[(table["normalizer"] == "durian") & (table["prompts"] == "all prompts")].set_index(["factor", "value"])
    assert base.loc[("rollouts per prompt", 8), "pass_rate"] == base.loc[(base.index[-1][0], 0), "pass_rate"]
    sweep.plot(table).savefig(tmp_path / "sweep.png")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The report of runs: what it computes from records, what is on the page, and what it says about bad input."""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from synthetic_records import write_run, write_training_set
from typer.testing import CliRunner

from verl_durian.cli import app
from verl_durian.report import page as page_module
from verl_durian.report import runs as runs_module
from verl_durian.report.figures import difficulty_bins, verdict
from verl_durian.report.page import write_report
from verl_durian.report.prompts import KINDS, interesting
from verl_durian.report.runs import Run, read_run, read_runs


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two seeds each of grpo and durian, and their training set. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    train_file = write_training_set(folder / "train.parquet")
    for estimator in ("grpo", "durian"):
        for seed in (1, 2):
            name = folder / f"{estimator}_seed{seed}"
            write_run(name, estimator=estimator, seed=seed, train_file=train_file, texts=estimator == "durian")
    return folder


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing SVG takes most of the time of a report."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: file.write('<svg viewBox="0 0 1 1"></svg>'))


def report(tmp_path: Path, *arguments: Path | str) -> tuple[str, list[str]]:
    """The page of some runs, and its notes."""
    notes = write_report([str(argument) for argument in arguments], tmp_path / "page" / "report.html")
    return (tmp_path / "page" / "report.html").read_text(), notes


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, flags=re.DOTALL)
    assert found
    return json.loads(found[1])


def copy_of(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / run.name))


def rewrite(run: Path, change: Any, files: slice = slice(None)) -> Path:
    """Applies a function to the table of every record."""
    for file in sorted((run / "records").glob("step_*"))[files]:
        pq.write_table(change(pq.read_table(file)), file)
    return run


def with_settings(**settings: Any) -> Any:
    """A function that replaces metadata of a record."""

    def change(table: Any) -> Any:
        metadata = json.loads(table.schema.metadata[b"verl_durian"]) | settings
        return table.replace_schema_metadata({"verl_durian": json.dumps(metadata)})

    return change


def test_metrics_from_records_are_those_that_training_logged(four: Path, tmp_path: Path) -> None:
    run = copy_of(four / "durian_seed1", tmp_path)
    logged = runs_module._read_metrics(run / "metrics.jsonl", [])
    (run / "metrics.jsonl").unlink()
    recorded = read_run(run).steps
    of_record = re.compile(r"/(extreme|frac_reward_zero_std|S\d/\w+|threshold_\d+|rank_correlation)$")
    names = [name for name in logged if of_record.search(name)]
    assert len(names) == 2 + 12 + 2 + 11 + 2
    pd.testing.assert_frame_equal(recorded[names], logged[names], check_dtype=False, check_index_type=False)
    assert {f"durian/reasoning/M{group:02}/std" for group in range(1, 13)} <= set(recorded)


def test_page_of_four_runs(four: Path, tmp_path: Path) -> None:
    names = [f"{estimator}_seed{seed}" for estimator in ("grpo", "durian") for seed in (1, 2)]
    page, notes = report(tmp_path, *(four / name for name in names))
    assert notes == []
    assert len(page) < 10_000_000
    assert {run.label for run in read_runs([str(four / name) for name in names])} == {"grpo", "durian"}
    shown = ("durian, 2 runs", "Rollouts of grpo", "Thresholds of confidence", "confidence in nats per token")
    assert all(text in page for text in (*shown, *names))
    assert page.count("<figcaption>") == page.count("<figure>") == page.count("<svg")
    # Nothing is loaded, and the texts of a run are no part of the page's own HTML.
    assert not re.search(r"""(src|href|action)=(["'])(?!#|data:|https://arxiv\.org)""", page)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttp", page.replace("url(#", ""))
    assert page.count("<script") == 2
    assert not re.search(r"\bid=\"(\w+)\".*\bid=\"\1\"", re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))

    files = list((tmp_path / "page" / "report_figures").iterdir())
    assert len(files) == page.count("<svg") == 7 + 2 + 2 + 4 * (5 + 5 + 2 + 2)
    assert max(len(file.name) for file in files) <= 4 + 80 + 4
    for file in files:
        assert ElementTree.parse(file).getroot().tag.endswith("svg")

    data = data_of(page)
    assert {kind for prompt in data["prompts"] for kind in prompt["kinds"]} == set(KINDS)
    assert {prompt["run"] for prompt in data["prompts"]} == set(names)
    assert len(data["prompts"]) <= 240
    for prompt in data["prompts"]:
        assert len(prompt["rollouts"]) == 8
        for _, _, _, _, original, perceptual, reasoning, grpo, durian, trained in prompt["rollouts"]:
            assert 0.1 * original + 0.2 * perceptual + 0.7 * reasoning == pytest.approx(durian, abs=2e-3)
            assert original == grpo and trained == (durian if prompt["run"].startswith("durian") else grpo)
        assert prompt["question"] == f"<image>What is the area of figure {prompt['name']}? Give a number."
        assert prompt["truth"] == prompt["name"]
        assert data["images"][prompt["image"]].startswith("data:image/jpeg;base64,")
        assert any(prompt["answers"]) == prompt["run"].startswith("durian")
        assert [prompt["step"], prompt["passed"]] in prompt["history"] or len(prompt["history"]) == 8


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        ("{0}/grpo_seed1 {0}/grpo_seed2", ["grpo", "grpo"]),
        ("mine={0}/grpo_seed1 mine={0}/durian_seed1", ["mine", "mine"]),
        ("{0}/grpo_seed1 mine={0}/durian_seed1", ["grpo", "mine"]),
        ("{0}/durian_seed1 {1}/durian_seed1", ["durian (num_groups=12)", "durian (num_groups=4)"]),
    ],
)
def test_labels(four: Path, tmp_path: Path, arguments: str, labels: list[str]) -> None:
    rewrite(copy_of(four / "durian_seed1", tmp_path), with_settings(num_groups=4))
    runs = read_runs(arguments.format(four, tmp_path).split())
    assert [run.label for run in runs] == labels
    assert len({run.name for run in runs}) == len(runs)


def test_weight_of_a_prompt(four: Path) -> None:
    prompts = read_run(four / "grpo_seed1").prompts
    weights = prompts.groupby("passed")["weight_grpo"].agg(["min", "max"])
    for solved, weight in ((1, 2.475), (4, 0.935), (7, 2.475), (8, 0)):
        np.testing.assert_allclose(weights.loc[solved / 8], weight, atol=1e-3)
    np.testing.assert_allclose(prompts["weight"], prompts["weight_grpo"], atol=1e-6)


def test_accuracy_by_difficulty() -> None:
    of_step = pd.DataFrame({"key": list("abcdefghij"), "confidence": -np.arange(10.0), "passed": np.arange(10) / 10})
    easier = of_step.assign(passed=of_step["passed"] + [0.1, *[0] * 9], confidence=of_step["confidence"] + 1)
    bins = difficulty_bins(pd.concat([of_step.assign(step=1), easier.assign(step=2)]), "reasoning")
    np.testing.assert_allclose(bins["mean"], [*np.arange(9, 0, -1) / 10, 0.05])
    np.testing.assert_allclose(bins["difficulty"], np.arange(-8.5, 1))  # the confidence in nats, least confident first
    assert set(bins["count"]) == {1} and bins["interval"].isna().all()  # one prompt each, seen twice
    two = pd.DataFrame({"step": 1, "key": range(20), "confidence": np.arange(20) // 2, "passed": [0.0, 1.0] * 10})
    bins = difficulty_bins(two, "reasoning")
    np.testing.assert_allclose(bins["interval"], 12.706 * np.sqrt(0.5) / np.sqrt(2), rtol=1e-4)


def test_interesting_prompts() -> None:
    prompts = pd.DataFrame(
        {
            "key": ["a", "b", "c", "d", "a"],
            "passed": [0.5, 0.125, 0.875, 1.0, 0.5],
            "confidence": [-1.0, -2.0, -0.5, -0.1, -1.0],
            "weight_grpo": [1.0, 2.0, 2.0, 0.0, 1.0],
            "weight_durian": [1.5, 1.0, 3.8, 0.0, 1.2],
        }
    )
    chosen = interesting(prompts, most=4)
    kinds = {(row.Index, row.key): row.kinds for row in chosen.itertuples()}
    assert kinds == {(2, "c"): ["weight raised"], (1, "b"): ["weight lowered", "hardest"], (3, "d"): ["easiest"]}
    assert chosen["mean_passed"].tolist() == [0.875, 0.125, 1.0]
    assert interesting(prompts, most=400)["key"].value_counts()["a"] <= 2


@pytest.mark.parametrize(("meaning", "said"), [(1.0, "means difficulty in this run"), (0.0, "Not shown by this run")])
def test_one_sentence_says_whether_difficulty_means_something(tmp_path: Path, meaning: float, said: str) -> None:
    run = read_run(write_run(tmp_path / "run", meaning=meaning, steps=20))
    for axis in ("perceptual", "reasoning"):
        assert said in verdict(run, axis)


def recurring(effect: float, prompts: int = 100, steps: int = 20, seed: int = 0) -> Run:
    """A run whose prompts recur, with accuracies that depend on the prompt, and on its visual entropy with a factor."""
    random = np.random.default_rng(seed)
    key = np.concatenate([random.choice(prompts, prompts // 2, replace=False) for _ in range(steps)])
    entropy, ease = random.normal(size=(2, prompts))
    passed = ease[key] - effect * entropy[key] + 0.3 * random.normal(size=len(key))
    step = np.repeat(np.arange(steps), prompts // 2)
    rows = pd.DataFrame({"step": step, "key": key, "visual_entropy": entropy[key], "confidence": np.nan})
    return Run("run", Path("run"), prompts=rows.assign(passed=passed))


def interval(sentence: str) -> list[float]:
    return [float(each) for each in re.findall(r"[-+]\d\.\d\d", sentence)[1:]]


def test_recurring_prompts_count_once() -> None:
    intervals = [interval(verdict(recurring(0, seed=seed), "perceptual")) for seed in range(200)]
    assert 0.9 <= np.mean([low <= 0 <= high for low, high in intervals]) <= 0.99


@pytest.mark.parametrize(
    ("effect", "prompts", "said"),
    [
        (1.0, 100, "Visual entropy means difficulty in this run"),
        (-1.0, 100, "Visual entropy does not mean difficulty in this run, rather the opposite"),
        (0.0, 100, "Not shown by this run: whether visual entropy means difficulty"),
        (0.0, 2000, "Visual entropy does not mean difficulty in this run, groups are almost random"),
        (1.0, 8, "Too little to say whether visual entropy means difficulty in this run: 8 values"),
    ],
)
def test_verdicts(effect: float, prompts: int, said: str) -> None:
    run = recurring(effect, prompts, seed=2)
    assert said in verdict(run, "perceptual")
    assert verdict(run, "reasoning") == "Not recorded: whether low confidence means difficulty in this run."


def test_metrics_alone(four: Path, tmp_path: Path) -> None:
    run = copy_of(four / "durian_seed1", tmp_path)
    shutil.rmtree(run / "records")
    sentence = verdict(read_run(run), "perceptual")
    steps = read_run(run).steps["durian/perceptual/rank_correlation"]
    assert "Visual entropy means difficulty in this run" in sentence and "12 steps; too narrow" in sentence
    error = 2.201 * steps.std() / np.sqrt(12)
    assert interval(sentence) == pytest.approx([steps.mean() - error, steps.mean() + error], abs=0.006)
    page, notes = report(tmp_path, run)
    assert "No records" in notes[0]
    for text in ("visual entropy: shared std", "Validation: color", "Extreme prompts", "Confidence: rank correlation"):
        assert text in page


def test_records_alone(four: Path, tmp_path: Path) -> None:
    run = copy_of(four / "grpo_seed1", tmp_path)
    (run / "metrics.jsonl").unlink()
    page, notes = report(tmp_path, run)
    assert "no validation curves" in notes[0] and "VERL_FILE_LOGGER_PATH" in notes[0]
    assert "Mean reward of the rollouts" in page and "Validation" not in page


@pytest.mark.parametrize("texts", [True, False])
def test_without_accuracy_rows_images_and_difficulty(four: Path, tmp_path: Path, texts: bool) -> None:
    """A text-only run of another estimator, or one whose dataset names no rows."""
    run = copy_of(four / ("durian_seed1" if texts else "grpo_seed1"), tmp_path)
    absent = ["accuracy", "row", "visual_entropy", "confidence", "advantage_durian"]
    absent += [f"{kind}_{axis}" for axis in ("perceptual", "reasoning") for kind in ("std", "term")]
    absent += ["perceptual_group", "reasoning_group"]
    rewrite(run, lambda table: table.drop_columns(absent))
    (run / "metrics.jsonl").unlink()
    page, notes = report(tmp_path, run)
    for name in ("accuracy", "visual entropy", "confidence"):
        assert any(f"No {name} in the records" in note for note in notes)
    assert any("do not name rows" in note for note in notes)
    assert "Not recorded: whether visual entropy means difficulty" in page
    assert "mean reward" in page and "under grpo" in page and "under durian" not in page.split("</section>")[1][-20000:]
    questions = {prompt["question"] for prompt in data_of(page)["prompts"]}
    assert all("What is the area" in question for question in questions) if texts else questions == {None}


def test_what_is_left_out_is_said(four: Path, tmp_path: Path) -> None:
    run = copy_of(four / "durian_seed1", tmp_path)
    files = sorted((run / "records").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:500])  # truncated
    files[1].write_bytes(b"")
    table = pq.read_table(files[2])
    pq.write_table(table.set_column(0, "step", pa.nulls(len(table), pa.int64())), files[2])
    pq.write_table(pq.read_table(files[3]).slice(0, 0), files[3])
    pq.write_table(pq.read_table(files[4]).replace_schema_metadata({"verl_durian": "[1]"}), files[4])
    (run / "records" / ".step_00000013.parquet.part").write_bytes(b"PAR1")  # still being written
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "data": {"critic/sc')
    older = with_settings(version=0, thresholds=None, weights="x", quantiles=[None], train_files="a/gone.parquet")
    rewrite(run, lambda table: older(table.append_column("new", [[1] * len(table)])), slice(5, None))
    page, notes = report(tmp_path, run, four / "durian_seed2")
    text = "\n".join(notes)
    for part in (
        f"The runs trained on different data (a/gone.parquet; {four.name}/train.parquet)",
        "durian_seed1: Records that cannot be read and were left out: 5 (first: step_00000001.parquet: ",
        "Lines of metrics.jsonl that are no complete entry and were left out: 1 (first: 13)",
        "Records of version 0; this release writes version 1",
        "No questions and images from a/gone.parquet: not found",
    ):
        assert part in text and part in page.replace("&#39;", "'")
    assert "00000013" not in text


def test_notes_on_runs_that_differ(four: Path, tmp_path: Path) -> None:
    running = rewrite(copy_of(four / "grpo_seed2", tmp_path), with_settings(seed=3), slice(2, None))
    for file in sorted((running / "records").iterdir())[5:]:
        file.unlink()
    lines = (running / "metrics.jsonl").read_text().splitlines()[:5]
    (running / "metrics.jsonl").write_text("\n".join(lines))
    page, notes = report(tmp_path, four / "grpo_seed1", running)
    assert notes == [
        "grpo_seed2: The records seem to be of several runs: they differ in seed. Separate them.",
        "grpo_seed2: Steps 1 to 5 only: after them, lines are means of the other runs.",
    ]
    assert "grpo, 2 runs" in page


def test_a_run_counts_once(four: Path) -> None:
    with pytest.raises(ValueError, match="grpo_seed1 is named twice"):
        read_runs([str(four / "grpo_seed1"), f"other={four}/durian_seed1/../grpo_seed1"])


def test_mean_of_validation_sets_needs_all(tmp_path: Path) -> None:
    sets = list("abcdefgh")
    for name in ("all", "one"):
        (tmp_path / name).mkdir()
        data = {f"val-core/{each}/acc/mean@1": 0.5 for each in (sets if name == "all" else sets[:1])}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"step": 1, "data": data}))
    page, notes = report(tmp_path, tmp_path / "all", tmp_path / "one")
    of_mean = page[page.index("Validation: mean of all sets") :].split("</svg>")[0]
    assert ">all<" in of_mean and ">one<" not in of_mean
    assert "all: Validation sets without a figure of their own: g, h." in notes


def test_training_set_that_has_changed(four: Path, tmp_path: Path, blank_figures: None) -> None:
    table = pq.read_table(four / "train.parquet").slice(0, 10).to_pydict()
    table["question"] = table.pop("prompt")
    table["question"][0] = [{"role": "user", "content": "plain"}]
    table["reward_model"] = ["text"] * 10
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    change = with_settings(train_files=[str(tmp_path / "train.parquet")], prompt_key="question")
    page, notes = report(tmp_path, rewrite(copy_of(four / "durian_seed1", tmp_path), change))
    prompts = {prompt["name"]: prompt["question"] for prompt in data_of(page)["prompts"]}
    assert prompts["0"] == "plain" and "figure 1?" in prompts["1"]
    assert any(f"recorded prompt: 1 (first: {tmp_path}/train.parquet:0). Has" in note for note in notes)
    beyond = {name for name in prompts if int(name) >= 10}
    assert any(f"beyond the end of the training set (10 rows): {len(beyond)}." in note for note in notes)


def test_a_large_page_has_no_images(four: Path, tmp_path: Path, blank_figures: None, monkeypatch) -> None:
    monkeypatch.setattr(page_module, "MAX_BYTES", 300_000)
    page, notes = report(tmp_path, four / "durian_seed1")
    assert notes[0].startswith("No images: with them, the page would be above") and "data:image/jpeg" not in page


def test_figures_of_an_earlier_report_are_removed(four: Path, tmp_path: Path, blank_figures: None) -> None:
    folder = tmp_path / "page" / "report_figures"
    report(tmp_path, four / "grpo_seed1", four / "durian_seed1")
    (folder / "mine.svg").touch()
    page, _ = report(tmp_path, four / "grpo_seed1")
    assert len(list(folder.iterdir())) == page.count("<svg") + 1


def test_a_damaged_image_is_counted(tmp_path: Path, blank_figures: None) -> None:
    train_file = write_training_set(tmp_path / "train.parquet")
    table = pq.read_table(train_file).to_pydict()
    table["images"][5] = [{"bytes": b"not an image", "path": None}]
    table["images"][6] = []
    pq.write_table(pa.table(table), train_file)
    page, notes = report(tmp_path, write_run(tmp_path / "run", train_file=train_file))
    assert notes == [f"Images of shown prompts that cannot be read: 1 (first: the bytes of row 5 of {train_file})."]
    images = {prompt["name"]: prompt["image"] for prompt in data_of(page)["prompts"]}
    assert [name for name, image in sorted(images.items()) if image is None] == ["5", "6"]


def test_many_records_are_thinned(four: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "MAX_RECORDS", 4)
    run = read_run(four / "grpo_seed1")
    assert list(run.records) == [1, 5, 8, 12]
    assert "12 records: 4 of them were read, evenly spaced." in run.notes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such file or folder"),
        (lambda folder: folder.mkdir(), "neither metrics.jsonl nor step_*.parquet"),
        (lambda folder: [write_run(folder / name, steps=1) for name in "ab"], "Runs in it: a, b"),
        (
            lambda folder: [write_run(folder, steps=1), shutil.copytree(folder / "records", folder / "more")],
            "the records of several runs: name them one by one",
        ),
        (
            lambda folder: [folder.mkdir(), (folder / "metrics.jsonl").write_text("{")],
            "nothing to report yet: no complete step with metrics of training\n  Lines of metrics.jsonl that",
        ),
        (
            lambda folder: [folder.mkdir(), (folder / "step_1.parquet").write_bytes(b"PAR1")],
            "nothing to report yet: no complete step with metrics of training\n  Records that cannot be read",
        ),
        (
            lambda folder: [
                write_run(folder, steps=1, metrics=False),
                rewrite(folder, lambda table: table.drop_columns(["reward"])),
            ],
            "no column 'reward'",
        ),
    ],
)
def test_bad_input(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "run")
    result = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--output", str(tmp_path / "report.html")])
    assert result.exit_code == 2
    assert message in result.stderr and str(tmp_path / "run") in result.stderr
    assert not (tmp_path / "report.html").exists()


def test_command(four: Path, tmp_path: Path) -> None:
    output = tmp_path / "a page.html"
    result = CliRunner().invoke(app, ["report", str(four / "grpo_seed1" / "metrics.jsonl"), "--output", str(output)])
    assert result.exit_code == 0
    assert f"report:  {output}" in result.stdout and "a page_figures" in result.stdout
    assert output.exists()


def test_hostile_names_and_values(tmp_path: Path) -> None:
    run = tmp_path / "<b>$x$_{"
    run.mkdir()
    lines = [
        {"step": step, "data": {"val-core/<i>&/acc/mean@1": 0.1, "critic/score/mean": None if step % 2 else np.pi}}
        for step in range(1, 500)
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page, _ = report(tmp_path, run)
    assert "<b>" not in page and "<i>" not in page and "&lt;b&gt;$x$_{" in page

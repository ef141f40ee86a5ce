# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""`verl-durian simulate`: normalizers by hand, against the estimator and verl; weights; trainings; bad input."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import compute_durian_outcome_advantage, durian_advantages
from verl_durian.cli import app
from verl_durian.simulate.normalizers import NAMES, RIVALS, durian
from verl_durian.simulate.prompts import difficulty_signal, draw_pass_rates
from verl_durian.simulate.training import PROMPTS, Settings, curve_table, learning_curves
from verl_durian.simulate.weights import recorded_batches, simulated_batches, weights_by_pass_rate


def options(weights=(0.1, 0.2, 0.7), num_groups=12, quantiles=(0.25, 0.75)) -> DurianConfig:
    names = dict(zip(("original", "perceptual", "reasoning"), weights, strict=True))
    perceptual, reasoning = {"quantiles": list(quantiles)}, {"num_groups": num_groups}
    return DurianConfig.from_algorithm({"durian": {"weights": names, "perceptual": perceptual, "reasoning": reasoning}})


def rollouts_of(batches: int, prompts: int, seed: int = 0, filter_groups: bool = False):
    """Rewards, prompt and batch of rollouts, 5 of each prompt; visual entropy and confidence of each prompt."""
    random = np.random.default_rng(seed)
    rewards = random.binomial(1, random.random((batches, prompts, 1)), (batches, prompts, 5)).astype(np.float64)
    kept = rewards.min(-1, keepdims=True) < rewards.max(-1, keepdims=True) if filter_groups else rewards >= 0
    batch, prompt, _ = np.broadcast_to(kept, rewards.shape).nonzero()
    signals = (torch.from_numpy(random.normal(size=(batches, prompts))) for _ in range(2))
    rewards = rewards[np.broadcast_to(kept, rewards.shape)]
    return *map(torch.from_numpy, (rewards, batch * prompts + prompt, batch)), *signals


def test_hand_computed_normalizers():
    # Two batches. Batch 0 has the prompts 1, 1, 1, 0 and 1, 0, 0, 0; batch 1 has 1, 1 and 0, 1.
    rewards = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1]).double()
    prompt = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3])
    batch = torch.tensor([0] * 8 + [1] * 4)
    centred = [0.25, 0.25, 0.25, -0.75, 0.75, -0.25, -0.25, -0.25, 0, 0, -0.5, 0.5]
    scales = {
        "grpo": [0.5] * 10 + [math.sqrt(0.5)] * 2,
        "dr_grpo": [1.0] * 12,
        "batch_std": [math.sqrt(2 / 7)] * 8 + [math.sqrt(0.75 / 3)] * 4,
        "mad": [0.375] * 10 + [0.5] * 2,
    }
    assert [*RIVALS, "durian"] == list(NAMES)
    for name, scale in scales.items():
        expected = [above / each for above, each in zip(centred, scale, strict=True)]
        assert RIVALS[name](rewards, prompt, batch).tolist() == pytest.approx(expected, abs=1e-5), name


@pytest.mark.parametrize("filter_groups", [False, True])
@pytest.mark.parametrize("prompts", [1, 13])
@pytest.mark.parametrize(
    "config",
    [options(), options(num_groups=4), options(quantiles=(0.1, 0.2, 0.9)), options((0, 1, 0)), options((0, 0, 1), 1)],
)
def test_batches_at_once_are_those_of_the_estimator_one_by_one(config, prompts, filter_groups):
    rewards, prompt, batch, entropy, confidence = rollouts_of(6, prompts, prompts, filter_groups)
    found = durian(rewards, prompt, entropy, confidence, config)
    for number in batch.unique():
        rows = batch == number
        signals = entropy.flatten()[prompt[rows]], confidence.flatten()[prompt[rows]]
        expected = durian_advantages(rewards[rows], prompt[rows].numpy(), *signals, config).advantage
        assert torch.allclose(found[rows], expected, atol=1e-9)
        if config == options((0, 0, 1), 1):
            assert torch.allclose(RIVALS["batch_std"](rewards, prompt, batch)[rows], expected, atol=1e-9)


@pytest.mark.parametrize("correlation", [-1.0, -0.2, 0.5])
def test_signals_have_the_correlation_whatever_the_spread_of_pass_rates(correlation):
    random = np.random.default_rng(0)
    pass_rate = draw_pass_rates(random, (0.5, 0.4), 20_000)
    signal = difficulty_signal(pass_rate, correlation, torch.from_numpy(random.normal(size=20_000)))
    spearman = pd.Series(signal.numpy()).corr(pd.Series(pass_rate.numpy()), method="spearman")
    assert spearman == pytest.approx(6 / math.pi * math.asin(correlation / 2), abs=0.03)
    assert signal.std() == pytest.approx(1, abs=0.02)


def batch_of(rewards: dict[str, list[float]], **columns) -> pd.DataFrame:
    rows = [(uid, reward) for uid, of_prompt in rewards.items() for reward in of_prompt]
    rows = pd.DataFrame(rows, columns=["uid", "reward"]).astype({"reward": float})
    return rows.assign(**{"accuracy": rows["reward"], "visual_entropy": 1.0, "confidence": -1.0, **columns})


def test_hand_computed_weights():
    # a: 1/4, b and c: 2/4, d: never solved, e: a single rollout. One group, so the std of 17 rewards, 6 of them 1.
    batch = batch_of({"a": [1, 0, 0, 0], "b": [1, 1, 0, 0], "c": [1, 0, 1, 0], "d": [0, 0, 0, 0], "e": [1]})
    config = options((0, 1, 0))
    table = weights_by_pass_rate([(batch, config)], ["durian", "grpo"]).set_index(["normalizer", "pass_rate"])
    assert list(table.index) == [(name, rate) for name in ("durian", "grpo") for rate in (0, 0.25, 0.5)]
    assert table["prompts"].tolist() == pytest.approx([0.25, 0.25, 0.5] * 2)
    std = math.sqrt(6 * 11 / 17 / 16)
    assert table["largest"].tolist() == pytest.approx([0, 0.75 / std, 0.5 / std, 0, 1.5, math.sqrt(0.75)], abs=1e-5)
    # Sums of squares: a 0.75, b and c 1, d 0 under a shared std; 3 for each of a, b and c under GRPO.
    mean = (0.75 + 1 + 1) / 4
    assert table["relative"].tolist() == pytest.approx([0, 0.75 / mean, 1 / mean, 0, 4 / 3, 4 / 3], abs=1e-5)
    filtered = weights_by_pass_rate([(batch, config)], ["grpo"], filter_groups=True)
    assert filtered["relative"].tolist() == pytest.approx([1, 1], abs=1e-5)


def test_weights_of_durian_are_those_of_the_estimator_in_verl():
    ((rows, config),) = simulated_batches(1, 64, 8, (0.5, 0.4), -0.2, 0.5, options(num_groups=4), seed=1)
    of_verl, _ = compute_durian_outcome_advantage(
        torch.from_numpy(rows["reward"].to_numpy(copy=True)).unsqueeze(-1),
        torch.ones(len(rows), 1),
        rows["uid"].to_numpy(),
        config={"durian": {"reasoning": {"num_groups": 4}}},
        non_tensor_batch={"visual_entropy": rows["visual_entropy"].to_numpy(copy=True)},
        batch={"old_log_probs": torch.from_numpy(rows["confidence"].to_numpy(copy=True)).unsqueeze(-1)},
    )
    largest = pd.Series(of_verl.squeeze(-1).abs()).groupby(rows["uid"]).max()
    expected = largest.groupby(rows.groupby("uid")["reward"].mean()).mean()
    table = weights_by_pass_rate([(rows, config)], ["durian"])
    assert table["largest"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


RUN = {
    "version": 1,
    "estimator": "grpo",
    "weights": {"original": 0.5, "perceptual": 0.25, "reasoning": 0.25},
    "num_groups": 2,
    "quantiles": [0.25, 0.75],
    "epsilon": 1e-6,
    "thresholds": {"perceptual": [-0.5, 0.5], "reasoning": [0.0]},
}


def record(file, rows: pd.DataFrame, **changes) -> None:
    """Writes a file of `algorithm.durian.record`; NaN becomes null."""
    table = pa.Table.from_pandas(rows.assign(step=1, advantage=0.0), preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"verl_durian": json.dumps({**RUN, **changes})}), file)


def test_records_are_read_with_the_options_of_the_run(tmp_path):
    steps = [rows.astype({"uid": str}) for rows, _ in simulated_batches(2, 16, 8, (1, 1), 0, 0, options(), seed=2)]
    for number, rows in enumerate(steps):
        record(tmp_path / f"step_{number:08}.parquet", rows.assign(accuracy=math.nan))
    batches = list(recorded_batches(tmp_path, {}, []))
    for (rows, config), expected in zip(batches, steps, strict=True):
        pd.testing.assert_frame_equal(rows, expected)
        assert (config.weights.original, config.reasoning.num_groups) == (0.5, 2)
        assert config.perceptual.thresholds == [-0.5, 0.5]
    ((_, config), _) = recorded_batches(tmp_path, {"reasoning": {"num_groups": 5}}, [])
    assert (config.weights.original, config.reasoning.num_groups) == (0.5, 5)


def test_each_update_of_a_step_is_a_batch(tmp_path):
    rows = pd.concat([batch_of({"a": [1, 0]}), batch_of({"a": [1, 1], "b": [0, 1]})])
    record(tmp_path / "step_1.parquet", rows.assign(update=[0, 0, 1, 1, 1, 1]))
    assert [len(of_update) for of_update, _ in recorded_batches(tmp_path, {}, [])] == [2, 4]


def test_without_images_and_confidence_durian_is_grpo(tmp_path, caplog):
    rows = batch_of({"a": [1, 0, 0, 0], "b": [1, 1, 0, 0]}, visual_entropy=math.nan, confidence=math.nan)
    record(tmp_path / "step_1.parquet", rows, thresholds={})
    table = weights_by_pass_rate(recorded_batches(tmp_path, {}, []), ["grpo", "durian"])
    grpo, of_durian = (table[table["normalizer"] == name]["largest"].tolist() for name in ("grpo", "durian"))
    assert of_durian == pytest.approx(grpo)
    assert "has no visual entropy" in caplog.text


@pytest.mark.parametrize(
    ("changes", "rewards", "message"),
    [
        ({"weights": None}, [1, 0], "algorithm.durian"),
        ({}, [2, -1], "step_1.parquet: rewards outside [0, 1] are no pass rate: return `acc`"),
        ({}, [1, 1], "the rewards of each prompt are equal"),
        ({"weights": {"original": -1.0}}, [1, 0], "algorithm.durian.weights.original=-1.0: must be a finite number"),
    ],
)
def test_records_that_cannot_be_used_are_named(tmp_path, changes, rewards, message):
    record(tmp_path / "step_1.parquet", batch_of({"a": rewards}), **changes)
    result = CliRunner().invoke(app, ["simulate", "weights", "--records", str(tmp_path)])
    assert result.exit_code == 2 and message in result.output


def test_missing_and_truncated_records_are_named(tmp_path):
    def weights_of(path):
        return CliRunner().invoke(app, ["simulate", "weights", "--records", str(path)])

    records = tmp_path / "run" / "records"
    records.mkdir(parents=True)
    for number in (1, 2, 3, 4):
        record(records / f"step_{number}.parquet", batch_of({"a": [1, 0]}), version=min(number, 2))
    file = records / "step_1.parquet"
    file.write_bytes(file.read_bytes()[:200])
    pq.write_table(pq.read_table(records / "step_3.parquet").slice(0, 0), records / "step_3.parquet")
    result = weights_of(records.parent)
    assert result.exit_code == 0 and result.output == weights_of(records).output
    assert "Records that cannot be read and were left out: 2 (first: step_1.parquet: " in result.output
    assert "Records of version 2; this release writes version 1" in result.output

    pq.write_table(pq.read_table(records / "step_2.parquet").replace_schema_metadata(None), records / "step_2.parquet")
    assert "step_2.parquet: no epsilon in its metadata" in weights_of(records).output
    for number in (2, 3, 4):
        pq.write_table(pa.table({"uid": ["a"]}), records / f"step_{number}.parquet")
    result = weights_of(records)
    assert result.exit_code == 2 and "Records that cannot be read and were left out: 4 (first: step_1" in result.output
    assert "no such file or folder" in weights_of(tmp_path / "none").output


def test_hand_computed_step():
    # One prompt of two answers, W = 0: log odds l change by 2 * learning_rate * p (1 - p) under Dr.GRPO, as x^T x = 1.
    settings = Settings(
        seeds=2, prompts=1, batch=1, rollouts=200_000, answers=2, steps=1, learning_rate=1.5, match_rms=False
    )
    before, after = learning_curves("dr_grpo", settings)[:, :, 0].double().T
    assert (after.logit() - before.logit()).tolist() == pytest.approx((3 * before * (1 - before)).tolist(), abs=0.01)


SMALL = {"seeds": 20, "prompts": 12, "batch": 8, "steps": 15}


def test_trainings_share_their_start_and_learn():
    curves = {name: learning_curves(name, Settings(**SMALL)) for name in NAMES}
    for name, curve in curves.items():
        assert curve.shape == (20, 16, len(PROMPTS))
        assert torch.equal(curve[:, 0], curves["grpo"][:, 0])
        every, hardest, middle, easiest = curve.mean(dim=0).T
        assert every[-1] > every[0] + 0.1 and hardest[0] < middle[0] < easiest[0]
        assert torch.allclose(every, (hardest + middle + easiest) / 3, atol=1e-5)
        assert torch.equal(learning_curves(name, Settings(**SMALL)), curve)
    assert torch.allclose(curves["dr_grpo"], curves["batch_std"], atol=1e-3)  # a factor for each batch, if not matched
    assert not torch.allclose(curves["dr_grpo"], curves["grpo"], atol=1e-3)


@pytest.mark.parametrize("change", [{}, {"filter_groups": True}, {"match_rms": False}, {"noise": 2.0}])
def test_durian_with_only_its_first_term_trains_as_grpo(change):
    settings = Settings(**SMALL, **change, durian=options((1, 0, 0)))
    assert torch.allclose(learning_curves("durian", settings), learning_curves("grpo", settings), atol=1e-4)


def test_hand_computed_curve_table():
    curves = {"grpo": torch.tensor([0.2, 0.4]).view(2, 1, 1), "durian": torch.tensor([0.5, 0.5]).view(2, 1, 1)}
    table = curve_table({name: curve.expand(2, 3, 4) for name, curve in curves.items()})
    assert len(table) == 2 * 3 * 4
    first, last = table.iloc[0], table.iloc[-1]
    interval = 1.96 * math.sqrt(0.02) / math.sqrt(2)  # squares of deviations sum to 0.02, for 2 seeds
    assert (first["step"], first["prompts"], last["step"], last["prompts"]) == (0, PROMPTS[0], 2, PROMPTS[-1])
    assert first[["pass_rate", "pass_rate_interval", "difference"]].tolist() == pytest.approx([0.3, interval, 0])
    assert last[["pass_rate", "pass_rate_interval"]].tolist() == pytest.approx([0.5, 0])
    assert last[["difference", "difference_interval"]].tolist() == pytest.approx([0.2, interval])


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("weights", "weights --batches 2 --prompts 40 --rollouts 4", 5 * 5),
        ("curves", "train --seeds 10 --steps 3 --normalizers grpo,durian --weights 0 1 0", 2 * 4 * 4),
    ],
)
def test_command_writes_figure_and_table(tmp_path, name, arguments, rows):
    result = CliRunner().invoke(app, ["simulate", *arguments.split(), "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "GRPO" in result.output and "Durian" in result.output
    assert f"numbers: {tmp_path}/{name}.csv" in result.output
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{name}.csv", f"{name}.png", f"{name}.svg"]
    table = pd.read_csv(tmp_path / f"{name}.csv")
    assert len(table) == rows and not table.isna().any(axis=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["weights", "--normalizers", "grpo,rloo"], "--normalizers rloo: must be one or several of grpo,dr_grpo"),
        (["weights", "--beta", "0", "1"], "--beta 0.0 1.0: both numbers must be > 0"),
        (["weights", "--beta", "nan", "1"], "--beta nan: must be a finite number"),
        (["weights", "--records", "."], "no step_*.parquet in it"),
        (["weights", "--records", ".", "--beta", "1", "1"], "--beta only applies to drawn prompts: leave it out with"),
        (["weights", "--output", "/proc/x"], "--output /proc/x: cannot create the folder"),
        (["train", "--learning-rate", "inf"], "--learning-rate inf: must be a finite number"),
        (["train", "--batch", "65"], "--batch 65 exceeds --prompts 64"),
        (["train", "--weights", "0", "0", "0"], "original, perceptual and reasoning are all 0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    result = CliRunner().invoke(app, ["simulate", *arguments])
    assert result.exit_code == 2 and message in result.output

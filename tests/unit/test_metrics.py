# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics of a batch that was counted by hand."""

import math

import numpy as np
import pytest
import torch

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import durian_advantages
from verl_durian.algo.metrics import durian_metrics

# Prompt: rewards, H, L. a is extreme (3:1), b balanced, c all equal, d extreme, e without image, with one rollout.
PROMPTS = {
    "a": ([1, 1, 1, 0], 1.0, -1.0),
    "b": ([1, 1, 0, 0], 2.0, -2.0),
    "c": ([1, 1, 1, 1], 3.0, -3.0),
    "d": ([1, 0, 0, 0], 4.0, -4.0),
    "e": ([1], math.nan, -5.0),
}


def metrics_of(prompts: dict, **options) -> dict[str, float]:
    rows = [(uid, reward, h, level) for uid, (rewards, h, level) in prompts.items() for reward in rewards]
    uids, rewards, entropy, levels = zip(*rows, strict=True)
    as_tensor = [torch.tensor(values, dtype=torch.float64) for values in (rewards, entropy, levels)]
    config = DurianConfig.from_algorithm({"durian": options})
    return durian_metrics(durian_advantages(as_tensor[0], np.array(uids), as_tensor[1], as_tensor[2], config))


def test_prompts():
    metrics = metrics_of(PROMPTS)
    assert metrics["durian/prompts/num"] == 5
    assert metrics["durian/prompts/frac_reward_zero_std"] == 1 / 4  # c, of the four with several rollouts
    assert metrics["durian/prompts/extreme"] == pytest.approx(2 / 3)  # a and d, of a, b and d
    assert metrics["durian/rows_without_image"] == pytest.approx(1 / 17)
    of_two = {"a": ([1, 0], 1.0, -1.0), "b": ([1, 1, 0], 2.0, -2.0), "c": ([1, 1, 0, 0], 3.0, -3.0)}
    assert metrics_of(of_two)["durian/prompts/extreme"] == pytest.approx(1 / 2)  # b, of b and c


def test_perceptual_groups():
    metrics = metrics_of(PROMPTS)  # t25 = 1.75, t75 = 3.25: S1 = {a}, S2 = {b, c}, S3 = {d}
    assert metrics["durian/perceptual/threshold_1"] == 1.75 and metrics["durian/perceptual/threshold_2"] == 3.25
    assert [metrics[f"durian/perceptual/S{k}/size"] for k in (1, 2, 3)] == [1, 2, 1]
    assert [metrics[f"durian/perceptual/S{k}/mean_reward"] for k in (1, 2, 3)] == [0.75, 0.75, 0.25]
    assert metrics["durian/perceptual/S1/std"] == pytest.approx(0.5)
    assert metrics["durian/perceptual/S2/std"] == pytest.approx(math.sqrt((6 * 0.0625 + 2 * 0.5625) / 7))
    only_perceptual = metrics_of(PROMPTS, weights={"original": 0, "perceptual": 1, "reasoning": 0})
    # a: |A| = 0.25 / 0.5 three times, 0.75 / 0.5 once
    assert only_perceptual["durian/perceptual/S1/mean_abs_advantage"] == pytest.approx(0.75, abs=1e-5)


def test_given_thresholds_are_reported_whatever_the_batch_contains():
    text = {uid: (rewards, math.nan, level) for uid, (rewards, _, level) in PROMPTS.items()}
    for prompts, sizes in ((PROMPTS, [0, 0, 4]), (text, [0, 0, 0])):
        metrics = metrics_of(prompts, perceptual={"thresholds": [0.25, 0.5]})
        assert metrics["durian/perceptual/threshold_1"] == 0.25 and metrics["durian/perceptual/threshold_2"] == 0.5
        assert [metrics[f"durian/perceptual/S{k}/size"] for k in (1, 2, 3)] == sizes
        assert "durian/perceptual/S1/std" not in metrics and "durian/perceptual/threshold_3" not in metrics
    assert metrics["durian/rows_without_image"] == 1 and all(math.isfinite(value) for value in metrics.values())


def test_reasoning_groups():
    metrics = metrics_of(PROMPTS, reasoning={"num_groups": 5})  # one prompt each
    stds = sorted([0.5, math.sqrt(1 / 3), 0.0, 0.5, 0.0])
    assert metrics["durian/reasoning/groups"] == 5
    found = [metrics[f"durian/reasoning/std_{which}"] for which in ("min", "median", "max")]
    assert found == pytest.approx([stds[0], stds[2], stds[4]])
    assert metrics["durian/reasoning/threshold_1"] == pytest.approx(-4.2)
    assert "durian/reasoning/threshold_4" in metrics and "durian/reasoning/threshold_5" not in metrics


def test_names_with_numbers_sort_by_number():
    metrics = metrics_of(PROMPTS, perceptual={"thresholds": list(range(10))}, reasoning={"num_groups": 10})
    assert {f"durian/perceptual/{name}" for name in ("S01/size", "S11/size", "threshold_10")} <= set(metrics)
    thresholds = [name for name in metrics if name.startswith("durian/reasoning/threshold_")]
    assert thresholds == [f"durian/reasoning/threshold_0{number}" for number in range(1, 10)]


def test_rank_correlation_is_with_the_accuracy_where_there_is_one():
    prompts = {uid: ([1] * (4 - k) + [0] * k, float(k**3), -float(k**3)) for k, uid in enumerate("abcd")}
    metrics = metrics_of(prompts)
    assert metrics["durian/perceptual/rank_correlation"] == pytest.approx(-1)
    assert metrics["durian/reasoning/rank_correlation"] == pytest.approx(-1)
    rewards, levels = torch.tensor([1.0, 0.0, 0.5, 0.5]).double(), torch.tensor([-1.0, -1.0, -2.0, -2.0]).double()
    found = durian_advantages(rewards, np.array(["a", "a", "b", "b"]), levels + 3, levels, DurianConfig())
    assert "durian/reasoning/rank_correlation" not in durian_metrics(found)  # mean rewards are equal
    metrics = durian_metrics(found, accuracy=torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert metrics["durian/reasoning/rank_correlation"] == pytest.approx(-1)
    assert metrics["durian/perceptual/rank_correlation"] == pytest.approx(1)


def test_what_is_not_defined_is_left_out():
    metrics = metrics_of({"a": ([1, 1], 1.0, -1.0), "b": ([1, 1], 1.0, -1.0)})
    assert metrics["durian/prompts/frac_reward_zero_std"] == 1 and metrics["durian/perceptual/S3/size"] == 0
    for name in ("prompts/extreme", "perceptual/rank_correlation", "perceptual/S3/std", "reasoning/rank_correlation"):
        assert f"durian/{name}" not in metrics


def test_an_axis_of_weight_zero_has_no_metrics():
    rewards = torch.tensor([1.0, 0.0], dtype=torch.float64)
    config = DurianConfig.from_algorithm({"durian": {"weights": {"original": 1, "perceptual": 0, "reasoning": 0}}})
    metrics = durian_metrics(durian_advantages(rewards, np.array(["a", "a"]), None, None, config))
    assert set(metrics) == {"durian/prompts/num", "durian/prompts/frac_reward_zero_std", "durian/accuracy_is_reward"}

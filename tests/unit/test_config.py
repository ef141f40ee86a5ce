# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Options under ``algorithm.durian``: what is read, what is refused, and that verl's command line can set them."""

import advantage_step
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.groups import perceptual_thresholds

THRESHOLDS = ["must be batch, dataset or a list of finite numbers in ascending order"]


@pytest.mark.parametrize("algorithm", [None, {}, {"durian": None}, {"durian": {}}, OmegaConf.create({"gamma": 1.0})])
def test_absent_options_are_the_defaults(algorithm):
    assert DurianConfig.from_algorithm(algorithm) == DurianConfig()


def test_verls_command_line_sets_them():
    config = advantage_step.compose(
        "algorithm.adv_estimator=durian",
        "+algorithm.durian.reasoning.num_groups=16",
        "+algorithm.durian.reasoning.confidence=sum",
        "+algorithm.durian.perceptual.quantiles=[0.5]",
        "+algorithm.durian.perceptual.thresholds=[1,2.5]",
        "+algorithm.durian.perceptual.score_workers=null",
        "+algorithm.durian.weights.perceptual=0",
    )
    options = DurianConfig.from_algorithm(config.algorithm)
    assert options.reasoning.num_groups == 16 and options.reasoning.confidence == "sum"
    assert options.perceptual.quantiles == [0.5] and options.perceptual.thresholds == [1, 2.5]
    assert (options.weights.original, options.weights.perceptual, options.weights.reasoning) == (0.1, 0.0, 0.7)


def test_interpolations_are_resolved():
    config = advantage_step.compose("+groups=16", "+algorithm.durian.reasoning.num_groups=${groups}")
    assert DurianConfig.from_algorithm(config.algorithm).reasoning.num_groups == 16
    config = advantage_step.compose("+algorithm.durian.reasoning.num_groups=${no.such.key}")
    with pytest.raises(ValueError, match="no.such.key"):
        DurianConfig.from_algorithm(config.algorithm)


def test_numpy_scalars_are_numbers():
    given = {
        "reasoning": {"num_groups": np.int64(5)},
        "perceptual": {"quantiles": [np.float64(0.25), np.float32(0.5)], "thresholds": [np.int32(1), np.float64(2)]},
        "epsilon": np.float64(1e-5),
    }
    options = DurianConfig.from_algorithm({"durian": given})
    assert options.reasoning.num_groups == 5 and options.epsilon == 1e-5
    assert options.perceptual.quantiles == [0.25, 0.5] and options.perceptual.thresholds == [1, 2]
    values = [*options.perceptual.quantiles, *options.perceptual.thresholds, options.reasoning.num_groups]
    assert {type(value) for value in values} <= {int, float}
    found = perceptual_thresholds(torch.arange(5, dtype=torch.float64), options.perceptual.quantiles)
    assert found.tolist() == [1, 2]


@pytest.mark.parametrize("thresholds", ["batch", "dataset", [], [2], [-1, 0, 2.5]])
def test_thresholds_are_a_word_or_numbers(thresholds):
    algorithm = OmegaConf.create({"durian": {"perceptual": {"thresholds": thresholds}}})
    assert DurianConfig.from_algorithm(algorithm).perceptual.thresholds == thresholds


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("text", ["algorithm.durian='text'", "must be a mapping with the keys weights, perceptual, reasoning"]),
        (
            {"weights": {"original": 10**400}},
            ["algorithm.durian.weights.original=1000", "must be a finite number >= 0"],
        ),
        ({"reasoning": {"num_groups": 10**400}}, ["algorithm.durian.reasoning.num_groups=1000", "an integer"]),
        ({"resoning": {}}, ["algorithm.durian.resoning", "weights, perceptual, reasoning, epsilon"]),
        ({"reasoning": {"groups": 3}}, ["algorithm.durian.reasoning.groups", "num_groups, confidence"]),
        ({"reasoning": {"num_groups": True}}, ["algorithm.durian.reasoning.num_groups=True", "an integer"]),
        ({"reasoning": {"num_groups": 2.5}}, ["algorithm.durian.reasoning.num_groups=2.5", "an integer"]),
        ({"reasoning": {"num_groups": 0}}, ["algorithm.durian.reasoning.num_groups=0", "from 1 to"]),
        ({"reasoning": {"num_groups": 10**9}}, ["num_groups=1000000000", "from 1 to"]),
        ({"reasoning": {"num_groups": "16"}}, ["num_groups='16'", "an integer"]),
        ({"reasoning": {"confidence": 3}}, ["confidence=3", "must be mean or sum"]),
        ({"reasoning": {"confidence": "max"}}, ["algorithm.durian.reasoning.confidence='max'", "must be mean or sum"]),
        ({"perceptual": {"quantiles": 0.5}}, ["algorithm.durian.perceptual.quantiles"]),
        ({"perceptual": {"quantiles": ["low"]}}, ["algorithm.durian.perceptual.quantiles", "a list of numbers"]),
        ({"perceptual": {"quantiles": [0.0, 0.5]}}, ["quantiles=[0.0, 0.5]", "(0, 1)"]),
        ({"perceptual": {"quantiles": [0.5, 1.0]}}, ["quantiles=[0.5, 1.0]", "(0, 1)"]),
        ({"perceptual": {"quantiles": [float("nan")]}}, ["(0, 1)"]),
        ({"perceptual": {"quantiles": [0.7, 0.2]}}, ["quantiles=[0.7, 0.2]", "ascend"]),
        ({"perceptual": {"quantiles": [0.5, 0.5]}}, ["ascend"]),
        ({"perceptual": {"thresholds": "datset"}}, ["algorithm.durian.perceptual.thresholds='datset'", *THRESHOLDS]),
        ({"perceptual": {"thresholds": 1.5}}, ["algorithm.durian.perceptual.thresholds=1.5", *THRESHOLDS]),
        ({"perceptual": {"thresholds": None}}, ["algorithm.durian.perceptual.thresholds=None", *THRESHOLDS]),
        ({"perceptual": {"thresholds": ["low", 2]}}, ["perceptual.thresholds=['low', 2]", *THRESHOLDS]),
        ({"perceptual": {"thresholds": [True]}}, ["perceptual.thresholds=[True]", *THRESHOLDS]),
        ({"perceptual": {"thresholds": [1, float("inf")]}}, ["perceptual.thresholds=[1, inf]", "finite"]),
        ({"perceptual": {"thresholds": [float("nan")]}}, ["perceptual.thresholds=[nan]", "finite"]),
        ({"perceptual": {"thresholds": [2.0, 1.0]}}, ["perceptual.thresholds=[2.0, 1.0]", "ascend"]),
        ({"perceptual": {"key": ""}}, ["algorithm.durian.perceptual.key"]),
        ({"perceptual": {"score_workers": 0}}, ["perceptual.score_workers=0", "an integer >= 1, or null"]),
        ({"perceptual": {"score_workers": 1.5}}, ["perceptual.score_workers=1.5", "an integer >= 1, or null"]),
        ({"perceptual": {"score_workers": True}}, ["perceptual.score_workers=True", "an integer >= 1, or null"]),
        ({"weights": {"original": -0.1}}, ["algorithm.durian.weights.original=-0.1", ">= 0"]),
        ({"weights": {"reasoning": float("inf")}}, ["algorithm.durian.weights.reasoning", "finite"]),
        ({"weights": dict.fromkeys(["original", "perceptual", "reasoning"], 0)}, ["weights", "> 0"]),
        ({"weights": 1}, ["algorithm.durian.weights=1", "mapping"]),
        ({"epsilon": 0}, ["algorithm.durian.epsilon=0", "> 0"]),
        ({"weights": {"original": "???"}}, ["algorithm.durian.weights.original='???'", "a finite number"]),
        ({"epsilon": "1e-6"}, ["algorithm.durian.epsilon='1e-6'", "a finite number > 0"]),
        (3, ["algorithm.durian=3", "mapping"]),
    ],
)
@pytest.mark.parametrize("from_verl", [True, False])
def test_errors_name_key_value_and_what_is_allowed(given, names, from_verl):
    algorithm = {"durian": given}
    with pytest.raises(ValueError) as error:
        DurianConfig.from_algorithm(OmegaConf.create(algorithm) if from_verl else algorithm)
    for name in names:
        assert name in str(error.value)

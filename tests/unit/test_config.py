# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Options under ``algorithm.durian``: what is read, what is rejected, and that verl's command line can set them."""

import advantage_step
import numpy as np
import pytest
from omegaconf import OmegaConf

from verl_durian.algo.config import DurianConfig

WEIGHTS, REASONING = "algorithm.durian.weights", "algorithm.durian.reasoning"
QUANTILES = "a list of numbers in (0, 1), ascending and without duplicates"
THRESHOLDS = "batch, dataset or a list of finite numbers in ascending order"
POSITIVE = "must be a finite number > 0"
SECTIONS = "must be a mapping with the keys weights, perceptual, reasoning, epsilon"
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("algorithm", [None, {}, {"durian": None}, {"durian": {}}, OmegaConf.create({"gamma": 1.0})])
def test_absent_options_are_the_defaults(algorithm):
    assert DurianConfig.from_algorithm(algorithm) == DurianConfig()


def test_verls_command_line_sets_them():
    config = advantage_step.compose(
        "algorithm.adv_estimator=durian",
        "+groups=16",
        "+algorithm.durian.reasoning.num_groups=${groups}",
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
    config.algorithm.durian.reasoning.num_groups = "${no.such.key}"
    with pytest.raises(ValueError, match="no.such.key"):
        DurianConfig.from_algorithm(config.algorithm)


def test_numpy_scalars_are_numbers():
    given = {
        "reasoning": {"num_groups": np.int64(5)},
        "perceptual": {"quantiles": [np.float64(0.25), np.float32(0.5)], "thresholds": [np.int32(1), np.float64(2)]},
    }
    options = DurianConfig.from_algorithm({"durian": given})
    values = [*options.perceptual.quantiles, *options.perceptual.thresholds, options.reasoning.num_groups]
    assert values == [0.25, 0.5, 1, 2, 5] and {type(value) for value in values} <= {int, float}


@pytest.mark.parametrize("thresholds", ["batch", "dataset", [], [2], [-1, 0, 2.5], [1, 1]])
def test_thresholds_are_a_word_or_numbers(thresholds):
    algorithm = OmegaConf.create({"durian": {"perceptual": {"thresholds": thresholds}}})
    assert DurianConfig.from_algorithm(algorithm).perceptual.thresholds == thresholds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, f"algorithm.durian=3: {SECTIONS}"),
        ("text", f"algorithm.durian='text': {SECTIONS}"),
        ({"resoning": {}}, "algorithm.durian.resoning: unknown option. Allowed under algorithm.durian: weights, "),
        ({"reasoning": {"groups": 3}}, f"{REASONING}.groups: unknown option. Allowed under {REASONING}: num_groups, "),
        ({"reasoning": {"num_groups": 10**400}}, f"{REASONING}.num_groups=1000"),
        ({"weights": 1}, f"{WEIGHTS}=1: must be a mapping with the keys original, perceptual, reasoning"),
        ({"weights": {"original": 10**400}}, f"{WEIGHTS}.original=1000"),
        ({"weights": dict.fromkeys(["original", "perceptual", "reasoning"], 0)}, "at least one must be > 0"),
        *(({"epsilon": value}, f"algorithm.durian.epsilon={value!r}: {POSITIVE}") for value in (0, "1e-6")),
        *(
            ({section: {name: value}}, f"algorithm.durian.{section}.{name}={value!r}: must be {allowed}")
            for section, name, allowed, values in (
                ("reasoning", "num_groups", "an integer from 1 to 10000", (True, 2.5, 0, 10**9, "16")),
                ("reasoning", "confidence", "mean or sum", (3, "max")),
                ("perceptual", "quantiles", QUANTILES, (0.5, ["low"], [0.0, 0.5], [1.0], [NAN], [0.7, 0.2], [0.5] * 2)),
                ("perceptual", "thresholds", THRESHOLDS, ("set", 1.5, None, ["low"], [True], [INF], [NAN], [2.0, 1.0])),
                ("perceptual", "key", "the name of a column", ("",)),
                ("perceptual", "score_workers", "an integer >= 1, or null", (0, 1.5, True)),
                ("weights", "original", "a finite number >= 0", (-0.1, INF, "???")),
            )
            for value in values
        ),
    ],
)
@pytest.mark.parametrize("from_verl", [True, False])
def test_errors_name_key_value_and_what_is_allowed(given, message, from_verl):
    algorithm = {"durian": given}
    with pytest.raises(ValueError) as error:
        DurianConfig.from_algorithm(OmegaConf.create(algorithm) if from_verl else algorithm)
    assert message in str(error.value)

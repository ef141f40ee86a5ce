# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics over few paired runs (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264), by scipy.

All functions take one number per seed. On random numbers, interquartile means, probabilities of improvement and
percentile intervals equal those of rliable 1.2.0 (which needs arch 7 and pandas 2); its intervals are not BCa.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 20_000


def iqm(values: ArrayLike, axis: int = -1) -> np.ndarray:
    """The interquartile mean: the mean without the lowest and the highest quarter."""
    return stats.trim_mean(values, 0.25, axis=axis)


def interval(values: ArrayLike, statistic: Callable[..., np.ndarray] = iqm) -> tuple[float, float]:
    """BCa bootstrap interval of a statistic; the value itself twice if all are equal, NaN for less than three."""
    given = np.asarray(values, dtype=float)
    if len(given) < 3:
        return np.nan, np.nan
    if np.ptp(given) == 0:
        return float(given[0]), float(given[0])
    for method in ("BCa", "percentile"):  # BCa is undefined for some distributions; percentiles never are
        found = stats.bootstrap(
            (given,),
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method=method,
            rng=np.random.default_rng(0),
        ).confidence_interval
        if not np.isnan([found.low, found.high]).any():
            break
    return float(found.low), float(found.high)


def sign_flip_p(differences: ArrayLike) -> float:
    """p-value of the exact two-sided sign-flip test of paired differences with mean 0; 1 without any difference.

    With n seeds at least 2 / 2**n. Sums within 1e-5 count as equal: accuracies are rounded to six digits, and one more
    correct answer changes the sum by much more.
    """
    given = np.asarray(differences, dtype=float)
    signs = 1 - 2 * ((np.arange(2 ** len(given))[:, None] >> np.arange(len(given))) & 1)
    sums = np.abs(signs @ given)
    return float(np.mean(sums >= sums[0] - 1e-5))


def holm(p_values: ArrayLike, tests: int) -> np.ndarray:
    """Holm's correction for `tests` planned tests, of which some may be missing."""
    given = np.asarray(p_values, dtype=float)
    corrected = np.empty(len(given))
    largest = 0.0
    for rank, at in enumerate(np.argsort(given)):
        corrected[at] = largest = max(largest, min(1.0, (tests - rank) * given[at]))
    return corrected


def probability_of_improvement(values: ArrayLike, baseline: ArrayLike) -> float:
    """How often a run is better than one of the baseline, over all pairs of seeds; ties count half."""
    difference = np.subtract.outer(np.asarray(values, dtype=float), np.asarray(baseline, dtype=float))
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


@dataclass(frozen=True)
class Comparison:
    """Paired comparison of two arms."""

    seeds: int
    value: float
    """IQM of the first arm."""
    difference: float
    """IQM of the differences, first minus second."""
    low: float
    high: float
    """95 % interval of `difference`."""
    mean: float
    """Mean of the differences."""
    std: float
    """Standard deviation of the differences; NaN for a single seed."""
    positive: int
    """Number of seeds with a positive difference."""
    p: float
    """Sign-flip test of `mean`, not corrected."""
    better: float
    """Probability that the first arm is better."""


def compare(first: dict[int, float], second: dict[int, float]) -> Comparison | None:
    """Compares two arms on the seeds that both have; None without any.

    Args:
        first: Value of each seed.
        second: Value of each seed, of the arm to compare with.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    values, others = (np.array([arm[seed] for seed in seeds]) for arm in (first, second))
    differences = (values - others).round(9)  # so that equal differences are equal in the bootstrap
    return Comparison(
        len(seeds),
        float(iqm(values)),
        float(iqm(differences)),
        *interval(differences),
        float(differences.mean()),
        float(differences.std(ddof=1)) if len(seeds) > 1 else np.nan,
        int((differences > 0).sum()),
        sign_flip_p(differences),
        probability_of_improvement(values, others),
    )

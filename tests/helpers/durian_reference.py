# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's equations as plain loops over float64 numbers, to compare the estimator with."""

import math
from fractions import Fraction

EPS = 1e-6


def std(values: list[float]) -> float:
    """Unbiased std; 0 for one value or equal values."""
    if len(values) < 2 or min(values) == max(values):
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def quantile(values: list[float], q: Fraction) -> Fraction:
    """With linear interpolation, without rounding."""
    ascending = [Fraction(value) for value in sorted(values)]
    rank = q * (len(values) - 1)
    low, high = math.floor(rank), math.ceil(rank)
    return ascending[low] + (rank - low) * (ascending[high] - ascending[low])


def durian(
    rewards, mask, uids, log_probs, entropy, weights, quantiles, num_groups, confidence="mean", thresholds="batch"
):
    """A_{s,i} of each row (Eq. 20), a list of floats; rows with an empty mask get 0."""
    prompts = {}
    for row, uid in enumerate(uids):
        if mask[row].sum() > 0:
            prompts.setdefault(uid, []).append(row)
    score = {row: math.fsum(map(float, rewards[row])) for rows in prompts.values() for row in rows}
    own_std = {uid: std([score[row] for row in rows]) for uid, rows in prompts.items()}

    def shared_std(difficulty, group):
        """The std of all rewards in the group of each prompt; a prompt without a finite difficulty has its own."""
        groups = {uid: group(value) for uid, value in difficulty.items() if math.isfinite(value)}
        pools = {}
        for uid, number in groups.items():
            pools.setdefault(number, []).extend(score[row] for row in prompts[uid])
        return {uid: std(pools[groups[uid]]) if uid in groups else own_std[uid] for uid in prompts}

    visual = {uid: float(entropy[rows[0]]) for uid, rows in prompts.items()}
    seen = [value for value in visual.values() if not math.isnan(value)]
    cuts = thresholds
    if thresholds == "batch":
        cuts = [quantile(seen, Fraction(str(q))) for q in quantiles] if seen else []

    def perceptual_group(h):
        if not cuts or h <= cuts[0]:
            return 0
        if h >= cuts[-1] and h > cuts[-2:][0]:
            return len(cuts)
        return next(k for k, cut in enumerate(cuts) if h <= cut)

    level = {}  # L(Q_s), Eq. 14 and 15
    for uid, rows in prompts.items():
        each = []
        for row in rows:
            tokens = [float(x) for x, m in zip(log_probs[row], mask[row], strict=True) if m]
            tokens = [x if math.isfinite(x) else math.nan for x in tokens]
            each.append(math.fsum(tokens) / (len(tokens) if confidence == "mean" else 1))
        level[uid] = math.fsum(each) / len(each)
    levels = [value for value in level.values() if math.isfinite(value)]
    marks = [quantile(levels, Fraction(k, num_groups)) for k in range(1, num_groups)] if levels else []

    perceptual = shared_std(visual, perceptual_group)
    reasoning = shared_std(level, lambda value: sum(value >= mark for mark in marks))
    result = [0.0] * len(uids)
    for uid, rows in prompts.items():
        of_prompt = [score[row] for row in rows]
        mean = math.fsum(of_prompt) / len(rows)
        for row in rows:
            centred = 0.0 if min(of_prompt) == max(of_prompt) else score[row] - mean
            original = score[row] / (1 + EPS) if len(rows) == 1 else centred / (own_std[uid] + EPS)
            terms = (original, centred / (perceptual[uid] + EPS), centred / (reasoning[uid] + EPS))
            result[row] = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    return result

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's equations as plain loops over float64 numbers, to compare the estimator with."""

import math
from fractions import Fraction


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
    rewards,
    mask,
    uids,
    log_probs,
    entropy,
    weights,
    quantiles,
    num_groups,
    confidence="mean",
    thresholds="batch",
    eps=1e-6,
):
    """A_{s,i} of each row (Eq. 20), a list of floats; rows with an empty mask get 0."""
    rows = [row for row in range(len(uids)) if mask[row].sum() > 0]
    prompts = {}
    for row in rows:
        prompts.setdefault(uids[row], []).append(row)
    score = {row: math.fsum(float(x) for x in rewards[row]) for row in rows}

    def own_mean(uid):
        return math.fsum(score[row] for row in prompts[uid]) / len(prompts[uid])

    level = {}  # L(Q_s), Eq. 14 and 15
    for uid, members in prompts.items():
        each = []
        for row in members:
            tokens = [float(x) for x, m in zip(log_probs[row], mask[row], strict=True) if m]
            tokens = [x if math.isfinite(x) else math.nan for x in tokens]
            each.append(math.fsum(tokens) / (len(tokens) if confidence == "mean" else 1))
        level[uid] = math.fsum(each) / len(each)

    visual = {uid: float(entropy[members[0]]) for uid, members in prompts.items()}
    seen = [visual[uid] for uid in prompts if not math.isnan(visual[uid])]
    if thresholds == "batch":
        cuts = [quantile(seen, Fraction(str(q))) for q in quantiles] if seen else []
    else:
        cuts = thresholds

    def perceptual_group(h):
        if not cuts or h <= cuts[0]:
            return 0
        if h >= cuts[-1] and h > cuts[-2:][0]:
            return len(cuts)
        return next(k for k, cut in enumerate(cuts) if h <= cut)

    levels = [value for value in level.values() if math.isfinite(value)]
    marks = [quantile(levels, Fraction(k, num_groups)) for k in range(1, num_groups)] if levels else []

    def reasoning_group(value):
        return sum(value >= mark for mark in marks)

    def pool(same):
        return std([score[row] for uid in prompts if same(uid) for row in prompts[uid]])

    result = [0.0] * len(uids)
    for uid, members in prompts.items():
        rewards_of_prompt = [score[row] for row in members]
        for row in members:
            centred = 0.0 if min(rewards_of_prompt) == max(rewards_of_prompt) else score[row] - own_mean(uid)
            own = centred / (std(rewards_of_prompt) + eps)
            original = score[row] / (1 + eps) if len(members) == 1 else own
            if math.isnan(visual[uid]):
                perceptual = own
            else:
                here = perceptual_group(visual[uid])

                def alike(other, here=here):
                    return not math.isnan(visual[other]) and perceptual_group(visual[other]) == here

                perceptual = centred / (pool(alike) + eps)
            if not math.isfinite(level[uid]):
                reasoning = own
            else:
                there = reasoning_group(level[uid])

                def as_sure(other, there=there):
                    return math.isfinite(level[other]) and reasoning_group(level[other]) == there

                reasoning = centred / (pool(as_sure) + eps)
            result[row] = weights[0] * original + weights[1] * perceptual + weights[2] * reasoning
    return result

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The estimator against hand-computed cases, float64 loops, verl's own GRPO, and its theoretical properties."""

import math
import os
import re

import numpy as np
import pandas as pd
import pytest
import torch
from durian_reference import durian as reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import compute_durian_outcome_advantage, durian_advantages, entropy_of_rows
from verl_durian.algo.groups import perceptual_groups, perceptual_thresholds, reasoning_groups

PAPER = (0.1, 0.2, 0.7)
DEFAULTS = dict(weights=PAPER, quantiles=(0.25, 0.75), num_groups=12, confidence="mean", thresholds="batch")


def options(**changes):
    chosen = DEFAULTS | changes
    names = ("original", "perceptual", "reasoning")
    return {
        "durian": {
            "weights": dict(zip(names, chosen["weights"], strict=True)),
            "perceptual": {"quantiles": list(chosen["quantiles"]), "thresholds": chosen["thresholds"]},
            "reasoning": {"num_groups": chosen["num_groups"], "confidence": chosen["confidence"]},
        }
    }


class Batch:
    """A batch as verl passes it; rewards are on the last token, log-probabilities are exact in float32."""

    def __init__(self, rewards, uids, lengths=None, confidence=None, entropy=None, width=4):
        bs = len(uids)
        lengths = torch.tensor(lengths if lengths is not None else [width] * bs)
        self.mask = (torch.arange(width) < lengths.unsqueeze(-1)).long()
        self.rewards = torch.zeros(bs, width)
        self.rewards[torch.arange(bs), lengths.clamp(min=1) - 1] = torch.tensor(rewards, dtype=torch.float32)
        level = torch.tensor(confidence if confidence is not None else [-1.0] * bs, dtype=torch.float32)
        # Tokens differ, and the mean over a row's own tokens is the level: +1, -1, +2, -2, ..., 0 in the middle.
        steps = torch.arange(width) // 2 + 1
        swing = torch.where(torch.arange(width) % 2 == 0, steps, -steps)
        own = torch.where(torch.arange(width) < lengths.unsqueeze(-1) // 2 * 2, swing, 0)
        self.log_probs = level.unsqueeze(-1) + own
        self.uids = np.array(uids, dtype=object)
        self.entropy = np.array(entropy if entropy is not None else [1.0] * bs, dtype=np.float64)

    def advantages(self, **changes):
        inputs = (self.rewards, self.mask, self.log_probs)
        before = [each.clone() for each in inputs]
        advantages, returns = compute_durian_outcome_advantage(
            self.rewards,
            self.mask,
            self.uids,
            config=options(**changes),
            non_tensor_batch={"visual_entropy": self.entropy},
            batch={"old_log_probs": self.log_probs},
        )
        assert torch.equal(advantages, returns)
        for each, copy in zip(inputs, before, strict=True):  # NaN in padding is equal to itself
            assert torch.allclose(each, copy, rtol=0, atol=0, equal_nan=True)
        return advantages

    def rows(self, **changes):
        """One advantage per row, 0 for rows without tokens."""
        advantages = self.advantages(**changes)
        return advantages.gather(1, self.mask.argmax(dim=1, keepdim=True)).squeeze(1).tolist()

    def reference(self, **changes):
        rewards = self.rewards.numpy().astype(np.float64)
        columns = (rewards, self.mask.numpy(), self.uids, self.log_probs.numpy(), self.entropy)
        return reference(*columns, **(DEFAULTS | changes))

    def grpo(self):
        return compute_grpo_outcome_advantage(self.rewards.clone(), self.mask, self.uids)[0]


ONE_OF_TWO = 0.5 / math.sqrt(2 * 0.25)  # rewards 1, 0, by their own std
THREE_OF_FOUR = 0.5 / math.sqrt((3 * 0.0625 + 0.5625) / 3)  # by the std of rewards 1, 0, 1, 1, or of 0, 0, 1, 0
FOUR_OF_EIGHT = 0.5 / math.sqrt(8 * 0.25 / 7)


@pytest.mark.parametrize(
    ("changes", "a", "d"),
    [
        (dict(weights=(1, 0, 0)), ONE_OF_TWO, ONE_OF_TWO),
        # t25 = 1.75, t75 = 3.25: S1 = {a}, S2 = {b, c}, S3 = {d}.
        (dict(weights=(0, 1, 0)), ONE_OF_TWO, ONE_OF_TWO),
        # S1 = {a, b}, S2 = {c}, S3 = {d}.
        (dict(weights=(0, 1, 0), thresholds=[2.0, 3.5]), THREE_OF_FOUR, ONE_OF_TWO),
        # Beyond the last threshold, or without any, all prompts are one group.
        (dict(weights=(0, 1, 0), thresholds=[0.1, 0.2, 0.3]), FOUR_OF_EIGHT, FOUR_OF_EIGHT),
        (dict(weights=(0, 1, 0), thresholds=[]), FOUR_OF_EIGHT, FOUR_OF_EIGHT),
        (dict(weights=(0, 1, 0), quantiles=()), FOUR_OF_EIGHT, FOUR_OF_EIGHT),
        # t1 = -2.5: M1 = {a, b}, M2 = {c, d}.
        (dict(weights=(0, 0, 1), num_groups=2), THREE_OF_FOUR, THREE_OF_FOUR),
        (dict(weights=(0, 0, 1), num_groups=1), FOUR_OF_EIGHT, FOUR_OF_EIGHT),
        (
            dict(thresholds=[2.0, 3.5], num_groups=1),
            0.1 * ONE_OF_TWO + 0.2 * THREE_OF_FOUR + 0.7 * FOUR_OF_EIGHT,
            0.1 * ONE_OF_TWO + 0.2 * ONE_OF_TWO + 0.7 * FOUR_OF_EIGHT,
        ),
    ],
)
def test_hand_computed(changes, a, d):
    batch = Batch(
        rewards=[1, 0, 1, 1, 0, 0, 1, 0],
        uids=list("aabbccdd"),
        entropy=np.repeat([1.0, 2.0, 3.0, 4.0], 2),
        confidence=np.repeat([-4.0, -3.0, -2.0, -1.0], 2),
    )
    assert batch.rows(**changes) == pytest.approx([a, -a, 0, 0, 0, 0, d, -d], abs=1e-5)


def test_thresholds_of_the_training_set_must_have_become_numbers():
    batch = Batch([1, 0, 0, 1], list("aabb"))
    with pytest.raises(ValueError, match="thresholds=dataset.*before the first step.*verl-durian doctor"):
        batch.advantages(thresholds="dataset")
    assert batch.advantages(weights=(1, 0, 1), thresholds="dataset").any()  # there the word plays no role


@pytest.mark.parametrize(
    ("entropy", "quantiles", "expected"),
    [
        ([1, 2, 3, 4, 5], [0.25, 0.75], [0, 0, 1, 2, 2]),  # both thresholds hit: S1 <= t25, S3 >= t75
        ([7, 7, 7], [0.25, 0.75], [0, 0, 0]),  # t25 = t75: S1 wins
        ([1, 1, 1, 9], [0.25, 0.75], [0, 0, 0, 2]),
        ([1, 2, 3, 4, 5], [0.25, 0.5, 0.75], [0, 0, 1, 3, 3]),
        ([1, 2, 9, 9, 9, 9], [0.2, 0.6, 0.8], [0, 0, 1, 1, 1, 1]),  # the last two thresholds coincide
        ([1, 2, 3], [0.5], [0, 0, 1]),
        ([1, 2], [], [0, 0]),
        ([5], [0.25, 0.75], [0]),
    ],
)
def test_perceptual_groups(entropy, quantiles, expected):
    of_prompt = torch.tensor(entropy, dtype=torch.float64)
    thresholds = perceptual_thresholds(of_prompt, quantiles)
    assert len(thresholds) == len(quantiles)
    assert perceptual_groups(of_prompt, thresholds).tolist() == expected


@pytest.mark.parametrize(
    ("confidence", "num_groups", "expected"),
    [
        ([-1, -2, -3, -4], 4, [3, 2, 1, 0]),  # as many groups as prompts: one each
        ([-3, -2, -1], 2, [0, 1, 1]),  # t_{u-1} <= L: on the threshold means the upper group
        ([-1, -1, -1], 4, [3, 3, 3]),  # a tie is never split
        ([-1, -2], 12, [11, 0]),
        ([-1, -2, -3], 1, [0, 0, 0]),
    ],
)
def test_reasoning_groups(confidence, num_groups, expected):
    group, thresholds = reasoning_groups(torch.tensor(confidence, dtype=torch.float64), num_groups)
    assert group.tolist() == expected
    assert len(thresholds) == num_groups - 1


def test_a_prompt_on_a_threshold_is_in_its_group_despite_rounding():
    # With 109 prompts every ninth one is a threshold of 12 groups; in floats some of those ranks are off by an ulp.
    for num_groups in range(2, 49):
        confidence = (torch.arange(9 * num_groups + 1, dtype=torch.float64) - 200) / 7
        group, thresholds = reasoning_groups(confidence, num_groups)
        assert thresholds.tolist() == confidence[9:-1:9].tolist()
        assert group.tolist() == [min(k // 9, num_groups - 1) for k in range(len(confidence))]


@st.composite
def batches(draw, padding=True):
    """Prompts of unequal size, in any order, some without image, some rows without tokens."""
    width, rows = 6, []
    for uid in range(draw(st.integers(1, 9))):
        entropy = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, math.nan]))
        for _ in range(draw(st.integers(1, 5))):
            reward = draw(st.sampled_from([0.0, 0.1, 0.9, 1.0, -0.5]))
            length = draw(st.integers(0 if padding else 1, width))
            level = draw(st.integers(-64, 0)) / 16
            rows.append((reward, f"prompt-{uid}", length, level, entropy))
    rewards, uids, lengths, levels, entropies = zip(*draw(st.permutations(rows)), strict=True)
    batch = Batch(list(rewards), list(uids), list(lengths), list(levels), list(entropies), width)
    holes = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    for row, hole in enumerate(holes):
        # As a tool's tokens in the middle of a response. The mean of 2 or 4 tokens is exact. That of 3 is rounded: a
        # prompt on a threshold may then be in another group than in the reference.
        if hole and lengths[row] in (3, 5):
            batch.mask[row, 1] = 0
    return batch


weights = st.sampled_from([PAPER, (0.6, 0.2, 0.2), (0, 1, 0), (0, 0, 1), (1, 0, 0), (0, 0.5, 2)])
quantiles = st.sampled_from([(0.25, 0.75), (), (0.5,), (0.2, 0.4, 0.6, 0.8)])
thresholds = st.sampled_from(["batch", "batch", [], [1], [0.5, 2.0], [-1.0, 0.7, 1.0], [0.0, 0.6, 9.0]])
settings.register_profile("durian", deadline=None, max_examples=200, derandomize="CI" in os.environ)
settings.load_profile("durian")


@example(Batch([1, 0], list("ab"), lengths=[0, 0]), PAPER, (0.5,), "batch", 12, "mean")  # no row has tokens
@given(batches(), weights, quantiles, thresholds, st.integers(1, 12), st.sampled_from(["mean", "sum"]))
def test_equals_loops(batch, weights, quantiles, thresholds, num_groups, confidence):
    kwargs = dict(
        weights=weights, quantiles=quantiles, thresholds=thresholds, num_groups=num_groups, confidence=confidence
    )
    batch.log_probs.masked_fill_(batch.mask == 0, math.nan)
    # eps = 1e-6 below a std of 0.05 or more: float32 results agree to a few 1e-6.
    assert batch.rows(**kwargs) == pytest.approx(batch.reference(**kwargs), rel=2e-6, abs=2e-6)
    advantages = batch.advantages(**kwargs)
    assert advantages.shape == batch.mask.shape and advantages.dtype == torch.float32
    assert advantages.isfinite().all() and not advantages[batch.mask == 0].any()


@given(batches(padding=False))
def test_original_term_is_grpo(batch):
    equal = {uid for uid in batch.uids if len(set(batch.rewards.sum(-1)[batch.uids == uid].tolist())) == 1}
    grpo = batch.grpo()
    if equal:
        # Where all rewards are equal verl divides the rounding error of their mean by epsilon; ours is exactly 0.
        several = torch.tensor([uid in equal and (batch.uids == uid).sum() > 1 for uid in batch.uids])
        assert (batch.advantages(weights=(1, 0, 0))[several] == 0).all()
        grpo[several] = 0
    torch.testing.assert_close(batch.advantages(weights=(1, 0, 0)), grpo, rtol=1e-5, atol=1e-5)


def test_the_order_of_rows_does_not_split_prompts_of_equal_confidence():
    # In floats 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1.
    log_probs = torch.tensor([-0.1, -0.2, -0.3, -0.3, -0.2, -0.1], dtype=torch.float64)
    found = durian_advantages(log_probs * 0, np.array(list("aaabbb")), None, log_probs, DurianConfig())
    assert found.reasoning.difficulty[0] == found.reasoning.difficulty[1]
    assert found.reasoning.group[0] == found.reasoning.group[1]


@given(batches(padding=False))
def test_padding_changes_nothing(batch):
    before = batch.advantages()
    padding = Batch([5.0, -7.0], ["pad", str(batch.uids[0])], [0, 0], [-99.0, 0.0], [math.nan, 100.0], width=6)
    for name in ("rewards", "mask", "log_probs"):
        setattr(batch, name, torch.cat([getattr(padding, name), getattr(batch, name)]))
    batch.log_probs[0] = math.nan
    batch.rewards[0] = math.inf
    batch.uids = np.concatenate([padding.uids, batch.uids])
    batch.entropy = np.concatenate([padding.entropy, batch.entropy])
    after = batch.advantages()
    assert torch.equal(after[2:], before)
    assert not after[:2].any()


def test_equal_rewards_give_exactly_zero():
    batch = Batch([0.1] * 5 + [100.1] * 7, ["a"] * 5 + ["b"] * 7, entropy=[1.0] * 5 + [2.0] * 7)
    assert batch.rows() == [0.0] * 12


def test_an_axis_of_weight_zero_needs_no_data():
    batch = Batch([1, 0, 0, 1], list("aabb"))
    args = (batch.rewards, batch.mask, batch.uids)
    compute_durian_outcome_advantage(*args, config=options(weights=(1, 0, 0)))
    with pytest.raises(ValueError, match="old_log_probs"):
        compute_durian_outcome_advantage(*args, config=options(weights=(1, 0, 1)))
    with pytest.raises(ValueError, match="visual_entropy"):
        compute_durian_outcome_advantage(*args, config=options(weights=(1, 1, 0)), non_tensor_batch={})


@pytest.mark.parametrize(
    ("field", "values", "problem"),
    [
        *(("rewards", [bad, bad], "a reward that is not finite") for bad in (math.nan, math.inf, -math.inf)),
        ("entropy", [math.inf, math.inf], "an infinite visual entropy"),
        ("entropy", [-math.inf, -math.inf], "an infinite visual entropy"),
        ("entropy", [math.nan, 1.0], "rows that differ in visual entropy"),
        ("entropy", [2.0, 3.0], "rows that differ in visual entropy"),
    ],
)
def test_numbers_that_cannot_be_right_name_the_prompt(field, values, problem):
    batch = Batch([1, 0, 0, 1], ["good", "good", "culprit", "culprit"])
    getattr(batch, field)[2:] = torch.tensor(values).unsqueeze(-1) if field == "rewards" else values
    with pytest.raises(ValueError, match=f"uid culprit has {problem}"):
        batch.advantages()


@given(batches(), st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1, max_size=4), st.randoms())
def test_log_probs_that_are_not_finite_agree_with_loops(batch, bad, random):
    for value in bad:
        batch.log_probs[random.randrange(len(batch.uids)), random.randrange(batch.log_probs.shape[1])] = value
    assert batch.rows(num_groups=3) == pytest.approx(batch.reference(num_groups=3), rel=1e-4, abs=2e-5)


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        *(("log_probs", shape) for shape in ((4, 1), (1, 4), (4,), (), (4, 5))),
        *(("mask", shape) for shape in ((4, 1), (5, 4))),
        *(("entropy", shape) for shape in ((5,), (4, 1))),
        *(("uids", shape) for shape in ((5,), (3,))),
        ("rewards", (4,)),
    ],
)
def test_a_field_of_another_shape_is_named(field, shape):
    name, expected = {
        "rewards": ("token_level_rewards", "(bs, response_length)"),
        "log_probs": ("old_log_probs", "(4, 4)"),
        "mask": ("response_mask", "(4, 4)"),
        "entropy": ("visual_entropy", "(4,)"),
        "uids": ("index", "(4,)"),
    }[field]
    batch = Batch([1, 0, 0, 1], list("aabb"))
    before = getattr(batch, field)
    setattr(batch, field, np.resize(before, shape) if isinstance(before, np.ndarray) else torch.ones(shape).long())
    with pytest.raises(ValueError, match=re.escape(f"{name} has the shape {shape}, expected {expected}")):
        batch.advantages()


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA])
def test_a_row_without_uid_is_an_error(missing):
    batch = Batch([1, 0, 0, 1, 1], list("aabb") + [missing], lengths=[0, 4, 4, 4, 4])
    with pytest.raises(ValueError, match=r"index\[3\]=.* must be the uid of its prompt"):
        batch.advantages()
    batch = Batch([1, 0, 0, 1, 1], list("aabb") + [missing], lengths=[4, 4, 4, 4, 0])
    assert batch.advantages().any()  # padding needs none


def test_entropies_of_any_kind():
    batch = Batch([1, 0, 0, 1], list("aabb"), entropy=[1.0, 1.0, math.nan, math.nan])
    before = batch.rows()
    batch.entropy = np.array([1.0, np.float32(1), pd.NA, None], dtype=object)
    assert batch.rows() == before
    batch.entropy = np.array([1.0, "1", 1, 1])
    assert np.array_equal(entropy_of_rows(batch.entropy, batch.uids), np.ones(4))
    for bad in ({"bytes": 1.0}, [1.0], "high"):
        batch.entropy = np.empty(4, dtype=object)
        batch.entropy[:3], batch.entropy[3] = 1.0, bad
        with pytest.raises(ValueError, match=re.escape(f"uid b has the visual entropy {bad!r}")):
            batch.rows()


def test_defaults_are_the_papers():
    config = DurianConfig.from_algorithm({})
    assert (config.weights.original, config.weights.perceptual, config.weights.reasoning) == PAPER
    assert config.perceptual.quantiles == [0.25, 0.75] and config.perceptual.thresholds == "batch"
    assert config.perceptual.key == "visual_entropy"
    assert config.reasoning.num_groups == 12 and config.reasoning.confidence == "mean" and config.epsilon == 1e-6

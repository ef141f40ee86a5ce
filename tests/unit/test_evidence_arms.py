# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The estimators of the comparison, against loops in float64."""

import math
import statistics
import zlib

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import (
    ADV_ESTIMATOR_REGISTRY,
    compute_grpo_outcome_advantage,
    compute_reinforce_plus_plus_baseline_outcome_advantage,
)

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import STEP, Step, compute_durian_outcome_advantage, durian_advantages

_BEFORE = dict(ADV_ESTIMATOR_REGISTRY)
from recipes.evidence import arms  # noqa: E402
from recipes.evidence.runs import ARMS  # noqa: E402

ESTIMATORS = dict(ADV_ESTIMATOR_REGISTRY)
ADV_ESTIMATOR_REGISTRY.clear()  # the other tests of this process expect the plugin's durian
ADV_ESTIMATOR_REGISTRY.update(_BEFORE)

PROMPTS, ROLLOUTS, LENGTH = 12, 8, 5


@pytest.fixture
def batch():
    """Rewards 0 and 1 with every pass count, rows in random order, replies of different lengths."""
    random = np.random.default_rng(0)
    passes = [*range(ROLLOUTS + 1), 1, 7, 4]
    rewards = np.concatenate([[1.0] * k + [0.0] * (ROLLOUTS - k) for k in passes])
    index = np.repeat([f"prompt-{number}" for number in range(PROMPTS)], ROLLOUTS).astype(object)
    order = random.permutation(len(rewards))
    lengths = random.integers(2, LENGTH + 1, len(rewards))
    mask = torch.from_numpy((np.arange(LENGTH) < lengths[:, None]).astype(np.int64))
    token_rewards = torch.zeros(len(rewards), LENGTH)
    token_rewards[torch.arange(len(rewards)), torch.from_numpy(lengths - 1)] = torch.from_numpy(rewards[order]).float()
    return {"token_level_rewards": token_rewards, "response_mask": mask, "index": index[order]}


@pytest.fixture
def fields(batch):
    """What durian needs in addition."""
    entropy = np.unique(batch["index"], return_inverse=True)[1].astype(float)
    log_probs = -torch.rand(batch["response_mask"].shape, generator=torch.Generator().manual_seed(0))
    return {"non_tensor_batch": {"visual_entropy": entropy}, "batch": {"old_log_probs": log_probs}}


def of_rows(batch, tokens):
    """The advantage of each row, which must be the same in all its tokens and 0 behind them."""
    mask = batch["response_mask"].bool()
    assert (tokens[~mask] == 0).all()
    assert torch.equal(tokens, tokens[:, :1] * mask)
    return tokens[:, 0].double().numpy()


def loop(batch, name):
    """The advantages of an arm, prompt by prompt."""
    rewards = batch["token_level_rewards"].sum(dim=-1).double().tolist()
    by_prompt: dict[str, list[float]] = {}
    for uid, reward in zip(batch["index"], rewards, strict=True):
        by_prompt.setdefault(uid, []).append(reward)
    lengths = batch["response_mask"].sum(dim=-1).tolist()
    centred = [reward - statistics.fmean(by_prompt[uid]) for uid, reward in zip(batch["index"], rewards, strict=True)]
    if name == "evidence_batch_std":
        return [each / statistics.stdev(rewards) for each in centred]
    if name == "evidence_reinforce_plus_plus":
        tokens = [value for value, length in zip(centred, lengths, strict=True) for _ in range(length)]
        mean, std = statistics.fmean(tokens), statistics.stdev(tokens)
        return [(each - mean) / std for each in centred]
    if name == "evidence_dr_grpo":
        return centred
    result = []
    for uid, value in zip(batch["index"], centred, strict=True):
        mean = statistics.fmean(by_prompt[uid])
        scale = statistics.fmean(abs(each - mean) for each in by_prompt[uid]) if name == "evidence_mad" else mean
        result.append(value / scale if scale > 0 else 0.0)
    return result


def rms(batch, advantage):
    lengths = batch["response_mask"].sum(dim=-1).numpy()
    return math.sqrt((lengths * np.square(advantage)).sum() / lengths.sum())


def grpo(batch):
    return of_rows(batch, compute_grpo_outcome_advantage(**batch)[0])


@pytest.mark.parametrize("name", arms.NORMALIZERS)
def test_estimators_equal_their_loops(batch, name):
    found = of_rows(batch, ESTIMATORS[name](**batch, config={})[0])
    np.testing.assert_allclose(found, loop(batch, name), rtol=1e-5, atol=1e-6)


def test_reinforce_plus_plus_equals_that_of_verl(batch):
    theirs = of_rows(batch, compute_reinforce_plus_plus_baseline_outcome_advantage(**batch)[0])
    ours = of_rows(batch, ESTIMATORS["evidence_reinforce_plus_plus"](**batch, config={})[0])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*arms.NORMALIZERS, "durian"])
def test_matched_advantages_have_the_rms_of_grpo(batch, fields, name):
    plain, matched = (
        of_rows(batch, ESTIMATORS[name](**batch, **fields, config={"evidence": {"match_rms": match}})[0])
        for match in (False, True)
    )
    assert rms(batch, matched) == pytest.approx(rms(batch, grpo(batch)), rel=1e-5)
    assert rms(batch, plain) != pytest.approx(rms(batch, matched), rel=1e-3)
    assert np.corrcoef(plain, matched)[0, 1] == pytest.approx(1)


def test_matched_dr_grpo_and_batch_std_are_the_same_arm(batch):
    config = {"evidence": {"match_rms": True}}
    first, second = (ESTIMATORS[f"evidence_{name}"](**batch, config=config)[0] for name in ("dr_grpo", "batch_std"))
    torch.testing.assert_close(first, second)


def test_without_learning_signal_every_advantage_is_0(batch):
    batch["token_level_rewards"].zero_()
    for name in arms.NORMALIZERS:
        assert (ESTIMATORS[name](**batch, config={"evidence": {"match_rms": True}})[0] == 0).all()


def test_durian_is_that_of_the_plugin_without_options(batch, fields):
    found, expected = (
        estimator(**batch, **fields, config={})[0]
        for estimator in (ESTIMATORS["durian"], compute_durian_outcome_advantage)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("arm", ["durian_permuted", "durian_true"])
def test_durian_groups_by_the_replaced_difficulties(batch, fields, arm):
    number, log_probs = fields["non_tensor_batch"]["visual_entropy"], fields["batch"]["old_log_probs"]
    known = 1.0 + number % 4 + number / 100  # steps and half the severity
    step = Step(fields["batch"], {"visual_entropy": number, "true_difficulty": known})
    config = OmegaConf.from_dotlist([setting.lstrip("+") for setting in ARMS[arm]]).algorithm
    token = STEP.set(step)
    try:
        found = of_rows(batch, ESTIMATORS[config.adv_estimator](**batch, config=config)[0])
    finally:
        STEP.reset(token)

    mask = batch["response_mask"]
    confidence = ((log_probs * mask).sum(dim=-1) / mask.sum(dim=-1)).double().numpy()
    if arm == "durian_true":
        entropy, confidence = known - np.floor(known), -known
    else:  # prompts are numbered in the order of their first rows
        random, first = np.random.default_rng(zlib.crc32(number.tobytes())), list(dict.fromkeys(batch["index"]))
        orders = [random.permutation(PROMPTS) for _ in range(2)]
        of_prompt = {uid: confidence[batch["index"] == uid].mean() for uid in first}
        entropies = {uid: number[batch["index"] == uid][0] for uid in first}
        other = [{uid: first[order[at]] for at, uid in enumerate(first)} for order in orders]
        entropy = np.array([entropies[other[0][uid]] for uid in batch["index"]])
        confidence = np.array([of_prompt[other[1][uid]] for uid in batch["index"]])
    scores = batch["token_level_rewards"].sum(dim=-1).double()
    tensors = torch.from_numpy(entropy), torch.from_numpy(confidence)
    expected = durian_advantages(scores, batch["index"], *tensors, DurianConfig.from_algorithm(config)).advantage
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_unknown_difficulty_is_refused(batch, fields):
    config = {"evidence": {"difficulty": True}}
    token = STEP.set(Step(fields["batch"], fields["non_tensor_batch"]))
    try:
        with pytest.raises(ValueError, match="difficulty=True: must be own, permuted or known"):
            ESTIMATORS["durian"](**batch, config=config)
    finally:
        STEP.reset(token)


def test_matched_reinforce_plus_plus_is_matched_dr_grpo_minus_a_constant(batch):
    config = {"evidence": {"match_rms": True}}
    first, second = (
        of_rows(batch, ESTIMATORS[f"evidence_{name}"](**batch, config=config)[0])
        for name in ("reinforce_plus_plus", "dr_grpo")
    )
    ratio = np.polyfit(second, first, 1)
    np.testing.assert_allclose(first, np.polyval(ratio, second), atol=1e-5)


def test_rows_without_tokens_are_refused(batch):
    batch["response_mask"][0] = 0
    with pytest.raises(ValueError, match="row without tokens"):
        ESTIMATORS["evidence_mad"](**batch, config={})

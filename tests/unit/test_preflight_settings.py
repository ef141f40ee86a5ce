# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that corrupt or crash a run, on verl's real configuration."""

import contextlib
from importlib.metadata import version

import pytest
from omegaconf import OmegaConf

from verl_durian.preflight import settings
from verl_durian.preflight.compose import compose

SOUND = {
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.load_format": "auto",
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 4,
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 4,
    "actor_rollout_ref.actor.strategy": "fsdp2",
    "actor_rollout_ref.actor.ppo_mini_batch_size": 64,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 4,
    "data.train_batch_size": 128,
    "trainer.n_gpus_per_node": 8,
}

DUMMY = {"actor_rollout_ref.rollout.load_format": "dummy"}
ACTOR = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
LOG_PROB = "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu"
REF = "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu"

KL = "actor_rollout_ref.actor.use_kl_loss"
LORA = "actor_rollout_ref.model.lora_rank"
BYPASS = "algorithm.rollout_correction.bypass_mode"

MEGATRON = {"model_engine": "megatron", "actor_rollout_ref.actor.strategy": "megatron"}

needs_transformers_5 = pytest.mark.skipif(
    int(version("transformers").split(".")[0]) < 5, reason="the visual encoder returns a tensor before transformers 5"
)


@pytest.fixture
def vllm_with_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_vllm_keeps_image_normalization_in_a_buffer", lambda: True)


def problems(changes: dict[str, object] | None = None, model_type: str | None = "qwen2_5_vl") -> list[str]:
    """What is wrong with the sound settings and some changes."""
    merged = {**SOUND, **(changes or {})}
    if merged.get("model_engine") in ("veomni", "torchtitan"):
        del merged["actor_rollout_ref.actor.strategy"]
    overrides = [f"{name}={value}" for name, value in merged.items()]
    return settings.find(compose(overrides), model_type)


def test_sound_settings_pass(vllm_with_buffer: None) -> None:
    assert problems() == []


def test_dummy_weights_are_refused_with_the_remedy(vllm_with_buffer: None) -> None:
    (problem,) = problems(DUMMY)
    assert "load_format=auto" in problem


@pytest.mark.parametrize(
    "changes",
    [
        {"actor_rollout_ref.rollout.name": "sglang"},
        {"+actor_rollout_ref.rollout.engine_kwargs.vllm.mm_device_do_normalize": "False"},
        {"+actor_rollout_ref.rollout.engine_kwargs.vllm.load_format": "auto"},
    ],
)
def test_dummy_weights_are_fine_without_the_buffer(vllm_with_buffer: None, changes: dict[str, str]) -> None:
    assert problems({**DUMMY, **changes}) == []


def test_other_models_and_older_vllm_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_vllm_keeps_image_normalization_in_a_buffer", lambda: False)
    assert problems(DUMMY) == []
    monkeypatch.setattr(settings, "_vllm_keeps_image_normalization_in_a_buffer", lambda: True)
    assert problems({**DUMMY, "data.train_batch_size": 100}, "qwen3_vl") == []
    assert problems({**DUMMY, "data.train_batch_size": 100}, None) == [], "what is not known is not refused"


def test_buffer_is_found_in_the_source_of_vllm() -> None:
    vllm = pytest.importorskip("vllm.model_executor.models.vision")
    assert settings._vllm_keeps_image_normalization_in_a_buffer() == hasattr(vllm, "FusedInputNorm")


def test_a_metric_that_the_reward_does_not_return_is_refused() -> None:
    filtered = {"algorithm.filter_groups.enable": True, "algorithm.filter_groups.metric": "foo"}
    ours = {"reward.custom_reward_function.path": "pkg://verl_durian.reward"}
    (problem,) = problems({**filtered, **ours}, "qwen3_vl")
    assert problem == "algorithm.filter_groups.metric=foo: must be reward, score, acc, format (FILTER_METRIC)"
    assert problems({**filtered, **ours, "algorithm.filter_groups.metric": "acc"}, "qwen3_vl") == []
    assert problems(filtered, "qwen3_vl") == [], "another reward may return it"
    for other in (
        {"trainer.use_v1": False},
        {"trainer.val_only": True},
        {"reward.reward_manager.name": "dapo"},
        {"trainer.v1.sampler.custom_sampler.path": "mine.py"},
    ):
        assert problems({**filtered, **ours, **other}, "qwen3_vl") == [], "the metric is not looked for, or is there"


BUFFER = "reward.reward_kwargs.overlong_buffer_cfg"
DAPO = {"reward.reward_manager.name": "dapo", f"+{BUFFER}.enable": True}
LONGEST = {"+reward.reward_kwargs.max_resp_len": 64}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({**DAPO, **LONGEST, f"+{BUFFER}.len": 1}, ""),
        ({**DAPO, **LONGEST, f"+{BUFFER}.len": 64}, ""),
        ({**DAPO, **LONGEST, f"+{BUFFER}.len": 0}, f"{BUFFER}.len=0: must be from 1 to"),
        ({**DAPO, **LONGEST, f"+{BUFFER}.len": 65}, f"{BUFFER}.len=65: must be from 1 to"),
        ({**DAPO, **LONGEST}, f"{BUFFER}.len=None: must be from 1 to"),
        ({**DAPO, f"+{BUFFER}.len": 1}, "reward.reward_kwargs.max_resp_len=null"),
        ({**DAPO, **LONGEST, f"+{BUFFER}.enable": False}, ""),
        # Another manager may read the same keys as it likes.
        ({**DAPO, **LONGEST, "reward.reward_manager.name": "naive"}, ""),
        ({**DAPO, **LONGEST, "reward.reward_manager.source": "importlib"}, ""),
        ({**DAPO, "reward.reward_manager.name": "mine", f"+{BUFFER}.tokens": 100}, ""),
    ],
)
def test_an_overlong_buffer_is_refused_where_verls_manager_refuses_it(changes: dict[str, object], told: str) -> None:
    from verl.experimental.reward_loop.reward_manager.dapo import DAPORewardManager

    config = compose([f"{name}={value}" for name, value in {**SOUND, **changes}.items()])
    found = settings.find(config, "qwen2_5_vl")
    assert [problem.startswith(told) for problem in found] == [True] * bool(told)
    if (config.reward.reward_manager.source, config.reward.reward_manager.name) == ("register", "dapo"):
        with pytest.raises(Exception) if told else contextlib.nullcontext():  # noqa: B017
            DAPORewardManager(config, tokenizer=None, compute_score=None)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        # 100 * 8 rows are filled up to 1024: 224 padding rows, 28 on each of 8 ranks.
        ({"data.train_batch_size": 100}, [ACTOR, LOG_PROB]),
        ({"data.train_batch_size": 100, "actor_rollout_ref.actor.use_kl_loss": True}, [ACTOR, LOG_PROB, REF]),
        ({"data.train_batch_size": 100, ACTOR: 32}, [LOG_PROB]),
        # Two padding rows a rank share a micro batch with two real ones, four do not.
        ({"data.train_batch_size": 126}, []),
        ({"data.train_batch_size": 124}, [ACTOR, LOG_PROB]),
        # By tokens, padding is left alone only if a rank has nothing else.
        ({"data.train_batch_size": 100, "actor_rollout_ref.actor.use_dynamic_bsz": True}, []),
        ({"data.train_batch_size": 100, "trainer.use_v1": False}, []),
        ({"data.train_batch_size": 100, **MEGATRON}, []),
    ],
)
def test_micro_batches_of_padding(changes: dict[str, object], refused: list[str]) -> None:
    found = problems(changes)
    assert [problem.split("=")[0] for problem in found] == refused
    assert all("a multiple of" in problem for problem in found)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        # 64 * 8 rows of an update on 8 ranks; 128 * 8 of a step.
        ({ACTOR: 48}, [f"{ACTOR}=48: verl stops where the 64 rollouts of a GPU do not divide", "set it to 32"]),
        ({ACTOR: 128}, ["set it to 64"]),
        ({LOG_PROB: 96}, [f"{LOG_PROB}=96: verl stops where the 128 rollouts", "set it to 64"]),
        ({REF: 96}, []),
        ({REF: 96, "actor_rollout_ref.actor.use_kl_loss": True}, [f"{REF}=96", "set it to 64"]),
        ({ACTOR: 48, LOG_PROB: 96, "actor_rollout_ref.actor.use_dynamic_bsz": True}, []),
        (
            {"trainer.n_gpus_per_node": 6},
            ["512 rollouts of an update do not divide among 6", "make it a multiple of 3"],
        ),
        # In bypass mode no old log-probabilities are computed; the reference's are, by the actor itself with LoRA.
        ({LOG_PROB: 96, BYPASS: True}, []),
        ({LOG_PROB: 96, REF: 96, BYPASS: True, KL: True}, [f"{REF}=96"]),
        ({LOG_PROB: 96, REF: 96, BYPASS: True, KL: True, LORA: 8}, [f"{LOG_PROB}=96"]),
        ({REF: 96, KL: True, LORA: 8}, []),
        # Nothing is cut where nothing is trained, nor by trainers that cut elsewhere.
        ({ACTOR: 48, "trainer.val_only": True}, []),
        ({ACTOR: 48, "trainer.val_only": True, "trainer.val_before_train": False}, ["set it to 32"]),
        ({ACTOR: 48, "trainer.use_v1": False}, []),
        ({ACTOR: 48, "+rollout.nnodes": 1}, []),
        # The rows of a step are not known, those of an update are.
        ({LOG_PROB: 96, "trainer.v1.sampler.custom_sampler.path": "mine.py"}, []),
        ({LOG_PROB: 96, "actor_rollout_ref.rollout.agent.agent_loop_config_path": "mine.yaml"}, []),
        ({ACTOR: 48, "trainer.v1.sampler.custom_sampler.path": "mine.py"}, ["set it to 32"]),
        # A critic's updates count too: 1024 rows are filled up to 1536.
        ({LOG_PROB: 192, "critic.enable": True, "critic.ppo_mini_batch_size": 192}, []),
        # Strategies whose data-parallel ranks are not known.
        ({ACTOR: 48, LOG_PROB: 96, "model_engine": "veomni"}, []),
        ({ACTOR: 48, LOG_PROB: 96, "model_engine": "torchtitan"}, []),
        ({"trainer.n_gpus_per_node": 6, "model_engine": "torchtitan"}, []),
        ({ACTOR: 48, LOG_PROB: 96, **MEGATRON, "actor_rollout_ref.actor.megatron.dynamic_context_parallel": True}, []),
        # 4 GPUs share a model: 2 ranks with 256 rows of an update each.
        (
            {**MEGATRON, "actor_rollout_ref.actor.megatron.tensor_model_parallel_size": 4, ACTOR: 512},
            ["set it to 256"],
        ),
    ],
)
def test_micro_batches_that_do_not_divide(changes: dict[str, object], told: list[str]) -> None:
    found = problems(changes, "qwen3_vl")
    assert len(found) == (1 if told else 0)
    assert all(text in found[0] for text in told)


def test_a_step_of_separate_async_is_that_of_its_updates() -> None:
    separate = {"trainer.v1.trainer_mode": "separate_async", "data.train_batch_size": 128}
    updates = "trainer.v1.separate_async.parameter_sync_step"
    assert problems({**separate, updates: 2}, "qwen3_vl") == []
    (problem,) = problems({**separate, updates: 1}, "qwen3_vl")
    assert problem.startswith("data.train_batch_size=128: ") and problem.endswith("set it to 64")
    assert problems({**separate, updates: 1, "trainer.use_v1": False}, "qwen3_vl") == []


@needs_transformers_5
def test_padding_is_not_foreseen_where_ranks_or_rows_are_not_known() -> None:
    padded = {"data.train_batch_size": 100, ACTOR: 32}
    assert len(problems(padded)) == 1
    for unknown in (
        {"+rollout.nnodes": 1},
        {"trainer.val_only": True},
        {"trainer.v1.trainer_mode": "mine"},
        {BYPASS: True},
    ):
        assert problems({**padded, **unknown}) == []


@pytest.mark.parametrize("name", ["fully_async_policy/config/fully_async", "one_step_off_policy/config/one_step_off"])
def test_older_trainers_inherit_use_v1_and_are_not_taken_for_it(name: str) -> None:
    """They state their own node `rollout` in the config that verl ships."""
    own = OmegaConf.load(settings.folder_of("verl") / "experimental" / f"{name}_ppo_trainer.yaml")
    config = compose([f"{name}={value}" for name, value in {**SOUND, ACTOR: 48}.items()])
    assert settings.uses_v1(config) and settings.find(config, "qwen3_vl") != []
    OmegaConf.set_struct(config, False)
    merged = OmegaConf.merge(config, {key: own[key] for key in own if key not in ("hydra", "defaults")})
    assert merged.trainer.use_v1 and not settings.uses_v1(merged)
    assert settings.find(merged, "qwen3_vl") == []


def test_what_verl_does_where_micro_batches_do_not_divide() -> None:
    import torch
    from tensordict import TensorDict
    from verl.utils import tensordict_utils
    from verl.workers.engine.utils import prepare_micro_batches

    def cut(rows: int, size: int) -> int:
        data = TensorDict({"x": torch.zeros(rows)}, batch_size=rows)
        tensordict_utils.assign_non_tensor(data, use_dynamic_bsz=False, micro_batch_size_per_gpu=size)
        return len(prepare_micro_batches(data)[0])

    assert cut(64, 32) == 2
    with pytest.raises(AssertionError, match="must be divisible"):
        cut(64, 48)
    with pytest.raises(AssertionError, match="must be divisible"):
        cut(32, 64)


@needs_transformers_5
@pytest.mark.parametrize(("ranks", "train_batch", "micro"), [(1, 3, 4), (2, 3, 4), (2, 5, 2), (4, 7, 2), (4, 6, 4)])
def test_padding_condition_is_what_verl_does(ranks: int, train_batch: int, micro: int) -> None:
    """The rule against verl's own balancing: rows 0.. are real, the rest padding of one length."""
    import torch
    from verl.trainer.ppo.padding_utils import SYNTHETIC_PADDING_SEQ_LEN
    from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

    mini_batch, rollouts = 4, 4
    real = train_batch * rollouts
    padding = -real % (mini_batch * rollouts)
    lengths = torch.randint(150, 900, (real,), generator=torch.Generator().manual_seed(0)).tolist()
    workload = calculate_workload(torch.tensor(lengths + [SYNTHETIC_PADDING_SEQ_LEN] * padding))
    parts = get_seqlen_balanced_partitions(workload, k_partitions=ranks, equal_size=True)
    alone = any(min(part[at : at + micro]) >= real for part in parts for at in range(0, len(part), micro))
    changes = {
        "data.train_batch_size": train_batch,
        "actor_rollout_ref.rollout.n": rollouts,
        LOG_PROB: micro,
        "actor_rollout_ref.actor.ppo_mini_batch_size": mini_batch,
        ACTOR: micro,
        "trainer.n_gpus_per_node": ranks,
    }
    assert bool(problems(changes)) == alone

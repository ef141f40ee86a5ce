# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that corrupt or crash a run, on verl's real config."""

import contextlib
import copy
import functools
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from omegaconf import DictConfig, OmegaConf

from verl_durian.hooks import known_failures
from verl_durian.preflight.compose import compose

ACTOR = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
LOG_PROB = "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu"
REF = "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu"
BATCH = "data.train_batch_size"
DYNAMIC = "actor_rollout_ref.actor.use_dynamic_bsz"
KL = "actor_rollout_ref.actor.use_kl_loss"
LORA = "actor_rollout_ref.model.lora_rank"
BYPASS = "algorithm.rollout_correction.bypass_mode"
SAMPLER = {"trainer.v1.sampler.custom_sampler.path": "mine.py"}
VAL_ONLY = {"trainer.val_only": True}
OLDER = {"trainer.use_v1": False}
MEGATRON = {"model_engine": "megatron"}
SOUND = {
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.load_format": "auto",
    "actor_rollout_ref.rollout.n": 8,
    LOG_PROB: 4,
    REF: 4,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 64,
    ACTOR: 4,
    BATCH: 128,
    "trainer.n_gpus_per_node": 8,
}
DUMMY = {"actor_rollout_ref.rollout.load_format": "dummy"}

needs_transformers_5 = pytest.mark.skipif(
    int(version("transformers").split(".")[0]) < 5, reason="the visual encoder returns a tensor before transformers 5"
)


@functools.cache
def composed(engine: str) -> DictConfig:
    return compose([f"model_engine={engine}", *(f"{name}={value}" for name, value in SOUND.items())])


def changed(changes: dict[str, object]) -> DictConfig:
    """The sound settings with some changes. Composing takes most of the time, so each engine is composed once."""
    config = copy.deepcopy(composed(str(changes.get("model_engine", "dp"))))
    for name, value in changes.items():
        if name != "model_engine":
            OmegaConf.update(config, name, value, force_add=True)
    return config


def problems(changes: dict[str, object], model_type: str | None = "qwen3_vl") -> list[str]:
    return known_failures.find(changed(changes), model_type)


def test_a_step_of_separate_async_is_that_of_its_updates() -> None:
    separate = {"trainer.v1.trainer_mode": "separate_async"}
    updates = "trainer.v1.separate_async.parameter_sync_step"
    assert problems({**separate, updates: 2}) == []
    (problem,) = problems({**separate, updates: 1})
    assert problem.startswith("data.train_batch_size=128: ") and problem.endswith("set it to 64")
    assert problems({**separate, updates: 1, **OLDER}) == []


def test_sound_settings_pass() -> None:
    assert problems({}, "qwen2_5_vl") == []


@pytest.mark.parametrize(
    ("changes", "model_type", "buffer", "refused"),
    [
        ({}, "qwen2_5_vl", True, True),
        ({}, "qwen2_5_vl", False, False),
        ({}, "qwen3_vl", True, False),
        ({}, None, True, False),
        ({"actor_rollout_ref.rollout.name": "sglang"}, "qwen2_5_vl", True, False),
        ({"actor_rollout_ref.rollout.engine_kwargs.vllm.mm_device_do_normalize": False}, "qwen2_5_vl", True, False),
        ({"actor_rollout_ref.rollout.engine_kwargs.vllm.load_format": "auto"}, "qwen2_5_vl", True, False),
    ],
)
def test_dummy_weights(monkeypatch, changes, model_type, buffer, refused) -> None:
    monkeypatch.setattr(known_failures, "_vllm_normalizes_with_a_buffer", lambda: buffer)
    found = problems({**DUMMY, **changes}, model_type)
    assert ["set actor_rollout_ref.rollout.load_format=auto" in problem for problem in found] == [True] * refused


def test_buffer_is_found_in_the_source_of_vllm() -> None:
    vllm = pytest.importorskip("vllm.model_executor.models.vision")
    assert known_failures._vllm_normalizes_with_a_buffer() == hasattr(vllm, "FusedInputNorm")


def test_a_filter_metric_that_the_reward_does_not_return() -> None:
    filtered = {"algorithm.filter_groups.enable": True, "algorithm.filter_groups.metric": "foo"}
    ours = {**filtered, "reward.custom_reward_function.path": "pkg://verl_durian.reward"}
    assert problems(ours) == ["algorithm.filter_groups.metric=foo: must be reward, score, acc, format (FILTER_METRIC)"]
    assert problems(filtered) == [], "another reward may return it"
    unused = {"algorithm.filter_groups.metric": "acc"}, OLDER, VAL_ONLY, SAMPLER, {"reward.reward_manager.name": "dapo"}
    assert [problems({**ours, **changes}) for changes in unused] == [[]] * 5


BUFFER = "reward.reward_kwargs.overlong_buffer_cfg"
DAPO = {"reward.reward_manager.name": "dapo", f"{BUFFER}.enable": True}
LONGEST = {"reward.reward_kwargs.max_resp_len": 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**DAPO, **LONGEST, f"{BUFFER}.len": 1}, ""),
        ({**DAPO, **LONGEST, f"{BUFFER}.len": 64}, ""),
        ({**DAPO, **LONGEST, f"{BUFFER}.len": 0}, f"{BUFFER}.len=0: must be from 1 to"),
        ({**DAPO, **LONGEST, f"{BUFFER}.len": 65}, f"{BUFFER}.len=65: must be from 1 to"),
        ({**DAPO, **LONGEST}, f"{BUFFER}.len=None: must be from 1 to"),
        ({**DAPO, f"{BUFFER}.len": 1}, "reward.reward_kwargs.max_resp_len=null"),
        ({**DAPO, **LONGEST, f"{BUFFER}.enable": False}, ""),
        # Another manager may use the same keys for something else.
        ({**DAPO, **LONGEST, "reward.reward_manager.name": "naive"}, ""),
        ({**DAPO, **LONGEST, "reward.reward_manager.source": "importlib"}, ""),
    ],
)
def test_an_overlong_buffer_is_refused_where_verls_manager_rejects_it(changes: dict, message: str) -> None:
    from verl.experimental.reward_loop.reward_manager.dapo import DAPORewardManager

    config = changed(changes)
    assert [found.startswith(message) for found in known_failures.find(config, None)] == [True] * bool(message)
    if (config.reward.reward_manager.source, config.reward.reward_manager.name) == ("register", "dapo"):
        with pytest.raises(Exception) if message else contextlib.nullcontext():  # noqa: B017
            DAPORewardManager(config, tokenizer=None, compute_score=None)


@needs_transformers_5
@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        # 100 * 8 rows are padded to 1024: 224 padding rows, 28 on each of 8 ranks.
        ({BATCH: 100}, [ACTOR, LOG_PROB]),
        ({BATCH: 100, KL: True}, [ACTOR, LOG_PROB, REF]),
        ({BATCH: 100, ACTOR: 32}, [LOG_PROB]),
        # Two padding rows per rank share a micro batch with two real rows, four do not.
        ({BATCH: 126}, []),
        ({BATCH: 124}, [ACTOR, LOG_PROB]),
        # With dynamic batches, padding is alone only if a rank has nothing else.
        ({BATCH: 100, DYNAMIC: True, "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": True}, []),
        ({BATCH: 100, **OLDER}, []),
        ({BATCH: 100, **MEGATRON}, []),
        # Ranks or rows are unknown, or nothing is computed.
        ({BATCH: 100, ACTOR: 32, "rollout.nnodes": 1}, []),
        ({BATCH: 100, ACTOR: 32, **VAL_ONLY}, []),
        ({BATCH: 100, ACTOR: 32, "trainer.v1.trainer_mode": "mine"}, []),
        ({BATCH: 100, ACTOR: 32, BYPASS: True}, []),
    ],
)
def test_micro_batches_of_padding(changes: dict[str, object], refused: list[str]) -> None:
    found = problems(changes, "qwen2_5_vl")
    assert [problem.split("=")[0] for problem in found] == refused
    assert all("a multiple of" in problem for problem in found)
    assert problems(changes, None) == [], "an unknown model is not refused"


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        # 64 * 8 rows of an update on 8 ranks; 128 * 8 rows of a step.
        ({ACTOR: 48}, [f"{ACTOR}=48: the 64 rollouts of a GPU are not divisible", "set it to 32"]),
        ({ACTOR: 128}, ["set it to 64"]),
        ({LOG_PROB: 96}, [f"{LOG_PROB}=96: the 128 rollouts", "set it to 64"]),
        ({REF: 96}, []),
        ({REF: 96, KL: True}, [f"{REF}=96", "set it to 64"]),
        ({ACTOR: 48, DYNAMIC: True}, []),
        ({"trainer.n_gpus_per_node": 6}, ["512 rollouts of an update are not divisible by 6", "a multiple of 3"]),
        # In bypass mode no old log-probabilities are computed; with LoRA the actor computes those of the reference.
        ({LOG_PROB: 96, BYPASS: True}, []),
        ({LOG_PROB: 96, REF: 96, BYPASS: True, KL: True}, [f"{REF}=96"]),
        ({LOG_PROB: 96, REF: 96, BYPASS: True, KL: True, LORA: 8}, [f"{LOG_PROB}=96"]),
        ({REF: 96, KL: True, LORA: 8}, []),
        # Nothing is trained, or by a trainer that splits the rows differently.
        ({ACTOR: 48, **VAL_ONLY}, []),
        ({ACTOR: 48, **VAL_ONLY, "trainer.val_before_train": False}, ["set it to 32"]),
        ({ACTOR: 48, **OLDER}, []),
        ({ACTOR: 48, "rollout.nnodes": 1}, []),
        # The rows of a step are unknown, those of an update are known.
        ({LOG_PROB: 96, **SAMPLER}, []),
        ({LOG_PROB: 96, "actor_rollout_ref.rollout.agent.agent_loop_config_path": "mine.yaml"}, []),
        ({ACTOR: 48, **SAMPLER}, ["set it to 32"]),
        # The updates of a critic count too: 1024 rows are padded to 1536.
        ({LOG_PROB: 192, "critic.enable": True, "critic.ppo_mini_batch_size": 192}, []),
        # Strategies with unknown data-parallel ranks.
        ({ACTOR: 48, LOG_PROB: 96, "model_engine": "veomni"}, []),
        ({ACTOR: 48, LOG_PROB: 96, "model_engine": "torchtitan"}, []),
        ({ACTOR: 48, LOG_PROB: 96, **MEGATRON, "actor_rollout_ref.actor.megatron.dynamic_context_parallel": True}, []),
        # 4 GPUs share a model: 2 ranks with 256 rows of an update each.
        ({**MEGATRON, "actor_rollout_ref.actor.megatron.tensor_model_parallel_size": 4, ACTOR: 512}, ["set it to 256"]),
    ],
)
def test_micro_batches_that_do_not_divide(changes: dict[str, object], messages: list[str]) -> None:
    found = problems(changes)
    assert len(found) == bool(messages)
    assert all(message in found[0] for message in messages)


@pytest.mark.parametrize("name", ["fully_async_policy/config/fully_async", "one_step_off_policy/config/one_step_off"])
def test_older_trainers_inherit_use_v1(name: str) -> None:
    """They have their own node `rollout` in the config that verl ships."""
    own = OmegaConf.load(known_failures.package_folder("verl") / "experimental" / f"{name}_ppo_trainer.yaml")
    config = changed({ACTOR: 48})
    OmegaConf.set_struct(config, False)
    merged = OmegaConf.merge(config, {key: own[key] for key in own if key not in ("hydra", "defaults")})
    assert known_failures.uses_v1(config) and merged.trainer.use_v1 and not known_failures.uses_v1(merged)
    assert known_failures.find(merged, None) == []


@needs_transformers_5
@pytest.mark.parametrize(("ranks", "train_batch", "micro"), [(1, 3, 4), (2, 3, 4), (2, 5, 2), (4, 7, 2), (4, 6, 4)])
def test_the_padding_rule_agrees_with_verls_balancing(ranks: int, train_batch: int, micro: int) -> None:
    """The first rows are real, the others padding of one length."""
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
        BATCH: train_batch,
        "actor_rollout_ref.rollout.n": rollouts,
        LOG_PROB: micro,
        "actor_rollout_ref.actor.ppo_mini_batch_size": mini_batch,
        ACTOR: micro,
        "trainer.n_gpus_per_node": ranks,
    }
    assert bool(problems(changes, "qwen2_5_vl")) == alone


def test_the_type_of_the_model(tmp_path, monkeypatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mine"}')
    paths = {"path": "/absent", "hf_config_path": str(tmp_path)}
    assert known_failures.read_model_type(OmegaConf.create(paths)) == "mine"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: (_ for _ in ()).throw(httpx.ProxyError("403")))
    for path in ("/absent", "absent/model", "hdfs:/model", str(Path(tmp_path).parent)):
        assert known_failures.read_model_type(OmegaConf.create({"path": path})) is None

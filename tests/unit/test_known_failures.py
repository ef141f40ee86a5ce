# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that corrupt or crash a run, on verl's real config."""

import contextlib
import copy
import functools
from importlib.metadata import version
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from verl_durian.algo import estimator
from verl_durian.hooks import checks, known_failures
from verl_durian.preflight.compose import compose

BATCH = {"data.train_batch_size": 100}
MEGATRON = {"actor_rollout_ref.actor.strategy": "megatron"}
ENGINE = "actor_rollout_ref.rollout.engine_kwargs.vllm"

needs_transformers_5 = pytest.mark.skipif(
    int(version("transformers").split(".")[0]) < 5, reason="the visual encoder returns a tensor before transformers 5"
)


@functools.cache
def composed() -> DictConfig:
    return compose(
        [
            "actor_rollout_ref.rollout.name=vllm",
            "actor_rollout_ref.rollout.load_format=auto",
            "actor_rollout_ref.rollout.n=8",
            "actor_rollout_ref.actor.ppo_mini_batch_size=64",
            "data.train_batch_size=128",
        ]
    )


def changed(changes: dict[str, object]) -> DictConfig:
    """Valid settings with some changes."""
    config = copy.deepcopy(composed())
    for name, value in changes.items():
        OmegaConf.update(config, name, value, force_add=True)
    return config


@pytest.mark.parametrize(
    ("changes", "model_type", "buffer", "refused"),
    [
        ({}, "qwen2_5_vl", True, True),
        ({}, "qwen2_5_vl", False, False),
        ({}, "qwen3_vl", True, False),
        ({}, None, True, False),
        ({"actor_rollout_ref.rollout.name": "sglang"}, "qwen2_5_vl", True, False),
        ({f"{ENGINE}.mm_device_do_normalize": False}, "qwen2_5_vl", True, False),
        ({f"{ENGINE}.load_format": "auto"}, "qwen2_5_vl", True, False),
    ],
)
def test_dummy_weights(monkeypatch, changes, model_type, buffer, refused) -> None:
    monkeypatch.setattr(known_failures, "_source", lambda package, _: "class FusedInputNorm" * buffer)
    found = known_failures.find(changed({"actor_rollout_ref.rollout.load_format": "dummy", **changes}), model_type)
    assert ["set actor_rollout_ref.rollout.load_format=auto" in problem for problem in found] == [True] * refused


def test_buffer_is_found_in_the_source_of_vllm() -> None:
    vllm = pytest.importorskip("vllm.model_executor.models.vision")
    found = known_failures.find(changed({"actor_rollout_ref.rollout.load_format": "dummy"}), "qwen2_5_vl")
    assert bool(found) == hasattr(vllm, "FusedInputNorm")


BUFFER = "reward.reward_kwargs.overlong_buffer_cfg"
DAPO = {"reward.reward_manager.name": "dapo", f"{BUFFER}.enable": True, "reward.reward_kwargs.max_resp_len": 64}


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({f"{BUFFER}.len": 1}, False),
        ({f"{BUFFER}.len": 64}, False),
        ({f"{BUFFER}.len": 0}, True),
        ({f"{BUFFER}.len": 65}, True),
        ({}, True),
        ({f"{BUFFER}.len": 1, "reward.reward_kwargs.max_resp_len": None}, True),
        ({f"{BUFFER}.enable": False}, False),
        # Another manager may use the same keys for something else.
        ({"reward.reward_manager.name": "naive"}, False),
        ({"reward.reward_manager.name": "naive", BUFFER: 512}, False),
        ({"reward.reward_manager.name": "naive", f"{BUFFER}.len": "auto"}, False),
        ({"reward.reward_manager.source": "importlib"}, False),
    ],
)
def test_an_overlong_buffer_is_refused_where_verls_manager_rejects_it(changes: dict, refused: bool) -> None:
    from verl.experimental.reward_loop.reward_manager.dapo import DAPORewardManager

    config = changed({**DAPO, **changes})
    found = known_failures.find(config, None)
    assert [problem.startswith(f"{BUFFER}.len=") for problem in found] == [True] * refused
    if (config.reward.reward_manager.source, config.reward.reward_manager.name) == ("register", "dapo"):
        with pytest.raises(Exception) if refused else contextlib.nullcontext():  # noqa: B017
            DAPORewardManager(config, tokenizer=None, compute_score=None)


@needs_transformers_5
@pytest.mark.parametrize(
    ("changes", "model_type", "warned"),
    [
        ({}, "qwen2_5_vl", False),
        (BATCH, "qwen2_5_vl", True),
        (BATCH, "qwen3_vl", False),
        (BATCH, None, False),
        ({**BATCH, **MEGATRON}, "qwen2_5_vl", False),
        ({**BATCH, "trainer.use_v1": False}, "qwen2_5_vl", False),
        ({**BATCH, "trainer.val_only": True}, "qwen2_5_vl", False),
        ({**BATCH, "trainer.val_only": True, "trainer.val_before_train": False}, "qwen2_5_vl", True),
    ],
)
def test_steps_that_verl_pads_with_text(changes: dict, model_type: str | None, warned: bool) -> None:
    config = changed(changes)
    found = known_failures.find_risks(config, model_type)
    assert ["make it a multiple of actor_rollout_ref.actor.ppo_mini_batch_size=64" in risk for risk in found] == (
        [True] * warned
    )
    assert known_failures.find(config, model_type) == []


@needs_transformers_5
def test_a_risk_is_logged_once(monkeypatch, caplog) -> None:
    monkeypatch.setattr(estimator, "_WARNED", set())
    monkeypatch.setattr(known_failures, "read_model_type", lambda _: "qwen2_5_vl")
    for _ in range(2):
        checks.check(changed(BATCH))
    assert caplog.text.count("data.train_batch_size=100: ") == 1


@pytest.mark.parametrize("name", ["fully_async_policy/config/fully_async", "one_step_off_policy/config/one_step_off"])
def test_older_trainers_inherit_use_v1(name: str) -> None:
    """They have their own node `rollout` in the config that verl ships."""
    own = OmegaConf.load(known_failures.package_folder("verl") / "experimental" / f"{name}_ppo_trainer.yaml")
    config = copy.deepcopy(composed())
    OmegaConf.set_struct(config, False)
    merged = OmegaConf.merge(config, {key: own[key] for key in own if key not in ("hydra", "defaults")})
    assert known_failures.uses_v1(config) and merged.trainer.use_v1 and not known_failures.uses_v1(merged)


def test_the_type_of_the_model(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mine"}')
    paths = {"path": "/absent", "hf_config_path": str(tmp_path)}
    assert known_failures.read_model_type(OmegaConf.create(paths)) == "mine"
    for path in ("/absent", "absent/model", "hdfs:/model", str(Path(tmp_path).parent)):
        assert known_failures.read_model_type(OmegaConf.create({"path": path})) is None

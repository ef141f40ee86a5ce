# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A small run with valid settings, for the tests of the checks before a run."""

import copy
import functools
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from verl.workers.config import HFModelConfig

from verl_durian.preflight import Finding
from verl_durian.preflight.__main__ import examine
from verl_durian.preflight.compose import compose
from verl_durian.preflight.model import read

Changes = dict[str, object]

MODEL = "actor_rollout_ref.model.path"
GRPO = {"algorithm.adv_estimator": "grpo"}
SOUND = {
    "trainer.device": "cpu",
    "trainer.n_gpus_per_node": 1,
    "trainer.save_freq": -1,
    "algorithm.adv_estimator": "durian",
    "data.train_batch_size": 24,
    "data.max_prompt_length": 64,
    "data.max_response_length": 16,
    "data.filter_overlong_prompts": True,
    "data.filter_overlong_prompts_workers": "null",  # no forks beside threads
    "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
    "actor_rollout_ref.actor.ppo_mini_batch_size": 24,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 8,
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.load_format": "auto",
    "actor_rollout_ref.rollout.n": 4,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 8,
}
PROBLEM, NOTE = True, False
"""`Finding.stops`"""


@functools.cache
def picture(size: int = 56) -> bytes:
    buffer = BytesIO()
    Image.linear_gradient("L").resize((size, size)).save(buffer, "PNG")
    return buffer.getvalue()


def row(question: str = "<image>red?", images: list[bytes] | None = None, **others: object) -> dict:
    return {
        "data_source": "set",
        "prompt": [{"role": "user", "content": question}],
        "images": [{"bytes": content, "path": None} for content in ([picture()] if images is None else images)],
        "reward_model": {"style": "rule", "ground_truth": "yes"},
    } | others


@functools.cache
def tiny_model(path: Path) -> HFModelConfig:
    return read(OmegaConf.create({"path": str(path)}))


@functools.cache
def valid_config() -> DictConfig:
    return compose([f"{name}={value}" for name, value in SOUND.items()])


class Run:
    """A run with valid settings and two data files; each test changes a copy of its config."""

    def __init__(self, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
        import verl.trainer.ppo.core_algos  # noqa: F401

        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_TMPDIR", str(folder))  # where Ray looks for a running cluster
        self.folder, self.path = folder, model
        self.train, self.val = folder / "train.parquet", folder / "val.parquet"
        self.write(*[row()] * 24)
        shutil.copy(self.train, self.val)
        self.own = {
            "trainer.default_local_dir": folder / "checkpoints",
            "data.train_files": self.train,
            "data.val_files": self.val,
            MODEL: model,
        }

    def write(self, *rows: dict) -> None:
        pq.write_table(pa.Table.from_pylist(list(rows)), self.train)

    def overrides(self, *more: str) -> list[str]:
        return [f"{name}={value}" for name, value in {**SOUND, **self.own}.items()] + list(more)

    def config(self, changes: Changes | None = None) -> DictConfig:
        config = copy.deepcopy(valid_config())
        for name, value in {**self.own, **(changes or {})}.items():
            value = str(value) if isinstance(value, Path) else value
            OmegaConf.update(config, name, value, force_add=True)
        return config

    def all_found(self, changes: Changes | None = None) -> list[tuple[bool, str]]:
        return listed(examine(self.config(changes), []))

    def expect(self, check: Callable, changes: Changes, stops: bool | None = None, text: str = "") -> None:
        """Expects one finding with this text, or none if `stops` is None."""
        arguments = [self.config(changes), tiny_model(self.path)][: check.__code__.co_argcount]
        found = listed(check(*arguments))
        assert [kind for kind, _ in found] == ([] if stops is None else [stops]), found
        assert all(text in message for _, message in found), found


def listed(findings) -> list[tuple[bool, str]]:
    """Whether each finding stops the run, and its text."""
    findings = list(findings)
    assert all(isinstance(each, Finding) and "\n" not in each.text for each in findings)
    return [(each.stops, each.text) for each in findings]

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl's own advantage steps on a batch made here: Trainer V1's with real TransferQueue data, the older trainer's.

    python advantage_step.py OUT.npz ESTIMATOR...

Run as a program it writes what both steps computed, so that processes with and without the plugin can be compared.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

PROMPTS, ROLLOUTS = 9, 4
DURIAN = ("algorithm.adv_estimator=durian", "++algorithm.durian.reasoning.num_groups=3")
ROLLOUT = ("actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.rollout.load_format=auto")
ENTROPIES = [5.0, 3.0, 6.0, 2.0, 4.0, None]
"""Of a training set. The quartiles 3 and 5 make other groups than the quartiles of `make_rows`."""


def compose(*overrides: str):
    """verl's config of ``verl.trainer.main_ppo``."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def make_rows(outputs: int = 1, seed: int = 0) -> list[dict]:
    """Rollouts as verl's agent loop puts them into TransferQueue; ``outputs`` rows for each session.

    With what a reference policy and a critic add. Prompt 3 has no image; prompts 2 and 5 have lost rollouts. The last
    output of a session carries the reward, the others repeat it; lengths and log-probabilities differ.
    """
    rng = np.random.default_rng(seed)
    lost = ("prompt2_0", "prompt2_3", "prompt5_1", "prompt5_2", "prompt5_3")
    rows = []
    for number in range(PROMPTS):
        entropy = float(rng.uniform(0, 5)) if number != 3 else float("nan")
        for session in range(ROLLOUTS):
            reward = float(rng.choice([0.0, 0.1, 0.9, 1.0]))
            for output in range(outputs):
                length = int(rng.integers(2, 7))
                scores = torch.zeros(length)
                scores[-1] = reward
                log_probs = -torch.from_numpy(rng.random(length)).float()
                prompts, responses = torch.ones(5, dtype=torch.long), torch.ones(length, dtype=torch.long)
                rows.append(
                    {
                        "key": f"prompt{number}_{session}_{output}",
                        "uid": f"prompt{number}",
                        "prompts": prompts,
                        "responses": responses,
                        "input_ids": torch.cat([prompts, responses]),
                        "position_ids": torch.arange(5 + length),
                        "response_mask": torch.ones(length, dtype=torch.long),
                        "rm_scores": scores,
                        "old_log_probs": log_probs,
                        "rollout_log_probs": log_probs * torch.from_numpy(rng.uniform(0.5, 1.5, length)).float(),
                        "ref_log_prob": log_probs - torch.from_numpy(rng.random(length)).float(),
                        "values": torch.from_numpy(rng.random(length)).float(),
                        "visual_entropy": entropy,
                        "durian_row": 10.0 * number,
                        "extra_fields": {"reward_extra_info": {"acc": float(rng.choice([0.0, 1.0]))}},
                    }
                )
    rows = [row for row in rows if not row["key"].startswith(lost)]
    return [rows[k] for k in rng.permutation(len(rows))]


def padded(rows: list[dict], field: str) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([row[field] for row in rows], batch_first=True)


def expected(rows: list[dict], config, rejected: tuple[str, ...] = ()) -> torch.Tensor:
    """What loops over float64 numbers give for the rows, (bs,)."""
    from durian_reference import durian as reference

    log_probs = "rollout_log_probs" if config.algorithm.rollout_correction.bypass_mode else "old_log_probs"
    rewards = padded(rows, "rm_scores").double()
    if config.algorithm.use_kl_in_reward:
        difference = padded(rows, "old_log_probs") - padded(rows, "ref_log_prob")
        rewards = rewards - config.algorithm.kl_ctrl.kl_coef * difference.double()
    kept = torch.tensor([row["key"] not in rejected for row in rows])
    durian = config.algorithm.durian
    advantages = reference(
        rewards.numpy(),
        (padded(rows, "response_mask") * kept.unsqueeze(-1)).numpy(),
        [row["uid"] for row in rows],
        padded(rows, log_probs).double().numpy(),
        [float("nan") if row["visual_entropy"] is None else row["visual_entropy"] for row in rows],
        weights=(0.1, 0.2, 0.7),
        quantiles=(0.25, 0.75),
        num_groups=durian.reasoning.num_groups,
        thresholds=durian.get("perceptual", {}).get("thresholds", "batch"),
    )
    return torch.tensor(advantages, dtype=torch.float32)


def assert_expected(found, rows: list[dict], config, rejected: tuple[str, ...] = ()) -> dict:
    """Of what a step found, the advantages are those of the loops, 0 in padding rows; returns the metrics."""
    advantages, mask, metrics = found
    wanted = expected(rows, config, rejected)
    assert wanted.abs().sum() > 5
    real = slice(0, len(rows))
    torch.testing.assert_close(advantages[real], wanted.unsqueeze(-1) * mask[real], rtol=1e-5, atol=1e-5)
    assert not advantages[len(rows) :].any()
    assert metrics["durian/prompts/num"] == len({row["uid"] for row in rows if row["key"] not in rejected})
    assert metrics["timing_s/durian"] > 0
    return metrics


class Tokenizer:
    """Decodes token ids as numbers."""

    def batch_decode(self, ids, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [" ".join(str(int(token)) for token in row) for row in ids]


def in_last_step(trainer, config):
    """The trainer in its first and last step, of which the record is waited for."""
    trainer.config, trainer.tokenizer = config, Tokenizer()
    trainer.global_steps = trainer.total_training_steps = trainer.total_train_steps = 1
    return trainer


def put_rows(rows: list[dict]):
    """Puts the rows into TransferQueue; returns its KVBatchMeta."""
    import transfer_queue as tq
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    keys = [row["key"] for row in rows]
    fields = [{name: value for name, value in row.items() if name != "key"} for row in rows]
    tags = [{"status": "success", "prompt_len": 5, "response_len": 1, "seq_len": 6} for _ in rows]
    return tq.kv_batch_put(
        keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(fields), tags=tags
    ) or tq.KVBatchMeta(keys=keys, tags=tags, partition_id="train")


def run_v1(rows: list[dict], config, multiple: int = 1, mode: str = "sync") -> tuple[torch.Tensor, torch.Tensor, dict]:
    """V1's ``_compute_advantage`` on rows that verl pads to a multiple; returns advantages, mask and metrics."""
    import transfer_queue as tq
    from verl.trainer.ppo.core_algos import get_kl_controller
    from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
    from verl.trainer.ppo.v1 import get_trainer_cls

    batch = upsample_batch_to_divisible_size(put_rows(rows), multiple, eos_token_id=0)
    trainer = in_last_step(object.__new__(get_trainer_cls(mode)), config)
    trainer.kl_ctrl_in_reward = get_kl_controller(config.algorithm.kl_ctrl)
    metrics: dict = {}
    try:
        if config.algorithm.rollout_correction.bypass_mode:
            batch = trainer._compute_old_log_prob(batch, metrics)
        trainer._compute_advantage(batch, metrics)
        fields = ["advantages", "response_mask"]
        found = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=fields).to_padded_tensor()
    finally:
        tq.kv_clear(keys=batch.keys, partition_id="train")
    return found["advantages"], found["response_mask"], metrics


def data_proto(rows: list[dict]):
    """The rows as the older trainers hold them after generation and the passes through the models."""
    from verl.protocol import DataProto

    names = ("response_mask", "rm_scores", "old_log_probs", "rollout_log_probs", "ref_log_prob", "values", "responses")
    tensors = {name: padded(rows, name) for name in names if name in rows[0]}
    tensors["prompts"] = padded(rows, "prompts")
    tensors["attention_mask"] = torch.cat([torch.ones_like(tensors["prompts"]), tensors["response_mask"]], dim=1)
    columns = {
        "uid": [row["uid"] for row in rows],
        "visual_entropy": [row["visual_entropy"] for row in rows],
        "acc": [row["extra_fields"]["reward_extra_info"]["acc"] for row in rows],
        "durian_row": [row["durian_row"] for row in rows],
    }
    return DataProto.from_dict(
        tensors=tensors,
        non_tensors={name: np.fromiter(values, object, len(rows)) for name, values in columns.items()},
        meta_info={"reward_extra_keys": ["acc"], "global_token_num": tensors["attention_mask"].sum(-1).tolist()},
    )


class Sent(Exception):
    """Ends `_update_actor` of the older trainers, with the names of what it sends to the workers."""

    @classmethod
    def of(cls, batch):
        def to_tensordict():
            raise cls(*type(batch).to_tensordict(batch).keys())

        return to_tensordict


def run_v0(rows: list[dict], config, meta_info: dict | None = None) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """``RayPPOTrainer.fit`` from the reward to the metrics, the calls as they stand there; returns as `run_v1`."""
    from verl.trainer.ppo import ray_trainer
    from verl.trainer.ppo.core_algos import get_kl_controller
    from verl.trainer.ppo.rollout_corr_helper import apply_bypass_mode, compute_rollout_correction_and_add_to_batch

    from verl_durian.hooks import record

    trainer = in_last_step(object.__new__(ray_trainer.RayPPOTrainer), config)
    record.remember(trainer)  # as when it loads its training set
    batch, correction = data_proto(rows), config.algorithm.rollout_correction
    batch.meta_info |= meta_info or {}
    batch.batch["token_level_scores"] = batch.batch["rm_scores"]
    if correction.bypass_mode:
        apply_bypass_mode(batch, correction, config.actor_rollout_ref.actor.policy_loss)
    if config.algorithm.use_kl_in_reward:
        controller = get_kl_controller(config.algorithm.kl_ctrl)
        batch, _ = ray_trainer.apply_kl_penalty(batch, kl_ctrl=controller, kl_penalty=config.algorithm.kl_penalty)
    else:
        batch.batch["token_level_rewards"] = batch.batch["token_level_scores"]
    if not correction.bypass_mode:
        batch, _ = compute_rollout_correction_and_add_to_batch(batch, correction)
    batch = ray_trainer.compute_advantage(
        batch,
        adv_estimator=config.algorithm.adv_estimator,
        gamma=config.algorithm.gamma,
        lam=config.algorithm.lam,
        num_repeat=ROLLOUTS,
        norm_adv_by_std_in_grpo=True,
        config=config.algorithm,
    )
    batch.to_tensordict = Sent.of(batch)
    try:
        trainer._update_actor(batch)
    except Sent as sent:
        assert {key for key in sent.args if "durian" in key} == {"durian_row"}
    metrics = ray_trainer.compute_data_metrics(batch=batch, use_critic=bool(config.critic.enable))
    return batch.batch["advantages"], batch.batch["response_mask"], metrics


def load_training_set(
    trainer: str, model: Path, folder: Path, entropies: list[float | None], *overrides: str, durian=DURIAN
):
    """The real trainer, `v1` or another, after it has loaded a training set of these visual entropies."""
    import datasets
    from transformers import AutoProcessor
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

    images = [[] if entropy is None else [{"bytes": b"not looked at"}] for entropy in entropies]
    prompts = [[{"role": "user", "content": "<image>" * len(of_row) + "What is it?"}] for of_row in images]
    columns = {"prompt": prompts, "images": images, "visual_entropy": entropies}
    datasets.Dataset.from_dict(columns).to_parquet(folder / "train.parquet")
    config = compose(
        *durian,
        *ROLLOUT,
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'train.parquet'}",
        "data.train_batch_size=2",
        f"+data.cache_dir={folder / 'data'}",
        *overrides,
    )
    loading = object.__new__(PPOTrainerSync if trainer == "v1" else RayPPOTrainer)
    loading.config, loading.processor = config, AutoProcessor.from_pretrained(model)
    loading.tokenizer = loading.processor.tokenizer
    if trainer == "v1":
        loading.trainer_mode, loading.parameter_sync_step = "sync", 1
        loading._init_dataloader()
    else:
        loading._create_dataloader(None, None, None, None)
    return loading


def main(out: str, *estimators: str) -> None:
    if os.environ.get("VERL_USE_EXTERNAL_PLUGINS") == "none":
        os.environ.pop("VERL_PLATFORM", None)  # without the plugin verl knows no platform "cpu"
    from local_ray import join_local_ray

    join_local_ray()
    config, rows, found = compose(), make_rows(), {}
    for estimator in estimators:
        config.algorithm.adv_estimator = estimator
        found[f"{estimator}_v1"] = run_v1(rows, config, multiple=5)[0].numpy()
        found[f"{estimator}_v0"] = run_v0(rows, config)[0].numpy()
    np.savez(out, plugin="verl_durian.hooks.trainers" in sys.modules, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

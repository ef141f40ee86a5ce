# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl's own advantage steps on a batch made here: Trainer V1's with real TransferQueue data, the older trainer's.

    python advantage_step.py OUT.npz ESTIMATOR...

Run as a program it writes what both steps computed, so that processes with and without the plugin can be compared.
"""

import os
import sys

import numpy as np
import torch

PROMPTS, ROLLOUTS = 9, 4


def compose(*overrides: str):
    """verl's config of ``verl.trainer.main_ppo``."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def make_rows(outputs: int = 1) -> list[dict]:
    """Rollouts as verl's agent loop puts them into TransferQueue; ``outputs`` rows for each session.

    The last output of a session carries the reward, the others repeat it; lengths and log-probabilities differ.
    """
    rng = np.random.default_rng(0)
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
                        "rollout_log_probs": log_probs.clone(),
                        "visual_entropy": entropy,
                        "extra_fields": {"reward_extra_info": {"acc": float(rng.choice([0.0, 1.0]))}},
                    }
                )
    order = rng.permutation(len(rows))
    return [rows[k] for k in order]


def padded(rows: list[dict], field: str) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([row[field] for row in rows], batch_first=True)


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
    """V1's ``_compute_advantage`` in a trainer of this mode, on the rows, padded by verl to a multiple of ``multiple``.

    Returns:
        advantages and response mask, both (bs, response_length) with padding rows last, and the metrics.
    """
    import transfer_queue as tq
    from verl.trainer.ppo.core_algos import get_kl_controller
    from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
    from verl.trainer.ppo.v1 import get_trainer_cls

    batch = upsample_batch_to_divisible_size(put_rows(rows), multiple, eos_token_id=0)
    trainer = object.__new__(get_trainer_cls(mode))
    trainer.config = config
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


def run_v0(rows: list[dict], config, meta_info: dict | None = None):
    """The older trainer's ``compute_advantage`` on the rows, called as its ``fit`` does; returns the DataProto."""
    from verl.protocol import DataProto
    from verl.trainer.ppo import ray_trainer

    data = DataProto.from_dict(
        tensors={
            "token_level_rewards": padded(rows, "rm_scores"),
            "response_mask": padded(rows, "response_mask"),
            "old_log_probs": padded(rows, "old_log_probs"),
        },
        non_tensors={
            "uid": np.array([row["uid"] for row in rows], dtype=object),
            "visual_entropy": np.array([row["visual_entropy"] for row in rows], dtype=object),
            "acc": np.array([row["extra_fields"]["reward_extra_info"]["acc"] for row in rows]),
        },
        meta_info=meta_info,
    )
    return ray_trainer.compute_advantage(
        data,
        adv_estimator=config.algorithm.adv_estimator,
        gamma=config.algorithm.gamma,
        lam=config.algorithm.lam,
        num_repeat=ROLLOUTS,
        norm_adv_by_std_in_grpo=True,
        config=config.algorithm,
    )


def start_transfer_queue(config) -> None:
    """On a Ray of its own; `stop_transfer_queue` ends both."""
    import ray
    import transfer_queue as tq
    from omegaconf import OmegaConf

    ray.shutdown()  # of other tests in this process
    ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    config.transfer_queue.enable = True
    config.transfer_queue.backend.SimpleStorage.num_data_storage_units = 1
    OmegaConf.resolve(config)
    tq.init(config.transfer_queue)


def stop_transfer_queue() -> None:
    import ray
    import transfer_queue as tq

    tq.close()  # which forgets its actors, so that another may be started
    ray.shutdown()


def main(out: str, *estimators: str) -> None:
    if os.environ.get("VERL_USE_EXTERNAL_PLUGINS") == "none":
        os.environ.pop("VERL_PLATFORM", None)  # without the plugin verl knows no platform "cpu"
    config = compose()
    start_transfer_queue(config)
    rows, found = make_rows(), {}
    for estimator in estimators:
        config.algorithm.adv_estimator = estimator
        found[f"{estimator}_v1"] = run_v1(rows, config, multiple=5)[0].numpy()
        found[f"{estimator}_v0"] = run_v0(rows, config).batch["advantages"].numpy()
    np.savez(out, plugin="verl_durian.hooks.trainers" in sys.modules, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

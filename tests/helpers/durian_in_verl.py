# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl's own advantage steps with the estimator durian, in whichever verl comes first on the path.

    python durian_in_verl.py OUT.json MODEL FOLDER

Run as a program, so that processes with and without the patches, with and without the plugin can be compared. MODEL is
a tiny checkpoint for a training set that is written to FOLDER.
"""

import json
import os
import sys
from pathlib import Path


def main(out: str, model: str, folder: str) -> None:
    if os.environ.get("VERL_USE_EXTERNAL_PLUGINS") == "none":
        os.environ.pop("VERL_PLATFORM", None)  # without the plugin verl knows no platform "cpu"
    import transfer_queue as tq
    from advantage_step import DURIAN, ENTROPIES, ROLLOUT, compose, load_training_set, make_rows, run_v0, run_v1
    from local_ray import join_local_ray
    from verl.experimental.fully_async_policy import fully_async_rollouter
    from verl.trainer.ppo import core_algos, ray_trainer
    from verl.trainer.ppo.v1 import trainer_base
    from verl.utils import config as verl_config

    join_local_ray()
    config = compose(*DURIAN)
    estimator, calls = core_algos.ADV_ESTIMATOR_REGISTRY["durian"], []
    core_algos.ADV_ESTIMATOR_REGISTRY["durian"] = lambda **kwargs: calls.append("estimate") or estimator(**kwargs)
    # It is V1's own call that is counted: the queue's functions are looked up in that module.
    kv_batch_get = tq.kv_batch_get
    trainer_base.tq.kv_batch_get = lambda **kwargs: calls.append("fetch") or kv_batch_get(**kwargs)

    rows, several, non_finite = make_rows(), make_rows(outputs=3), make_rows()
    non_finite[0]["old_log_probs"][-1], non_finite[7]["old_log_probs"][0] = float("nan"), float("-inf")
    advantages, _, metrics = run_v1(rows, config)
    functions = (
        ray_trainer.compute_advantage,
        ray_trainer.compute_data_metrics,
        ray_trainer.RayPPOTrainer._create_dataloader,
        ray_trainer.RayPPOTrainer._get_gen_batch,
        trainer_base.PPOTrainer._init_dataloader,
        trainer_base.PPOTrainer._compute_advantage,
        trainer_base.compute_advantage_for_multi_trajectories,
        fully_async_rollouter.FullyAsyncAgentLoopManager.generate_sequences_single,
    )
    found = {
        "verl": ray_trainer.__file__,
        "estimator": estimator.__module__,
        "hooked": sorted(each.__name__ for each in functions if "verl_durian" in each.__code__.co_filename),
        "calls": calls[:-1],  # the last is of run_v1 itself
        "metrics": sorted(name for name in metrics if name.startswith("durian/")),
        "v1": advantages.tolist(),
        "v1_padded": run_v1(rows, config, multiple=5)[0].tolist(),
        "v1_several_outputs": run_v1(several, config)[0].tolist(),
        "v1_non_finite": run_v1(non_finite, config)[0].tolist(),
        "older": run_v0(rows, config)[0].tolist(),
        "older_non_finite": run_v0(non_finite, config)[0].tolist(),
    }
    if os.environ.get("VERL_USE_EXTERNAL_PLUGINS") != "none":
        of_dataset = "++algorithm.durian.perceptual.thresholds=dataset"
        dynamic = "actor_rollout_ref.actor.use_dynamic_bsz=True"
        starting = compose(*DURIAN, *ROLLOUT, of_dataset, f"actor_rollout_ref.model.path={model}", dynamic)
        verl_config.validate_config(starting, use_reference_policy=False, use_critic=False)
        found["validated"] = starting.algorithm.durian.perceptual.thresholds
        trained = load_training_set("v1", Path(model), Path(folder), ENTROPIES, of_dataset).config
        found["thresholds"] = list(trained.algorithm.durian.perceptual.thresholds)
        found["v1_thresholds"] = run_v1(rows, trained)[0].tolist()
        without = "++algorithm.durian.weights.perceptual=0"
        trained = load_training_set("v1", Path(model), Path(folder), ENTROPIES, of_dataset, without).config
        found["v1_without_perceptual"] = run_v1(rows, trained)[0].tolist()
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

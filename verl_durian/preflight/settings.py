# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Settings of verl that corrupt or crash a run, refused before it starts."""

import math
from importlib.metadata import version

from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight.installation import folder_of

QWEN2_VL_FAMILY = ("qwen2_vl", "qwen2_5_vl")


def find(config: DictConfig, model_type: str | None) -> list[str]:
    """Settings that are known to corrupt or to crash a run.

    Args:
        config: verl's whole configuration.
        model_type: Of the model's config.json; None where it cannot be read, and could be any.

    Returns:
        Every problem with its remedy, one line each.
    """
    problems = _updates_of_separate_async(config) + _micro_batches_that_do_not_divide(config)
    problems += _overlong_buffer(config) + _filter_metric(config)
    if model_type in (*QWEN2_VL_FAMILY, None):
        problems += _noise_in_image_normalization(config) + _micro_batches_of_padding(config)
    return problems


def _overlong_buffer(config: DictConfig) -> list[str]:
    """A penalty over more tokens than a response has, at which verl's reward workers end, and every rollout fails."""
    kwargs = OmegaConf.select(config, "reward.reward_kwargs") or {}
    longest, buffer = kwargs.get("max_resp_len"), kwargs.get("overlong_buffer_cfg") or {}
    if not buffer.get("enable") or longest is None or 0 < buffer.get("len", 0) <= longest:
        return []
    return [
        f"reward.reward_kwargs.overlong_buffer_cfg.len={buffer.get('len')}: must be from 1 to "
        f"reward.reward_kwargs.max_resp_len={longest}; lower it (OVERLONG_BUFFER), 0 leaves the penalty out"
    ]


def _filter_metric(config: DictConfig) -> list[str]:
    """A metric that our reward does not return, which verl tells in the first step."""
    groups, reward = config.algorithm.filter_groups, config.reward.custom_reward_function.path
    known = ("reward", "score", "acc", "format")
    if not (groups and groups.enable) or reward != "pkg://verl_durian.reward" or groups.metric in known:
        return []
    return [f"algorithm.filter_groups.metric={groups.metric}: must be {', '.join(known)} (FILTER_METRIC)"]


def _noise_in_image_normalization(config: DictConfig) -> list[str]:
    """`load_format=dummy`, verl's default, where vLLM would normalise images with random numbers.

    verl starts vLLM with dummy weights and sends it the actor's; but a buffer of the rollout's model that is no weight
    of the actor's stays as the dummy loader filled it, with noise. vLLM 0.28 has such a buffer, `FusedInputNorm`, where
    vLLM 0.24 has none. Nothing fails: the policy merely sees wrong images while it rolls out.
    """
    rollout = config.actor_rollout_ref.rollout
    if rollout.name != "vllm" or rollout.load_format != "dummy" or not _vllm_keeps_image_normalization_in_a_buffer():
        return []
    if OmegaConf.select(rollout, "engine_kwargs.vllm.mm_device_do_normalize") is False:
        return []
    return [
        "actor_rollout_ref.rollout.load_format=dummy: this vLLM would normalise images with random numbers; "
        "set actor_rollout_ref.rollout.load_format=auto"
    ]


def _vllm_keeps_image_normalization_in_a_buffer() -> bool:
    """Read in vLLM's source, because importing vLLM takes many seconds."""
    try:
        file = folder_of("vllm") / "model_executor" / "models" / "vision.py"
    except ModuleNotFoundError:
        return False
    return file.exists() and "class FusedInputNorm" in file.read_text()


def _micro_batches_that_do_not_divide(config: DictConfig) -> list[str]:
    """Rows that verl would have to share unevenly, where it stops in the first step.

    verl 0.9.1 (V1) deals a step's rows evenly to the data-parallel ranks and cuts a rank's rows of an update, and of a
    step for log-probabilities, into micro batches of one size (`workers/engine/utils.py`, `prepare_micro_batches`).
    """
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    if not config.trainer.use_v1:
        return []
    ranks, update_rows = _ranks(config), actor.ppo_mini_batch_size * rollout.n
    if update_rows % ranks:
        return [
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}: the {update_rows} rollouts of "
            f"an update do not divide among {ranks} data-parallel ranks; make it a multiple of "
            f"{ranks // math.gcd(ranks, rollout.n)}"
        ]
    rows = {"actor.ppo_micro_batch_size_per_gpu": update_rows // ranks} if not actor.use_dynamic_bsz else {}
    step_rows = _step_rows(config) + _padding_rows(config)
    rows |= dict.fromkeys(_log_prob_micro_batches(config), step_rows // ranks)
    return [
        f"actor_rollout_ref.{name}={size}: verl stops where the {count} rollouts of a GPU do not divide into micro "
        f"batches of so many; set it to {max(each for each in range(1, size + 1) if count % each == 0)}"
        for name, count in rows.items()
        if (size := OmegaConf.select(config.actor_rollout_ref, name)) and count % size
    ]


def _updates_of_separate_async(config: DictConfig) -> list[str]:
    """A batch that is not that of its updates, where verl stops once Ray has started."""
    mode, batch = config.trainer.v1.trainer_mode, config.data.train_batch_size
    if not config.trainer.use_v1 or mode != "separate_async":
        return []
    updates, prompts = config.trainer.v1[mode].parameter_sync_step, config.actor_rollout_ref.actor.ppo_mini_batch_size
    if batch == updates * prompts:
        return []
    return [
        f"data.train_batch_size={batch}: trainer.v1.trainer_mode={mode} takes parameter_sync_step={updates} x "
        f"actor_rollout_ref.actor.ppo_mini_batch_size={prompts} prompts a step; set it to {updates * prompts}"
    ]


def _ranks(config: DictConfig) -> int:
    """Data-parallel ranks."""
    actor = config.actor_rollout_ref.actor
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if actor.strategy == "megatron":
        cut = actor.megatron
        group = cut.tensor_model_parallel_size * cut.pipeline_model_parallel_size * cut.context_parallel_size
        return max(1, gpus // group)
    if actor.strategy in ("fsdp", "fsdp2"):
        group = max(actor.ulysses_sequence_parallel_size, actor.fsdp_config.ulysses_sequence_parallel_size)
        return max(1, gpus // group)
    return gpus


def _step_rows(config: DictConfig) -> int:
    sync_steps = OmegaConf.select(config, f"trainer.v1.{config.trainer.v1.trainer_mode}.parameter_sync_step") or 1
    return config.data.train_batch_size // sync_steps * config.actor_rollout_ref.rollout.n


def _padding_rows(config: DictConfig) -> int:
    """Rows that verl adds to a step's, to fill it up to a multiple of lcm(ranks, rows of an update)."""
    update_rows = config.actor_rollout_ref.actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n
    return -_step_rows(config) % math.lcm(_ranks(config), update_rows)


def _log_prob_micro_batches(config: DictConfig) -> list[str]:
    """The settings, under `actor_rollout_ref`, that cut a step's rows for log-probabilities into micro batches."""
    nodes = ["rollout"]
    if config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward:
        nodes.append("ref")
    return [
        f"{node}.log_prob_micro_batch_size_per_gpu"
        for node in nodes
        if not config.actor_rollout_ref[node].log_prob_use_dynamic_bsz
    ]


def needs_images(config: DictConfig) -> bool:
    """Whether verl's code for a model of the `QWEN2_VL_FAMILY` crashes on a micro batch without any image."""
    fsdp = config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2")
    return fsdp and int(version("transformers").split(".")[0]) >= 5 and _verl_takes_an_object_for_a_tensor()


def _verl_takes_an_object_for_a_tensor() -> bool:
    """Read in verl's source: patches/verl-0.9.1/0003 fixes it."""
    file = folder_of("verl") / "models" / "transformers" / "qwen2_vl.py"
    return "image_embeds = model.visual(" in file.read_text()


def _micro_batches_of_padding(config: DictConfig) -> list[str]:
    """Micro batches of nothing but verl's padding rows, on which its Qwen2-VL code crashes.

    verl 0.9.1 (V1) fills a step's rows up to a multiple of lcm(data-parallel ranks, rows of an update) with padding
    rows (`trainer_base._get_required_batch_multiple`, `padding_utils.upsample_batch_to_divisible_size`). They are text
    only, and a micro batch without any image calls `.mean()` on the visual encoder's output, which is no tensor since
    transformers 5 (`models/transformers/qwen2_vl.py`: "'BaseModelOutputWithPooling' object has no attribute 'mean'").

    Let P be the number of padding rows and D the number of data-parallel ranks. The padding rows are of one length, so
    balancing deals each rank P / D of them, rounded up or down, and it puts them last. So:

    - with micro batches of m rows, the last one of a rank holds padding alone if ceil(P / D) >= m;
    - with `use_dynamic_bsz`, rows are dealt to micro batches by length, longest first, and padding is left alone only
      where a rank's last update has no real row, that is if ceil(P / D) >= rows of an update / D.

    P follows from the settings unless rollouts fail or have several outputs, which this cannot foresee.
    """
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    if not config.trainer.use_v1 or not needs_images(config):
        return []
    ranks, padding = _ranks(config), _padding_rows(config)
    padding_per_rank = -(-padding // ranks)
    if padding == 0:
        return []

    update_rows = actor.ppo_mini_batch_size * rollout.n
    limits = {
        "actor.ppo_micro_batch_size_per_gpu": update_rows // ranks
        if actor.use_dynamic_bsz
        else actor.ppo_micro_batch_size_per_gpu
    }
    limits |= {name: OmegaConf.select(config.actor_rollout_ref, name) for name in _log_prob_micro_batches(config)}
    remedy = (
        f"make data.train_batch_size={config.data.train_batch_size} a multiple of "
        f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}, or patch verl (patches/README.md)"
    )
    return [
        f"actor_rollout_ref.{name}={rows}: verl would add {padding} padding rows a step, up to {padding_per_rank} "
        f"a rank, and crash on a micro batch of them alone; {remedy}"
        for name, rows in limits.items()
        if rows is not None and padding_per_rank >= rows
    ]

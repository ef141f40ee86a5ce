# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of verl that are certain to corrupt or crash a run.

They are refused before every run of the estimator, with any of verl's trainers. What only may fail is no matter of this
module.
"""

import math
from importlib.metadata import version

from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight import memory
from verl_durian.preflight.installation import folder_of

QWEN2_VL_FAMILY = ("qwen2_vl", "qwen2_5_vl")


def find(config: DictConfig, model_type: str | None) -> list[str]:
    """Settings that are known to corrupt or to crash a run.

    Args:
        config: verl's whole configuration.
        model_type: Of the model's config.json; None where it cannot be read: nothing is then said about the model.

    Returns:
        Every problem with its remedy, one line each.
    """
    problems = _overlong_buffer(config)
    if uses_v1(config):
        problems += _updates_of_separate_async(config)
        if trains(config):
            problems += _filter_metric(config) + _micro_batches_that_do_not_divide(config)
    if model_type in QWEN2_VL_FAMILY:
        problems += _noise_in_image_normalization(config) + _micro_batches_of_padding(config)
    return problems


def uses_v1(config: DictConfig) -> bool:
    """Whether trainer V1 runs. One-step off-policy and fully asynchronous training inherit `use_v1` and ignore it;
    they have a node `rollout` of their own."""
    return config.trainer.use_v1 and "rollout" not in config


def trains(config: DictConfig) -> bool:
    """Whether there is a step; verl looks at `val_only` after the validation before training alone."""
    return not (config.trainer.val_only and config.trainer.val_before_train)


def _overlong_buffer(config: DictConfig) -> list[str]:
    """A penalty that verl's reward manager `dapo` refuses: its workers end, and every rollout fails."""
    manager, kwargs = config.reward.reward_manager, OmegaConf.select(config, "reward.reward_kwargs") or {}
    longest, buffer = kwargs.get("max_resp_len"), kwargs.get("overlong_buffer_cfg") or {}
    if (manager.source, manager.name) != ("register", "dapo") or not buffer.get("enable"):
        return []
    length = buffer.get("len")
    if longest is None:
        return ["reward.reward_kwargs.max_resp_len=null: overlong_buffer_cfg.enable=True needs the longest response"]
    if isinstance(length, (int, float)) and 0 < length <= longest:
        return []
    return [
        f"reward.reward_kwargs.overlong_buffer_cfg.len={length}: must be from 1 to "
        f"reward.reward_kwargs.max_resp_len={longest}; change it (OVERLONG_BUFFER), 0 leaves the penalty out"
    ]


def _filter_metric(config: DictConfig) -> list[str]:
    """A metric that our reward does not return, at which verl stops in the first step."""
    groups, reward = config.algorithm.filter_groups, config.reward.custom_reward_function.path
    known = ["reward", "score", "acc", "format"]
    if not (groups and groups.enable) or reward != "pkg://verl_durian.reward" or _has_sampler_of_its_own(config):
        return []
    if config.reward.reward_manager.name != "naive" or groups.metric in known:
        return []  # other managers may add to what the reward returns, as dapo does
    return [f"algorithm.filter_groups.metric={groups.metric}: must be {', '.join(known)} (FILTER_METRIC)"]


def _noise_in_image_normalization(config: DictConfig) -> list[str]:
    """`load_format=dummy`, verl's default, where vLLM would normalise images with random numbers.

    verl starts vLLM with dummy weights and sends it the actor's; but a buffer of the rollout's model that is no weight
    of the actor's stays as the dummy loader filled it, with noise. vLLM 0.28 has such a buffer, `FusedInputNorm`, where
    vLLM 0.24 has none. Nothing fails: the policy merely sees wrong images while it rolls out.
    """
    rollout = config.actor_rollout_ref.rollout
    engine = OmegaConf.select(rollout, "engine_kwargs.vllm") or {}
    if rollout.name != "vllm" or (engine.get("load_format") or rollout.load_format) != "dummy":
        return []
    if "hijack__dummy_load_weights" in _source("verl", "utils/vllm/utils.py"):
        return []  # patches/verl-0.9.1/0004 keeps the buffers
    if engine.get("mm_device_do_normalize") is False or not _vllm_keeps_image_normalization_in_a_buffer():
        return []
    return [
        "actor_rollout_ref.rollout.load_format=dummy: this vLLM would normalise images with random numbers; "
        "set actor_rollout_ref.rollout.load_format=auto"
    ]


def _vllm_keeps_image_normalization_in_a_buffer() -> bool:
    """Read in vLLM's source, because importing vLLM takes many seconds."""
    return "class FusedInputNorm" in _source("vllm", "model_executor/models/vision.py")


def _source(package: str, file: str) -> str:
    """The text of a package's file; empty where there is none, as in another release."""
    try:
        path = folder_of(package) / file
    except ModuleNotFoundError:
        return ""
    return path.read_text() if path.exists() else ""


def _micro_batches_that_do_not_divide(config: DictConfig) -> list[str]:
    """Rows that verl would have to share unevenly, where it stops in the first step.

    verl 0.9.1 (V1) deals a step's rows evenly to the data-parallel ranks and cuts a rank's rows of an update, and of a
    step for log-probabilities, into micro batches of one size (`workers/engine/utils.py`, `prepare_micro_batches`).
    """
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    ranks, update_rows = _ranks(config), actor.ppo_mini_batch_size * rollout.n
    if ranks is None:
        return []
    if update_rows % ranks:
        return [
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}: the {update_rows} rollouts of "
            f"an update do not divide among {ranks} data-parallel ranks; make it a multiple of "
            f"{ranks // math.gcd(ranks, rollout.n)}"
        ]
    rows = {"actor.ppo_micro_batch_size_per_gpu": update_rows // ranks} if not actor.use_dynamic_bsz else {}
    if (step_rows := _step_rows(config)) is not None:
        filled = step_rows + _padding_rows(config, step_rows, ranks)
        rows |= dict.fromkeys(_log_prob_micro_batches(config), filled // ranks)
    return [
        f"actor_rollout_ref.{name}={size}: verl stops where the {count} rollouts of a GPU do not divide into micro "
        f"batches of so many; set it to {max(each for each in range(1, size + 1) if count % each == 0)}"
        for name, count in rows.items()
        if (size := OmegaConf.select(config.actor_rollout_ref, name)) and count % size
    ]


def _updates_of_separate_async(config: DictConfig) -> list[str]:
    """A batch that is not that of its updates, where verl stops once Ray has started."""
    mode, batch = config.trainer.v1.trainer_mode, config.data.train_batch_size
    if mode != "separate_async":
        return []
    updates, prompts = config.trainer.v1[mode].parameter_sync_step, config.actor_rollout_ref.actor.ppo_mini_batch_size
    if batch == updates * prompts:
        return []
    return [
        f"data.train_batch_size={batch}: trainer.v1.trainer_mode={mode} takes parameter_sync_step={updates} x "
        f"actor_rollout_ref.actor.ppo_mini_batch_size={prompts} prompts a step; set it to {updates * prompts}"
    ]


def _ranks(config: DictConfig) -> int | None:
    """Data-parallel ranks; None for strategies other than FSDP and Megatron."""
    actor, gpus = config.actor_rollout_ref.actor, memory.gpus_of(config)
    if actor.strategy == "megatron" and not actor.megatron.get("dynamic_context_parallel"):
        cut = actor.megatron
        group = cut.tensor_model_parallel_size * cut.pipeline_model_parallel_size * cut.context_parallel_size
    elif actor.strategy in ("fsdp", "fsdp2"):
        group = max(actor.ulysses_sequence_parallel_size, actor.fsdp_config.ulysses_sequence_parallel_size)
    else:
        return None
    return max(1, gpus // group)


def _has_sampler_of_its_own(config: DictConfig) -> bool:
    """Whether the user's code in place of verl's chooses the rows of a step."""
    return OmegaConf.select(config, "trainer.v1.sampler.custom_sampler.path") is not None


def _step_rows(config: DictConfig) -> int | None:
    """Rows of a step in which no rollout fails; None where the user's own code decides on them, or steps differ."""
    trainer, agent = config.trainer, config.actor_rollout_ref.rollout.agent
    if trainer.critic_warmup > 1:  # its steps do not update the actor
        return None
    if trainer.v1.trainer_mode not in ("sync", "colocate_async", "separate_async") or _has_sampler_of_its_own(config):
        return None
    if agent.agent_loop_config_path is not None or agent.get("agent_loop_manager_class") is not None:
        return None  # a rollout may then be several rows
    sync_steps = trainer.v1[trainer.v1.trainer_mode].get("parameter_sync_step", 1)
    return config.data.train_batch_size // sync_steps * config.actor_rollout_ref.rollout.n


def _padding_rows(config: DictConfig, step_rows: int, ranks: int) -> int:
    """Rows that verl adds to a step's, to fill it up to a multiple of lcm(ranks, rows of an update)."""
    updates = [config.actor_rollout_ref.actor.ppo_mini_batch_size]
    critic = config.critic.enable
    if config.algorithm.adv_estimator == "gae" if critic is None else critic:
        updates.append(config.critic.ppo_mini_batch_size)
    return -step_rows % math.lcm(ranks, *(prompts * config.actor_rollout_ref.rollout.n for prompts in updates))


def _log_prob_micro_batches(config: DictConfig) -> list[str]:
    """The settings, under `actor_rollout_ref`, that cut a step's rows for log-probabilities into micro batches.

    In bypass mode V1 takes the rollout's log-probabilities for the old ones. With LoRA the actor, without its adapter,
    is the reference.
    """
    reference = config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward
    adapter = memory.is_lora(config)
    bypass = OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode")
    nodes = {"rollout": not bypass or (reference and adapter), "ref": reference and not adapter}
    return [
        f"{node}.log_prob_micro_batch_size_per_gpu"
        for node, computes in nodes.items()
        if computes and not config.actor_rollout_ref[node].log_prob_use_dynamic_bsz
    ]


def needs_images(config: DictConfig) -> bool:
    """Whether verl's code for a model of the `QWEN2_VL_FAMILY` crashes on a micro batch without any image."""
    fsdp = config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2")
    return fsdp and int(version("transformers").split(".")[0]) >= 5 and _verl_takes_an_object_for_a_tensor()


def _verl_takes_an_object_for_a_tensor() -> bool:
    """Read in verl's source: patches/verl-0.9.1/0003 fixes it."""
    return "image_embeds = model.visual(" in _source("verl", "models/transformers/qwen2_vl.py")


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

    P follows from the settings where no rollout fails.
    """
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    if not uses_v1(config) or not trains(config) or not needs_images(config):
        return []
    ranks, step_rows = _ranks(config), _step_rows(config)
    if ranks is None or step_rows is None:
        return []
    padding = _padding_rows(config, step_rows, ranks)
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

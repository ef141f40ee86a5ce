# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Settings with which verl is certain to crash, or to corrupt a run without an error.

Checked before every run of the estimator, with any of verl's trainers. What only may fail does not belong here.
"""

import json
import math
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

QWEN2_VL_FAMILY = ("qwen2_vl", "qwen2_5_vl")


def find(config: DictConfig, model_type: str | None) -> list[str]:
    """Finds the settings that will crash or corrupt a run.

    Args:
        config: verl's config.
        model_type: `model_type` of the model's config.json; None skips the checks that depend on the model.

    Returns:
        One line per problem, with the fix.
    """
    problems = _invalid_overlong_buffer(config)
    if uses_v1(config):
        problems += _unequal_updates_of_separate_async(config)
    if uses_v1(config) and trains(config):
        problems += _unknown_filter_metric(config) + _indivisible_micro_batches(config)
    if model_type in QWEN2_VL_FAMILY:
        problems += _random_image_normalization(config) + _micro_batches_of_padding(config)
    return problems


def _unequal_updates_of_separate_async(config: DictConfig) -> list[str]:
    """A batch that is not the prompts of its updates: verl's constructor asserts it after Ray has started."""
    mode, batch = config.trainer.v1.trainer_mode, config.data.train_batch_size
    if mode != "separate_async":
        return []
    updates, prompts = config.trainer.v1[mode].parameter_sync_step, config.actor_rollout_ref.actor.ppo_mini_batch_size
    if batch == updates * prompts:
        return []
    return [
        f"data.train_batch_size={batch}: trainer.v1.trainer_mode={mode} takes parameter_sync_step={updates} x "
        f"actor_rollout_ref.actor.ppo_mini_batch_size={prompts} prompts per step; set it to {updates * prompts}"
    ]


def read_model_type(settings: DictConfig) -> str | None:
    """Reads `model_type` from a model's config.json, in a folder or on the Hugging Face hub.

    Args:
        settings: The node `actor_rollout_ref.model` of verl's config.

    Returns:
        The type; None if the file cannot be read. verl may still find it, or reports the error.
    """
    from huggingface_hub import hf_hub_download

    path = settings.get("hf_config_path") or settings.path
    folder = Path(path).expanduser()
    try:
        file = folder / "config.json" if folder.is_dir() else Path(hf_hub_download(path, "config.json"))
        return json.loads(file.read_text()).get("model_type")
    except Exception:  # a proxy, a missing file, another format
        return None


def package_folder(package: str) -> Path:
    """The folder of an installed package, without importing it.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def uses_v1(config: DictConfig) -> bool:
    """Whether trainer V1 runs. One-step off-policy and fully asynchronous training inherit `use_v1` and ignore it;
    their configs have a node `rollout`."""
    return config.trainer.use_v1 and "rollout" not in config


def trains(config: DictConfig) -> bool:
    """Whether the run trains. verl reads `val_only` only after the validation before training."""
    return not (config.trainer.val_only and config.trainer.val_before_train)


def is_lora(config: DictConfig) -> bool:
    """Whether only LoRA adapters are trained."""
    model = config.actor_rollout_ref.model
    return model.lora_rank > 0 or model.lora.rank > 0 or model.lora_adapter_path is not None


def crashes_without_images(config: DictConfig) -> bool:
    """Whether verl crashes on a micro batch without images, for models of `QWEN2_VL_FAMILY`.

    verl calls `.mean()` on the output of the visual encoder, which is not a tensor since transformers 5. The call is
    looked up in verl's source, because patches/verl-0.9.1/0003 fixes it.
    """
    fsdp = config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2")
    transformers_5 = int(version("transformers").split(".")[0]) >= 5
    return (
        fsdp and transformers_5 and "image_embeds = model.visual(" in _source("verl", "models/transformers/qwen2_vl.py")
    )


def _invalid_overlong_buffer(config: DictConfig) -> list[str]:
    """An overlong penalty that verl's reward manager `dapo` rejects in its workers, so that every rollout fails."""
    manager, kwargs = config.reward.reward_manager, OmegaConf.select(config, "reward.reward_kwargs") or {}
    longest, buffer = kwargs.get("max_resp_len"), kwargs.get("overlong_buffer_cfg") or {}
    if (manager.source, manager.name) != ("register", "dapo") or not buffer.get("enable"):
        return []
    if longest is None:
        return [
            "reward.reward_kwargs.max_resp_len=null: overlong_buffer_cfg.enable=True needs it; set it to "
            "data.max_response_length"
        ]
    length = buffer.get("len")
    if isinstance(length, (int, float)) and 0 < length <= longest:
        return []
    return [
        f"reward.reward_kwargs.overlong_buffer_cfg.len={length}: must be from 1 to "
        f"reward.reward_kwargs.max_resp_len={longest}; change it (OVERLONG_BUFFER), 0 disables the penalty"
    ]


def _unknown_filter_metric(config: DictConfig) -> list[str]:
    """A metric that our reward does not return: verl stops in the first step."""
    groups, known = config.algorithm.filter_groups, ["reward", "score", "acc", "format"]
    ours = config.reward.custom_reward_function.path == "pkg://verl_durian.reward"
    # Other reward managers may add metrics, as dapo does.
    if not (groups and groups.enable and ours and config.reward.reward_manager.name == "naive"):
        return []
    if groups.metric in known or _has_custom_sampler(config):
        return []
    return [f"algorithm.filter_groups.metric={groups.metric}: must be {', '.join(known)} (FILTER_METRIC)"]


def _random_image_normalization(config: DictConfig) -> list[str]:
    """`load_format=dummy`, verl's default, with a vLLM that would normalize images with random numbers.

    verl starts vLLM with dummy weights and then sends the actor's weights. A buffer that is not a weight of the actor
    keeps the noise of the dummy loader: vLLM 0.28 has one, `FusedInputNorm`, vLLM 0.24 has none. Nothing fails, but the
    policy sees wrong images during rollouts.
    """
    rollout = config.actor_rollout_ref.rollout
    engine = OmegaConf.select(rollout, "engine_kwargs.vllm") or {}
    if rollout.name != "vllm" or (engine.get("load_format") or rollout.load_format) != "dummy":
        return []
    if "hijack__dummy_load_weights" in _source("verl", "utils/vllm/utils.py"):
        return []  # patches/verl-0.9.1/0004 keeps the buffers
    if engine.get("mm_device_do_normalize") is False or not _vllm_normalizes_with_a_buffer():
        return []
    return [
        "actor_rollout_ref.rollout.load_format=dummy: this vLLM would normalize images with random numbers; "
        "set actor_rollout_ref.rollout.load_format=auto"
    ]


def _vllm_normalizes_with_a_buffer() -> bool:
    """Looked up in vLLM's source, because importing vLLM takes many seconds."""
    return "class FusedInputNorm" in _source("vllm", "model_executor/models/vision.py")


def _source(package: str, file: str) -> str:
    """The text of a package's file; empty if it does not exist, as in another release."""
    try:
        return (package_folder(package) / file).read_text()
    except (ModuleNotFoundError, FileNotFoundError):
        return ""


def _indivisible_micro_batches(config: DictConfig) -> list[str]:
    """Micro batches that do not divide the rows of a GPU: verl 0.9.1 (V1) stops in the first step.

    verl splits rows evenly over the data-parallel ranks, and the rows of a rank into micro batches of equal size
    (`prepare_micro_batches` in `workers/engine/utils.py`).
    """
    actor, n = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.n
    ranks, update_rows = _data_parallel_ranks(config), actor.ppo_mini_batch_size * n
    if ranks is None:
        return []
    if update_rows % ranks:
        return [
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}: the {update_rows} rollouts of "
            f"an update are not divisible by {ranks} data-parallel ranks; set it to a multiple of "
            f"{ranks // math.gcd(ranks, n)}"
        ]
    rows = {} if actor.use_dynamic_bsz else {"actor.ppo_micro_batch_size_per_gpu": update_rows // ranks}
    if (step_rows := _step_rows(config)) is not None:
        padded = step_rows + _padding_rows(config, step_rows, ranks)
        rows |= dict.fromkeys(_log_prob_micro_batches(config), padded // ranks)
    return [
        f"actor_rollout_ref.{name}={size}: the {count} rollouts of a GPU are not divisible by it, and verl stops; "
        f"set it to {max(each for each in range(1, size + 1) if count % each == 0)}"
        for name, count in rows.items()
        if (size := OmegaConf.select(config.actor_rollout_ref, name)) and count % size
    ]


def _micro_batches_of_padding(config: DictConfig) -> list[str]:
    """Micro batches that hold only verl's padding rows, see `crashes_without_images`.

    verl 0.9.1 (V1) pads a step with text-only rows to a multiple of lcm(data-parallel ranks, rows of an update)
    (`trainer_base._get_required_batch_multiple`). Let P be the number of padding rows and D the number of ranks. All
    padding rows have one length, so balancing gives each rank P / D of them, rounded up or down, and puts them last:

    - with micro batches of m rows, the last one of a rank holds only padding if ceil(P / D) >= m;
    - with `use_dynamic_bsz`, rows are assigned by length, longest first, and only padding remains if the last update
      of a rank has no real row, that is, if ceil(P / D) >= rows of an update / D.

    P follows from the settings if no rollout fails.
    """
    actor, batch = config.actor_rollout_ref.actor, config.data.train_batch_size
    if not (uses_v1(config) and trains(config) and crashes_without_images(config)):
        return []
    ranks, step_rows = _data_parallel_ranks(config), _step_rows(config)
    if ranks is None or step_rows is None:
        return []
    padding = _padding_rows(config, step_rows, ranks)
    of_rank = -(-padding // ranks)
    names = ["actor.ppo_micro_batch_size_per_gpu", *_log_prob_micro_batches(config)]
    limits = {name: OmegaConf.select(config.actor_rollout_ref, name) for name in names}
    if actor.use_dynamic_bsz:
        limits[names[0]] = actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n // ranks
    return [
        f"actor_rollout_ref.{name}={limit}: verl would add {padding} padding rows per step, up to {of_rank} per rank, "
        f"and crash on a micro batch of padding; make data.train_batch_size={batch} a multiple of "
        f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}, or patch verl (patches/README.md)"
        for name, limit in limits.items()
        if padding and limit is not None and of_rank >= limit
    ]


def _data_parallel_ranks(config: DictConfig) -> int | None:
    """Data-parallel ranks of the actor; None for strategies other than FSDP and Megatron."""
    actor, gpus = config.actor_rollout_ref.actor, config.trainer.nnodes * config.trainer.n_gpus_per_node
    if actor.strategy == "megatron" and not actor.megatron.get("dynamic_context_parallel"):
        parallel = actor.megatron
        group = (
            parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size * parallel.context_parallel_size
        )
    elif actor.strategy in ("fsdp", "fsdp2"):
        group = max(actor.ulysses_sequence_parallel_size, actor.fsdp_config.ulysses_sequence_parallel_size)
    else:
        return None
    return max(1, gpus // group)


def _has_custom_sampler(config: DictConfig) -> bool:
    return OmegaConf.select(config, "trainer.v1.sampler.custom_sampler.path") is not None


def _step_rows(config: DictConfig) -> int | None:
    """Rows of a step in which no rollout fails; None if custom code decides, or if steps differ."""
    trainer, agent = config.trainer, config.actor_rollout_ref.rollout.agent
    if trainer.critic_warmup > 1:  # these steps do not update the actor
        return None
    if trainer.v1.trainer_mode not in ("sync", "colocate_async", "separate_async") or _has_custom_sampler(config):
        return None
    if agent.agent_loop_config_path is not None or agent.get("agent_loop_manager_class") is not None:
        return None  # a rollout may have several rows
    sync_steps = trainer.v1[trainer.v1.trainer_mode].get("parameter_sync_step", 1)
    return config.data.train_batch_size // sync_steps * config.actor_rollout_ref.rollout.n


def _padding_rows(config: DictConfig, step_rows: int, ranks: int) -> int:
    """Rows that verl adds to a step, up to a multiple of lcm(ranks, rows of an update)."""
    updates = [config.actor_rollout_ref.actor.ppo_mini_batch_size]
    critic = config.critic.enable
    if config.algorithm.adv_estimator == "gae" if critic is None else critic:
        updates.append(config.critic.ppo_mini_batch_size)
    return -step_rows % math.lcm(ranks, *(prompts * config.actor_rollout_ref.rollout.n for prompts in updates))


def _log_prob_micro_batches(config: DictConfig) -> list[str]:
    """The keys under `actor_rollout_ref` that set the micro batches for log-probabilities.

    In bypass mode V1 uses the log-probabilities of the rollout as the old ones. With LoRA the reference is the actor
    without its adapter.
    """
    reference = config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward
    bypass = OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode")
    lora = is_lora(config)
    nodes = {"rollout": not bypass or (reference and lora), "ref": reference and not lora}
    return [
        f"{node}.log_prob_micro_batch_size_per_gpu"
        for node, computes in nodes.items()
        if computes and not config.actor_rollout_ref[node].log_prob_use_dynamic_bsz
    ]

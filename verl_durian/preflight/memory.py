# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory training takes, estimated from the settings and the model's size.

Nothing here was measured. What is computed exactly is the state that an engine keeps for every parameter; what a pass
over the tokens takes beside that is a rough sum of its two largest parts.
"""

from dataclasses import dataclass

from omegaconf import DictConfig

from verl_durian.preflight import Finding, note
from verl_durian.preflight.model import Model

_OVERHEAD = 3e9
"""CUDA, NCCL and what PyTorch's allocator cannot use, on each GPU."""
_BYTES_OF_A_LOGIT = 8
"""In 16 bits, its gradient, and once in 32 bits."""


@dataclass(frozen=True)
class State:
    """Bytes of what an engine keeps, of the whole model on all GPUs together."""

    weights: float
    gradients: float
    optimizer: float
    copies: float = 1
    """GPUs that hold the same weights and gradients; the optimizer is never held twice."""

    def on_each(self, gpus: int, gradients: bool = True) -> float:
        """Bytes on one of so many GPUs, which share the state evenly."""
        held = self.weights + (self.gradients if gradients else 0)
        return (held * self.copies + self.optimizer) / gpus


def gpus_of(config: DictConfig) -> int:
    """All that the settings ask for."""
    return config.trainer.nnodes * config.trainer.n_gpus_per_node


def is_lora(config: DictConfig) -> bool:
    """Whether adapters are trained; beside the model they are small."""
    model = config.actor_rollout_ref.model
    return model.lora_rank > 0 or model.lora.rank > 0 or model.lora_adapter_path is not None


def can_be_estimated(config: DictConfig, model: Model) -> bool:
    """Whether the model's size is known, and how the actor's strategy shares it."""
    return model.parameters is not None and config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2", "megatron")


def state(config: DictConfig, model: Model) -> State:
    """What the actor's engine keeps of a model that `can_be_estimated`.

    FSDP shares weights, gradients and Adam's two moments among all GPUs, each in float32 unless
    `fsdp_config.model_dtype` says otherwise. Megatron keeps weights in 16 and gradients in 32 bits, shared among the
    GPUs of one tensor and pipeline parallel group, and shares float32 weights and moments among all.
    """
    actor, parameters = config.actor_rollout_ref.actor, model.parameters or 0
    trained = 0 if is_lora(config) else parameters
    if actor.strategy == "megatron":
        group = actor.megatron.tensor_model_parallel_size * actor.megatron.pipeline_model_parallel_size
        return State(2 * parameters, 4 * trained, 12 * trained, copies=gpus_of(config) / group)
    size = 4 if actor.fsdp_config.model_dtype in ("fp32", "float32") else 2
    return State(size * parameters, size * trained, 2 * size * trained)


def check(config: DictConfig, model: Model, gpu_bytes: float) -> list[Finding]:
    """Compares the estimate with the memory of a GPU.

    Args:
        config: verl's whole config.
        model: The model to train.
        gpu_bytes: Memory of the smallest GPU.
    """
    rollout, gpus = config.actor_rollout_ref.rollout, gpus_of(config)
    kept = state(config, model)
    held = 0 if _never_on_the_gpu(config) else kept.on_each(gpus)
    training = held + _pass_bytes(config, model) + _OVERHEAD
    waiting = 0 if _offloaded(config) else kept.on_each(gpus, gradients=False)
    engine = rollout.gpu_memory_utilization * gpu_bytes
    engine_weights = 2 * (model.parameters or 0) / rollout.tensor_model_parallel_size
    size = f"{gpu_bytes / 1e9:.0f} GB of a GPU"
    findings = []
    if engine_weights > engine:
        findings.append(
            note(
                f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size}: "
                f"{engine_weights / 1e9:.0f} GB of weights on each GPU are more than the rollout engine's "
                f"{engine / 1e9:.0f} GB (gpu_memory_utilization={rollout.gpu_memory_utilization} of {size}); "
                "let more GPUs share an engine (ROLLOUT_TP) if it runs out of memory"
            )
        )
    if held > gpu_bytes:
        findings.append(
            note(
                f"trainer.nnodes={config.trainer.nnodes}, trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}: "
                f"by an estimate weights, gradients and optimizer take {held / 1e9:.0f} GB of each GPU, more "
                f"than the {size}; take more nodes (NNODES), or train adapters (LORA_RANK=64)"
            )
        )
    if engine + waiting > gpu_bytes:
        findings.append(
            note(
                f"actor_rollout_ref.rollout.gpu_memory_utilization={rollout.gpu_memory_utilization}: beside the "
                f"rollout engine's {engine / 1e9:.0f} GB lie {waiting / 1e9:.0f} GB of weights and optimizer, together "
                f"more than the {size}; move these to the machine's memory meanwhile (OFFLOAD=True), or lower it"
            )
        )
    rough = (
        f"estimate, not measured: training takes {training / 1e9:.0f} GB, rollouts {(engine + waiting) / 1e9:.0f} GB"
    )
    remedy = "; lower PPO_MICRO_BATCH_SIZE if it runs out of memory" if training > gpu_bytes else ""
    return [*findings, note(f"{rough} of the {size}{remedy}")]


def host_bytes(config: DictConfig, model: Model) -> float:
    """Bytes that wait in the memory of each machine while the GPUs do something else."""
    if not _offloaded(config):
        return 0
    return state(config, model).on_each(gpus_of(config), gradients=False) * config.trainer.n_gpus_per_node


def _offloaded(config: DictConfig) -> bool:
    actor = config.actor_rollout_ref.actor
    engine = actor.megatron if actor.strategy == "megatron" else actor.fsdp_config
    return engine.param_offload and engine.optimizer_offload or _never_on_the_gpu(config)


def _never_on_the_gpu(config: DictConfig) -> bool:
    """FSDP's own offloading, which brings a layer to the GPU for as long as it computes."""
    actor = config.actor_rollout_ref.actor
    return actor.strategy == "fsdp2" and actor.fsdp_config.offload_policy


def _pass_bytes(config: DictConfig, model: Model) -> float:
    """Logits, and the inputs of the layers that gradient checkpointing keeps, of the largest micro batch."""
    actor = config.actor_rollout_ref.actor
    if actor.use_dynamic_bsz:
        tokens = actor.ppo_max_token_len_per_gpu
    else:
        longest = config.data.max_prompt_length + config.data.max_response_length
        tokens = actor.ppo_micro_batch_size_per_gpu * longest
    shared = actor.megatron.tensor_model_parallel_size if actor.strategy == "megatron" else 1
    return tokens * (_BYTES_OF_A_LOGIT * model.vocabulary + 2 * model.width * model.layers) / shared

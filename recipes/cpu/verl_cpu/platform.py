# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The platform "cpu" of verl; importing this module registers it."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

# FSDP engines are registered for "cuda" and "npu" only; this variable of verl selects one of them (verl 0.9.1).
os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")


def _rss(*_args: Any) -> int:
    return psutil.Process().memory_info().rss


def _peak_rss(*_args: Any) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    return None


class _CPUDevice(ModuleType):
    """torch.cpu with the functions of torch.cuda that verl calls; memory is the resident memory of the process."""

    empty_cache = ipc_collect = staticmethod(_nothing)
    reset_peak_memory_stats = reset_accumulated_memory_stats = staticmethod(_nothing)
    set_per_process_memory_fraction = staticmethod(_nothing)
    memory_allocated = memory_reserved = staticmethod(_rss)
    max_memory_allocated = max_memory_reserved = staticmethod(_peak_rss)

    @staticmethod
    def get_rng_state(*_args: Any) -> torch.Tensor:
        """verl saves the generators of device and CPU; here they are the same."""
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, *_args: Any) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def mem_get_info(*_args: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    @staticmethod
    def get_device_name(*_args: Any) -> str:
        return "CPU"

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """One worker slot is one process on the CPU; the processes communicate by gloo."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _CPUDevice("verl_cpu.device")

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """False: verl uses this to select a platform automatically; "cpu" must be selected by VERL_PLATFORM."""
        return False

    def current_device(self) -> str:
        """A name, because Tensor.to() interprets an integer as the index of an accelerator."""
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "VERL_CPU_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        """GPU: verl's resource check and Ray's get_accelerator_ids() support only "GPU" and "NPU".

        Ray accepts any number declared by `ray.init(num_gpus=N)`, so one "GPU" is one worker slot here.
        """
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        """False: the rollout receives weights through POSIX shared memory."""
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        return {
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        }

    def cudart(self) -> Any:
        return None

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Where vision towers run: the free GPUs or CPUs of the Ray cluster that this process has joined."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

logger = logging.getLogger(__name__)

MAX_PATCHES = {"cpu": 2048, "cuda": 16384}
"""Patches (14 x 14 pixels) per forward pass. The 7B tower in float32 needs up to 0.3 GB and 2 GB for activations."""
_MAX_THREADS = 8
"""Threads of a GPU worker that decode images and compute eigenvalues; each holds one row."""


@dataclass(frozen=True)
class Placement:
    """Where the towers run."""

    device: str
    """`cpu` or `cuda`."""
    workers: int
    """Number of processes, each with a tower."""
    max_patches: int
    """Patches per forward pass."""


def place(device: str | None = None, workers: int | None = None, max_patches: int | None = None) -> Placement:
    """Chooses where to score in the Ray cluster that this process has joined.

    Args:
        device: Default: `cuda` if the cluster has GPUs, else `cpu`.
        workers: Default: the number of free GPUs, or of free CPUs but at most the cores of this machine.
        max_patches: Default: `MAX_PATCHES` of the device.

    Raises:
        ValueError: fewer GPUs or CPUs are free than requested, or none.
    """
    device = device or ("cuda" if ray.cluster_resources().get("GPU") else "cpu")
    resource = "GPU" if device == "cuda" else "CPU"
    free = int(ray.available_resources().get(resource, 0))
    if device == "cpu":  # Ray may have been started with more CPUs than there are cores here
        here = ray.get_runtime_context().get_node_id()
        others = (node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here)
        free = min(free, _cores() + int(sum(node["Resources"].get("CPU", 0) for node in others)))
    if free < (workers or 1):
        raise ValueError(
            f"{workers or 1} workers need one {resource} each, and Ray has {max(free, 0)} free: wait for other jobs to "
            "end, or choose fewer --workers or another --device"
        )
    return Placement(device, workers or free, max_patches or MAX_PATCHES[device])


@contextmanager
def resources_released() -> Iterator[None]:
    """Waits on exit until as many CPUs and GPUs are free as on entry.

    A trainer counts free GPUs right after scoring, and Ray counts those of a worker as taken until its process ends.
    """
    before = ray.available_resources()
    yield
    for _ in range(600):
        now = ray.available_resources()
        if all(now.get(name, 0) >= before.get(name, 0) for name in ("CPU", "GPU")):
            return
        time.sleep(0.1)
    logger.warning("durian: a minute after scoring fewer CPUs or GPUs are free than before: another job took them")


def threads_of_worker(device: str) -> int:
    """On a CPU 1; on a GPU the cores of this machine per GPU, less one for the tower."""
    if device == "cpu":
        return 1
    here = ray.get_runtime_context().get_node_id()
    (gpus,) = (node["Resources"]["GPU"] for node in ray.nodes() if node["NodeID"] == here)
    return max(1, min(_MAX_THREADS, int(_cores() / gpus) - 1))


def _cores() -> int:
    return len(os.sched_getaffinity(0))

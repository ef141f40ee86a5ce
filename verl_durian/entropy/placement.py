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


@dataclass(frozen=True)
class Placement:
    """Device (`cpu` or `cuda`), number of processes with a tower each, and patches per forward pass."""

    device: str
    workers: int
    max_patches: int


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
    if device == "cpu":  # Ray may have been started with more CPUs than there are cores
        free = min(free, len(os.sched_getaffinity(0)) * sum(node["Alive"] for node in ray.nodes()))
    if free < (workers or 1):
        raise ValueError(
            f"{workers or 1} workers need one {resource} each, and Ray has {max(free, 0)} free: wait for other jobs to "
            "end, or choose fewer --workers or another --device"
        )
    return Placement(device, workers or free, max_patches or MAX_PATCHES[device])


@contextmanager
def resources_released() -> Iterator[None]:
    """Waits on exit, at most a minute, until as many CPUs and GPUs are free as on entry.

    A trainer counts free GPUs right after scoring, and Ray counts those of a worker as taken until its process ends.
    """
    before = ray.available_resources()
    yield
    end = time.monotonic() + 60
    while any(ray.available_resources().get(name, 0) < before.get(name, 0) for name in ("CPU", "GPU")):
        if time.monotonic() > end:
            logger.warning("durian: after scoring fewer CPUs or GPUs are free than before: another job took them")
            break
        time.sleep(0.1)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Workers of Ray Data that score rows: one a GPU, or one a core, on every machine of the cluster."""

import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy

from verl_durian.entropy.packets import pack, unpack, unpacked
from verl_durian.entropy.readers import Rows, StoredRow, stored_rows
from verl_durian.entropy.scorer import Score, Scorer, to_arrays
from verl_durian.entropy.vision_tower import TowerSettings

logger = logging.getLogger(__name__)

MAX_PATCHES = {"cpu": 2048, "cuda": 16384}
"""Patches (14 x 14 pixels) of a pass: of the 7B tower in float32 up to 0.3 GB and 2 GB of activations."""
_PACKET_ROWS = {"cpu": 32, "cuda": 512}
"""Rows that a worker is given at once, at most."""
_PACKETS_OF_A_WORKER = 4
"""At least, where there are so many rows, so that all are done at about the same time."""
_CALLS = 2
"""Packets that a worker has at once: while the eigenvalues of one are found, images of the other are encoded."""
_MOST_THREADS = 8
"""Beside a GPU's tower: each holds a row."""


@dataclass(frozen=True)
class Placement:
    """Where the towers are.

    Attributes:
        device (str): `cpu` or `cuda`.
        workers (int): Processes with a tower each.
        max_patches (int): Patches of a pass.
    """

    device: str
    workers: int
    max_patches: int


def place(device: str | None = None, workers: int | None = None, max_patches: int | None = None) -> Placement:
    """Chooses where to score in the Ray cluster that this process has joined.

    Args:
        device (str | None): None: `cuda` if the cluster has GPUs, else `cpu`.
        workers (int | None): None: as many as GPUs are free, or CPUs, of which this machine has no more than cores.
        max_patches (int | None): None: `MAX_PATCHES` of the device.

    Raises:
        ValueError: nothing is free to score on, or less than asked for.
    """
    device = device or ("cuda" if ray.cluster_resources().get("GPU") else "cpu")
    what = "GPU" if device == "cuda" else "CPU"
    free = int(ray.available_resources().get(what, 0))
    if device == "cpu":
        counted = {node["NodeID"]: node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]}
        here = ray.get_runtime_context().get_node_id()
        counted[here] = min(counted[here], _cores())  # Ray may have been told of more than there are
        free = min(free, int(sum(counted.values())))
    if free < (workers or 1):
        raise ValueError(
            f"{workers or 1} workers need a {what} of Ray's each, and {max(free, 0)} are free: wait for the others, or "
            "name fewer --workers or another --device"
        )
    return Placement(device, workers or free, max_patches or MAX_PATCHES[device])


def scores(
    rows: Rows,
    wanted: np.ndarray,
    settings: TowerSettings,
    state: Mapping[str, torch.Tensor],
    placement: Placement,
) -> Iterator[list[Score]]:
    """Scores rows, some at a time. Ends with `ray.exceptions.RayActorError` if a worker dies.

    Args:
        rows (Rows): All rows.
        wanted (np.ndarray): The numbers of those to score, ascending. shape is (rows to score,)
        settings (TowerSettings): What the tower is.
        state (Mapping[str, torch.Tensor]): Its tensors; the workers of a machine share one copy.
        placement (Placement): Where the towers are.
    """
    for module in settings.remote_code:
        ray.cloudpickle.register_pickle_by_value(sys.modules[module])  # other processes cannot import it
    workers = min(placement.workers, len(wanted))
    packet_rows = min(_PACKET_ROWS[placement.device], math.ceil(len(wanted) / workers / _PACKETS_OF_A_WORKER))
    scored = stored_rows(rows, wanted, packet_rows).map_batches(
        Worker,
        fn_constructor_kwargs={
            "state_ref": ray.put(to_arrays(state)),
            "settings": settings,
            "device": placement.device,
            "max_patches": placement.max_patches,
            "fingerprint": settings.fingerprint(placement.device),
        },
        batch_size=None,
        compute=ActorPoolStrategy(size=workers, enable_true_multi_threading=True),
        num_cpus=1 if placement.device == "cpu" else 0,
        num_gpus=1 if placement.device == "cuda" else 0,
        max_concurrency=_CALLS,
        # Ray's own restarts need the arguments of the constructor, and it warns at each start that these may be lost.
        max_restarts=0,
    )
    return unpacked(scored)


@contextmanager
def given_back() -> Iterator[None]:
    """Waits at its end until as many CPUs and GPUs are free as before: a trainer counts them right afterwards, and Ray
    counts those of a worker as taken until its process has ended."""
    before = ray.available_resources()
    yield
    for _ in range(600):
        now = ray.available_resources()
        if all(now.get(what, 0) >= before.get(what, 0) for what in ("CPU", "GPU")):
            return
        time.sleep(0.1)
    logger.warning("durian: a minute after scoring fewer CPUs or GPUs are free than before: something else took them")


class Worker(Scorer):
    """A scorer with the weights that lie in the object store of its machine."""

    def __init__(
        self, state_ref: ray.ObjectRef, settings: TowerSettings, device: str, max_patches: int, fingerprint: str
    ):
        if settings.fingerprint(device) != fingerprint:
            raise RuntimeError(
                f"the machine {ray.util.get_node_ip_address()} would score otherwise than the one of the command: its "
                "packages (torch, torchvision, transformers, ...) or the environment variables of qwen_vl_utils differ"
            )
        super().__init__(settings, ray.get(state_ref), device, max_patches, _threads() if device == "cuda" else 1)

    def __call__(self, packet: Mapping[str, np.ndarray]) -> dict[str, list[bytes]]:
        """Scores a packet of `StoredRow`s; returns one of `Score`s."""
        rows: list[StoredRow] = unpack(packet)
        failed = [Score(row.key, error=row.error) for row in rows if row.media is None]
        return pack(failed + self.score([row.media for row in rows if row.media is not None]))


def _threads() -> int:
    """Cores of this machine for each of its GPUs, but one."""
    here = ray.get_runtime_context().get_node_id()
    (gpus,) = (node["Resources"]["GPU"] for node in ray.nodes() if node["NodeID"] == here)
    return max(1, min(_MOST_THREADS, int(_cores() / gpus) - 1))


def _cores() -> int:
    """Of this machine, that this process may use."""
    return len(os.sched_getaffinity(0))

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Sends new weights to separate rollout workers on a machine without an accelerator.

Trainers that train and generate rollouts on different workers use a checkpoint engine of verl. All engines of verl need
an accelerator or RDMA. This one passes the weights in a file in shared memory, on one machine:

    actor_rollout_ref.rollout.checkpoint_engine.backend=shared_memory
    actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module=verl_cpu.checkpoint_engine
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any

import torch
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry

_FOLDER = Path("/dev/shm")


@CheckpointEngineRegistry.register("shared_memory")
class SharedMemoryCheckpointEngine(CheckpointEngine):
    """Uses one file per update: the first actor writes it, every rollout worker reads it, then it is removed."""

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self.is_master = is_master

    def prepare(self) -> Path | None:
        """The path of the file for this update, on the actor that writes it."""
        return _FOLDER / f"verl_weights_{uuid.uuid4().hex}" if self.is_master else None

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Path | None]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        return {"path": metadata[:1] * actor_wg_world_size}, {"path": metadata[:1] * rollout_world_size}

    def init_process_group(self, path: Path) -> None:
        self.path = path

    async def send_weights(self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None) -> None:
        # All actors participate in gathering each weight, one writes them.
        gathered = {name: weight.detach().clone() for name, weight in weights if self.is_master}
        if self.is_master:
            unfinished = self.path.with_suffix(".unfinished")
            torch.save(gathered, unfinished)
            unfinished.rename(self.path)

    async def receive_weights(self, global_steps: int | None = None) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        while not self.path.exists():
            await asyncio.sleep(0.05)
        for name, weight in torch.load(self.path).items():
            yield name, weight

    def finalize(self) -> None:
        if self.is_master:
            self.path.unlink(missing_ok=True)  # if nothing was sent

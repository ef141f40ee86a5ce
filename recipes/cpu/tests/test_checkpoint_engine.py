# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The weight sync to separate rollout workers on a CPU."""

import asyncio

import torch

from verl_cpu.checkpoint_engine import SharedMemoryCheckpointEngine


async def received(rollout: SharedMemoryCheckpointEngine) -> dict[str, torch.Tensor]:
    return {name: weight async for name, weight in rollout.receive_weights()}


async def update(actors, rollouts, weights) -> list[dict[str, torch.Tensor]]:
    waiting = asyncio.gather(*map(received, rollouts))
    await asyncio.sleep(0.1)  # before anything is sent
    await asyncio.gather(*[actor.send_weights(iter(weights.items())) for actor in actors])
    return await waiting


def test_every_rollout_gets_the_weights_of_each_update_and_nothing_is_left():
    actors = [SharedMemoryCheckpointEngine(bucket_size=1, is_master=rank == 0) for rank in range(2)]
    rollouts = [SharedMemoryCheckpointEngine(bucket_size=1) for _ in range(3)]
    for step in range(2):
        metadata = [engine.prepare() for engine in actors + rollouts]
        of_actors, of_rollouts = SharedMemoryCheckpointEngine.build_topology(2, 3, metadata)
        for engine, path in zip(actors + rollouts, of_actors["path"] + of_rollouts["path"], strict=True):
            engine.init_process_group(path=path)
        weights = {"a": torch.full((2, 3), float(step)), "b": torch.arange(4).to(torch.bfloat16)}
        for found in asyncio.run(update(actors, rollouts, weights)):
            assert list(found) == ["a", "b"]
            for name, weight in found.items():
                torch.testing.assert_close(weight, weights[name], rtol=0, atol=0)
        for engine in actors + rollouts:
            engine.finalize()
        assert not list(metadata[0].parent.glob(f"{metadata[0].name}*"))

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the time of the estimator with that of verl's grpo and with the unavoidable memory traffic.

    python benchmarks/bench_estimator.py

Prints, for 512 prompts x 8 rollouts x 2048 tokens in float32, the ratio to verl's `grpo` (target: at most 0.45) and to
the floor (target: at most 2): read rewards, log-probabilities and mask once, write the result. A second table shows
that the cost grows linearly with rows and with tokens.
"""

import platform
import time
from collections.abc import Callable

import torch
import typer
from gpu_check import floor, make_batch
from rich.console import Console
from rich.table import Table
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from verl_durian.algo.estimator import compute_durian_outcome_advantage


def grpo(batch: dict) -> torch.Tensor:
    return compute_grpo_outcome_advantage(batch["token_level_rewards"], batch["response_mask"], batch["index"])[0]


def durian(batch: dict) -> torch.Tensor:
    return compute_durian_outcome_advantage(**batch)[0]


def best_ms(functions: list[Callable[[dict], torch.Tensor]], batch: dict, repeats: int) -> list[float]:
    """The shortest of `repeats` calls of each function, which excludes interruptions by other processes."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for which, function in enumerate(functions):
            start = time.perf_counter()
            function(batch)
            best[which] = min(best[which], (time.perf_counter() - start) * 1e3)
    return best


def main(prompts: int = 512, rollouts: int = 8, tokens: int = 2048, repeats: int = 25) -> None:
    console = Console()
    console.print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    table = Table("mask", "grpo ms", "floor ms", "durian ms", "durian / grpo", "durian / floor")
    for mask_dtype in (torch.float32, torch.int64):
        batch = make_batch(prompts, rollouts, tokens, mask_dtype)
        times = best_ms([grpo, floor, durian], batch, repeats)
        ratios = [f"{times[2] / times[0]:.2f}", f"{times[2] / times[1]:.2f}"]
        table.add_row(str(mask_dtype).removeprefix("torch."), *(f"{value:.1f}" for value in times), *ratios)
    console.print(f"{prompts} prompts x {rollouts} rollouts x {tokens} tokens, float32, best of {repeats}", table)

    growth = Table("prompts", "tokens", "durian ms", "ns per token")
    for factor_rows, factor_tokens in ((0.25, 1), (0.5, 1), (1, 1), (2, 1), (1, 0.25), (1, 0.5), (1, 2)):
        size = int(prompts * factor_rows), int(tokens * factor_tokens)
        (spent,) = best_ms([durian], make_batch(size[0], rollouts, size[1], torch.int64), repeats)
        growth.add_row(*map(str, size), f"{spent:.1f}", f"{spent * 1e6 / (size[0] * rollouts * size[1]):.2f}")
    console.print("Growth, int64 mask", growth)


if __name__ == "__main__":
    typer.run(main)

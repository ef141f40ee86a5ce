# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Measures group assignment, eigenvalue solvers and precision: the numbers of docs/, except for throughput.

    OMP_NUM_THREADS=1 python benchmarks/bench_visual_entropy.py

Prints the share of prompts that the quartiles of a batch put into another group than the quartiles of all prompts, the
time of several eigenvalue solvers, and the visual entropy of images in float32 and bfloat16 (the vision tower of
Qwen2.5-VL-7B with random weights). Takes some minutes and 5 GB of memory.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.linalg
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from skimage import data
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from verl_durian.algo.groups import perceptual_groups, perceptual_thresholds
from verl_durian.entropy.vision_tower import TowerSettings, VisionTower
from verl_durian.entropy.visual_entropy import scatter_matrix, visual_entropy


def best_ms(function: Callable[[], object], repeats: int = 7) -> float:
    """The shortest of some calls, which excludes interruptions by other processes."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, (time.perf_counter() - start) * 1e3)
    return best


def eigenvalues() -> Table:
    routes: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
        "scatter matrix": lambda features, matrix: scatter_matrix(features),
        "eigvalsh (used)": lambda features, matrix: torch.linalg.eigvalsh(matrix),
        "float32": lambda features, matrix: torch.linalg.eigvalsh(matrix.float()),
        "scipy evd": lambda features, matrix: scipy.linalg.eigvalsh(matrix.numpy(), driver="evd"),
        "scipy evr": lambda features, matrix: scipy.linalg.eigvalsh(matrix.numpy(), driver="evr"),
        "svdvals of F": lambda features, matrix: torch.linalg.svdvals(features.double()),
    }
    table = Table("P x d", *routes, title="ms for one image, float64, one thread")
    for patches, dim in ((64, 3584), (144, 3584), (320, 3584), (1280, 1280)):
        features = torch.randn(patches, dim, generator=torch.Generator().manual_seed(0))
        matrix = scatter_matrix(features)
        times = [best_ms(partial(route, features, matrix)) for route in routes.values()]
        table.add_row(f"{patches} x {dim}", *(f"{ms:.1f}" for ms in times))
    return table


def precision() -> Table:
    config = Qwen2_5_VisionTransformerPretrainedModel.config_class(
        depth=32, fullatt_block_indexes=[7, 15, 23, 31], hidden_size=1280, intermediate_size=3420, num_heads=16,
        out_hidden_size=3584, window_size=112,
    )  # fmt: skip
    torch.manual_seed(0)
    state = Qwen2_5_VisionTransformerPretrainedModel(config).state_dict()
    thin, thick = (Image.new("RGB", (336, 336), "white") for _ in range(2))
    ImageDraw.Draw(thin).line([40, 60, 290, 280], fill="black", width=1)
    ImageDraw.Draw(thick).line([40, 60, 290, 280], fill="black", width=12)
    pictures = {"thin line": thin, "thick line": thick}
    for name in ("astronaut", "chelsea", "grass"):
        pictures[name] = Image.fromarray(getattr(data, name)()).convert("RGB").resize((336, 336))
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28})
    table = Table("picture", "float32", "bfloat16", title="H in nats, 7B tower with random weights, 336 x 336 pixels")
    scores = []
    for name in ("float32", "bfloat16"):
        settings = TowerSettings("", "qwen2_5_vl", config, processor, None, "merger", name, "", None)
        tower = VisionTower(settings, {key: value.to(getattr(torch, name)) for key, value in state.items()})
        features = tower.features(*tower.preprocess(list(pictures.values())))
        scores.append([visual_entropy(of_one).item() for of_one in features])
    for name, *of_picture in zip(pictures, *scores, strict=True):
        table.add_row(name, *(f"{entropy:.4f}" for entropy in of_picture))
    return table


def group_changes() -> Table:
    table = Table("prompts", "in another group", title="Quartiles of a batch against those of all prompts")
    rng, of_all = np.random.default_rng(0), torch.tensor([0.25, 0.75], dtype=torch.float64)
    for prompts in (16, 32, 64, 128, 512):
        differing = 0.0
        for _ in range(2000):
            ranks = torch.from_numpy(rng.random(prompts))  # of the prompts among all, from 0 to 1
            by_batch = perceptual_groups(ranks, perceptual_thresholds(ranks, [0.25, 0.75]))
            differing += (by_batch != perceptual_groups(ranks, of_all)).double().mean().item() / 2000
        table.add_row(str(prompts), f"{differing:.1%}")
    return table


if __name__ == "__main__":
    console = Console()
    for figures in (group_changes, eigenvalues, precision):
        console.print(figures())

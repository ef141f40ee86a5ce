# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the throughput of `verl-durian score` with that of the vision tower alone on tensors in memory.

    python benchmarks/bench_scoring.py [--tower small|quickstart|7b] [--precision float32|bfloat16] [--patches 576]

Prints images per second of both and their ratio (target: at least 0.9), and the fixed cost of a run, for images of
several sizes in patches of 14 x 14 pixels. Uses one GPU if torch finds one.

Towers (random weights, architecture of Qwen2.5-VL):
    7b          Qwen2.5-VL-7B, 677 million parameters; default on a GPU
    small       22.5 million parameters, suitable for a CPU; default without a GPU
    quickstart  1.3 million parameters: so small that reading and decoding matter

Tower alone: on a GPU one process with passes of `MAX_PATCHES`; on a CPU the faster of that with all threads, and one
process per core with one thread and one image per pass. It is timed before, between and after the two runs of `score`.
If these timings differ by more than 10 %, the machine is not quiet and no ratio is printed.

`score`: `score_files` on parquet files of n and 3 n different JPEG images, with an empty cache. The rate is that of the
additional 2 n images; the rest is the fixed cost: start of Ray, imports, loading the towers, plots.

Needs easy-vqa and scikit-image (extra `dev`).
"""

import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from gpu_check import TOWER_7B
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from skimage import data
from transformers import Qwen2_5_VLConfig, Qwen2VLImageProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from recipes.quickstart.model import make_config, make_tokenizer
from verl_durian.entropy.data_files import Columns
from verl_durian.entropy.pipeline import MAX_PATCHES
from verl_durian.entropy.score import SUMMARY, score_files
from verl_durian.entropy.vision_tower import Precision, VisionTower, read_tower

CORES = len(os.sched_getaffinity(0))
PATCH = 14
PATCHES = [256, 576, 1280]
PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "rocket")
ROW_GROUP = 32
SECONDS = 3.0
"""Duration of a timing of the tower alone."""
N_SECONDS = 10.0
"""Time of the tower alone for n images."""

TOWERS = {
    "7b": TOWER_7B,
    "small": {
        "depth": 8,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_heads": 6,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [1, 3, 5, 7],
        "window_size": 112,
    },
}


def write_tower(folder: Path, name: str) -> int:
    """Writes a checkpoint of the tower alone, in bfloat16 as published. Returns the number of parameters.

    Its processor does not resize images of 16 to 1280 patches.
    """
    config = make_config(make_tokenizer()) if name == "quickstart" else Qwen2_5_VLConfig(vision_config=TOWERS[name])
    config.save_pretrained(folder)
    Qwen2VLImageProcessor().save_pretrained(folder)
    torch.manual_seed(0)
    state = Qwen2_5_VisionTransformerPretrainedModel(config.vision_config).state_dict()
    save_file({f"visual.{key}": value.bfloat16() for key, value in state.items()}, folder / "model.safetensors")
    return sum(value.numel() for value in state.values())


def shape_of(patches: int) -> tuple[int, int]:
    """Rows and columns of patches, both even and as similar as possible."""
    rows = [side for side in range(2, math.isqrt(patches) + 1, 2) if patches % (2 * side) == 0]
    if not rows:
        raise typer.BadParameter(f"--patches {patches}: must be a multiple of 4, because 2 x 2 patches make a token")
    return rows[-1], patches // rows[-1]


def jpegs(number: int, shape: tuple[int, int], rng: np.random.Generator) -> list[bytes]:
    """JPEG files of random crops of photographs, of `shape` patches each."""
    photographs = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOGRAPHS]
    height, width = (side * PATCH for side in shape)
    files = []
    for index in range(number):
        photograph = photographs[index % len(photographs)]
        scale = min(photograph.width / width, photograph.height / height) * rng.uniform(0.3, 1.0)
        left = rng.uniform(0, photograph.width - scale * width)
        top = rng.uniform(0, photograph.height - scale * height)
        box = (left, top, left + scale * width, top + scale * height)
        file = BytesIO()
        photograph.resize((width, height), Image.Resampling.LANCZOS, box).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def write_rows(file: Path, images: Sequence[bytes]) -> None:
    """Writes a data file of verl."""
    prompt = [{"role": "user", "content": "<image>What is it?"}]
    table = pa.table({"prompt": [prompt] * len(images), "images": [[{"bytes": image}] for image in images]})
    pq.write_table(table, file, row_group_size=ROW_GROUP)


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call, including the work on a GPU."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def images_per_second(model: Any, shape: tuple[int, int], images: int) -> float:
    """Throughput of the model of transformers in passes of `images` images, after two passes to warm up."""
    grid_thw = torch.tensor([[1, *shape]] * images, device=model.device)
    values = 3 * model.config.temporal_patch_size * PATCH**2
    pixel_values = torch.randn(images * math.prod(shape), values, device=model.device, dtype=model.dtype)

    def run(passes: int) -> float:
        return timed(lambda: [model(pixel_values, grid_thw=grid_thw).pooler_output for _ in range(passes)])

    run(1)
    passes = math.ceil(SECONDS / run(1))
    return passes * images / run(passes)


def encode_on_request(folder: Path, precision: Precision, shapes: Connection) -> None:
    """Runs in its own process: answers each shape with the throughput in one thread, one image per pass."""
    torch.set_num_threads(1)
    model = VisionTower(*read_tower(str(folder), precision=precision)).model
    shapes.send("ready")
    for shape in iter(shapes.recv, None):
        shapes.send(images_per_second(model, shape, 1))


def start_processes(folder: Path, precision: Precision) -> list[Connection]:
    """Starts one process per core; they end with this process."""
    spawn = multiprocessing.get_context("spawn")
    connections = []
    for _ in range(CORES):
        here, there = spawn.Pipe()
        spawn.Process(target=encode_on_request, args=(folder, precision, there), daemon=True).start()
        connections.append(here)
    for connection in connections:
        connection.recv()
    return connections


def tower_alone(tower: VisionTower, processes: Sequence[Connection], shape: tuple[int, int]) -> dict[str, float]:
    """Images per second in passes of several images, and in all processes together if there are any."""
    images = max(1, MAX_PATCHES[tower.model.device.type] // math.prod(shape))
    rates = {f"passes of {images}": images_per_second(tower.model, shape, images)}
    for process in processes:
        process.send(shape)
    if processes:
        rates[f"{CORES} processes"] = sum(process.recv() for process in processes)
    return rates


def end_to_end(tower: Path, file: Path, precision: Precision) -> float:
    """Seconds to score a file with an empty cache."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        workers = 1 if torch.cuda.is_available() else None
        output, cache = Path(folder, "output"), Path(folder, "cache")
        seconds = timed(
            lambda: score_files(str(tower), [str(file)], output, cache, Columns(), precision=precision, workers=workers)
        )
        summary = json.loads((output / SUMMARY).read_text())
    assert summary["images_encoded"] == summary["rows"], "all images must be different and valid"
    return seconds


def machine() -> str:
    """Names of CPU and GPU, and the number of cores."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{models[0].split(':')[1].strip()}, {CORES} cores, {gpu}"


def main(
    tower: Annotated[Literal["small", "quickstart", "7b"] | None, typer.Option(help="Default: 7b on a GPU.")] = None,
    precision: Annotated[Literal["float32", "bfloat16"], typer.Option()] = "float32",
    patches: Annotated[list[int], typer.Option(help="Patches per image; can be repeated.")] = PATCHES,
    images: Annotated[int | None, typer.Option(help="n. Default: 10 s of the tower alone.")] = None,
) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = tower or ("7b" if device == "cuda" else "small")
    shapes = [shape_of(number) for number in patches]
    rng = np.random.default_rng(0)
    rates = Table("patches", "tower alone", "in", "score", "ratio", "fixed cost", "n")
    with tempfile.TemporaryDirectory() as temporary:
        folder, file = Path(temporary, "tower"), Path(temporary, "rows.parquet")
        parameters = write_tower(folder, name)
        loaded = VisionTower(*read_tower(str(folder), precision=precision), device)
        processes = start_processes(folder, precision) if device == "cpu" else []
        write_rows(file, jpegs(1, shapes[0], rng))
        end_to_end(folder, file, precision)  # the first run reads more from the disk

        for shape in shapes:
            alone = [tower_alone(loaded, processes, shape)]
            n = images or math.ceil(max(alone[0].values()) * N_SECONDS)
            files = jpegs(3 * n, shape, rng)
            seconds = []
            for number in (n, 3 * n):
                write_rows(file, files[:number])
                seconds.append(end_to_end(folder, file, precision))
                alone.append(tower_alone(loaded, processes, shape))
            means = {way: sum(each[way] for each in alone) / len(alone) for way in alone[0]}
            way = max(means, key=means.__getitem__)
            low, *_, high = sorted(each[way] for each in alone)
            rate = 2 * n / (seconds[1] - seconds[0])
            rates.add_row(
                str(math.prod(shape)),
                f"{means[way]:.1f} ({low:.1f} to {high:.1f})",
                way,
                f"{rate:.1f}",
                f"{rate / means[way]:.2f}" if high <= 1.1 * low else f"not quiet ({rate / means[way]:.2f})",
                f"{seconds[0] - n / rate:.0f} s",
                str(n),
            )
        for process in processes:
            process.send(None)
    console = Console(highlight=False)
    console.print(f"{machine()}, torch {torch.__version__}")
    console.print(f"tower {name}, {parameters / 1e6:.1f} million parameters, {precision}")
    console.print("images per second", rates)


if __name__ == "__main__":
    typer.run(main)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Times `verl-durian score` from end to end against the same vision tower alone, on tensors that are there already.

    python benchmarks/bench_scoring.py [--tower small|quickstart|7b] [--precision float32|bfloat16] [--patches 576]

Prints for pictures of some numbers of patches (14 x 14 pixels) the images a second of both and their ratio, to be at
least 0.9; then what each stage costs for one image in one thread. A GPU is used where torch finds one, and only one.

Towers, with random weights and the architecture of Qwen2.5-VL:
    7b          that of Qwen2.5-VL-7B, 677 million parameters; the default on a GPU
    small       22.5 million parameters, for which a CPU is the right machine; the default without a GPU
    quickstart  the quickstart's, 1.3 million parameters: so small that reading and decoding count

The tower alone is the better of one process with all threads and passes of several images, and one process a core with
one thread and one image at a time; on a GPU it is one process with passes of as many patches as in scoring. It is timed
before, between and after the two runs of scoring: its range tells how quiet the machine is, and beyond 10 % there is no
ratio to tell.

From end to end: `score_files` on parquet files of n and of 3 n different JPEG files, with a new cache. The rate is that
of the 2 n by which they differ; the rest is the fixed cost: Ray's start, the imports of its processes, the building of
the towers, the pictures of the result.

Needs easy-vqa and scikit-image, which come with the extra `cpu`.
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
from verl_durian.entropy.media import collect, decode
from verl_durian.entropy.score import SUMMARY, Request, score_files
from verl_durian.entropy.vision_tower import FeatureLayer, Precision, VisionTower, load_vision_tower
from verl_durian.entropy.visual_entropy import scatter_matrix, spectral_entropy
from verl_durian.entropy.workers import MAX_PATCHES

CORES = len(os.sched_getaffinity(0))
PATCH = 14
PATCHES = [256, 576, 1280]
PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "rocket")
ROW_GROUP = 32
BATCH_ROWS = 32
"""What a worker takes at once on a CPU."""
SECONDS = 3.0
"""How long the tower alone is timed at a time."""
N_SECONDS = 10.0
"""What n images take the tower alone, at least."""
REPEATS = 5

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
    """Writes a checkpoint with no tensors but the tower's, in bfloat16 as published. Returns their number of values.

    Its processor leaves pictures of 16 to 1280 patches at their size.
    """
    config = make_config(make_tokenizer()) if name == "quickstart" else Qwen2_5_VLConfig(vision_config=TOWERS[name])
    config.save_pretrained(folder)
    Qwen2VLImageProcessor().save_pretrained(folder)
    torch.manual_seed(0)
    state = Qwen2_5_VisionTransformerPretrainedModel(config.vision_config).state_dict()
    save_file({f"visual.{key}": value.bfloat16() for key, value in state.items()}, folder / "model.safetensors")
    return sum(value.numel() for value in state.values())


def shape_of(patches: int) -> tuple[int, int]:
    """Rows and columns of patches, both even, of the least elongated picture of so many patches."""
    rows = [side for side in range(2, math.isqrt(patches) + 1, 2) if patches % (2 * side) == 0]
    if not rows:
        raise typer.BadParameter(f"--patches {patches}: must be a multiple of 4, for 2 x 2 patches make a token")
    return rows[-1], patches // rows[-1]


def jpegs(number: int, shape: tuple[int, int], rng: np.random.Generator) -> list[bytes]:
    """JPEG files of random parts of photographs, each of `shape` patches."""
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
    """Writes a parquet file as verl reads it."""
    prompt = [{"role": "user", "content": "<image>What is it?"}]
    table = pa.table({"prompt": [prompt] * len(images), "images": [[{"bytes": image}] for image in images]})
    pq.write_table(table, file, row_group_size=ROW_GROUP)


def timed(work: Callable[[], Any]) -> float:
    """Seconds until it is done, on a GPU too."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def images_per_second(model: Any, shape: tuple[int, int], images: int) -> float:
    """Of the plain model of transformers, in passes of so many images, for about `SECONDS` after two to warm up."""
    grid_thw = torch.tensor([[1, *shape]] * images, device=model.device)
    values = 3 * model.config.temporal_patch_size * PATCH**2
    pixel_values = torch.randn(images * math.prod(shape), values, device=model.device, dtype=model.dtype)

    def run(passes: int) -> float:
        return timed(lambda: [model(pixel_values, grid_thw=grid_thw).pooler_output for _ in range(passes)])

    run(1)
    passes = math.ceil(SECONDS / run(1))
    return passes * images / run(passes)


def encode_on_request(folder: Path, precision: Precision, shapes: Connection) -> None:
    """In a process of its own: answers a shape with its images a second, in one thread and one image at a time."""
    torch.set_num_threads(1)
    model = load_vision_tower(str(folder), precision=precision).model
    shapes.send("ready")
    for shape in iter(shapes.recv, None):
        shapes.send(images_per_second(model, shape, 1))


def start_processes(folder: Path, precision: Precision) -> list[Connection]:
    """One a core, which end with this one."""
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
    """Images a second in passes of several images, and where there are processes, of all these together."""
    images = max(1, MAX_PATCHES[tower.model.device.type] // math.prod(shape))
    rates = {f"passes of {images}": images_per_second(tower.model, shape, images)}
    for process in processes:
        process.send(shape)
    if processes:
        rates[f"{CORES} processes"] = sum(process.recv() for process in processes)
    return rates


def end_to_end(tower: Path, file: Path, precision: Precision, feature_layer: FeatureLayer) -> float:
    """Seconds of scoring a file, with nothing in the cache."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        request = Request(
            str(tower),
            [str(file)],
            output=Path(folder, "output"),
            cache_dir=Path(folder, "cache"),
            precision=precision,
            feature_layer=feature_layer,
            workers=1 if torch.cuda.is_available() else None,
        )
        seconds = timed(lambda: score_files(request))
        summary = json.loads((request.output / SUMMARY).read_text())
    assert summary["images_encoded"] == summary["rows"], "all pictures must be different, and sound"
    return seconds


def stage_costs(tower: VisionTower, images: Sequence[bytes]) -> dict[str, float]:
    """Milliseconds an image of each stage, in the best of `REPEATS` passes of these images."""
    rows = [collect([{"bytes": image}], None) for image in images]
    pictures = [decode(row, PATCH)[0] for row in rows]
    prepared = [torch.cat(tensors) for tensors in zip(*map(tower.preprocess, pictures), strict=True)]
    features = tower.features(*prepared)
    matrices = [scatter_matrix(each).cpu() for each in features]
    stages: dict[str, Callable[[], Any]] = {
        "decode, resize": lambda: [decode(row, PATCH) for row in rows],
        "preprocess": lambda: [tower.preprocess(each) for each in pictures],
        "encode": lambda: tower.features(*prepared),
        "scatter matrix": lambda: [scatter_matrix(each).cpu() for each in features],
        "eigenvalues": lambda: [spectral_entropy(matrix) for matrix in matrices],
    }
    return {name: min(timed(work) for _ in range(REPEATS)) * 1e3 / len(images) for name, work in stages.items()}


def machine() -> str:
    """The processor, its cores, the GPU."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{models[0].split(':')[1].strip()}, {CORES} cores, {gpu}"


def main(
    tower: Annotated[Literal["small", "quickstart", "7b"] | None, typer.Option(help="By default 7b on a GPU.")] = None,
    precision: Annotated[Literal["float32", "bfloat16"], typer.Option()] = "float32",
    patches: Annotated[list[int], typer.Option(help="Of a picture; may be given several times.")] = PATCHES,
    images: Annotated[int | None, typer.Option(help="n, instead of what takes the tower alone 10 s.")] = None,
    feature_layer: Annotated[Literal["merger", "blocks"], typer.Option()] = "merger",
) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = tower or ("7b" if device == "cuda" else "small")
    shapes = [shape_of(number) for number in patches]
    rng = np.random.default_rng(0)
    at_once = BATCH_ROWS * (CORES if device == "cpu" else 1)  # a multiple, so that all workers have the same to do
    rates = Table("patches", "tower alone", "in", "end to end", "ratio", "fixed cost", "n")
    costs = Table("patches", "decode, resize", "preprocess", "encode", "scatter matrix", "eigenvalues")
    with tempfile.TemporaryDirectory() as temporary:
        folder, file = Path(temporary, "tower"), Path(temporary, "rows.parquet")
        parameters = write_tower(folder, name)
        loaded = load_vision_tower(str(folder), device, feature_layer, precision)
        processes = start_processes(folder, precision) if device == "cpu" else []
        write_rows(file, jpegs(1, shapes[0], rng))
        end_to_end(folder, file, precision, feature_layer)  # the first run reads more from the disk than the others

        for shape in shapes:
            alone = [tower_alone(loaded, processes, shape)]
            n = images or at_once * math.ceil(max(alone[0].values()) * N_SECONDS / at_once)
            files = jpegs(3 * n, shape, rng)
            seconds = []
            for number in (n, 3 * n):
                write_rows(file, files[:number])
                seconds.append(end_to_end(folder, file, precision, feature_layer))
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
                f"{rate / means[way]:.2f}" if high <= 1.1 * low else "not quiet",
                f"{seconds[0] - n / rate:.0f} s",
                str(n),
            )
        for process in processes:
            process.send(None)

        torch.set_num_threads(1)
        for shape in shapes:
            files = jpegs(max(1, MAX_PATCHES[device] // math.prod(shape)), shape, rng)
            costs.add_row(str(math.prod(shape)), *(f"{cost:.2f}" for cost in stage_costs(loaded, files).values()))
    console = Console(highlight=False)
    console.print(f"{machine()}, torch {torch.__version__}")
    console.print(f"tower {name}, {parameters / 1e6:.1f} million parameters, {precision}, features of {feature_layer}")
    console.print("images a second", rates)
    console.print("ms an image, in one thread", costs)


if __name__ == "__main__":
    typer.run(main)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Measures the estimator and image scoring on one GPU, in at most 8 minutes, and checks that their numbers agree.

    python benchmarks/gpu_check.py [--output gpu_check.json]
    python benchmarks/gpu_check.py --device cpu --small      # tests all stages without a GPU, in less than a minute

Runs from a clone without installation. Needs torch, transformers, numpy, pandas, pyarrow, safetensors and Pillow.
Prints a table and writes the same figures as JSON. The exit status is 0, 1 if a stage failed (the others still
run), or 2 without a GPU.

| stage | figures |
|---|---|
| estimator | time per call compared with the unavoidable memory traffic, difference to the CPU, host synchronizations |
| tower | builds a vision tower of the shape of Qwen2.5-VL-7B's, random weights, seed 0 |
| scoring | images per second from JPEG to visual entropy H, compared with the tower alone |
| batches | how much H of an image depends on the other images of a forward pass |
| CPU | how much H on the GPU differs from H on the CPU |
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import threading
import time
import traceback
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image, ImageDraw
from transformers import AutoImageProcessor, AutoVideoProcessor  # noqa: F401, before `import_project`
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LIMIT = 480.0
"""Seconds after which the process ends, even if a call to the GPU does not return."""
PATCH = 14
CALLS = max(2, min(8, len(os.sched_getaffinity(0))))
"""Concurrent calls of a scorer, as in a worker of `verl-durian score` on a GPU."""

TOWER_7B = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "window_size": 112,
}
TOWER_TINY = TOWER_7B | {"depth": 2, "hidden_size": 64, "intermediate_size": 108, "num_heads": 2}
TOWER_TINY |= {"out_hidden_size": 64, "fullatt_block_indexes": [1]}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    batches: tuple[tuple[int, int, int], ...]
    """Prompts, rollouts and tokens of the estimator's batches."""
    tower: dict[str, Any]
    shapes: tuple[tuple[int, int], ...]
    """Rows and columns of patches of the scored images."""
    cpu_shape: tuple[int, int]
    """The same for the images that the CPU encodes too."""
    max_patches: int
    """Patches per forward pass; in full size as in a worker on a GPU."""
    seconds: float
    """Duration of a measurement of images per second."""


FULL = Size(((512, 8, 2048), (4096, 8, 8192)), TOWER_7B, ((24, 24), (32, 40)), (16, 16), 16384, 4.0)
SMALL = Size(((32, 4, 128), (64, 4, 256)), TOWER_TINY, ((8, 8), (8, 12)), (8, 8), 512, 0.1)


def make_batch(
    prompts: int, rollouts: int, tokens: int, mask_dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Random arguments of `compute_durian_outcome_advantage`, seed 0."""
    torch.manual_seed(0)
    bs = prompts * rollouts
    lengths = torch.randint(tokens // 16, tokens + 1, (bs,), device=device)
    mask = (torch.arange(tokens, device=device) < lengths.unsqueeze(-1)).to(mask_dtype)
    rewards = torch.zeros(bs, tokens, device=device)
    rewards[torch.arange(bs, device=device), lengths - 1] = torch.rand(bs, device=device).round()
    uids = [str(uuid.uuid4()) for _ in range(prompts)]
    return {
        "token_level_rewards": rewards,
        "response_mask": mask,
        "index": np.repeat(np.array(uids, dtype=object), rollouts),
        "batch": {"old_log_probs": -torch.rand(bs, tokens, device=device)},
        "non_tensor_batch": {"visual_entropy": np.repeat(np.random.default_rng(0).random(prompts) * 5, rollouts)},
    }


def floor(batch: dict[str, Any]) -> torch.Tensor:
    """The unavoidable memory traffic: reads each input once and writes the result once."""
    rewards, log_probs = batch["token_level_rewards"], batch["batch"]["old_log_probs"]
    row = rewards.sum(dim=-1) + log_probs.sum(dim=-1) + batch["response_mask"].sum(dim=-1)
    result = torch.empty_like(rewards)
    result.copy_(row.unsqueeze(-1).expand_as(result))
    return result


def import_project() -> list[str]:
    """Imports the measured code, with stand-ins for packages that it imports and does not need here.

    It only calls `is_config`, `fetch_image` for images that keep their size, and the options of the estimator with
    their defaults, which need no validation. The stand-ins leave `sys.modules` afterwards, so that transformers does
    not mistake them for the packages.

    Returns:
        Names of the missing packages.
    """

    class OmegaConf:
        @staticmethod
        def is_config(value: Any) -> bool:
            return False

    def fetch_image(element: dict[str, Any], image_patch_size: int) -> Image.Image:
        picture = element["image"].convert("RGB")
        if any(side % (2 * image_patch_size) for side in picture.size):
            raise ValueError(f"{picture.size} is no multiple of {2 * image_patch_size}: install qwen_vl_utils")
        return picture.resize(picture.size)  # a copy, as in qwen_vl_utils

    def field(default_factory: Callable[[], Any] | None = None, **validation: Any) -> Any:
        return None if default_factory is None else dataclasses.field(default_factory=default_factory)

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    pydantic = dict.fromkeys(("ConfigDict", "TypeAdapter", "ValidationError"), nothing)
    pydantic |= {"Field": field, "model_validator": lambda mode: lambda method: method}
    content: dict[str, dict[str, Any]] = {
        "annotated_types": {"Predicate": nothing},
        "datasets": {},
        "omegaconf": {"OmegaConf": OmegaConf},
        "pydantic": pydantic,
        "pydantic.dataclasses": {"dataclass": lambda config: dataclass},
        "qwen_vl_utils": {"vision_process": None},
        "qwen_vl_utils.vision_process": {"fetch_image": fetch_image, "fetch_video": None},
        "requests": {},
        "torchvision": {},
    }
    missing = [name for name in content if "." not in name and find_spec(name) is None]
    replaced = [name for name in content if name.split(".")[0] in missing]
    for name in replaced:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content[name])
    try:
        import verl_durian.algo.estimator
        import verl_durian.entropy.scorer  # noqa: F401
    finally:
        for name in replaced:
            del sys.modules[name]
    return missing


class Check:
    """The stages, and what they share."""

    def __init__(self, device: str, size: Size):
        self.device = torch.device(device)
        self.size = size
        self.figures: dict[str, Any] = {}
        """Figures of the current stage, by name."""
        self._state: dict[str, torch.Tensor] = {}
        self._scorers: dict[str, Any] = {}

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any]) -> float:
        self.synchronize()
        start = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - start

    def median_seconds(self, work: Callable[[], Any]) -> float:
        """Of 20 calls after two for warm-up."""
        return statistics.median([self.seconds(work) for _ in range(22)][2:])

    def estimator(self) -> None:
        from verl_durian.algo.estimator import compute_durian_outcome_advantage

        def durian(batch: dict[str, Any]) -> torch.Tensor:
            return compute_durian_outcome_advantage(**batch)[0]

        for shape in self.size.batches:
            for mask_dtype in (torch.int64, torch.float32):
                name = f"{' x '.join(map(str, shape))}, {str(mask_dtype).removeprefix('torch.')} mask"
                batch = make_batch(*shape, mask_dtype, self.device)
                of_durian, of_floor = (self.median_seconds(partial(timed, batch)) for timed in (durian, floor))
                inputs = (batch["token_level_rewards"], batch["response_mask"], batch["batch"]["old_log_probs"])
                moved = sum(each.nbytes for each in inputs) + inputs[0].numel() * 4
                self.figures[f"{name}: durian ms"] = of_durian * 1e3
                self.figures[f"{name}: floor ms"] = of_floor * 1e3
                self.figures[f"{name}: durian / floor"] = of_durian / of_floor
                self.figures[f"{name}: GB/s of the floor"] = moved / of_floor / 1e9

        batch = make_batch(*self.size.batches[0], torch.int64, self.device)
        on_cpu = {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        on_cpu["batch"] = {"old_log_probs": batch["batch"]["old_log_probs"].cpu()}
        difference = (durian(batch).cpu() - durian(on_cpu)).abs().amax(dim=-1)
        self.figures["largest difference of an advantage to the CPU"] = difference.max().item()
        self.figures["rows that differ by more than 1e-4"] = int((difference > 1e-4).sum())
        if self.device.type == "cuda":
            self._count_synchronizations(lambda: durian(batch))

    def _count_synchronizations(self, work: Callable[[], Any]) -> None:
        """Counts operations that make the host wait for the GPU (`.item()`, copies, `nonzero`)."""
        self.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waiting = [each for each in caught if "called a synchronizing CUDA operation" in str(each.message)]
        lines = Counter(f"{Path(each.filename).name}:{each.lineno}" for each in waiting)
        self.figures["host synchronizations per call (set_sync_debug_mode)"] = len(waiting)
        self.figures["lines that synchronize"] = ", ".join(f"{line} ({n})" for line, n in sorted(lines.items()))

    def tower(self) -> None:
        parameters = sum(each.numel() for each in self._scorer("float32").tower.model.parameters())
        self.figures["million parameters"] = parameters / 1e6

    def _read_tower(self, precision: str) -> tuple[Any, dict[str, torch.Tensor]]:
        """What `read_tower` would return for a checkpoint of this shape."""
        from verl_durian.entropy.vision_tower import TowerSettings

        config = Qwen2_5_VisionTransformerPretrainedModel.config_class(**self.size.tower)
        if not self._state:
            torch.manual_seed(0)
            self._state = Qwen2_5_VisionTransformerPretrainedModel(config).float().state_dict()
        with_torchvision = transformers.utils.is_torchvision_available()
        processor = transformers.Qwen2VLImageProcessor if with_torchvision else transformers.Qwen2VLImageProcessorPil
        settings = TowerSettings("random", "qwen2_5_vl", config, processor(), None, "merger", precision, "", None)
        return settings, {name: value.to(getattr(torch, precision)) for name, value in self._state.items()}

    def _scorer(self, precision: str) -> Any:
        """The scorer of a worker on this device."""
        from verl_durian.entropy.scorer import Scorer, to_arrays

        if precision not in self._scorers:
            settings, state = self._read_tower(precision)
            arrays = to_arrays(state)
            self._scorers[precision] = Scorer(settings, arrays, self.device.type, self.size.max_patches)
        return self._scorers[precision]

    def scoring(self, precision: str) -> None:
        from verl_durian.entropy.media import collect

        scorer, rng = self._scorer(precision), np.random.default_rng(0)
        self.figures["attention"] = scorer.tower.settings.attention(self.device.type)
        for shape in self.size.shapes:
            name, images = f"{math.prod(shape)} patches", max(1, self.size.max_patches // math.prod(shape))
            rows = [collect([{"bytes": each}], None) for each in jpegs(4 * images, shape, rng)]
            alone = self._tower_rate(scorer.tower.model, shape, images)
            self.figures[f"{name}: tower alone, images/s"] = alone
            rate, spread = self._end_to_end(scorer, rows)
            self.figures[f"{name}: end to end, images/s"] = rate
            self.figures[f"{name}: end to end / tower alone"] = rate / alone
            self.figures[f"{name}: largest spread of H of one image, nats"] = spread

    @torch.inference_mode()
    def _tower_rate(self, model: Any, shape: tuple[int, int], images: int) -> float:
        """Images per second of the plain transformers model, on tensors that are on the device."""
        grid_thw = torch.tensor([[1, *shape]] * images, device=self.device)
        values = 3 * model.config.temporal_patch_size * PATCH**2
        pixel_values = torch.randn(images * math.prod(shape), values, device=self.device, dtype=model.dtype)

        def run(passes: int) -> float:
            return self.seconds(lambda: [model(pixel_values, grid_thw=grid_thw).pooler_output for _ in range(passes)])

        run(1)
        passes = max(1, math.ceil(self.size.seconds / run(1)))
        return passes * images / run(passes)

    def _end_to_end(self, scorer: Any, rows: Sequence[Any]) -> tuple[float, float]:
        """Images per second with concurrent calls, and the largest spread of H of one image.

        Each call has the rows in another order, so that an image shares its pass with others.
        """
        scorer.score(rows[: len(rows) // 4])
        start = time.perf_counter()
        stop = start + 3 * self.size.seconds

        def call(which: int) -> list[Any]:
            rng, scores = np.random.default_rng(which), []
            while time.perf_counter() < stop:
                scores += scorer.score([rows[i] for i in rng.permutation(len(rows))])
            return scores

        with ThreadPoolExecutor(CALLS) as pool:
            scores = [score for part in pool.map(call, range(CALLS)) for score in part]
        rate = len(scores) / (time.perf_counter() - start)
        of_image: dict[str, list[float]] = {}
        for score in scores:
            if score.error:
                raise RuntimeError(f"an image was not scored: {score.error}")
            of_image.setdefault(score.key, []).append(score.entropy)
        return rate, max(max(values) - min(values) for values in of_image.values())

    def batches(self, precision: str) -> None:
        """Compares H of each picture alone with H in several batches of pictures."""
        tower, drawings = self._scorer(precision).tower, pictures(self.size.shapes)
        names = list(drawings)
        alone = {name: entropies(tower, [drawings[name]])[0] for name in names}
        chosen = [
            names,
            names[::-1],
            names * 2,
            *([name, name] for name in names),
            *zip(names, names[1:], strict=False),
        ]
        differences = [
            (abs(entropy - alone[name]), name)
            for batch in chosen
            for name, entropy in zip(batch, entropies(tower, [drawings[name] for name in batch]), strict=True)
        ]
        self.figures["batches"] = len(chosen)
        self.figures["largest difference of H, nats"], self.figures["at the image"] = max(differences)

    def agreement(self) -> None:
        """Compares H with H on the CPU, in float32."""
        from verl_durian.entropy.vision_tower import VisionTower

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        tower, on_cpu = self._scorer("float32").tower, VisionTower(*self._read_tower("float32"), "cpu")
        differences = []
        for name, picture in pictures([self.size.cpu_shape]).items():
            (expected,), (found,) = entropies(on_cpu, [picture]), entropies(tower, [picture])
            differences.append(abs(found - expected))
            self.figures[f"{name}: H on the CPU, nats"] = expected
            self.figures[f"{name}: difference, nats"] = differences[-1]
        self.figures["largest difference of H, nats"] = max(differences)


def entropies(tower: Any, images: Sequence[Image.Image]) -> list[float]:
    """H of each image in one forward pass, computed as in `Scorer`: eigenvalues on the CPU."""
    from verl_durian.entropy.visual_entropy import scatter_matrix, spectral_entropy

    features = tower.features(*tower.preprocess(images))
    return [spectral_entropy(scatter_matrix(each).cpu()).item() for each in features]


def photograph(shape: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A random picture with detail at several scales, like a photograph."""
    size = shape[1] * PATCH, shape[0] * PATCH
    total = np.zeros((size[1], size[0], 3))
    for cells, weight in ((3, 0.55), (12, 0.25), (48, 0.15), (192, 0.05)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * np.asarray(noise.resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def jpegs(number: int, shape: tuple[int, int], rng: np.random.Generator) -> list[bytes]:
    """Different JPEG files of `shape` patches."""
    files = [BytesIO() for _ in range(number)]
    for file in files:
        photograph(shape, rng).save(file, "JPEG", quality=90)
    return [file.getvalue() for file in files]


def pictures(shapes: Sequence[tuple[int, int]]) -> dict[str, Image.Image]:
    """A thin line, whose spectrum is nearly empty, and a photograph, in each shape."""
    rng = np.random.default_rng(1)
    drawings = {}
    for shape in shapes:
        width, height = shape[1] * PATCH, shape[0] * PATCH
        line = Image.new("RGB", (width, height), "white")
        ImageDraw.Draw(line).line([0.12 * width, 0.18 * height, 0.86 * width, 0.83 * height], fill="black")
        drawings[f"thin line, {width} x {height}"] = line
        drawings[f"photograph, {width} x {height}"] = photograph(shape, rng)
    return drawings


def empty_report(device: str) -> dict[str, Any]:
    """A report with the hardware and the versions."""
    report: dict[str, Any] = {"device": platform.processor() or platform.machine()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        report = {"device": properties.name, "GPU memory, GiB": properties.total_memory / 2**30}
        report["cuDNN"] = torch.backends.cudnn.version()
    report |= {"CPU cores": len(os.sched_getaffinity(0)), "Python": platform.python_version()}
    report |= {"torch": torch.__version__, "CUDA": torch.version.cuda or "none"}
    return report | {"transformers": transformers.__version__, "stages": {}}


def write(output: Path, report: dict[str, Any]) -> None:
    unfinished = output.with_name(f"{output.name}.unfinished")
    unfinished.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(unfinished, output)


def table(report: dict[str, Any]) -> str:
    rows = [(name, value) for name, value in report.items() if name != "stages"]
    for name, stage in report["stages"].items():
        error = {"error": stage["error"]} if "error" in stage else {}
        rows += [(f"{name}: {stage['status']}", f"{stage['seconds']:.0f} s"), *(stage["figures"] | error).items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {f'{x:.4g}' if isinstance(x, float) else x}" for name, x in rows)


def run(check: Check, output: Path, report: dict[str, Any]) -> bool:
    """Runs every stage, also after one that failed, and writes the report after each. Returns whether all succeeded."""
    stages: dict[str, Callable[[], None]] = {"estimator": check.estimator, "tower": check.tower}
    for precision in ("float32", "bfloat16"):
        stages[f"scoring, {precision}"] = partial(check.scoring, precision)
        stages[f"batches, {precision}"] = partial(check.batches, precision)
    stages["CPU, float32"] = check.agreement
    for name, stage in stages.items():
        start, check.figures = time.monotonic(), {}
        entry = report["stages"][name] = {"status": "running", "seconds": 0.0, "figures": check.figures}
        write(output, report)
        print(f"{name} ...", flush=True)
        try:
            if check.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            stage()
            if check.device.type == "cuda":
                check.figures["peak GPU memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
            entry["status"] = "done"
        except Exception as error:
            traceback.print_exc()
            message = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            entry |= {"status": "failed", "error": message}
        entry["seconds"] = time.monotonic() - start
    write(output, report)
    return all(stage["status"] == "done" for stage in report["stages"].values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"), help="JSON file (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--small", action="store_true", help="a tiny tower and small batches, to test the script")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.small:
        parser.error("--device cpu: the full size takes a CPU more than 8 minutes; add --small")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        remedy = "check nvidia-smi and CUDA_VISIBLE_DEVICES" if torch.version.cuda else "install a build with CUDA"
        parser.error(f"torch {torch.__version__} sees no CUDA GPU: {remedy}, or test with --device cpu --small")
    report = empty_report(arguments.device)
    try:
        write(arguments.output, report)
    except OSError as error:
        parser.error(f"--output {arguments.output}: {error.strerror}; name a file in a folder that can be written")

    timer = threading.Timer(LIMIT, os._exit, [1])
    timer.daemon = True
    timer.start()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if missing := import_project():
        report["not installed, nor needed here"] = ", ".join(missing)
    succeeded = run(Check(arguments.device, SMALL if arguments.small else FULL), arguments.output, report)
    print(f"{table(report)}\nwritten to {arguments.output}")
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())

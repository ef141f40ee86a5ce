# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Measures the estimator and image scoring on one GPU, in at most 8 minutes, and checks that their numbers agree.

    python benchmarks/gpu_check.py [--output gpu_check.json]
    python benchmarks/gpu_check.py --device cpu --small      # all stages without a GPU, in less than a minute

Runs from a clone, without installing it. Needs torch, transformers, numpy, pandas, pyarrow, safetensors and Pillow.
Prints a table and writes the same figures as JSON. The exit status is 0, 1 if a stage failed (the others still run), or
2 without a GPU.

| stage | figures |
|---|---|
| estimator | time of a call, against the memory traffic that no estimator can avoid; host synchronizations |
| tower | builds the vision tower: the shape of Qwen2.5-VL-7B's, random weights, seed 0 |
| scoring | images per second from JPEG to visual entropy H, against the tower alone |
| composition | how far H of an image depends on the images of the same pass, with and without FixedRows |
| agreement | how far H on the GPU differs from H on the CPU |
"""

import argparse
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
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from PIL import Image, ImageDraw
from transformers import AutoImageProcessor, AutoVideoProcessor  # noqa: F401, before `import_project`
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

START = time.monotonic()
LIMIT = 470.0
"""Seconds after which the process ends, whatever it is doing."""
PATCH = 14
CALLS = 2
"""Packets of images that a worker of `verl-durian score` has at once (`workers.py`)."""
THREADS = max(1, min(8, len(os.sched_getaffinity(0)) - 1))
"""That decode beside a GPU's tower, as in `workers.py`."""

TOWER_7B = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "window_size": 112,
}
TOWER_TINY = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 108,
    "num_heads": 2,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [1],
    "window_size": 112,
}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    batches: tuple[tuple[int, int, int], ...]
    """Prompts, rollouts and tokens of the batches for the estimator."""
    tower: dict[str, Any]
    shapes: tuple[tuple[int, int], ...]
    """Rows and columns of patches of the images that are scored."""
    cpu_shape: tuple[int, int]
    """Of the images that a CPU encodes too."""
    max_patches: int
    """Patches of a pass; in full size `MAX_PATCHES["cuda"]` of `workers.py`."""
    seconds: float
    """How long a rate is measured."""


FULL = Size(((512, 8, 2048), (4096, 8, 8192)), TOWER_7B, ((24, 24), (32, 40)), (16, 16), 16384, 4.0)
SMALL = Size(((32, 4, 128), (64, 4, 256)), TOWER_TINY, ((8, 8), (8, 12)), (8, 8), 512, 0.1)


def make_batch(
    prompts: int, rollouts: int, tokens: int, mask_dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """The arguments of `compute_durian_outcome_advantage`, random with seed 0."""
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
    """Every input is read once and the result written once; nothing is computed that could cost more."""
    rewards, log_probs = batch["token_level_rewards"], batch["batch"]["old_log_probs"]
    row = rewards.sum(dim=-1) + log_probs.sum(dim=-1) + batch["response_mask"].sum(dim=-1)
    result = torch.empty_like(rewards)
    result.copy_(row.unsqueeze(-1).expand_as(result))
    return result


def import_project() -> list[str]:
    """Imports what is measured, and returns the packages that are absent and were replaced for the import.

    Of these packages the measured code calls two functions only: `is_config`, and `fetch_image` for images whose size
    stays as it is. They are out of `sys.modules` afterwards, so that transformers does not take them for the real ones.
    """

    class OmegaConf:
        @staticmethod
        def is_config(value: Any) -> bool:
            return False

    def fetch_image(element: dict[str, Any], image_patch_size: int) -> Image.Image:
        picture = element["image"].convert("RGB")
        if any(side % (2 * image_patch_size) for side in picture.size):
            raise ValueError(f"{picture.size} is no multiple of {2 * image_patch_size}: install qwen_vl_utils")
        return picture.resize(picture.size)  # a copy, as there

    content: dict[str, dict[str, Any]] = {
        "datasets": {},
        "omegaconf": {"OmegaConf": OmegaConf},
        "qwen_vl_utils": {"fetch_image": fetch_image, "fetch_video": None, "vision_process": None},
        "qwen_vl_utils.vision_process": {"get_video_reader_backend": None, "to_rgb": None},
        "requests": {},
        "torchvision": {},
    }
    absent = [name for name in content if "." not in name and find_spec(name) is None]
    replaced = [name for name in content if name.split(".")[0] in absent]
    for name in replaced:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content[name])
    try:
        import verl_durian.algo.estimator
        import verl_durian.entropy.scorer  # noqa: F401
    finally:
        for name in replaced:
            del sys.modules[name]
    return absent


class Check:
    """The stages, and what they share."""

    def __init__(self, device: str, size: Size):
        self.device = torch.device(device)
        self.size = size
        self.figures: dict[str, Any] = {}
        """Of the stage that runs: name and number."""
        self.notes: list[str] = []
        """Of the stage that runs."""
        self.end = math.inf
        """When the stage is to end, by `time.monotonic`."""
        self._settings: dict[str, Any] = {}
        self._states: dict[str, dict[str, torch.Tensor]] = {}
        self._scorers: dict[str, Any] = {}

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def time_is_up(self, left_out: str) -> bool:
        """Whether the stage has used its time; if so, notes what it leaves out."""
        if time.monotonic() < self.end:
            return False
        self.notes.append(f"left out for lack of time: {left_out}")
        return True

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of one call, on the device's clock where it has one."""
        self.synchronize()
        if self.device.type != "cuda":
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    def median_seconds(self, work: Callable[[], Any], repeats: int = 20) -> float:
        """Of some calls after two to warm up; fewer where the stage has little time left, but at least three."""
        for _ in range(2):
            work()
        times: list[float] = []
        while len(times) < 3 or (len(times) < repeats and time.monotonic() < self.end):
            times.append(self.seconds(work))
        return statistics.median(times)

    # ---- estimator

    def estimator(self) -> None:
        from verl_durian.algo.estimator import compute_durian_outcome_advantage

        def durian(batch: dict[str, Any]) -> torch.Tensor:
            return compute_durian_outcome_advantage(**batch)[0]

        for prompts, rollouts, tokens in self.size.batches:
            where = f"{prompts} x {rollouts} x {tokens}"
            for mask_dtype in (torch.int64, torch.float32):
                of_batch = f"{where}, {str(mask_dtype).removeprefix('torch.')} mask"
                if self.time_is_up(of_batch) or not self._fits(of_batch, prompts * rollouts * tokens):
                    continue
                self._time_batch(of_batch, make_batch(prompts, rollouts, tokens, mask_dtype, self.device), durian)

        batch = make_batch(*self.size.batches[0], torch.int64, self.device)
        on_cpu = {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        on_cpu["batch"] = {"old_log_probs": batch["batch"]["old_log_probs"].cpu()}
        difference = (durian(batch).cpu() - durian(on_cpu)).abs().amax(dim=-1)
        self.figures["largest difference of an advantage to the CPU"] = difference.max().item()
        self.figures["rows that differ by more than 1e-4"] = int((difference > 1e-4).sum())
        self.figures.update(self._synchronizations(lambda: durian(batch)))

    def _fits(self, of_batch: str, elements: int) -> bool:
        """Whether the device has room for the inputs, the result and what is computed between."""
        if self.device.type != "cuda":
            return True
        torch.cuda.empty_cache()
        free, needed = torch.cuda.mem_get_info()[0] / 2**30, 40 * elements / 2**30
        if free < needed:
            self.notes.append(f"{of_batch} left out: needs {needed:.1f} GiB of GPU memory, {free:.1f} GiB are free")
        return free >= needed

    def _time_batch(self, of_batch: str, batch: dict[str, Any], durian: Callable[[dict[str, Any]], Any]) -> None:
        of_floor = self.median_seconds(lambda: floor(batch))
        of_durian = self.median_seconds(lambda: durian(batch))
        inputs = (batch["token_level_rewards"], batch["response_mask"], batch["batch"]["old_log_probs"])
        moved = sum(each.numel() * each.element_size() for each in inputs) + inputs[0].numel() * 4
        self.figures[f"{of_batch}: durian ms"] = of_durian * 1e3
        self.figures[f"{of_batch}: floor ms"] = of_floor * 1e3
        self.figures[f"{of_batch}: durian / floor"] = of_durian / of_floor
        self.figures[f"{of_batch}: GB/s of the floor"] = moved / of_floor / 1e9

    def _synchronizations(self, work: Callable[[], Any]) -> dict[str, Any]:
        """Calls that make the host wait for the GPU (`.item()`, copies, `nonzero`), by `set_sync_debug_mode`."""
        if self.device.type != "cuda":
            self.notes.append("host synchronizations are counted on a GPU only")
            return {}
        work()
        self.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        lines = Counter(
            f"{Path(each.filename).name}:{each.lineno}"
            for each in caught
            if "called a synchronizing CUDA operation" in str(each.message)
        )
        return {
            "host synchronizations of a call (set_sync_debug_mode)": sum(lines.values()),
            "lines that synchronize": ", ".join(f"{line} ({count})" for line, count in sorted(lines.items())),
        }

    # ---- vision tower

    def tower(self) -> None:
        """Builds the tower in float32; the other stages need it."""
        scorer = self._scorer("float32")
        parameters = sum(each.numel() for each in scorer.tower.model.parameters())
        self.figures["million parameters"] = parameters / 1e6

    def _read_tower(self, precision: str) -> tuple[Any, dict[str, torch.Tensor]]:
        """What `verl_durian.entropy.vision_tower.read_tower` would read from a checkpoint of this shape."""
        from verl_durian.entropy.vision_tower import TowerSettings

        if not self._states:
            config = Qwen2_5_VisionTransformerPretrainedModel.config_class(**self.size.tower)
            if transformers.utils.is_torchvision_available():
                self._settings["processor"] = transformers.Qwen2VLImageProcessor()
            else:
                self._settings["processor"] = transformers.Qwen2VLImageProcessorPil()
            self._settings["config"] = config
            torch.manual_seed(0)
            self._states["float32"] = Qwen2_5_VisionTransformerPretrainedModel(config).float().state_dict()
        if precision not in self._states:
            dtype = getattr(torch, precision)
            self._states[precision] = {name: value.to(dtype) for name, value in self._states["float32"].items()}
        config, processor = self._settings["config"], self._settings["processor"]
        settings = TowerSettings("random weights", "qwen2_5_vl", config, processor, None, "merger", precision, "", None)
        return settings, self._states[precision]

    def _scorer(self, precision: str) -> Any:
        """The `Scorer` of a worker on this device."""
        from verl_durian.entropy.scorer import Scorer, to_arrays

        if precision not in self._scorers:
            settings, state = self._read_tower(precision)
            self._scorers[precision] = Scorer(
                settings, to_arrays(state), self.device.type, self.size.max_patches, THREADS
            )
        return self._scorers[precision]

    def _together(self, tower: Any, pictures: Sequence[Image.Image], fixed_rows: bool) -> list[torch.Tensor]:
        """F of each picture, all in one pass as on a GPU."""
        from verl_durian.entropy import vision_tower

        with nullcontext() if fixed_rows else patch.object(vision_tower, "FixedRows", nullcontext):
            return tower._together(*tower.preprocess(pictures))

    # ---- scoring

    def scoring(self, precision: str) -> None:
        from verl_durian.entropy.media import collect

        scorer = self._scorer(precision)
        self.figures["attention"] = scorer.tower.settings.attention(self.device.type)
        rng = np.random.default_rng(0)
        for shape in self.size.shapes:
            patches = math.prod(shape)
            of_shape = f"{patches} patches"
            if self.time_is_up(of_shape):
                continue
            in_a_pass = max(1, self.size.max_patches // patches)
            alone = self._tower_rate(scorer.tower, shape, in_a_pass, fixed_rows=False)
            self.figures[f"{of_shape}: tower alone, images/s"] = alone
            fixed = self._tower_rate(scorer.tower, shape, in_a_pass, fixed_rows=True)
            self.figures[f"{of_shape}: tower with FixedRows, images/s"] = fixed
            rows = [collect([{"bytes": each}], None) for each in jpegs(4 * in_a_pass, shape, rng)]
            if not self.time_is_up(f"{of_shape} from end to end"):
                rate, spread = self._end_to_end(scorer, rows)
                self.figures[f"{of_shape}: end to end, images/s"] = rate
                self.figures[f"{of_shape}: end to end / tower alone"] = rate / alone
                self.figures[f"{of_shape}: largest spread of H of one image, nats"] = spread
            if not self.time_is_up(f"{of_shape}, ms of each step"):
                for step, ms in self._steps(scorer.tower, rows[: min(8, in_a_pass)]).items():
                    self.figures[f"{of_shape}: {step}, ms an image"] = ms

    @torch.inference_mode()
    def _tower_rate(self, tower: Any, shape: tuple[int, int], images: int, fixed_rows: bool) -> float:
        """Images per second on tensors that are there already: the plain model of transformers, or with FixedRows."""
        grid_thw = torch.tensor([[1, *shape]] * images)
        values = 3 * tower.model.config.temporal_patch_size * PATCH**2
        pixel_values = torch.randn(images * math.prod(shape), values, device=self.device, dtype=tower.model.dtype)
        on_device = grid_thw.to(self.device)

        def one_pass() -> Any:
            if fixed_rows:
                return tower._together(pixel_values, grid_thw)
            return tower.model(pixel_values, grid_thw=on_device).pooler_output

        one_pass()
        passes = max(1, math.ceil(self.size.seconds / self.seconds(one_pass)))

        def many_passes() -> None:
            for _ in range(passes):
                one_pass()

        return passes * images / self.seconds(many_passes)

    def _end_to_end(self, scorer: Any, rows: Sequence[Any]) -> tuple[float, float]:
        """Images per second with as many calls at a time as in a worker, and the largest spread of H of one image.

        Each call has the rows in another order, so that an image meets others in its pass.
        """
        scorer.score(rows[: len(rows) // 4])
        start = time.perf_counter()
        stop = start + 3 * self.size.seconds

        def calls(which: int) -> list[Any]:
            rng, scores = np.random.default_rng(which), []
            while time.perf_counter() < stop:
                scores += scorer.score([rows[i] for i in rng.permutation(len(rows))])
            return scores

        with ThreadPoolExecutor(CALLS) as pool:
            scores = [score for part in pool.map(calls, range(CALLS)) for score in part]
        rate = len(scores) / (time.perf_counter() - start)
        of_image: dict[str, list[float]] = {}
        for score in scores:
            if score.error:
                raise RuntimeError(f"an image was not scored: {score.error}")
            of_image.setdefault(score.key, []).append(score.entropy)
        return rate, max(max(values) - min(values) for values in of_image.values())

    def _steps(self, tower: Any, rows: Sequence[Any]) -> dict[str, float]:
        """Milliseconds an image of what stands beside the tower, in one thread."""
        from verl_durian.entropy.media import decode
        from verl_durian.entropy.visual_entropy import scatter_matrix, spectral_entropy

        pictures = [decode(row, PATCH)[0][0] for row in rows]
        features = tower.features(*tower.preprocess(pictures))
        matrices = [scatter_matrix(each).cpu() for each in features]
        steps: dict[str, Callable[[], Any]] = {
            "decode": lambda: [decode(row, PATCH) for row in rows],
            "preprocess": lambda: [tower.preprocess([each]) for each in pictures],
            "scatter matrix": lambda: [scatter_matrix(each).cpu() for each in features],
            "eigenvalues": lambda: [spectral_entropy(matrix) for matrix in matrices],
        }
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return {step: self.median_seconds(work, 5) * 1e3 / len(rows) for step, work in steps.items()}
        finally:
            torch.set_num_threads(threads)

    # ---- agreement

    def composition(self, precision: str) -> None:
        tower = self._scorer(precision).tower
        drawings = pictures(self.size.shapes)
        names = list(drawings)
        others = [list(names), names[::-1]]
        others += [[name, name] for name in names] + [[names[i - 1], names[i]] for i in range(len(names))]
        others += [names * 2]  # at full size more rows than a block of FixedRows has
        for fixed_rows in (True, False):
            way = "with FixedRows" if fixed_rows else "without"
            alone = {name: self._together(tower, [drawings[name]], fixed_rows)[0] for name in names}
            entropy_alone = {name: entropy(features) for name, features in alone.items()}
            largest, where, equal, passes = 0.0, "", True, 0
            for chosen in others:
                if self.time_is_up(f"{way}: {len(others) - passes} of {len(others)} passes"):
                    break
                passes += 1
                features = self._together(tower, [drawings[name] for name in chosen], fixed_rows)
                for name, of_one in zip(chosen, features, strict=True):
                    equal = equal and torch.equal(of_one, alone[name])
                    difference = abs(entropy(of_one) - entropy_alone[name])
                    if difference > largest:
                        largest, where = difference, name
            self.figures[f"{way}: largest difference of H, nats"] = largest
            if where:
                self.figures[f"{way}: at the image"] = where
            self.figures[f"{way}: features equal to the bit"] = equal
            self.figures[f"{way}: passes"] = passes

    def agreement(self) -> None:
        from verl_durian.entropy.vision_tower import VisionTower

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        tower = self._scorer("float32").tower
        on_cpu = VisionTower(*self._read_tower("float32"), "cpu")
        differences: dict[bool, list[float]] = {True: [], False: []}
        for name, picture in pictures([self.size.cpu_shape]).items():
            if self.time_is_up(f"image {name}"):
                continue
            expected = entropy(on_cpu.features(*on_cpu.preprocess([picture]))[0])
            self.figures[f"{name}: H on the CPU, nats"] = expected
            for fixed_rows, of_way in differences.items():
                of_way.append(abs(entropy(self._together(tower, [picture], fixed_rows)[0]) - expected))
            self.figures[f"{name}: difference, nats"] = differences[True][-1]
        if differences[True]:
            self.figures["with FixedRows: largest difference of H, nats"] = max(differences[True])
            self.figures["without: largest difference of H, nats"] = max(differences[False])


def entropy(features: torch.Tensor) -> float:
    """H as `Scorer` finds it: the matrix on the device, its eigenvalues on the CPU."""
    from verl_durian.entropy.visual_entropy import scatter_matrix, spectral_entropy

    return spectral_entropy(scatter_matrix(features).cpu()).item()


def photograph(shape: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A random picture with detail at several scales, as photographs have."""
    size = shape[1] * PATCH, shape[0] * PATCH
    total = np.zeros((size[1], size[0], 3))
    for cells, weight in ((3, 0.55), (12, 0.25), (48, 0.15), (192, 0.05)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * np.asarray(noise.resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def jpegs(number: int, shape: tuple[int, int], rng: np.random.Generator) -> list[bytes]:
    """Different JPEG files, each of `shape` patches."""
    files = []
    for _ in range(number):
        file = BytesIO()
        photograph(shape, rng).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def pictures(shapes: Sequence[tuple[int, int]]) -> dict[str, Image.Image]:
    """Of each shape a line drawing, whose spectrum is nearly empty, a thick line, and a photograph."""
    rng = np.random.default_rng(1)
    drawings = {}
    for shape in shapes:
        height, width = (side * PATCH for side in shape)
        for name, thickness in (("thin line", 1), ("thick line", 12)):
            picture = Image.new("RGB", (width, height), "white")
            ends = [0.12 * width, 0.18 * height, 0.86 * width, 0.83 * height]
            ImageDraw.Draw(picture).line(ends, fill="black", width=thickness)
            drawings[f"{name}, {width} x {height}"] = picture
        drawings[f"photograph, {width} x {height}"] = photograph(shape, rng)
    return drawings


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    versions = {"Python": platform.python_version(), "torch": torch.__version__, "CUDA": torch.version.cuda or "none"}
    versions |= {"transformers": transformers.__version__, "CPU cores": len(os.sched_getaffinity(0))}
    if device == "cpu":
        return {"device": platform.processor() or platform.machine(), **versions}
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "GPU memory, GiB": properties.total_memory / 2**30,
        "float32 matrix products": torch.get_float32_matmul_precision(),
        **versions,
        "cuDNN": torch.backends.cudnn.version(),
    }


class Report:
    """What the stages found, as a table and as a JSON file that is complete or absent."""

    def __init__(self, output: Path, about: dict[str, Any]):
        self.output = output
        self.content: dict[str, Any] = {**about, "seconds": 0.0, "stages": {}}
        self.lock = threading.Lock()

    @property
    def failed(self) -> bool:
        return any(stage["status"] == "failed" for stage in self.content["stages"].values())

    def write(self) -> None:
        self.content["seconds"] = time.monotonic() - START
        unfinished = self.output.with_name(f"{self.output.name}.unfinished")
        unfinished.write_text(json.dumps(self.content, indent=2) + "\n")
        os.replace(unfinished, self.output)

    def table(self) -> str:
        rows = [("", name, number(value)) for name, value in self.content.items() if name != "stages"]
        for name, stage in self.content["stages"].items():
            rows.append((name, stage["status"], f"{stage['seconds']:.0f} s"))
            rows += [("", figure, number(value)) for figure, value in stage["figures"].items()]
            rows += [("", "note", note) for note in stage["notes"]]
            if "error" in stage:
                rows.append(("", "error", stage["error"]))
        first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(f"{row[0]:{first}}  {row[1]:{second}}  {row[2]}".rstrip() for row in rows)


def number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run(check: Check, report: Report) -> None:
    """Runs every stage within its share of the time; one that fails does not keep the others from running."""
    stages: list[tuple[str, float, Callable[[], None]]] = [
        ("estimator", 60, check.estimator),
        ("tower", 60, check.tower),
        ("scoring, float32", 75, lambda: check.scoring("float32")),
        ("composition, float32", 45, lambda: check.composition("float32")),
        ("agreement with the CPU, float32", 60, check.agreement),
        ("scoring, bfloat16", 75, lambda: check.scoring("bfloat16")),
        ("composition, bfloat16", 45, lambda: check.composition("bfloat16")),
    ]
    for name, share, stage in stages:
        start = time.monotonic()
        check.figures, check.notes, check.end = {}, [], min(start + share, START + LIMIT - 30)
        entry = {"status": "running", "seconds": 0.0, "figures": check.figures, "notes": check.notes}
        report.content["stages"][name] = entry
        if check.time_is_up("the stage"):
            entry["status"] = "skipped"
            continue
        print(f"[{start - START:4.0f} s] {name} ...", flush=True)
        try:
            if check.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            stage()
            check.synchronize()
            if check.device.type == "cuda":
                check.figures["peak GPU memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
            status = {"status": "done"}
        except Exception as error:
            traceback.print_exc()
            status = {"status": "failed", "error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
        with report.lock:
            entry.update(status, seconds=time.monotonic() - start)
            report.write()


def give_up(report: Report) -> None:
    """Ends the process at the time limit with what there is, even if a call to the GPU never returns."""
    try:
        with report.lock:
            for stage in report.content["stages"].values():
                if stage["status"] == "running":
                    stage |= {"status": "failed", "error": f"did not end within {LIMIT:.0f} s of the start"}
            report.write()
        print(report.table(), flush=True)
    finally:
        os._exit(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"), help="JSON file (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--small", action="store_true", help="a tiny tower and small batches, to try the script")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.small:
        parser.error("--device cpu: a CPU does not get through the full size in 8 minutes; add --small")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        remedy = "check nvidia-smi and CUDA_VISIBLE_DEVICES" if torch.version.cuda else "install a build with CUDA"
        parser.error(
            f"torch {torch.__version__} sees no CUDA GPU: {remedy}, or try the script with --device cpu --small"
        )
    report = Report(arguments.output, machine(arguments.device))
    try:
        report.write()
    except OSError as error:
        parser.error(f"--output {arguments.output}: {error.strerror}; name a file in a folder that can be written")

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    last_resort = threading.Timer(LIMIT - (time.monotonic() - START), give_up, [report])
    last_resort.daemon = True
    last_resort.start()
    if absent := import_project():
        report.content["not installed, nor needed here"] = ", ".join(absent)
    run(Check(arguments.device, SMALL if arguments.small else FULL), report)
    last_resort.cancel()
    print(report.table())
    print(f"written to {arguments.output}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian score`: computes the visual entropy of every row of verl's data files before training.

check the output folder -> score the rows -> write the data files -> write problems.jsonl, plots and scores.json
"""

import hashlib
import json
import logging
import shutil
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import ray
import torch
from PIL import Image
from rich.console import Console
from tqdm import tqdm  # type: ignore[import-untyped]

from verl_durian.algo.groups import perceptual_groups, perceptual_thresholds
from verl_durian.entropy.cache import EntropyCache
from verl_durian.entropy.data_files import RESERVED, Columns, DataFile, find_files, open_files
from verl_durian.entropy.media import MediaError, collect, decode
from verl_durian.entropy.pipeline import Scores, score_rows
from verl_durian.entropy.placement import place
from verl_durian.entropy.plots import plot_examples, plot_histogram
from verl_durian.entropy.vision_tower import FeatureLayer, Precision, TowerSettings, read_tower
from verl_durian.files import output_folder, part_of, whole_file

logger = logging.getLogger(__name__)

SUMMARY, PROBLEMS = RESERVED
HISTOGRAM = "visual_entropy.png"
EXAMPLES = "examples.png"
_QUARTILES = [0.25, 0.75]  # as in the paper
_GROUPS = ("low", "medium", "high")
_EXAMPLES_PER_GROUP = 4
_PROBLEMS_PRINTED = 10


@dataclass(frozen=True)
class Request:
    """The arguments of `verl-durian score`."""

    model: str
    """Checkpoint with the vision tower: local folder, or id on the Hugging Face Hub."""
    data: Sequence[str]
    """verl's data files: paths, fsspec URLs, patterns with `*`."""
    output: Path
    """Output folder: a new one, or that of a run with the same arguments."""
    cache_dir: Path
    """Folder of the cached scores."""
    columns: Columns = Columns()
    """Columns with the images and videos of a row."""
    feature_layer: FeatureLayer = "merger"
    """Output of the tower that is used as F."""
    precision: Precision = "float32"
    """Type of the tower's weights and activations."""
    address: str | None = None
    """Address of a running Ray cluster. Default: start Ray on this machine."""
    device: str | None = None
    """`cpu` or `cuda`. For the default of this and the following, see `placement.place`."""
    workers: int | None = None
    """Number of processes, each with a tower."""
    max_patches: int | None = None
    """Patches per forward pass."""


def score_files(request: Request) -> int:
    """Writes every data file with the columns `visual_entropy` and `visual_patches`, and a summary.

    Running the same request again continues a run that was killed: known scores come from the cache, and data files
    that are already written stay unless their source or scores have changed.

    Returns:
        int: Number of rows that cannot be scored.

    Raises:
        ValueError: invalid arguments; nothing has been written.
        OSError: a file cannot be read or written.
        RuntimeError: a process of Ray failed.
    """
    start = time.monotonic()
    names = find_files(request.data)
    files = open_files(names, request.output, request.columns)
    settings, state = read_tower(request.model, request.feature_layer, request.precision)
    with _ray(request.address):
        placement = place(request.device, request.workers, request.max_patches)
        arguments = _arguments(settings, placement.device, names, request.columns)
        with output_folder(request.output):
            digests = _digests_of_written_files(request.output, arguments)
            _require_space(request.output, files, digests)
            cache = EntropyCache(request.cache_dir / arguments["fingerprint"])
            cache.require_writable()
            scores = score_rows(files, settings, state, cache, placement)
            digests = _write_files(request.output, arguments, files, scores, digests)
            _write_problems(request.output, scores)
            thresholds = _plot(request.output, files, scores, settings.image_processor.patch_size)
            rows = sum(file.rows for file in files)
            results = {
                "rows": rows,
                "rows_without_image": rows - int(np.isfinite(scores.entropies).sum()) - len(scores.problems),
                "rows_with_problems": len(scores.problems),
                "images": scores.images,
                "thresholds": thresholds,
                "seconds": round(time.monotonic() - start, 3),
                "images_encoded": scores.encoded,
                "images_per_second": round(scores.encoded / scores.seconds, 3) if scores.encoded else None,
            }
            _write_summary(request.output, {"finished": True, "settings": arguments, **results, "files": digests})
    _print_results(request.output, results, scores)
    return len(scores.problems)


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Joins a running Ray cluster, or starts Ray on this machine."""
    if address is None:
        # ERROR: at each start Ray warns that only this machine can connect to it.
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    elif address.startswith("ray://"):
        raise ValueError(f"--address {address}: the command must run on a machine of the cluster, see `ray start`")
    else:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _arguments(settings: TowerSettings, device: str, names: Sequence[str], columns: Columns) -> dict[str, Any]:
    """Everything that the results depend on, as it is read back from JSON."""
    arguments = {
        "model": settings.model_path,
        "revision": settings.revision,
        "weights_sha256": settings.weights,
        "feature_layer": settings.feature_layer,
        "precision": settings.precision,
        "device": device,
        "image_processor": settings.image_processor.to_dict(),
        "video_processor": settings.video_processor and settings.video_processor.to_dict(),
        "fingerprint": settings.fingerprint(device),
        "columns": asdict(columns),
        "data": list(names),
    }
    return json.loads(json.dumps(arguments, default=str))


def _digests_of_written_files(output: Path, arguments: dict[str, Any]) -> dict[str, str]:
    """The data files of an earlier run with their digests; empty for a new folder.

    Raises:
        ValueError: the folder has other content than the results of the same arguments.
    """
    if all(file.name == part_of(output / SUMMARY).name for file in output.iterdir()):  # new, or killed right away
        return {}
    try:
        earlier = json.loads((output / SUMMARY).read_text())
        settings, files = dict(earlier["settings"]), dict(earlier["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--output {output}: the folder has other content than results of this command: name a new folder"
        ) from error
    changes = [
        f"{name} was {settings.get(name)}, is now {value}"
        for name, value in arguments.items()
        if settings.get(name) != value
    ]
    if changes:
        raise ValueError(
            f"--output {output}: the folder has results of other settings ({'; '.join(changes)}): name another folder"
        )
    return {name: digest for name, digest in files.items() if (output / name).exists()}


def _write_files(
    output: Path, arguments: dict[str, Any], files: Sequence[DataFile], scores: Scores, digests: dict[str, str]
) -> dict[str, str]:
    """Writes the data files that are missing or outdated. Returns the digest of each file."""
    written: dict[str, str] = {}
    stale, row = [], 0
    for file in files:
        of_file = slice(row, row + file.rows)
        row += file.rows
        entropies, patches = scores.entropies[of_file], scores.patches[of_file]
        digest = hashlib.sha256(file.version.encode())
        for column in (scores.keys[of_file], entropies, patches):
            digest.update(column.tobytes())
        name = str(file.target.relative_to(output))
        if digests.get(name) == digest.hexdigest():
            written[name] = digest.hexdigest()
        else:
            stale.append((name, digest.hexdigest(), file, entropies, patches))
    for name, hexdigest, file, entropies, patches in tqdm(stale, desc="writing", unit=" files", disable=not stale):
        # A killed run leaves a summary without the file that it was writing.
        _write_summary(output, {"finished": False, "settings": arguments, "files": written})
        file.write(entropies, patches)
        written[name] = hexdigest
    return written


def _require_space(output: Path, files: Sequence[DataFile], digests: Mapping[str, str]) -> None:
    """Raises ValueError if the files that have to be written do not fit on the disk."""
    missing = [file.name for file in files if str(file.target.relative_to(output)) not in digests]
    needed, free = sum(_size(name) for name in missing), shutil.disk_usage(output).free
    if needed > free:
        raise ValueError(
            f"--output {output}: the output needs about {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free: "
            "free some space, or name a folder on another disk"
        )


def _size(file: str) -> int:
    """Bytes of a local file or an fsspec URL."""
    filesystem, path = fsspec.core.url_to_fs(file)
    return filesystem.size(path)


def _write_summary(output: Path, summary: dict[str, Any]) -> None:
    with whole_file(output / SUMMARY) as file:
        file.write(f"{json.dumps(summary, indent=2)}\n".encode())


def _write_problems(output: Path, scores: Scores) -> None:
    """Writes one line per row that cannot be scored; no file if there is none."""
    if not scores.problems:
        (output / PROBLEMS).unlink(missing_ok=True)
        return
    with whole_file(output / PROBLEMS) as file:
        for problem in scores.problems:
            file.write(f"{json.dumps(asdict(problem), ensure_ascii=False)}\n".encode())


def _plot(output: Path, files: Sequence[DataFile], scores: Scores, patch_size: int) -> dict[str, float]:
    """Plots histogram and examples. Returns the quartiles in nats; nothing if no row has a score."""
    rows = np.flatnonzero(np.isfinite(scores.entropies))
    if len(rows) == 0:
        for name in (HISTOGRAM, EXAMPLES):
            (output / name).unlink(missing_ok=True)
        return {}
    entropies = torch.from_numpy(scores.entropies[rows])
    thresholds = perceptual_thresholds(entropies, _QUARTILES)
    group = perceptual_groups(entropies, thresholds).numpy()
    low, high = thresholds.tolist()
    plot_histogram(entropies.numpy(), (low, high), output / HISTOGRAM)

    _, first = np.unique(scores.keys[rows], return_index=True)  # distinct rows
    chosen: dict[str, list[int]] = {}  # rows of each group, spread over its entropies
    for number, name in enumerate(_GROUPS):
        members = first[group[first] == number]
        members = members[np.argsort(scores.entropies[rows[members]], kind="stable")]
        spread = np.linspace(0, len(members) - 1, min(_EXAMPLES_PER_GROUP, len(members))).astype(int)
        chosen[name] = rows[members[spread]].tolist()
    pictures = _pictures(files, sum(chosen.values(), []), patch_size)
    examples = {
        name: [(pictures[row], scores.entropies[row]) for row in of_group if row in pictures]
        for name, of_group in chosen.items()
    }
    plot_examples(examples, output / EXAMPLES)
    return {"Q25": low, "Q75": high}


def _pictures(files: Sequence[DataFile], rows: Sequence[int], patch_size: int) -> dict[int, Image.Image]:
    """The first image, or the first frame of the first video, of these rows of all files."""
    pictures, first = {}, list(accumulate((file.rows for file in files), initial=0))
    for row in rows:
        number = bisect_right(first, row) - 1
        try:
            if (media := collect(*next(files[number].cells(row - first[number])))) is None:
                raise MediaError("the row has no image anymore")
            images, videos = decode(media, patch_size)
            frame = videos[0][0][0].permute(1, 2, 0).to(torch.uint8).numpy() if not images else None
            pictures[row] = Image.fromarray(frame) if frame is not None else images[0]
        except MediaError as error:
            logger.warning("%s row %d is left out of the examples: %s", files[number].name, row - first[number], error)
    return pictures


def _print_results(output: Path, results: dict[str, Any], scores: Scores) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for problem in scores.problems[:_PROBLEMS_PRINTED]:
        console.print(f"{problem.file} row {problem.row}: {problem.reason}", markup=False)
    if len(scores.problems) > _PROBLEMS_PRINTED:
        console.print(f"... and {len(scores.problems) - _PROBLEMS_PRINTED} more, see {PROBLEMS}")
    console.print(
        f"{results['rows']} rows, {results['rows_without_image']} without image, "
        f"{results['rows_with_problems']} with problems"
    )
    written = ["the data files with their scores", SUMMARY]
    if scores.problems:
        written.append(PROBLEMS)
    if thresholds := results["thresholds"]:
        console.print(f"visual entropy in nats: Q25 {thresholds['Q25']:.4f}, Q75 {thresholds['Q75']:.4f}")
        written += [HISTOGRAM, EXAMPLES]
    if scores.encoded:
        console.print(f"{scores.encoded} images encoded, {results['images_per_second']:.1f} per second")
    console.print(f"{output}: {', '.join(written)}", markup=False)

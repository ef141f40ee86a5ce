# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian score`: visual entropy of every row of verl's data files, computed once, before training.

check the folder -> score the rows -> write a file for each data file -> problems.jsonl, pictures, scores.json
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from rich.console import Console
from tqdm import tqdm  # type: ignore[import-untyped]

from verl_durian.algo.groups import perceptual_groups, perceptual_thresholds
from verl_durian.entropy.cache import EntropyCache
from verl_durian.entropy.media import MediaError, collect, decode
from verl_durian.entropy.parts import Cells, Columns, Part
from verl_durian.entropy.pipeline import Scores, score_parts
from verl_durian.entropy.plots import draw_contact_sheet, draw_histogram
from verl_durian.entropy.shards import (
    RESERVED,
    Shard,
    find_files,
    open_shards,
    size,
    write_shard,
)
from verl_durian.entropy.vision_tower import FeatureLayer, Precision, TowerSettings, read_tower
from verl_durian.entropy.workers import place
from verl_durian.files import output_folder, part_of, whole_file

logger = logging.getLogger(__name__)

SUMMARY, PROBLEMS = RESERVED
HISTOGRAM = "visual_entropy.png"
EXAMPLES = "examples.png"
_QUARTILES = [0.25, 0.75]  # the paper's
_GROUPS = ("low", "medium", "high")
_EXAMPLES_OF_A_GROUP = 4
_PROBLEMS_TOLD = 10


@dataclass(frozen=True)
class Request:
    """What `verl-durian score` is asked for."""

    model: str
    """Local folder, or id on the Hugging Face Hub, of the checkpoint whose vision tower is used."""
    data: Sequence[str]
    """verl's data files: paths, fsspec URLs, patterns with `*`."""
    output: Path
    """Folder of the results: a new one, or that of the same request."""
    cache_dir: Path
    """Where scores are kept."""
    columns: Columns = Columns()
    """Where a row's images and videos are."""
    feature_layer: FeatureLayer = "merger"
    """Which output of the tower is F."""
    precision: Precision = "float32"
    """What the tower computes in."""
    address: str | None = None
    """Of a running Ray cluster. None: Ray is started on this machine, for this request."""
    device: str | None = None
    """`cpu` or `cuda`. None: see `workers.place`, as for what follows."""
    workers: int | None = None
    """Processes with a tower each."""
    max_patches: int | None = None
    """Patches of a pass."""


@dataclass(frozen=True)
class _ScoredShard:
    """A data file with the scores of its rows."""

    shard: Shard
    keys: np.ndarray
    entropies: np.ndarray
    patches: np.ndarray

    @property
    def digest(self) -> str:
        """Hash of what the written file depends on: the source and the scores."""
        digest = hashlib.sha256(self.shard.version.encode())
        for column in (self.keys, self.entropies, self.patches):
            digest.update(column.tobytes())
        return digest.hexdigest()


def score_files(request: Request) -> int:
    """Writes every data file again with the columns `visual_entropy` and `visual_patches`, and what sums them up.

    The same request finishes a run that was killed: what that scored is in the cache, and a file that it wrote stays
    unless its source has changed.

    Returns:
        int: Rows whose images could not be scored.

    Raises:
        ValueError: what is asked for cannot be done; nothing has been written.
        OSError: a file cannot be read or written.
    """
    start = time.monotonic()
    files = find_files(request.data)
    shards = open_shards(files, request.output, request.columns)
    settings, state = read_tower(request.model, request.feature_layer, request.precision)
    with _ray(request.address):
        placement = place(request.device, request.workers, request.max_patches)
        asked = _asked(settings, placement.device, files, request.columns)
        with output_folder(request.output):
            digests = _digests_of_written_files(request.output, asked)
            _check_space(request.output, shards, digests)
            cache = EntropyCache(request.cache_dir / asked["fingerprint"])
            cache.require_writable()
            scores = score_parts([part for shard in shards for part in shard.parts], settings, state, cache, placement)
            digests = _write_shards(request.output, asked, list(_by_shard(shards, scores)), digests)
            _write_problems(request.output, scores)
            thresholds = _draw(request.output, shards, scores, settings.image_processor.patch_size)
            rows = sum(shard.rows for shard in shards)
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
            _write_summary(request.output, {"finished": True, "settings": asked, **results, "files": digests})
    _tell(request.output, results, scores)
    return len(scores.problems)


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A Ray cluster that runs already, or one of this machine alone."""
    if address is None:
        # ERROR: at each start Ray warns that it keeps others out of what it starts.
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    elif address.startswith("ray://"):
        raise ValueError(f"--address {address}: the command must run on a machine of the cluster, see `ray start`")
    else:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _asked(settings: TowerSettings, device: str, files: Sequence[str], columns: Columns) -> dict[str, Any]:
    """What the results depend on, as JSON has it."""
    asked = {
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
        "data": list(files),
    }
    return json.loads(json.dumps(asked, default=str))


def _digests_of_written_files(output: Path, asked: dict[str, Any]) -> dict[str, str]:
    """The files that an earlier run has written, with their digests; none in a new folder.

    Raises:
        ValueError: the folder holds something else than results of the same request.
    """
    if all(file.name == part_of(output / SUMMARY).name for file in output.iterdir()):  # new, or killed right away
        return {}
    try:
        earlier = json.loads((output / SUMMARY).read_text())
        settings, files = dict(earlier["settings"]), dict(earlier["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--output {output}: the folder holds something else than results of this command: name a new one"
        ) from error
    changes = [
        f"{name} was {settings.get(name)}, is now {value}"
        for name, value in asked.items()
        if settings.get(name) != value
    ]
    if changes:
        raise ValueError(
            f"--output {output}: the folder holds results of other settings ({'; '.join(changes)}): name another folder"
        )
    return {name: digest for name, digest in files.items() if (output / name).exists()}


def _by_shard(shards: Sequence[Shard], scores: Scores) -> Iterator[_ScoredShard]:
    row = 0
    for shard in shards:
        if shard.parts:
            of_shard = slice(row, row + shard.rows)
            row += shard.rows
            yield _ScoredShard(shard, scores.keys[of_shard], scores.entropies[of_shard], scores.patches[of_shard])
        else:
            nothing = np.zeros(shard.rows)
            yield _ScoredShard(shard, nothing.astype("S32"), nothing * np.nan, nothing.astype(np.int32))


def _write_shards(
    output: Path, asked: dict[str, Any], shards: Sequence[_ScoredShard], digests: dict[str, str]
) -> dict[str, str]:
    """Writes the files that are not there, or whose source or scores have changed. Returns the digest of each."""
    names = {str(each.shard.target.relative_to(output)): each for each in shards}
    stale = {name: each for name, each in names.items() if digests.get(name) != each.digest}
    for name, each in tqdm(stale.items(), desc="writing", unit=" files", disable=not stale):
        # First of all the folder tells what it belongs to; and that this file is not what it was.
        digests = {written: digest for written, digest in digests.items() if written != name}
        _write_summary(output, {"finished": False, "settings": asked, "files": digests})
        write_shard(each.shard, each.entropies, each.patches)
        digests[name] = each.digest
    return {name: digests[name] for name in names}


def _check_space(output: Path, shards: Sequence[Shard], digests: Mapping[str, str]) -> None:
    """Raises ValueError where the files that are still to be written will not find room."""
    missing = [shard for shard in shards if str(shard.target.relative_to(output)) not in digests]
    needed, free = sum(size(shard.source) for shard in missing), shutil.disk_usage(output).free
    if needed > free:
        raise ValueError(
            f"--output {output}: the files to be written take about {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB "
            "are free: make room, or name a folder elsewhere"
        )


def _write_summary(output: Path, summary: dict[str, Any]) -> None:
    with whole_file(output / SUMMARY) as file:
        file.write(f"{json.dumps(summary, indent=2)}\n".encode())


def _write_problems(output: Path, scores: Scores) -> None:
    """One line a row whose images could not be scored; no file where there is none."""
    if not scores.problems:
        (output / PROBLEMS).unlink(missing_ok=True)
        return
    with whole_file(output / PROBLEMS) as file:
        for problem in scores.problems:
            file.write(f"{json.dumps(asdict(problem), ensure_ascii=False)}\n".encode())


def _draw(output: Path, shards: Sequence[Shard], scores: Scores, patch_size: int) -> dict[str, float]:
    """Draws the pictures of the scores; returns their quartiles in nats, none where no row has a score."""
    rows = np.flatnonzero(np.isfinite(scores.entropies))
    if len(rows) == 0:
        for name in (HISTOGRAM, EXAMPLES):
            (output / name).unlink(missing_ok=True)
        return {}
    entropies = torch.from_numpy(scores.entropies[rows])
    thresholds = perceptual_thresholds(entropies, _QUARTILES)
    group = perceptual_groups(entropies, thresholds).numpy()
    low, high = thresholds.tolist()
    draw_histogram(entropies.numpy(), (low, high), output / HISTOGRAM)

    chosen: dict[str, list[int]] = {}  # of each group some that differ, spread over its entropies
    _, first = np.unique(scores.keys[rows], return_index=True)
    for number, name in enumerate(_GROUPS):
        members = first[group[first] == number]
        members = members[np.argsort(scores.entropies[rows[members]], kind="stable")]
        spread = np.linspace(0, len(members) - 1, min(_EXAMPLES_OF_A_GROUP, len(members))).astype(int)
        chosen[name] = rows[members[spread]].tolist()
    pictures = _pictures([part for shard in shards for part in shard.parts], sum(chosen.values(), []), patch_size)
    examples = {
        name: [(pictures[row], scores.entropies[row]) for row in of_group if row in pictures]
        for name, of_group in chosen.items()
    }
    draw_contact_sheet(examples, output / EXAMPLES)
    return {"Q25": low, "Q75": high}


def _pictures(parts: Sequence[Part], rows: Sequence[int], patch_size: int) -> dict[int, Image.Image]:
    """The first image, or the first frame of the first video, of these rows, which count through all parts.

    Without those that have gone since they were scored.
    """
    pictures, first, left = {}, 0, set(rows)
    for part in parts:
        wanted = {row - first + part.first: row for row in left if row < first + part.rows}
        for cells in part.cells() if wanted else ():
            if cells.row in wanted:
                row = wanted.pop(cells.row)
                left.remove(row)
                try:
                    pictures[row] = _picture(cells, patch_size)
                except MediaError as error:
                    logger.warning("%s row %d is not among the examples: %s", part.file, cells.row, error)
            if not wanted:
                break
        first += part.rows
    return pictures


def _picture(cells: Cells, patch_size: int) -> Image.Image:
    media = collect(cells.images, cells.videos, cells.by_datasets)
    if media is None:
        raise MediaError("it has no image any more")
    images, videos = decode(media, patch_size)
    if images:
        return images[0]
    frames, _ = videos[0]
    return Image.fromarray(frames[0].permute(1, 2, 0).to(torch.uint8).numpy())


def _tell(output: Path, results: dict[str, Any], scores: Scores) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for problem in scores.problems[:_PROBLEMS_TOLD]:
        console.print(f"{problem.file} row {problem.row}: {problem.reason}", markup=False)
    if len(scores.problems) > _PROBLEMS_TOLD:
        console.print(f"... and {len(scores.problems) - _PROBLEMS_TOLD} more")
    console.print(
        f"{results['rows']} rows, {results['rows_without_image']} without image, "
        f"{results['rows_with_problems']} with problems"
    )
    written = ["the data with their scores", SUMMARY]
    if scores.problems:
        written.append(PROBLEMS)
    if thresholds := results["thresholds"]:
        console.print(f"visual entropy in nats: Q25 {thresholds['Q25']:.4f}, Q75 {thresholds['Q75']:.4f}")
        written += [HISTOGRAM, EXAMPLES]
    if scores.encoded:
        console.print(f"{scores.encoded} images encoded, {results['images_per_second']:.1f} a second")
    console.print(f"in {output}: {', '.join(written)}", markup=False)

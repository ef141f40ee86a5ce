# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian score`: computes the visual entropy of every row of verl's data files before training.

check the output folder -> score the rows -> write the data files -> write problems.jsonl, plots and scores.json
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from verl_durian.algo.groups import perceptual_groups, perceptual_thresholds
from verl_durian.entropy.cache import EntropyCache
from verl_durian.entropy.data_files import RESERVED, Columns, DataFile, open_files
from verl_durian.entropy.media import MediaError, collect, decode
from verl_durian.entropy.pipeline import Scores, place, score_rows
from verl_durian.entropy.plots import plot_examples, plot_histogram
from verl_durian.entropy.vision_tower import FeatureLayer, Precision, TowerSettings, read_tower
from verl_durian.files import output_folder, part_of, whole_file

logger = logging.getLogger(__name__)

SUMMARY, PROBLEMS = RESERVED
HISTOGRAM = "visual_entropy.png"
EXAMPLES = "examples.png"
_EXAMPLES_PER_GROUP = 4
_PROBLEMS_PRINTED = 10


def score_files(
    model: str,
    data: Sequence[str],
    output: Path,
    cache_dir: Path,
    columns: Columns,
    feature_layer: FeatureLayer = "merger",
    precision: Precision = "float32",
    address: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    max_patches: int | None = None,
) -> int:
    """Writes every data file with the columns `visual_entropy` and `visual_patches`, and a summary.

    The same command continues a run that was killed: known scores come from the cache, and finished data files are
    kept unless their source or scores have changed.

    Args:
        model: Checkpoint with the vision tower: local folder, or id on the Hugging Face Hub.
        data: verl's data files: paths, fsspec URLs, patterns with `*`.
        output: Output folder: a new one, or that of a run with the same arguments.
        cache_dir: Folder of the cached scores.
        columns: Columns with the images and videos of a row.
        feature_layer, precision: See `vision_tower`.
        address: Address of a running Ray cluster. Default: start Ray on this machine.
        device, workers, max_patches: See `pipeline.place`.

    Returns:
        Number of rows that cannot be scored.

    Raises:
        ValueError: invalid arguments; nothing has been written.
        OSError: a file cannot be read or written.
        RuntimeError: a process of Ray failed.
    """
    start = time.monotonic()
    files = open_files(data, output, columns)
    settings, state = read_tower(model, feature_layer, precision)
    with _ray(address):
        placement = place(device, workers, max_patches)
        arguments = _arguments(settings, placement.device, files, columns)
        with output_folder(output):
            digests = _digests_of_written_files(output, arguments)
            cache = EntropyCache(cache_dir / arguments["fingerprint"])
            cache.require_writable()
            scores = score_rows(files, settings, state, cache, placement)
            # If this run is killed now, the next one recognizes the folder by this summary.
            summary = {"finished": False, "settings": arguments, "files": digests}
            _write_json_lines(output / SUMMARY, [summary], indent=2)
            _write_files(output, files, scores, digests)
            for name in (PROBLEMS, HISTOGRAM, EXAMPLES):  # of an earlier run
                (output / name).unlink(missing_ok=True)
            if scores.problems:
                _write_json_lines(output / PROBLEMS, map(asdict, scores.problems))
            results: dict[str, Any] = {
                "rows": len(scores.keys),
                "rows_without_image": int(np.isnan(scores.entropies).sum()) - len(scores.problems),
                "rows_with_problems": len(scores.problems),
                "images": scores.images,
                "thresholds": _plot(output, files, scores, settings.image_processor.patch_size),
                "seconds": round(time.monotonic() - start, 3),
                "images_encoded": scores.encoded,
                "images_per_second": round(scores.encoded / scores.seconds, 3) if scores.encoded else None,
            }
            summary = {"finished": True, "settings": arguments, **results, "files": digests}
            _write_json_lines(output / SUMMARY, [summary], indent=2)
    for problem in scores.problems[:_PROBLEMS_PRINTED]:
        print(f"{problem.file} row {problem.row}: {problem.reason}")
    if len(scores.problems) > _PROBLEMS_PRINTED:
        print(f"... see {output / PROBLEMS}")
    print("{rows} rows, {rows_without_image} without image, {rows_with_problems} with problems".format(**results))
    if thresholds := results["thresholds"]:
        print("visual entropy in nats: Q25 {Q25:.4f}, Q75 {Q75:.4f}".format(**thresholds))
    if scores.encoded:
        print("{images_encoded} images encoded, {images_per_second:.1f} per second".format(**results))
    print(f"written to {output}")
    return len(scores.problems)


def _ray(address: str | None) -> Any:
    """Joins a running Ray cluster, or starts Ray on this machine, until the end of a `with`."""
    if address is None:
        # ERROR, because Ray warns at each start that only this machine can connect to it.
        return ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    if address.startswith("ray://"):
        raise ValueError(f"--address {address}: the command must run on a machine of the cluster, see `ray start`")
    return ray.init(address, log_to_driver=False, logging_level=logging.WARNING)


def _arguments(settings: TowerSettings, device: str, files: Sequence[DataFile], columns: Columns) -> dict[str, Any]:
    """Everything on which the results depend, in the form in which JSON returns it."""
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
        "data": [file.name for file in files],
    }
    return json.loads(json.dumps(arguments, default=str))


def _digests_of_written_files(output: Path, arguments: dict[str, Any]) -> dict[str, str]:
    """The data files of an earlier run with their digests; empty for a new folder.

    Raises:
        ValueError: the folder contains other files, or results of other arguments.
    """
    if all(file == part_of(output / SUMMARY) for file in output.iterdir()):  # new, or killed right away
        return {}
    try:
        earlier = json.loads((output / SUMMARY).read_text())
        settings, digests = earlier["settings"], earlier["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--output {output} contains files that this command did not write: name another") from error
    changed = {name: value for name, value in arguments.items() if settings.get(name) != value}
    if changed:
        changes = "; ".join(f"{name} was {settings.get(name)}, is now {value}" for name, value in changed.items())
        raise ValueError(f"--output {output}: the folder has results of other settings ({changes}): name another")
    return digests


def _write_files(output: Path, files: Sequence[DataFile], scores: Scores, digests: dict[str, str]) -> None:
    """Writes the data files that are missing or outdated. Updates the digest of each file."""
    start = 0
    for file in tqdm(files, desc="writing", unit=" files"):
        rows = slice(start, start + file.rows)
        start = rows.stop
        keys, entropies, patches = scores.keys[rows], scores.entropies[rows], scores.patches[rows]
        content = [file.version.encode(), keys.tobytes(), entropies.tobytes(), patches.tobytes()]
        name, digest = str(file.target.relative_to(output)), hashlib.sha256(b"".join(content)).hexdigest()
        if digests.get(name) != digest or not file.target.exists():
            file.write(entropies, patches)
            digests[name] = digest


def _write_json_lines(file: Path, values: Iterable[Any], indent: int | None = None) -> None:
    with whole_file(file) as stream:
        stream.writelines(f"{json.dumps(value, indent=indent, ensure_ascii=False)}\n".encode() for value in values)


def _plot(output: Path, files: Sequence[DataFile], scores: Scores, patch_size: int) -> dict[str, float]:
    """Plots histogram and examples. Returns the quartiles in nats, or an empty dict if no row has a score."""
    entropies = scores.entropies[np.isfinite(scores.entropies)]
    if len(entropies) == 0:
        return {}
    thresholds = perceptual_thresholds(torch.from_numpy(entropies), [0.25, 0.75])  # as in the paper
    low, high = thresholds.tolist()
    plot_histogram(entropies, (low, high), output / HISTOGRAM)

    _, rows = np.unique(scores.keys, return_index=True)
    rows = rows[np.argsort(scores.entropies[rows])]  # distinct rows, sorted by entropy, NaN last
    rows = rows[np.isfinite(scores.entropies[rows])]
    group = perceptual_groups(torch.from_numpy(scores.entropies[rows]), thresholds).numpy()
    examples = {}
    for number, name in enumerate(("low", "medium", "high")):
        members = rows[group == number]
        members = members[:: max(1, (len(members) - 1) // (_EXAMPLES_PER_GROUP - 1))][:_EXAMPLES_PER_GROUP]
        pictures = ((_picture(files, row, patch_size), scores.entropies[row]) for row in members.tolist())
        examples[name] = [(picture, entropy) for picture, entropy in pictures if picture is not None]
    plot_examples(examples, output / EXAMPLES)
    return {"Q25": low, "Q75": high}


def _picture(files: Sequence[DataFile], row: int, patch_size: int) -> Image.Image | None:
    """The first image, or the first frame of the first video, of a row of all files."""
    for file in files:
        if row < file.rows:
            break
        row -= file.rows
    try:
        media = collect(*next(file.cells(row)))
        assert media is not None, "the row has a score"
        images, videos = decode(media, patch_size)
    except MediaError as error:
        logger.warning("%s row %d is left out of the examples: %s", file.name, row, error)
        return None
    return images[0] if images else Image.fromarray(videos[0][0][0].permute(1, 2, 0).byte().numpy())

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian prepare`: one parquet file per split, a data card, and a list of the dropped rows."""

import json
import shutil
from pathlib import Path
from typing import Any

from verl_durian import __version__
from verl_durian.files import output_folder, part_of, whole_file
from verl_durian.prepare.base import DatasetSpec, dataset_spec
from verl_durian.prepare.card import data_card
from verl_durian.prepare.rows import THINKING_PROMPT
from verl_durian.prepare.sources import open_source
from verl_durian.prepare.splits import WORK_PREFIX, Summary, read_summary, write_split

CARD, DROPPED = "README.md", "dropped.jsonl"


def prepare_dataset(name: str, source: str | None, output: Path, workers: int | None = None) -> None:
    """Writes the data files of a dataset.

    The same call finishes a run that was killed: a split that exists is kept unless its source has changed.

    Args:
        name (str): Name of the dataset.
        source (str | None): Hub id or folder; None: the hub id of the dataset.
        output (Path): Folder of the results: a new one, or that of the same call.
        workers (int | None): Number of processes; None: the number of cores.

    Raises:
        ValueError: the request cannot be carried out. No file is left half written.
        OSError: a file cannot be read or written.
    """
    spec = dataset_spec(name)
    opened = open_source(spec, source or spec.hub_id)
    settings = {
        "name": spec.name,
        "source": opened.name,
        "revision": opened.revision,
        "thinking_prompt": THINKING_PROMPT,
        "least_pixels": spec.pixels.least,
        "most_pixels": spec.pixels.most,
        "verl_durian": __version__,
    }
    with output_folder(output):
        finished = _finished_splits(output, spec, settings)
        for work in output.glob(f"{WORK_PREFIX}*"):
            shutil.rmtree(work)
        summaries = {}
        for split in opened.splits:
            if split in finished and finished[split].digest == opened.digest(split):
                summaries[split] = finished[split]
            else:
                summaries[split] = write_split(output / f"{split}.parquet", spec, opened, settings, workers)
        dropped = [{"split": split, **row} for split, summary in summaries.items() for row in summary.dropped]
        if dropped:
            with whole_file(output / DROPPED) as stream:
                stream.writelines(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in dropped)
        else:
            (output / DROPPED).unlink(missing_ok=True)
        with whole_file(output / CARD) as stream:
            stream.write(data_card(spec, opened, output, summaries).encode())
    for split, summary in summaries.items():
        numbers = "{rows} rows, {images} images, {resized} of them resized".format(**summary.counts)
        print(f"{split}: {numbers}; {len(summary.dropped)} rows dropped")
    files = [*(f"{split}.parquet" for split in summaries), CARD, *([DROPPED] if dropped else [])]
    print(f"in {output}: {', '.join(files)}")


def _finished_splits(output: Path, spec: DatasetSpec, settings: dict[str, Any]) -> dict[str, Summary]:
    """Returns the summaries of the splits in the output folder.

    Raises:
        ValueError: the folder contains anything but results of the same call.
    """
    files = sorted(output.glob("*.parquet"))
    try:
        summaries = {file.stem: read_summary(file) for file in files}
    except ValueError as error:
        raise ValueError(f"--output {output}: {error}: give a new folder") from error
    results = {output / CARD, output / DROPPED, *(output / f"{split}.parquet" for split in spec.splits)}
    known = {*files, *map(part_of, results), *output.glob(f"{WORK_PREFIX}*"), *(results if summaries else ())}
    if others := sorted(file.name for file in output.iterdir() if file not in known):
        raise ValueError(
            f"--output {output}: contains files of something else ({', '.join(others)}): give a new folder"
        )
    for summary in summaries.values():
        old = summary.settings
        if changes := [
            f"{key} was {old.get(key)}, is now {new}" for key, new in settings.items() if old.get(key) != new
        ]:
            raise ValueError(
                f"--output {output}: has results of other settings ({'; '.join(changes)}): give a new folder"
            )
    return summaries

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian prepare`: a set as verl's parquet files, one a split, with a data card.

open the source -> check the folder -> make the splits that are not there yet -> dropped.jsonl, README.md
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm  # type: ignore[import-untyped]

from verl_durian import __version__
from verl_durian.files import output_folder, part_of, whole_file
from verl_durian.prepare.data_card import data_card
from verl_durian.prepare.data_set import DataSet
from verl_durian.prepare.rows import THINKING_PROMPT, Converted
from verl_durian.prepare.sets import SETS
from verl_durian.prepare.sources import Source, Split, open_source
from verl_durian.prepare.split_files import Summary, read_summary, write_split
from verl_durian.prepare.workers import start_workers

CARD, DROPPED = "README.md", "dropped.jsonl"
_BATCH_ROWS = 32
"""Rows that a worker gets at a time, and of a row group."""


@dataclass(frozen=True)
class Request:
    """What `verl-durian prepare` is asked for."""

    name: str
    """Of the set."""
    source: str | None
    """Id on the hub or folder. None: the set's own id."""
    output: Path
    """Folder of the results: a new one, or that of the same request."""
    workers: int | None = None
    """Processes. None: one a core."""


def prepare_set(request: Request) -> None:
    """Writes the parquet file of each split, the data card, and what was dropped.

    The same request finishes a run that was killed: a split that is there stays, unless its source has changed.

    Raises:
        ValueError: what is asked for cannot be done; no file is left half written.
        OSError: a file cannot be read or written.
    """
    data_set = SETS[request.name]
    source = open_source(data_set, request.source or data_set.hub_id)
    settings = {
        "name": data_set.name,
        "source": source.name,
        "revision": source.revision,
        "thinking_prompt": THINKING_PROMPT,
        "least_pixels": data_set.pixels.least,
        "most_pixels": data_set.pixels.most,
        "verl_durian": __version__,
    }
    with output_folder(request.output):
        summaries = _summaries(request.output, data_set, settings)
        stale = [split for split in source.splits if _is_stale(split, summaries)]
        if stale:
            summaries.update(_write(request, stale, settings))
        summaries = {split.name: summaries[split.name] for split in source.splits}
        _write_dropped(request.output, summaries)
        with whole_file(request.output / CARD) as file:
            file.write(data_card(data_set, source, request.output, summaries).encode())
    _tell(request.output, source, summaries)


def _summaries(output: Path, data_set: DataSet, settings: dict[str, Any]) -> dict[str, Summary]:
    """How the splits in the folder were made; none in a new folder.

    Raises:
        ValueError: the folder holds something else than results of the same request.
    """
    files = [output / f"{split}.parquet" for split in data_set.splits]
    parts = [part_of(file) for file in (*files, output / CARD, output / DROPPED)]
    summaries = {}
    try:
        for file in sorted(output.glob("*.parquet")):
            summaries[file.stem] = read_summary(file)
        known = [*files, *parts, *([output / CARD, output / DROPPED] if summaries else [])]
        foreign = [file.name for file in output.iterdir() if file not in known and file.suffix != ".parquet"]
        if foreign:
            raise ValueError(foreign[0])
    except ValueError as error:
        raise ValueError(
            f"--output {output}: the folder holds something else than results of this command ({error}): name a new one"
        ) from error
    for summary in summaries.values():
        changes = [
            f"{name} was {summary.settings.get(name)}, is now {value}"
            for name, value in settings.items()
            if summary.settings.get(name) != value
        ]
        if changes:
            raise ValueError(
                f"--output {output}: the folder holds results of other settings ({'; '.join(changes)}): "
                "name another folder"
            )
    return summaries


def _is_stale(split: Split, summaries: dict[str, Summary]) -> bool:
    return split.name not in summaries or summaries[split.name].digest != split.digest


def _write(request: Request, splits: list[Split], settings: dict[str, Any]) -> dict[str, Summary]:
    written = {}
    with start_workers(request.workers) as workers:
        for split in splits:
            with tqdm(desc=split.name, total=split.rows, unit=" rows") as bar:
                batches = _told(bar, workers.convert(request.name, split.name, split.batches(_BATCH_ROWS)))
                file = request.output / f"{split.name}.parquet"
                written[split.name] = write_split(file, settings, split.digest, batches)
    return written


def _told(bar: tqdm, batches: Iterable[list[Converted]]) -> Iterator[list[Converted]]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def _write_dropped(output: Path, summaries: dict[str, Summary]) -> None:
    """One line a row that was dropped; no file where there is none."""
    dropped = [{"split": split, **row} for split, summary in summaries.items() for row in summary.dropped]
    if not dropped:
        (output / DROPPED).unlink(missing_ok=True)
        return
    with whole_file(output / DROPPED) as file:
        for row in dropped:
            file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())


def _tell(output: Path, source: Source, summaries: dict[str, Summary]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for split, summary in summaries.items():
        counts = summary.counts
        console.print(
            f"{split}: {counts['rows']} rows, {counts['images']} images, {counts['resized']} of them resized; "
            f"{len(summary.dropped)} rows dropped"
        )
    files = [f"{split}.parquet" for split in summaries] + [CARD]
    if any(summary.dropped for summary in summaries.values()):
        files.append(DROPPED)
    console.print(f"in {output}: {', '.join(files)}", markup=False)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian prepare`: one parquet file per split, a data card, and a list of the dropped rows.

The metadata of each parquet file contain how it was made: `settings` (what the result depends on besides the source
files), `digest` (of the source files), `counts` (of `rows.Batch`) and `dropped` (index, id, reason and detail of rows).
"""

import json
import multiprocessing
import os
import shlex
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from verl_durian import __version__
from verl_durian.files import output_folder, whole_file
from verl_durian.prepare.adapters import DATASETS
from verl_durian.prepare.base import ANSWER_TYPES, DatasetSpec
from verl_durian.prepare.rows import BATCH_ROWS, SCHEMA, THINKING_PROMPT, convert
from verl_durian.prepare.sources import Source, open_source

CARD, DROPPED = "README.md", "dropped.jsonl"
_SUMMARY_KEY = b"verl_durian.prepare"
_CARD = """\
# {spec.name} for verl

[{spec.hub_id}](https://huggingface.co/datasets/{spec.hub_id}) in verl's row format, made by

    {command}

- Source: `{source.name}`{revision}
- License of the dataset: {spec.license}
- Images with fewer than {spec.pixels.least:,} or more than {spec.pixels.most:,} pixels are resized with PIL
  (bicubic) and stored as PNG; all others are the unchanged files of the source.

| split | source rows | dropped | rows | images | resized | answers |
|---|---|---|---|---|---|---|
{rows}

{spec.treatment}

This prompt precedes each question:

    {prompt}

| split | reason for dropping | rows |
|---|---|---|
{dropped}
"""


def prepare_dataset(name: str, source: str | None, output: Path, workers: int | None = None) -> None:
    """Writes the data files of a dataset.

    The same call finishes a run that was killed: a finished split is kept unless its source has changed.

    Args:
        name (str): Name of the dataset.
        source (str | None): Hub id or folder; None: the hub id of the dataset.
        output (Path): Folder of the results: a new one, or that of the same call.
        workers (int | None): Number of processes; None: the number of cores.

    Raises:
        ValueError: invalid arguments, or a source that cannot be converted. No incomplete file is left.
        OSError: a file cannot be read or written.
    """
    spec = DATASETS[name]
    opened = open_source(spec, source or spec.hub_id)
    settings = {"name": name, "source": opened.name, "revision": opened.revision, "verl_durian": __version__}
    with output_folder(output):
        summaries = _finished_splits(output, settings)
        for split in opened.splits:
            if summaries.get(split, {}).get("digest") != opened.digest(split):
                summaries[split] = _write_split(output / f"{split}.parquet", name, opened, settings, workers)
        dropped = [{"split": split, **row} for split in opened.splits for row in summaries[split]["dropped"]]
        if dropped:
            with whole_file(output / DROPPED) as stream:
                stream.writelines(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in dropped)
        else:
            (output / DROPPED).unlink(missing_ok=True)
        counts = {split: summaries[split]["counts"] for split in opened.splits}
        with whole_file(output / CARD) as stream:
            stream.write(_card(spec, opened, output, counts, dropped).encode())
    for split, numbers in counts.items():
        print(f"{output}/{split}.parquet: " + "{rows} rows, {images} images, {resized} resized".format(**numbers))
    print(f"{output}/{CARD}: data card; {len(dropped)} rows dropped")


def _finished_splits(output: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The summaries of the splits in the output folder; other files and other settings are a ValueError."""
    summaries, others = {}, set()
    for file in output.glob("[!.]*"):  # not the hidden files of a killed run
        try:
            summaries[file.stem] = json.loads(pq.read_metadata(file).metadata[_SUMMARY_KEY])
        except (OSError, KeyError, TypeError, ValueError):
            others.add(file.name)
    if foreign := others - {CARD, DROPPED} if summaries else others:
        names = ", ".join(sorted(foreign))
        raise ValueError(
            f"--output {output}: contains files that this command did not write ({names}): name a new folder"
        )
    for summary in summaries.values():
        old = summary["settings"]
        if changes := [f"{key} was {old[key]}, is now {new}" for key, new in settings.items() if old[key] != new]:
            raise ValueError(
                f"--output {output}: has results of other settings ({'; '.join(changes)}): name a new folder"
            )
    return summaries


def _write_split(file: Path, name: str, source: Source, settings: dict, workers: int | None) -> dict[str, Any]:
    """Converts a split, writes its file atomically, and returns its summary, the content of its metadata."""
    split, rows = file.stem, source.splits[file.stem]
    starts = range(0, len(rows), BATCH_ROWS)
    convert_batch = partial(convert, rows, name, split, source.archive)
    workers = max(1, min(workers or len(os.sched_getaffinity(0)), len(starts)))
    # A forked worker would keep the lock of the output folder when this process is killed.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_command)
    run = pool.map if workers > 1 else map
    window = 8 * workers  # maximum number of batches in memory if the disk is slower than the workers
    windows = (starts[first : first + window] for first in range(0, len(starts), window))
    batches = chain.from_iterable(run(convert_batch, each) for each in windows)
    counts, dropped = Counter[str](images=0, resized=0), list[dict[str, Any]]()
    try:
        with whole_file(file) as stream, pq.ParquetWriter(stream, SCHEMA) as writer:
            for batch in tqdm(batches, split, len(starts)):
                writer.write_table(batch.table)
                counts.update(batch.counts)
                dropped += batch.dropped
            if not counts["rows"]:
                reason = f"none of the {len(rows)} rows is usable; the first: {dropped[:1]}"
                raise ValueError(f"{name}, split {split}: {reason}")
            summary = {"settings": settings, "digest": source.digest(split), "counts": counts, "dropped": dropped}
            writer.add_key_value_metadata({_SUMMARY_KEY: json.dumps(summary)})
    except BrokenProcessPool as error:
        raise ValueError(
            f"{name}, split {split}: a worker was killed, probably because memory ran out: use fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return summary


def _end_with_command() -> None:
    """Ends a worker when the command is killed."""

    def wait(command: Any) -> None:
        command.join()
        os._exit(1)

    threading.Thread(target=wait, args=[multiprocessing.parent_process()], daemon=True).start()


def _card(spec: DatasetSpec, source: Source, output: Path, counts: dict[str, dict], dropped: list[dict]) -> str:
    """Returns the data card."""
    lost, reasons = Counter(row["split"] for row in dropped), Counter((row["split"], row["reason"]) for row in dropped)
    rows = []
    for split, numbers in counts.items():
        answers = ", ".join(f"{numbers[kind]} {kind}" for kind in ANSWER_TYPES if kind in numbers)
        kept = "{rows} | {images} | {resized}".format(**numbers)
        rows.append(f"| {split} | {numbers['rows'] + lost[split]} | {lost[split]} | {kept} | {answers} |")
    return _CARD.format(
        spec=spec,
        command=shlex.join(["verl-durian", "prepare", spec.name, "--source", source.name, "--output", str(output)]),
        source=source,
        revision=f" at revision `{source.revision}`" if source.revision else "",
        rows="\n".join(rows),
        prompt=THINKING_PROMPT,
        dropped="\n".join(f"| {split} | {reason} | {number} |" for (split, reason), number in reasons.items()),
    )

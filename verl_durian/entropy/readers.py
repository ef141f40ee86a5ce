# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Reads rows with Ray Data: names them by content, and hands on the images of some.

Readers take nothing of the CPUs in Ray's count: workers or a trainer that have taken all of them cannot keep readers
out. Data that lie on the machine of the driver are read there, others on every machine.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset
from tqdm import tqdm  # type: ignore[import-untyped]

from verl_durian.entropy.media import Media, MediaError, collect
from verl_durian.entropy.packets import pack, packets, unpack, unpacked
from verl_durian.entropy.parts import Cells, DatasetPart, Part
from verl_durian.entropy.shards import is_local

_READERS = 4
"""Parts that a machine reads at a time."""
_PACKET_BYTES = 8 << 20
"""Stored images of a packet at most; a row with more is a packet of its own."""


@dataclass
class Rows:
    """The rows of all parts, numbered through from 0."""

    parts: Sequence[Part]
    first: np.ndarray
    """The number of each part's first row. shape is (parts,)"""
    keys: np.ndarray
    """`Media.key` of each row, empty for a row without images or with an error. dtype S32"""
    images: np.ndarray
    """Images and videos of each row. int32"""
    errors: dict[int, str]
    """Of rows whose images cannot be read."""

    def place(self, row: int) -> tuple[str, int]:
        """The file of a row, and its number there."""
        number = int(np.searchsorted(self.first, row, side="right")) - 1
        return self.parts[number].file, self.parts[number].first + row - int(self.first[number])


def name_rows(parts: Sequence[Part]) -> Rows:
    """Reads every row and names its images by their content."""
    first = np.cumsum([0, *(part.rows for part in parts)])
    rows = Rows(parts, first[:-1], np.zeros(first[-1], "S32"), np.zeros(first[-1], np.int32), {})
    if len(parts) > 0:
        with tqdm(total=len(rows.keys), desc="reading", unit=" rows") as progress:
            for named in unpacked(_read(parts, dict.fromkeys(range(len(parts))), _name)):
                of_part = slice(rows.first[named.part], rows.first[named.part] + len(named.keys))
                rows.keys[of_part], rows.images[of_part] = named.keys, named.images
                rows.errors.update({int(of_part.start) + row: error for row, error in named.errors.items()})
                progress.update(len(named.keys))
    return rows


def stored_rows(rows: Rows, wanted: np.ndarray, packet_rows: int) -> Dataset:
    """Packets of `StoredRow`s, of these ascending numbers, up to `packet_rows` together."""
    numbers, starts = np.unique(np.searchsorted(rows.first, wanted, side="right") - 1, return_index=True)
    keys = {
        number: dict(zip((of_part - rows.first[number]).tolist(), rows.keys[of_part].tolist(), strict=True))
        for number, of_part in zip(numbers.tolist(), np.split(wanted, starts[1:]), strict=True)
    }
    return _read(rows.parts, keys, partial(_take, packet_rows=packet_rows))


class StoredRow(NamedTuple):
    """A row for a worker."""

    key: str
    """`Media.key`."""
    media: Media | None
    """None where there is an error."""
    error: str


class _Named(NamedTuple):
    """The rows of a part, as `Rows` has them."""

    part: int
    keys: np.ndarray
    images: np.ndarray
    errors: dict[int, str]


def _name(number: int, part: Part, nothing: None) -> Iterator[_Named]:
    named = _Named(number, np.zeros(part.rows, "S32"), np.zeros(part.rows, np.int32), {})
    for cells in part.cells():
        row = cells.row - part.first
        try:
            media = collect(cells.images, cells.videos, cells.by_datasets)
        except MediaError as problem:
            named.errors[row] = str(problem)
        else:
            if media is not None:
                named.keys[row], named.images[row] = media.key.encode(), len(media)
    yield named


def _take(number: int, part: Part, keys: dict[int, bytes], packet_rows: int) -> Iterator[list[StoredRow]]:
    """The rows of a part that `keys` has, by their number in the part."""
    packet: list[StoredRow] = []
    size = 0
    for cells in part.cells():
        key = keys.get(cells.row - part.first)
        if key is None:
            continue
        row = _stored(cells, key.decode())
        row_size = row.media.size if row.media else 0
        if packet and (len(packet) == packet_rows or size + row_size > _PACKET_BYTES):
            yield packet
            packet, size = [], 0
        packet.append(row)
        size += row_size
    if packet:
        yield packet


def _stored(cells: Cells, key: str) -> StoredRow:
    try:
        media = collect(cells.images, cells.videos, cells.by_datasets)
    except MediaError as error:
        return StoredRow(key, None, str(error))
    if media is None or media.key != key:
        return StoredRow(key, None, "its images changed while the data were scored")
    return StoredRow(key, media, "")


def _read(parts: Sequence[Part], tasks: Mapping[int, Any], function: Callable[..., Any]) -> Dataset:
    """Packets of what a function makes of each part, by its number, and of what goes with it in `tasks`."""
    local = any(isinstance(part, DatasetPart) or is_local(part.file) for part in parts)
    task = partial(_call, function=function, parts_ref=ray.put(list(parts)), folder=os.getcwd() if local else os.curdir)
    return packets(list(tasks.items())).map_batches(
        task,
        batch_size=None,
        num_cpus=0,
        resources={f"node:{ray.util.get_node_ip_address()}": 1e-3} if local else None,
        concurrency=min(_READERS * (1 if local else sum(node["Alive"] for node in ray.nodes())), len(tasks)),
    )


def _call(
    batch: Mapping[str, np.ndarray], function: Callable[..., Any], parts_ref: ray.ObjectRef, folder: str
) -> Iterator[dict[str, list[bytes]]]:
    number, with_it = unpack(batch)
    part = ray.get(parts_ref)[number]
    try:
        with _working_in(folder):  # paths of images may be relative to where the command was given
            yield from map(pack, function(number, part, with_it))
    except (OSError, pa.ArrowException) as error:
        raise RuntimeError(f"{part.file} cannot be read: {error}") from error


@contextmanager
def _working_in(folder: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)

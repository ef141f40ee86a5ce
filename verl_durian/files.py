# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Files: atomic writes, output folders with a lock, and data files that are local or at an fsspec URL."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import fsspec  # type: ignore[import-untyped]
import pyarrow.parquet as pq


@contextmanager
def output_folder(output: Path) -> Iterator[None]:
    """Creates an output folder and locks it against other runs.

    Raises:
        ValueError: the folder cannot be created, or another run holds the lock.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {output}: cannot create the folder ({error.strerror}): name another one") from error
    folder = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"--output {output}: another run writes to this folder: wait for it") from error
        yield
    finally:
        os.close(folder)


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """Opens a file for an atomic write: it gets its name only when it is completely on disk.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    try:
        with room_for(target), part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def part_of(target: Path) -> Path:
    """The temporary name of a file that `whole_file` writes."""
    return target.with_name(f".{target.name}.part")


@contextmanager
def room_for(file: Path) -> Iterator[None]:
    """Adds the name of the file to the error when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(
                f"no space left to write {file} ({error.strerror}): free some space, then run the same command again"
            ) from error
        raise


@contextmanager
def open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    """Opens a parquet file, local or at an fsspec URL, without buffering its row groups in memory."""
    with fsspec.open(file, "rb") as stream, pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20) as parquet:
        yield parquet


def source_id(file: str) -> str:
    """Returns a hash of size, modification time, ... of a local file or fsspec URL, which changes with the file."""
    filesystem, path = fsspec.core.url_to_fs(file)
    return filesystem.ukey(path)

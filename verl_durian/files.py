# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Results: files that appear whole or not at all, in a folder to which one run writes at a time."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def output_folder(output: Path) -> Iterator[None]:
    """Makes a folder for results, and keeps other runs out of it.

    Raises:
        ValueError: it cannot be made, or another run is writing to it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {output}: no folder can be made there ({error.strerror}): name another") from error
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
    """Opens a file that appears under its name once it is written and on the disk, and never in part.

    Raises:
        OSError: it cannot be written; the message names it.
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
    """The name that a file of `whole_file` has while it is written."""
    return target.with_name(f".{target.name}.part")


@contextmanager
def room_for(file: Path) -> Iterator[None]:
    """Says of what is written within which file found no room: the system's own error does not."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise OSError(
                f"no room to write {file} ({error.strerror}): make room, then give the same command again"
            ) from error
        raise

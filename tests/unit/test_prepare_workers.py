# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Worker processes that are killed."""

import subprocess
import sys
import time

import psutil

from verl_durian.prepare import workers


def wait(name: str, split: str, rows: list) -> list:
    """Stands in for the work: a worker takes long over a few rows, while more of them are on their way."""
    time.sleep(600)
    return []


def lose_a_worker() -> None:
    workers.convert = wait
    batches = [[bytes(5_000_000)] for _ in range(12)]  # larger than what the system keeps for who will take it

    def then_kill():
        yield from batches[:3]
        while not (alive := psutil.Process().children(recursive=True)[1:]):
            time.sleep(0.1)
        time.sleep(2)
        alive[0].kill()
        yield from batches[3:]

    with workers.start_workers(2) as started:
        list(started.convert("a set", "a split", then_kill()))


def test_a_killed_worker_ends_the_others_and_what_is_on_its_way_to_them():
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ValueError: a worker was killed, perhaps for want of memory" in done.stderr


if __name__ == "__main__":
    lose_a_worker()

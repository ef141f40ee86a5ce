# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The queue of the comparison with real runs: it is killed, refused twice in one folder, and continues."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from recipes.evidence.model import START_WEIGHTS, processor_of_task
from recipes.evidence.runs import STEPS, read_results
from recipes.evidence.task import make_rows
from recipes.quickstart.model import write_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def start(out: Path, seeds: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "recipes.evidence.run", str(out), "--arms", "durian", "--families", "anti"]
    command += ["--seeds", str(seeds), "--jobs", "1"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until_it_trains(queue: subprocess.Popen, log: Path) -> list[psutil.Process]:
    while not (log.exists() and "Loading weights" in log.read_text()):
        assert queue.poll() is None, queue.stdout.read()
        time.sleep(0.5)
    return psutil.Process(queue.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_queue_leaves_nothing_running_and_continues(tmp_path, number):
    write_model(tmp_path / "model", START_WEIGHTS, processor_of_task())
    (tmp_path / "data/anti").mkdir(parents=True)
    for split in ("train", "test"):
        rows = pd.DataFrame(make_rows("anti", split, 144))
        rows["visual_entropy"] = np.linspace(1, 2, len(rows))
        rows.to_parquet(tmp_path / f"data/anti/{split}.parquet")

    queue = start(tmp_path, seeds=2)
    processes = until_it_trains(queue, tmp_path / "runs/main/anti/durian/1.log")
    second = start(tmp_path, seeds=1)
    assert second.wait() and "another process is executing runs" in second.stdout.read()
    queue.send_signal(number)
    assert queue.wait()
    assert not psutil.wait_procs(processes, timeout=20)[1]
    assert not (tmp_path / "results").exists()

    queue = start(tmp_path, seeds=1)
    assert queue.wait() == 0, queue.stdout.read()
    (result,) = read_results(tmp_path / "results")
    assert (result.status, result.attempts, len(result.reward)) == ("done", 1, STEPS)
    assert sorted(result.validation) == list(range(0, STEPS + 1, 5))

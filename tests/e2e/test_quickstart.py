# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""One training run of the quickstart, with verl's trainer, Ray, vLLM and pictures; many checks of it.

15 prompts x 8 rollouts do not divide into updates of 8 prompts, so that verl adds padding rows in every step.
"""

import ctypes
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image

from recipes.quickstart.watchdog import DEATH, PR_SET_CHILD_SUBREAPER, is_alive, mapped_by, shared_memory_segments

ROOT = Path(__file__).parents[2]
STEPS = 4
V0 = ("trainer.use_v1=false", "algorithm.filter_groups.enable=false")  # the older trainer has no dynamic sampling


def quickstart(out: Path, *overrides: str, steps: int = STEPS, timeout: int = 1200) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OUT": str(out), "STEPS": str(steps), "VERL_DURIAN_CACHE": str(out / "cache")}
    return subprocess.run(
        ["bash", ROOT / "recipes" / "run_quickstart.sh", *overrides],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


class Run:
    def __init__(self, out: Path):
        before = shared_memory_segments()
        with orphans() as self.left_processes:
            done = quickstart(out, "data.train_batch_size=15", "data.train_max_samples=300", "data.val_max_samples=60")
        self.left_segments = shared_memory_segments() - before
        for _ in range(30):  # of another run, which may be at its end, no segment stays without a process for long
            self.left_segments &= shared_memory_segments() - mapped_by(psutil.process_iter())
            if not self.left_segments:
                break
            time.sleep(1)
        self.output = done.stdout
        assert done.returncode == 0, self.output[-5000:]
        (self.folder,) = (out / "runs").iterdir()
        self.cache = out / "cache"
        self.log = (self.folder / "train.log").read_text()
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        self.metrics = {entry["step"]: entry["data"] for entry in map(json.loads, lines)}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def run(out):
    return Run(out)


def test_every_step_is_logged_between_two_validations(run):
    assert sorted(run.metrics) == list(range(STEPS + 1))
    for step in (0, STEPS):
        kinds = [key for key in run.metrics[step] if re.fullmatch(r"val-core/easy_vqa_\w+/acc/mean@1", key)]
        assert len(kinds) == 3


def test_the_rollout_samples_from_the_policy_that_is_trained(run):
    for step in range(1, STEPS + 1):
        assert run.metrics[step]["training/rollout_actor_probs_pearson_corr"] > 0.999
        assert run.metrics[step]["actor/grad_norm"] > 0


def test_padding_rows_count_nowhere(run):
    assert "synthetic padding samples" in run.log
    for step in range(1, STEPS + 1):
        metrics = run.metrics[step]
        assert metrics["durian/prompts/num"] == 15
        assert sum(metrics[f"durian/perceptual/S{k}/size"] for k in (1, 2, 3)) == 15
        assert metrics["durian/rows_without_image"] == 0


def test_dynamic_sampling_leaves_no_prompt_without_signal(run):
    assert all(run.metrics[step]["durian/prompts/all_equal"] == 0 for step in range(1, STEPS + 1))


def test_metrics_are_those_that_are_documented(run):
    text = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(\S+)` \|", text, flags=re.MULTILINE))
    logged = {
        re.sub(r"/S\d/", "/S1/", re.sub(r"threshold_\d+", "threshold_1", key))
        for step in range(1, STEPS + 1)
        for key in run.metrics[step]
        if key.startswith("durian/")
    }
    assert logged == documented


def test_images_were_scored_once_and_kept(run):
    rows = [line for file in run.cache.rglob("*.jsonl") for line in file.read_text().splitlines()]
    assert 100 < len(rows) <= 300
    assert "reading the images of 300 rows" in run.output and "visual entropy: 100%" in run.output


def test_it_ends_with_results_and_a_table(run):
    tail = run.output[-3000:]
    assert "Validation accuracy" in tail and "before" in tail and "after" in tail
    assert str(run.folder / "metrics.jsonl") in tail
    with Image.open(run.folder / "learning.png") as figure:
        assert figure.width > 800


def test_processes_and_shared_memory_are_gone(run):
    assert not run.left_processes and not run.left_segments


@contextmanager
def orphans() -> Iterator[list[psutil.Process]]:
    """Adds what was started meanwhile and outlived its parents: such processes become children of this one."""
    found: list[psutil.Process] = []
    before = psutil.Process().children(recursive=True)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield found
        found += [each for each in psutil.Process().children(recursive=True) if each not in before and is_alive(each)]
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("actor_rollout_ref.rollout.load_format=dummy", "set actor_rollout_ref.rollout.load_format=auto"),
        (
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4 data.train_batch_size=15",
            "make data.train_batch_size",
        ),
        ("+algorithm.durian.reasoning.groups=3", "num_groups, confidence"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(run, out, override, remedy):
    done = quickstart(out, *override.split(), timeout=120)
    assert done.returncode != 0
    assert remedy in done.stdout
    assert "Started a local Ray instance" not in done.stdout


class Others:
    """Two more trainings."""

    def __init__(self, out: Path):
        self.out = out
        self.older, self.killed = self.train_with_the_older_trainer(), self.kill_a_worker()

    def start(self, name: str, *overrides: str, steps: int) -> subprocess.Popen[str]:
        environment = {**os.environ, "OUT": str(self.out / name), "STEPS": str(steps)}
        environment["VERL_DURIAN_CACHE"] = str(self.out / "cache")
        few = ("data.train_max_samples=300", "data.val_max_samples=16")
        with open(self.out / f"{name}.log", "w") as log:
            return subprocess.Popen(
                ["bash", ROOT / "recipes" / "run_quickstart.sh", *few, *overrides],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def told(self, name: str) -> str:
        return (self.out / f"{name}.log").read_text()

    def file(self, name: str, file: str) -> Path | None:
        """A file of a run's folder."""
        return next((self.out / name).glob(f"runs/*/{file}"), None)

    def train_with_the_older_trainer(self) -> int:
        process = self.start("older", *V0, steps=2)
        try:
            return process.wait(timeout=1200)
        finally:
            process.terminate()

    def kill_a_worker(self) -> int:
        process = self.start("killed", steps=50)
        try:
            deadline = time.monotonic() + 600
            while (log := self.file("killed", "train.log")) is None or "step:1 " not in log.read_text():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(1)
            workers = [each for each in psutil.Process(process.pid).children(recursive=True) if is_vllm_worker(each)]
            assert workers
            for worker in workers:
                worker.kill()
            return process.wait(timeout=300)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def others(run, out):
    return Others(out)


def test_the_older_trainer_trains_with_durian(others):
    assert others.older == 0, others.told("older")[-5000:]
    metrics = [json.loads(line) for line in others.file("older", "metrics.jsonl").read_text().splitlines()]
    for step in (entry["data"] for entry in metrics if entry["step"] > 0):
        assert step["durian/prompts/num"] == 16 and step["durian/rows_without_image"] == 0
        assert step["durian/hook_seconds"] > 0 and step["actor/grad_norm"] > 0


def test_a_dead_worker_ends_the_run_with_its_error(others):
    assert others.killed != 0
    _, told, _ = others.told("killed").rsplit("=" * 100, 2)
    assert DEATH.search(told) and "Error: " in told and str(others.file("killed", "train.log")) in told


def is_vllm_worker(process: psutil.Process) -> bool:
    return process.cmdline() != [] and process.cmdline()[0].startswith("VLLM::Worker")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu_check.py without a GPU: all stages in small size, with only the packages that it names."""

import json
import math
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMED = ("torch", "transformers", "numpy", "pandas", "pyarrow", "safetensors", "pillow")
NOT_NEEDED = {"typer", "rich"}
"""transformers requires them, and does not import them."""


def requirements(names) -> set[str]:
    """The packages and all their requirements, without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found | NOT_NEEDED:
            continue
        try:
            asked = distribution(name).requires or []
        except PackageNotFoundError:  # for another Python or system
            continue
        found.add(name)
        waiting += [re.match(r"[\w.-]+", each)[0] for each in asked if "extra ==" not in each]
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Variables of a Python that only finds the named packages and their requirements."""
    folder = tmp_path_factory.mktemp("packages")
    for name in requirements(NAMED):
        for file in distribution(name).files:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(distribution(name).locate_file(top))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }


def launch(environment, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With -S, so that Python does not find the packages of this environment."""
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_it_runs_with_the_named_packages_alone(environment, tmp_path):
    absent = ("verl", "ray", "vllm", "datasets", "omegaconf", "pydantic", "typer", "qwen_vl_utils", "torchvision")
    code = f"import importlib.util as util; print(*(name for name in {absent} if util.find_spec(name)))"
    assert launch(environment, tmp_path, "-c", code).stdout == "\n"

    done = launch(environment, tmp_path, str(BENCHMARKS / "gpu_check.py"), "--device", "cpu", "--small")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_check.json"]
    absent = report["not installed, nor needed here"]
    assert absent == "annotated_types, datasets, omegaconf, pydantic, qwen_vl_utils, requests, torchvision"
    assert len(report["stages"]) == 7
    for name, stage in report["stages"].items():
        assert stage["status"] == "done", name
        assert all(math.isfinite(value) for value in stage["figures"].values() if isinstance(value, float))
        assert f"{name} ...\n" in done.stdout and re.search(rf"^{name}: done +\d", done.stdout, re.MULTILINE)

    assert report["stages"]["estimator"]["figures"]["largest difference of an advantage to the CPU"] == 0
    agreement = report["stages"]["CPU, float32"]["figures"]
    line, photo = (agreement[f"{name}, 112 x 112: H on the CPU, nats"] for name in ("thin line", "photograph"))
    assert 1 < line < photo and agreement["largest difference of H, nats"] < 1e-4
    assert report["stages"]["batches, float32"]["figures"]["largest difference of H, nats"] < 1e-4


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_check

    return gpu_check


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "--device cpu: .* add --small"),
        (["--device", "cpu", "--small", "--output", "/no/such/a.json"], "--output /no/such/a.json: No such file"),
    ],
)
def test_invalid_arguments(gpu_check, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *arguments])
    with pytest.raises(SystemExit) as exit_status:
        gpu_check.main()
    assert exit_status.value.code == 2 and re.search(message, capsys.readouterr().err)


def test_a_stage_that_fails_is_reported_and_the_others_run(gpu_check, tmp_path, monkeypatch):
    def out_of_memory(check, *_):
        check.figures["before"] = 1.0
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 GiB")

    for stage in ("estimator", "batches", "agreement"):
        monkeypatch.setattr(gpu_check.Check, stage, lambda *_: None)
    monkeypatch.setattr(gpu_check.Check, "_tower_rate", out_of_memory)
    report = gpu_check.empty_report("cpu")
    assert not gpu_check.run(gpu_check.Check("cpu", gpu_check.SMALL), tmp_path / "a.json", report)
    stages = json.loads((tmp_path / "a.json").read_text())["stages"]
    failed = {name: stage for name, stage in stages.items() if stage["status"] != "done"}
    assert list(failed) == ["scoring, float32", "scoring, bfloat16"]
    for stage in failed.values():
        assert stage["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB"
        assert stage["figures"] == {"attention": "sdpa", "before": 1.0} and stage["error"] in gpu_check.table(report)


def test_a_call_that_hangs_ends_at_the_limit(environment, tmp_path):
    code = f"""
import sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu_check
gpu_check.Check.estimator = lambda check: check.figures.update(a=1.5)
gpu_check.Check.tower = lambda check: time.sleep(600)
gpu_check.LIMIT = 3
gpu_check.main()
"""
    done = launch(environment, tmp_path, "-c", code, "--device", "cpu", "--small")
    assert done.returncode == 1
    stages = json.loads((tmp_path / "gpu_check.json").read_text())["stages"]
    assert stages["estimator"]["figures"] == {"a": 1.5} and stages["tower"]["status"] == "running"

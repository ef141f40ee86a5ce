# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu_check.py without a GPU: all stages in small size, with nothing installed but the packages it names."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch

from verl_durian.entropy import vision_tower, workers

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu_check.py"
NAMED = ("torch", "transformers", "numpy", "pandas", "pyarrow", "safetensors", "pillow")
NOT_NEEDED = {"typer", "rich"}
"""transformers asks for them, and does not import them."""


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu_check

    return gpu_check


def requirements(names) -> set[str]:
    """The packages, and all that they ask for, without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found | NOT_NEEDED:
            continue
        try:
            asked = distribution(name).requires or []
        except PackageNotFoundError:  # for another Python or another system
            continue
        found.add(name)
        waiting += [re.match(r"[\w.-]+", each)[0] for each in asked if "extra ==" not in each]
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Variables of a Python that finds the named packages and what they ask for, and no others."""
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


def launch(environment, folder: Path, *arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """With -S, so that Python does not find the packages of this environment."""
    command = [sys.executable, "-S", *(["-c", code] if code else [str(SCRIPT)]), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_it_runs_with_the_named_packages_alone(environment, tmp_path):
    absent = ("verl", "ray", "vllm", "datasets", "omegaconf", "rich", "typer", "qwen_vl_utils", "torchvision")
    code = f"import importlib.util as util; print(*(name for name in {absent} if util.find_spec(name)))"
    assert launch(environment, tmp_path, code=code).stdout == "\n"

    run = launch(environment, tmp_path, "--device", "cpu", "--small")
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_check.json"]
    assert report["not installed, nor needed here"] == "datasets, omegaconf, qwen_vl_utils, requests, torchvision"
    assert len(report["stages"]) == 7
    for name, stage in report["stages"].items():
        assert stage["status"] == "done", name
        assert all(math.isfinite(value) for value in stage["figures"].values() if isinstance(value, float))
        assert f"{name} ...\n" in run.stdout and re.search(rf"^{name} +done", run.stdout, re.MULTILINE)

    estimator, scoring = report["stages"]["estimator"]["figures"], report["stages"]["scoring, bfloat16"]["figures"]
    assert estimator["64 x 4 x 256, int64 mask: durian / floor"] == pytest.approx(
        estimator["64 x 4 x 256, int64 mask: durian ms"] / estimator["64 x 4 x 256, int64 mask: floor ms"]
    )
    assert estimator["largest difference of an advantage to the CPU"] == 0
    assert scoring["96 patches: end to end / tower alone"] == pytest.approx(
        scoring["96 patches: end to end, images/s"] / scoring["96 patches: tower alone, images/s"]
    )
    assert report["stages"]["composition, float32"]["figures"]["with FixedRows: passes"] == 15
    agreement = report["stages"]["agreement with the CPU, float32"]["figures"]
    assert (
        1
        < agreement["thin line, 112 x 112: H on the CPU, nats"]
        < agreement["photograph, 112 x 112: H on the CPU, nats"]
    )
    assert agreement["with FixedRows: largest difference of H, nats"] < 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_the_remedy(environment, tmp_path):
    run = launch(environment, tmp_path)
    assert run.returncode == 2
    assert re.search(r"sees no CUDA GPU: .*or try the script with --device cpu --small", run.stderr), run.stderr
    assert not list(tmp_path.iterdir())


def test_a_full_size_on_a_cpu_and_a_folder_that_does_not_exist_are_refused(gpu_check, monkeypatch, capsys):
    for arguments, message in (
        (["--device", "cpu"], "--device cpu: .* add --small"),
        (["--device", "cpu", "--small", "--output", "/no/such/a.json"], "--output /no/such/a.json: No such file"),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu_check.py", *arguments])
        with pytest.raises(SystemExit) as exit_status:
            gpu_check.main()
        assert exit_status.value.code == 2
        assert re.search(message, capsys.readouterr().err)


def test_a_stage_that_fails_is_reported_and_the_others_run(gpu_check, tmp_path, monkeypatch, capsys):
    def out_of_memory(check, *_, **__):
        check.figures["before"] = 1.0
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 GiB")

    monkeypatch.setattr(gpu_check.Check, "_tower_rate", out_of_memory)
    monkeypatch.setattr(gpu_check.Check, "composition", lambda check, precision: None)
    report = gpu_check.Report(tmp_path / "a.json", {"device": "cpu"})
    gpu_check.run(gpu_check.Check("cpu", gpu_check.SMALL), report)
    written = json.loads((tmp_path / "a.json").read_text())
    assert report.failed
    status = {name: stage["status"] for name, stage in written["stages"].items()}
    assert [name for name, each in status.items() if each == "failed"] == ["scoring, float32", "scoring, bfloat16"]
    assert sorted(set(status.values())) == ["done", "failed"]
    failed = written["stages"]["scoring, float32"]
    assert failed["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB"
    assert failed["figures"] == {"attention": "sdpa", "before": 1.0}
    assert re.search(r"^scoring, float32 +failed", report.table(), re.MULTILINE)
    assert failed["error"] in report.table()


def test_what_there_is_no_time_for_is_named(gpu_check, tmp_path, monkeypatch):
    check = gpu_check.Check("cpu", gpu_check.SMALL)
    check.end = -math.inf
    check.composition("float32")
    assert check.notes == [
        f"left out for lack of time: {way}: 15 of 15 passes" for way in ("with FixedRows", "without")
    ]

    monkeypatch.setattr(gpu_check, "LIMIT", 0)
    report = gpu_check.Report(tmp_path / "a.json", {})
    gpu_check.run(check, report)
    assert {stage["status"] for stage in report.content["stages"].values()} == {"skipped"}
    assert not report.failed


def test_a_stage_that_hangs_ends_at_the_limit(environment, tmp_path):
    code = f"""
import sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu_check

def hang(check, report):
    stage = {{"status": "running", "seconds": 0.0, "figures": {{"a": 1.5}}, "notes": []}}
    report.content["stages"]["tower"] = stage
    time.sleep(600)

gpu_check.import_project()
gpu_check.run, gpu_check.START, gpu_check.LIMIT = hang, time.monotonic(), 4.0
gpu_check.main()
"""
    run = launch(environment, tmp_path, "--device", "cpu", "--small", code=code)
    assert run.returncode == 1
    stage = json.loads((tmp_path / "gpu_check.json").read_text())["stages"]["tower"]
    assert stage["error"] == "did not end within 4 s of the start" and stage["figures"] == {"a": 1.5}
    assert re.search(r"^tower +failed", run.stdout, re.MULTILINE)


def test_the_composition_stage_finds_features_that_depend_on_the_neighbours(gpu_check, monkeypatch):
    check = gpu_check.Check("cpu", replace(gpu_check.SMALL, shapes=((8, 8),)))
    tower, fixed_rows = check._scorer("float32").tower, vision_tower.FixedRows
    encode = tower._encode

    def depends_without_fixed_rows(pixel_values, grid_thw):
        features = encode(pixel_values, grid_thw)
        if vision_tower.FixedRows is fixed_rows:
            return features
        return features + 1e-3 * len(grid_thw) * torch.linspace(0, 1, len(features))[:, None] ** 2

    monkeypatch.setattr(tower, "_encode", depends_without_fixed_rows)
    check.composition("float32")
    assert check.figures["with FixedRows: features equal to the bit"]
    assert check.figures["with FixedRows: largest difference of H, nats"] == 0
    assert not check.figures["without: features equal to the bit"]
    assert check.figures["without: largest difference of H, nats"] > 1e-6
    assert vision_tower.FixedRows is fixed_rows


def test_the_limits_are_those_of_the_workers(gpu_check):
    assert gpu_check.FULL.max_patches == workers.MAX_PATCHES["cuda"]
    assert gpu_check.CALLS == workers._CALLS
    assert gpu_check.THREADS == max(1, min(workers._MOST_THREADS, workers._cores() - 1))

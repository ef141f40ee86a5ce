# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The installed command `verl-durian score`: real Ray, real photographs, real kills."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

ROWS = 600
COMMAND = str(Path(sys.executable).with_name("verl-durian"))
DATA = ["first.parquet", "second.parquet", "third.jsonl"]
PLOTS = ["visual_entropy.png", "examples.png"]


def crops(number: int) -> list[bytes]:
    """JPEG files of different parts of photographs and textures."""
    pictures = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "grass", "brick", "camera")]
    rng, files = np.random.default_rng(0), []
    for index in range(number):
        picture = Image.fromarray(pictures[index % len(pictures)]).convert("RGB")
        width, height = rng.integers(60, 200, 2)
        left, top = rng.integers(0, picture.width - width), rng.integers(0, picture.height - height)
        buffer = BytesIO()
        picture.crop((left, top, left + width, top + height)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_qwen25vl) -> Path:
    """Data in three files: bytes, images of `datasets`, and paths; with duplicates, several images and none."""
    folder = tmp_path_factory.mktemp("score")
    files = crops(ROWS)
    files[40:50] = files[30:40]
    rows = [[{"bytes": file}] for file in files]
    rows[3], rows[4], rows[7] = [], None, rows[0] + rows[1]
    prompts = [[{"role": "user", "content": "<image>" * len(row or []) + "What is it?"}] for row in rows]
    third = ROWS // 3
    first = datasets.Dataset.from_dict({"images": rows[:third], "prompt": prompts[:third]})
    first.to_parquet(folder / "first.parquet", batch_size=64)
    features = datasets.Features({"images": datasets.List(datasets.Image()), "number": datasets.Value("int64")})
    second = {"images": rows[third : 2 * third], "number": list(range(third))}
    datasets.Dataset.from_dict(second, features).to_parquet(folder / "second.parquet", batch_size=64)
    (folder / "pictures").mkdir()
    with (folder / "third.jsonl").open("w") as lines:
        for number, file in enumerate(files[2 * third :]):
            path = Path("pictures", f"{number}.jpg")
            (folder / path).write_bytes(file)
            lines.write(json.dumps({"images": [str(path)], "number": number}) + "\n")
    return folder


def command(model: Path, name: str, *options: str) -> list[str]:
    """Scores the data of the working directory; `name` is that of output and cache."""
    command = [COMMAND, "score", "--model", str(model), "--data", *DATA]
    return [*command, "--output", name, "--cache", f"{name}.cache", *options]


def run(arguments: list[str], folder: Path) -> str:
    finished = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def undisturbed(folder, tiny_qwen25vl) -> Path:
    """The output of a run that was not killed."""
    output = run(command(tiny_qwen25vl, "undisturbed"), folder)
    assert f"{ROWS} rows, 2 without image, 0 with problems" in " ".join(output.split())
    return folder / "undisturbed"


def rows_of(output: Path) -> list[dict]:
    tables = [pq.read_table(output / name).to_pylist() for name in DATA[:2]]
    return [*tables[0], *tables[1], *map(json.loads, (output / DATA[2]).read_text().splitlines())]


def assert_same(output: Path, expected: Path) -> None:
    """Equal files, but for entropies, which are equal to 1e-6 nats."""
    assert sorted(file.name for file in output.iterdir()) == sorted([*DATA, *PLOTS, "scores.json"])
    for row, other in zip(rows_of(output), rows_of(expected), strict=True):
        assert row.pop("visual_entropy") == pytest.approx(other.pop("visual_entropy"), abs=1e-6)
        assert row == other
    summary, other = (json.loads((folder / "scores.json").read_text()) for folder in (output, expected))
    assert summary["finished"]
    assert summary.pop("thresholds") == pytest.approx(other.pop("thresholds"), abs=1e-6)
    assert summary.pop("files").keys() == other.pop("files").keys()
    for name in ("seconds", "images_encoded", "images_per_second"):
        del summary[name], other[name]
    assert summary == other


def test_every_row_is_scored_and_nothing_is_scored_twice(undisturbed, folder, tiny_qwen25vl):
    rows = rows_of(undisturbed)
    entropies = [row["visual_entropy"] for row in rows]
    patches = [row["visual_patches"] for row in rows]
    assert entropies[3] is entropies[4] is patches[3] is patches[4] is None
    assert entropies[40:50] == entropies[30:40]
    assert patches[7] == patches[0] + patches[1]
    assert all(0 < h < np.log(p) for h, p in zip(entropies, patches, strict=True) if h is not None)
    assert pq.read_table(undisturbed / DATA[0], columns=["images", "prompt"]).equals(pq.read_table(folder / DATA[0]))

    summary = json.loads((undisturbed / "scores.json").read_text())
    known = [h for h in entropies if h is not None]
    assert len(rows) == summary["rows"] == ROWS and len(known) == ROWS - 2
    assert list(summary["thresholds"].values()) == pytest.approx(np.quantile(known, [0.25, 0.75]).tolist())
    assert summary["images"] == ROWS - 1
    assert summary["images_encoded"] == ROWS - 11

    times = [(undisturbed / name).stat().st_mtime_ns for name in DATA]
    run(command(tiny_qwen25vl, "undisturbed"), folder)
    assert [(undisturbed / name).stat().st_mtime_ns for name in DATA] == times
    assert json.loads((undisturbed / "scores.json").read_text())["images_encoded"] == 0


def kill_tree(process: subprocess.Popen) -> None:
    """As if the machine stopped: kills the command and all of Ray at once."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for send in (psutil.Process.suspend, psutil.Process.kill):
        for member in family:
            with suppress(psutil.Error):  # it may be gone
                send(member)


def stored_scores(cache: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in cache.glob("*/*.jsonl"))


def test_the_same_command_finishes_a_killed_run(undisturbed, folder, tiny_qwen25vl):
    output, cache, arguments = folder / "killed", folder / "killed.cache", command(tiny_qwen25vl, "killed")
    # During the start, once some rows are scored, and while the files are written.
    moments = [
        (kill_tree, output.exists),
        (subprocess.Popen.kill, lambda: stored_scores(cache) > 0),
        (kill_tree, (output / "scores.json").exists),
    ]
    for kill, reached in moments:
        with subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not reached():
                assert process.poll() is None
                time.sleep(0.002)
            kill(process)
    assert stored_scores(cache) > 0
    run(arguments, folder)
    assert json.loads((output / "scores.json").read_text())["images_encoded"] == 0
    assert_same(output, undisturbed)


@pytest.mark.slow
def test_a_killed_worker_is_replaced(undisturbed, folder, tiny_qwen25vl):
    with subprocess.Popen(
        command(tiny_qwen25vl, "worker"), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        workers: list[psutil.Process] = []
        while not workers:
            assert process.poll() is None
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.Error):  # it may be gone
                    if "ray::Worker" in "".join(child.cmdline()):
                        workers.append(child)
        os.kill(workers[0].pid, signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert_same(folder / "worker", undisturbed)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def nodes_of(address: str) -> int:
    """How many nodes of a Ray cluster are alive."""
    count = f"import ray; ray.init({address!r}, log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    output = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True).stdout.split()
    return int(output[-1]) if output else 0


@pytest.mark.slow
def test_two_nodes_give_the_same_files_as_one(undisturbed, folder, tiny_qwen25vl, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else the nodes need a token, which they look for at home
    address = f"127.0.0.1:{free_port()}"
    # In a folder of their own, with a short name for Ray's sockets: processes that join any cluster must not find this.
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    start = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--temp-dir={temporary}"]
    start += ["--num-cpus=2", "--disable-usage-stats"]
    head = [*start, "--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    nodes = []
    try:
        for number, node in enumerate([head, [*start, f"--address={address}"]], start=1):
            nodes.append(subprocess.Popen(node, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            while nodes_of(address) < number:
                assert nodes[-1].poll() is None
        # Three workers need more CPUs than either node has.
        run(command(tiny_qwen25vl, "two_nodes", "--address", address, "--workers", "3"), folder)
    finally:
        for node in nodes:
            kill_tree(node)
            node.wait()
        shutil.rmtree(temporary)
    assert_same(folder / "two_nodes", undisturbed)

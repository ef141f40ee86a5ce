# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""`verl-durian score` as a person runs it: real Ray, real photographs, real kills."""

import filecmp
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
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
FILES = ["first.parquet", "second.parquet", "third.jsonl", "visual_entropy.png", "examples.png"]
"""What must not depend on how it came about; scores.json tells the time too."""


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
    """Data in three files: bytes, pictures of `datasets`, and paths; with doubles, several images and none."""
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
    command = [COMMAND, "score", "--model", str(model), "--data", *FILES[:3]]
    return [*command, "--output", name, "--cache", f"{name}.cache", *options]


def run(arguments: list[str], folder: Path) -> str:
    finished = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def undisturbed(folder, tiny_qwen25vl) -> tuple[Path, float]:
    """The output of a run to the end, and the seconds it took."""
    start = time.monotonic()
    told = run(command(tiny_qwen25vl, "undisturbed"), folder)
    assert f"{ROWS} rows, 2 without image, 0 with problems" in " ".join(told.split())
    return folder / "undisturbed", time.monotonic() - start


def assert_same(folder: Path, expected: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, "scores.json"])
    assert filecmp.cmpfiles(folder, expected, FILES, shallow=False) == (FILES, [], [])
    told = [json.loads((each / "scores.json").read_text()) for each in (folder, expected)]
    for each in told:
        assert each["finished"]
        for name in ("seconds", "images_encoded", "images_per_second"):
            del each[name]
    assert told[0] == told[1]


def test_every_row_is_scored_and_summed_up(undisturbed, folder):
    output, _ = undisturbed
    table = pq.read_table(output / "first.parquet").to_pydict()
    entropies, patches = table["visual_entropy"], table["visual_patches"]
    assert entropies[3] is entropies[4] is patches[3] is patches[4] is None
    assert entropies[40:50] == entropies[30:40]
    assert patches[7] == patches[0] + patches[1]
    assert all(0 < h < np.log(p) for h, p in zip(entropies, patches, strict=True) if h is not None)
    assert pq.read_table(output / "first.parquet", columns=["images", "prompt"]).equals(
        pq.read_table(folder / "first.parquet")
    )

    summary = json.loads((output / "scores.json").read_text())
    everything = [
        *entropies,
        *pq.read_table(output / "second.parquet")["visual_entropy"].to_pylist(),
        *(json.loads(line)["visual_entropy"] for line in (output / "third.jsonl").read_text().splitlines()),
    ]
    known = [h for h in everything if h is not None]
    assert len(everything) == summary["rows"] == ROWS and len(known) == ROWS - 2
    assert list(summary["thresholds"].values()) == pytest.approx(np.quantile(known, [0.25, 0.75]).tolist())
    assert summary["images"] == ROWS - 1
    assert summary["images_encoded"] == ROWS - 11


def test_what_is_scored_is_not_scored_again(undisturbed, folder, tiny_qwen25vl):
    output, _ = undisturbed
    times = {file.name: file.stat().st_mtime_ns for file in output.iterdir()}
    run(command(tiny_qwen25vl, "undisturbed"), folder)
    again = {file.name: file.stat().st_mtime_ns for file in output.iterdir()}
    assert all(again[name] == times[name] for name in FILES[:3])
    assert json.loads((output / "scores.json").read_text())["images_encoded"] == 0


def test_workers_and_batches_change_nothing(undisturbed, folder, tiny_qwen25vl):
    run(command(tiny_qwen25vl, "alone", "--workers", "1", "--max-patches", "64"), folder)
    assert_same(folder / "alone", undisturbed[0])


def kill_tree(process: subprocess.Popen) -> None:
    """As if the machine stopped: the command and all of Ray at once."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for send in (psutil.Process.suspend, psutil.Process.kill):
        for member in family:
            with suppress(psutil.Error):  # it may be gone
                send(member)


def kill_driver(process: subprocess.Popen) -> None:
    process.kill()


def scored(cache: Path) -> int:
    """Scores that a run has kept so far."""
    return sum(file.read_bytes().count(b"\n") for file in cache.glob("*/*.jsonl"))


def test_a_killed_run_is_finished_by_the_same_command(undisturbed, folder, tiny_qwen25vl):
    expected, seconds = undisturbed
    name, arguments = "killed", command(tiny_qwen25vl, "killed")
    seed = random.SystemRandom().randrange(10**9)
    chance, hits = random.Random(seed), []
    # At a random moment of the start; when some rows are scored; when the first file is there; and at any moment.
    moments = [
        (kill_tree, lambda start: time.monotonic() > start + chance.uniform(0, 0.5) * seconds),
        (kill_driver, lambda start: scored(folder / f"{name}.cache") > 0),
        (kill_tree, lambda start: (folder / name / "scores.json").exists()),
        (
            chance.choice([kill_driver, kill_tree]),
            lambda start: time.monotonic() > start + chance.uniform(0, 1) * seconds,
        ),
    ]
    for kill, moment in moments:
        with subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            start = time.monotonic()
            while process.poll() is None and not moment(start):
                time.sleep(0.002)
            hits.append(process.poll() is None)
            if hits[-1]:
                kill(process)
    print(f"seed {seed}, killed {hits}")
    assert all(hits[:3]), hits
    run(arguments, folder)
    assert_same(folder / name, expected)


def test_a_killed_worker_is_replaced(undisturbed, folder, tiny_qwen25vl):
    expected, _ = undisturbed
    with subprocess.Popen(
        command(tiny_qwen25vl, "worker"), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        workers: list[psutil.Process] = []
        while not workers:
            assert process.poll() is None
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.Error):  # it may be gone
                    if "MapWorker(MapBatches(Worker))" in "".join(child.cmdline()):
                        workers.append(child)
        os.kill(workers[0].pid, signal.SIGKILL)
        told, _ = process.communicate()
    assert process.returncode == 0, told
    assert_same(folder / "worker", expected)


class Ranges(SimpleHTTPRequestHandler):
    """Serves a folder, and parts of its files, as stores of parquet files do."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        start, stop = 0, len(content)
        if told := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(told[1]), min(int(told[2] or stop) + 1, stop)
        self.send_response(206 if told else 200)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(content[start:stop])

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_files_at_a_url_are_read_by_every_reader(undisturbed, folder, tiny_qwen25vl):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/first.parquet"
        options = ["--model", str(tiny_qwen25vl), "--output", "url", "--cache", "url.cache"]
        run([COMMAND, "score", "--data", url, *options], folder)
        server.shutdown()
    assert filecmp.cmp(folder / "url" / "first.parquet", undisturbed[0] / "first.parquet", shallow=False)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def nodes_of(address: str) -> int:
    """How many nodes of a Ray cluster are alive."""
    count = (
        f"import ray; ray.init({address!r}, log_to_driver=False); print(len([n for n in ray.nodes() if n['Alive']]))"
    )
    told = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True).stdout.split()
    return int(told[-1]) if told else 0


def test_two_nodes_give_the_same_files_as_one(undisturbed, folder, tiny_qwen25vl, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else the nodes need a token, which they look for at home
    address = f"127.0.0.1:{free_port()}"
    # In a folder of their own, with a short name for Ray's sockets: else whoever joins no cluster by name joins this
    # one, also when it is gone.
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
    assert_same(folder / "two_nodes", undisturbed[0])

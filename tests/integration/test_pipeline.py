# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import ray
from pictures import encoded, picture
from PIL import Image

from verl_durian.entropy import pipeline
from verl_durian.entropy.cache import EntropyCache
from verl_durian.entropy.data_files import Columns, DatasetRows
from verl_durian.entropy.media import collect
from verl_durian.entropy.pipeline import Placement, Problem, Scores, place, resources_released, score_rows
from verl_durian.entropy.scorer import Scorer, to_arrays
from verl_durian.entropy.vision_tower import TowerSettings, read_tower

pytestmark = pytest.mark.usefixtures("local_ray")

SIZES = {"chelsea": (112, 84), "grass": (140, 56), "coffee": (70, 120)}
CAT, GRASS, COFFEE = ({"bytes": encoded(picture(name, *size), "JPEG")} for name, size in SIZES.items())
BROKEN = {"bytes": b"no picture"}


def score(folder: Path, cache: Path, *sets: list, workers: int = 1) -> Scores:
    """Scores datasets with these rows of images."""
    sources = [
        DatasetRows(f"set {number}", datasets.Dataset.from_dict({"images": rows}), Columns())
        for number, rows in enumerate(sets)
    ]
    settings, state = read_tower(str(folder))
    with resources_released():
        return score_rows(sources, settings, state, EntropyCache(cache), place("cpu", workers))


def test_each_row_gets_its_score_and_each_distinct_row_is_encoded_once(tiny_qwen25vl, tmp_path, capfd):
    os.mkfifo(tmp_path / "pipe.png")
    absent, pipe = {"path": "/absent.png"}, {"path": str(tmp_path / "pipe.png")}
    first = [[CAT], None, [GRASS, COFFEE], [], [CAT], [GRASS, BROKEN]]
    second = [[COFFEE], [BROKEN, CAT], [CAT], [COFFEE, GRASS], [absent], [GRASS, BROKEN], [pipe]]
    scores = score(tiny_qwen25vl, tmp_path / "cache", first, second, workers=2)
    printed = capfd.readouterr().err
    assert "visual entropy: 100%" in printed
    assert "object store" not in printed  # Ray prints nothing into the progress bar

    settings, state = read_tower(str(tiny_qwen25vl))
    scored = {0: [CAT], 2: [GRASS, COFFEE], 4: [CAT], 6: [COFFEE], 8: [CAT], 9: [COFFEE, GRASS]}
    media = {row: collect(images, None) for row, images in scored.items()}
    alone = {each.key: each for each in Scorer(settings, to_arrays(state), "cpu", 2048).score(media.values())}
    assert np.flatnonzero(np.isfinite(scores.entropies)).tolist() == list(scored)
    for row, of_row in media.items():
        assert scores.entropies[row] == pytest.approx(alone[of_row.key].entropy, abs=1e-6)
        assert scores.patches[row] == alone[of_row.key].patches
        assert scores.keys[row] == of_row.key.encode()
    assert scores.keys[1] == b"" and scores.patches[1] == 0

    reason = "not a picture in any format that PIL reads"
    assert [(problem.file, problem.row) for problem in scores.problems] == [
        ("set 0", 5), ("set 1", 1), ("set 1", 4), ("set 1", 5), ("set 1", 6),
    ]  # fmt: skip
    assert scores.problems[0] == Problem("set 0", 5, f"image 1: {reason}")
    assert scores.problems[1].reason == f"image 0: {reason}"
    assert "/absent.png" in scores.problems[2].reason
    assert "pipe.png' is not a regular file" in scores.problems[4].reason
    assert scores.images == 14
    assert scores.encoded == 10  # the cat, the coffee, both orders of grass and coffee, two distinct broken rows
    stored = list(EntropyCache(tmp_path / "cache").scores())
    assert len(stored) == 4

    # Again, with a damaged line in the cache and a new row: only these and the broken rows are encoded.
    (file,) = (tmp_path / "cache").glob("*.jsonl")
    file.write_bytes(file.read_bytes()[1:])
    again = score(tiny_qwen25vl, tmp_path / "cache", first, second, [[GRASS]])
    damaged = next(len(of_row) for of_row in media.values() if of_row.key == stored[0].key)
    assert again.encoded == damaged + 1 + 4
    assert again.entropies[:-1] == pytest.approx(scores.entropies, abs=1e-6, nan_ok=True)
    assert np.isfinite(again.entropies[-1])
    assert again.problems == scores.problems


def test_rows_of_a_few_bytes_are_divided_among_the_workers(tiny_qwen25vl, tmp_path, monkeypatch):
    files = []
    for number in range(40):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (56, 56), (number, 0, 0)).save(files[-1])
    blocks, make = [], pipeline._blocks
    monkeypatch.setattr(pipeline, "_blocks", lambda *of: (blocks.append(len(each)) or each for each in make(*of)))
    scores = score(tiny_qwen25vl, tmp_path / "cache", [[{"path": str(file)}] for file in files], workers=2)
    assert not scores.problems and blocks == [5] * 8  # 40 rows / 2 workers / 4 blocks


@ray.remote(num_gpus=1)
class OfAGpu:
    def ready(self):
        return True


def test_one_worker_per_free_gpu_or_core(monkeypatch):
    assert place() == Placement("cuda", 2, 16384)
    assert place("cpu") == Placement("cpu", 2, 2048)
    assert place("cpu", 1, 99) == Placement("cpu", 1, 99)
    with pytest.raises(ValueError, match="3 workers need one GPU each, but Ray has 2 free.*--workers"):
        place(workers=3)
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})  # Ray has more CPUs than there are cores
        assert place("cpu").workers == 1
    finally:
        os.sched_setaffinity(0, cores)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0, "GPU": 2.0})  # another job has one
    assert place("cpu").workers == 1
    monkeypatch.undo()
    with resources_released():
        actor = OfAGpu.remote()
        ray.get(actor.ready.remote())
        assert place("cuda").workers == 1
        ray.kill(actor)
    assert ray.available_resources()["GPU"] == 2


def test_a_worker_with_other_packages_is_an_error(tiny_qwen25vl, tmp_path, monkeypatch):
    monkeypatch.setattr(TowerSettings, "fingerprint", lambda self, device: "of the command")
    with pytest.raises(RuntimeError, match="a Ray process failed.*would compute different scores than the machine of"):
        score(tiny_qwen25vl, tmp_path, [[CAT]])


class Dying(pipeline.Worker):
    """A worker that dies in its first blocks, as if memory ran out."""

    marker: Path
    deaths: int

    def score(self, block, *others):
        died = len(list(self.marker.glob("*")))
        if died < self.deaths:
            (self.marker / str(died)).touch()
            os._exit(1)
        return super().score(block, *others)


def test_rows_of_a_dead_worker_are_scored_again_but_not_forever(tiny_qwen25vl, tmp_path, monkeypatch):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(pipeline, "Worker", Dying)
    monkeypatch.setattr(Dying, "marker", tmp_path / "died", raising=False)
    monkeypatch.setattr(Dying, "deaths", 1, raising=False)
    (tmp_path / "died").mkdir()
    scores = score(tiny_qwen25vl, tmp_path / "cache", [[CAT], [GRASS], [COFFEE]])
    assert len(list((tmp_path / "died").iterdir())) == 1
    assert np.isfinite(scores.entropies).all()
    assert len(list(EntropyCache(tmp_path / "cache").scores())) == 3

    monkeypatch.setattr(Dying, "deaths", 99)
    with pytest.raises(RuntimeError, match="Ray processes died.*--max-patches"):
        score(tiny_qwen25vl, tmp_path, [[CAT]])
    assert len(list((tmp_path / "died").iterdir())) == 1 + 3

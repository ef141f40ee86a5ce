# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import os
import sys
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
import ray
from PIL import Image
from skimage import data

from verl_durian.entropy import pipeline
from verl_durian.entropy.cache import EntropyCache
from verl_durian.entropy.data_files import Columns, DatasetRows
from verl_durian.entropy.media import collect
from verl_durian.entropy.pipeline import Problem, Scores, score_rows
from verl_durian.entropy.placement import Placement, place, resources_released
from verl_durian.entropy.scorer import Scorer, to_arrays
from verl_durian.entropy.vision_tower import TowerSettings, read_tower


@pytest.fixture(scope="module", autouse=True)
def joined():
    """A Ray of this process alone."""
    ray.shutdown()  # what other tests left
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def jpeg(name: str, width: int = 112, height: int = 84) -> dict[str, bytes]:
    buffer = BytesIO()
    Image.fromarray(getattr(data, name)()).convert("RGB").resize((width, height)).save(buffer, "JPEG")
    return {"bytes": buffer.getvalue()}


CAT, GRASS, COFFEE = jpeg("chelsea"), jpeg("grass", 140, 56), jpeg("coffee", 70, 120)
BROKEN = {"bytes": b"no picture"}


def score(folder: Path, cache: Path, *sets: list, workers: int | None = 1) -> Scores:
    """Scores data sets with these rows of images."""
    sources = [
        DatasetRows(f"set {number}", datasets.Dataset.from_dict({"images": rows}), Columns())
        for number, rows in enumerate(sets)
    ]
    settings, state = read_tower(str(folder))
    with resources_released():
        return score_rows(sources, settings, state, EntropyCache(cache), place("cpu", workers))


def test_ray_prints_nothing_into_the_progress_bar(tiny_qwen25vl, tmp_path, capfd):
    score(tiny_qwen25vl, tmp_path, [[CAT]])
    told = capfd.readouterr().err
    assert "visual entropy: 100%" in told
    assert "object store" not in told


def test_each_row_gets_its_score_and_each_distinct_row_is_encoded_once(tiny_qwen25vl, tmp_path):
    first = [[CAT], None, [GRASS, COFFEE], [], [CAT]]
    second = [[COFFEE], [CAT], [COFFEE, GRASS]]
    scores = score(tiny_qwen25vl, tmp_path, first, second)

    settings, state = read_tower(str(tiny_qwen25vl))
    media = [collect(images, None) for images in first + second]
    direct = Scorer(settings, to_arrays(state), "cpu", 2048, 1).score([each for each in media if each is not None])
    alone = {each.key: each for each in direct}
    for row, each in enumerate(media):
        if each is None:
            assert np.isnan(scores.entropies[row]) and scores.patches[row] == 0 and scores.keys[row] == b""
        else:
            expected = alone[each.key]
            assert scores.entropies[row] == pytest.approx(expected.entropy, abs=1e-6)
            assert scores.patches[row] == expected.patches
            assert scores.keys[row] == each.key.encode()
    assert scores.images == 8
    assert scores.encoded == 6  # the cat, the coffee, and both orders of grass and coffee
    assert scores.problems == []
    assert len(list(EntropyCache(tmp_path).entries())) == 4


def test_what_the_cache_knows_is_not_encoded(tiny_qwen25vl, tmp_path):
    before = score(tiny_qwen25vl, tmp_path, [[CAT], [GRASS]])
    after = score(tiny_qwen25vl, tmp_path, [[GRASS], [COFFEE], [CAT]])
    assert after.encoded == 1
    assert after.entropies[[2, 0]].tolist() == before.entropies.tolist()
    (file, _) = tmp_path.glob("*.jsonl")
    again = score(tiny_qwen25vl, tmp_path, [[GRASS], [COFFEE], [CAT]])
    assert again.encoded == 0
    file.write_bytes(file.read_bytes()[1:])  # one damaged line
    mended = score(tiny_qwen25vl, tmp_path, [[GRASS], [COFFEE], [CAT]])
    assert mended.encoded == 1
    assert mended.entropies.tolist() == again.entropies.tolist() == after.entropies.tolist()


def test_problems_name_file_and_row_and_are_tried_again(tiny_qwen25vl, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    absent, pipe = {"path": "/absent.png"}, {"path": str(tmp_path / "pipe.png")}
    sets = [[CAT], [GRASS, BROKEN]], [[BROKEN, CAT], [COFFEE], [absent], [GRASS, BROKEN], [pipe]]
    scores = score(tiny_qwen25vl, tmp_path / "cache", *sets)
    reason = "not a picture in any format that PIL reads"
    assert [(problem.file, problem.row) for problem in scores.problems] == [
        ("set 0", 1), ("set 1", 0), ("set 1", 2), ("set 1", 3), ("set 1", 4),
    ]  # fmt: skip
    assert scores.problems[0] == Problem("set 0", 1, f"image 1: {reason}")
    assert scores.problems[1].reason == f"image 0: {reason}"
    assert "/absent.png" in scores.problems[2].reason
    assert np.isfinite(scores.entropies).tolist() == [True, False, False, True, False, False, False]
    assert "pipe.png' is not a regular file" in scores.problems[4].reason
    assert score(tiny_qwen25vl, tmp_path / "cache", *sets).encoded == 4  # the two broken sets of two images


@pytest.mark.parametrize("sets", [[], [[None, []]]])
def test_nothing_to_score(tiny_qwen25vl, tmp_path, sets):
    scores = score(tiny_qwen25vl, tmp_path, *sets)
    assert len(scores.entropies) == sum(map(len, sets))
    assert np.isnan(scores.entropies).all()
    assert (scores.images, scores.encoded) == (0, 0)


def test_more_workers_than_rows(tiny_qwen25vl, tmp_path):
    assert np.isfinite(score(tiny_qwen25vl, tmp_path, [[CAT], [GRASS]], workers=2).entropies).all()


@ray.remote(num_gpus=1)
class OfAGpu:
    def ready(self):
        return True


def test_gpus_are_free_again_after_scoring():
    """With two that Ray only believes in."""
    with resources_released():
        actor = OfAGpu.remote()
        ray.get(actor.ready.remote())
        ray.kill(actor)
    assert ray.available_resources()["GPU"] == 2


def test_one_worker_a_free_gpu_or_core(monkeypatch):
    assert place() == Placement("cuda", 2, 16384)
    assert place("cpu") == Placement("cpu", 2, 2048)
    assert place("cpu", 1, 99) == Placement("cpu", 1, 99)
    with pytest.raises(ValueError, match="3 workers need one GPU each, and Ray has 2 free.*--workers"):
        place(workers=3)
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})  # Ray was told of more than there are
        assert place("cpu").workers == 1
    finally:
        os.sched_setaffinity(0, cores)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0, "GPU": 2.0})  # and others took one
    assert place("cpu").workers == 1
    monkeypatch.undo()
    with resources_released():
        actor = OfAGpu.remote()
        ray.get(actor.ready.remote())
        assert place("cuda").workers == 1
        ray.kill(actor)


def test_a_worker_with_other_packages_is_an_error(tiny_qwen25vl, tmp_path, monkeypatch):
    monkeypatch.setattr(TowerSettings, "fingerprint", lambda self, device: "of the command")
    with pytest.raises(RuntimeError, match="would compute other scores than the machine of the command"):
        score(tiny_qwen25vl, tmp_path, [[CAT]])


class Dying(pipeline.Worker):
    """A worker that every block kills, as if memory ran out."""

    def __call__(self, block):
        os._exit(1)


class DyingOnce(pipeline.Worker):
    """A worker that dies at its first block, the first time."""

    marker: Path

    def __call__(self, block):
        if not self.marker.exists():
            self.marker.touch()
            os._exit(1)
        return super().__call__(block)


def test_rows_of_a_dead_worker_are_scored_by_another(tiny_qwen25vl, tmp_path, monkeypatch):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(DyingOnce, "marker", tmp_path / "died", raising=False)
    monkeypatch.setattr(pipeline, "Worker", DyingOnce)
    scores = score(tiny_qwen25vl, tmp_path / "cache", [[CAT], [GRASS], [COFFEE]])
    assert (tmp_path / "died").exists()
    assert np.isfinite(scores.entropies).all()
    assert len(list(EntropyCache(tmp_path / "cache").entries())) == 3


def test_rows_that_kill_every_worker_end_the_run(tiny_qwen25vl, tmp_path, monkeypatch):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(pipeline, "Worker", Dying)
    with pytest.raises(RuntimeError, match="processes of Ray died.*--max-patches"):
        score(tiny_qwen25vl, tmp_path, [[CAT]])

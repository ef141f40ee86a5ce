# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
import json
import math
import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from skimage import data
from transformers import AutoProcessor
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_durian import scoring
from verl_durian.scoring import EntropyCache, decode, score_dataset
from verl_durian.vision_tower import VisionTower, load_vision_tower
from verl_durian.visual_entropy import visual_entropy


def shape() -> Image.Image:
    picture = Image.new("RGB", (140, 140), "white")
    ImageDraw.Draw(picture).rectangle([30, 30, 80, 80], fill="red")
    return picture


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (140, 140, 3), dtype=np.uint8))


def png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


CAT = Image.fromarray(data.chelsea())
COFFEE = Image.fromarray(data.coffee()).resize((70, 120))


def bytes_dataset(*rows: list[Image.Image] | None) -> datasets.Dataset:
    """Rows as verl's own examples store them: a list of {"bytes": ...}."""
    images = [None if row is None else [{"bytes": png(picture)} for picture in row] for row in rows]
    return datasets.Dataset.from_dict({"prompt": ["?"] * len(images), "images": images})


@pytest.fixture
def score(tiny_qwen25vl, tmp_path):
    def score(dataset: datasets.Dataset, **kwargs) -> np.ndarray:
        return score_dataset(dataset, "images", str(tiny_qwen25vl), tmp_path / "cache", **kwargs)

    return score


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Number of images in each pass of the tower."""
    passes = []
    features = VisionTower.features

    def count(self, pixel_values, grid_thw):
        passes.append(len(grid_thw))
        return features(self, pixel_values, grid_thw)

    monkeypatch.setattr(VisionTower, "features", count)
    return passes


def expected(folder: Path, *pictures: Image.Image) -> float:
    """The same by hand: the full processor, one image at a time."""
    tower = load_vision_tower(str(folder))
    processor = AutoProcessor.from_pretrained(folder)
    features = []
    for picture in pictures:
        inputs = processor(text=["<|image_pad|>"], images=[decode(picture, 14)], return_tensors="pt")
        features += tower.features(inputs["pixel_values"], inputs["image_grid_thw"])
    return visual_entropy(torch.cat(features)).item()


def test_rows_with_one_several_and_no_images(score, tiny_qwen25vl):
    entropies = score(bytes_dataset([CAT], None, [CAT, COFFEE], [], [COFFEE]))
    assert entropies.shape == (5,) and entropies.dtype == np.float64
    assert np.isnan(entropies).tolist() == [False, True, False, True, False]
    hand = [expected(tiny_qwen25vl, *row) for row in ([CAT], [CAT, COFFEE], [COFFEE])]
    np.testing.assert_allclose(entropies[[0, 2, 4]], hand, atol=1e-5)


def test_busier_pictures_score_higher(score):
    uniform, photo = Image.new("RGB", (140, 140), "teal"), CAT.resize((140, 140))
    texture = Image.fromarray(data.grass()[:140, :140]).convert("RGB")
    entropies = score(bytes_dataset([uniform], [shape()], [photo], [texture], [noise()]))
    assert entropies[0] == 0.0
    assert (np.diff(entropies) > 0).all()


def test_each_set_of_images_is_scored_once(score, encoded):
    entropies = score(bytes_dataset([CAT], [COFFEE], [CAT], [CAT, COFFEE], [CAT]))
    assert sum(encoded) == 4
    assert entropies[0] == entropies[2] == entropies[4]


def test_the_second_run_finds_the_results(score, monkeypatch, encoded):
    rows = [[CAT], None, [COFFEE, CAT]]
    first = score(bytes_dataset(*rows))
    assert score(bytes_dataset(*rows, [noise()])).shape == (4,)
    assert encoded == [3, 1]

    def fail(*args):
        raise AssertionError("the tower was called")

    monkeypatch.setattr(VisionTower, "features", fail)
    monkeypatch.setattr(VisionTower, "preprocess", fail)
    np.testing.assert_array_equal(score(bytes_dataset(*rows)), first)


def test_another_layer_has_its_own_results(score, encoded):
    dataset = bytes_dataset([CAT])
    assert score(dataset) != score(dataset, feature_layer="blocks")
    assert encoded == [1, 1]


def test_batches_are_bounded_and_change_nothing(score, tmp_path, monkeypatch, encoded):
    dataset = bytes_dataset([CAT], [COFFEE], [noise(1)], [noise(2)], [shape()])
    whole = score(dataset)
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    monkeypatch.setattr(scoring, "PATCH_BUDGET", 150)
    np.testing.assert_allclose(score(dataset), whole, atol=1e-5)
    assert encoded == [5, 2, 1, 1, 1]


def decoded_by_verl(images: list, patch_size: int) -> list[Image.Image]:
    """The pictures that verl's RLHFDataset hands to the rollout."""
    rlhf = object.__new__(RLHFDataset)
    rlhf.processor, rlhf.image_key, rlhf.video_key, rlhf.audio_key = object(), "images", "videos", "audios"
    example = {"prompt": [{"role": "user", "content": "<image>" * len(images)}], "images": images}
    messages = rlhf._build_messages(example, key="prompt")
    return RLHFDataset._process_multi_modal_info(messages, patch_size, None)[0]


@pytest.mark.parametrize("patch_size", [14, 16])
def test_pictures_are_those_of_training(tmp_path, patch_size):
    transparent = Image.fromarray(np.dstack([data.chelsea(), np.full(data.chelsea().shape[:2], 90, np.uint8)]))
    file = tmp_path / "cat.png"
    CAT.save(file)
    stored = [
        {"bytes": png(CAT)},
        {"bytes": png(CAT), "path": None, "max_pixels": 100 * 100, "min_pixels": None},
        {"bytes": png(CAT), "resized_height": 56, "resized_width": 84},
        {"bytes": png(transparent)},
        {"image": str(file), "max_pixels": 100 * 100},
        {"image": f"file://{file}"},
        str(file),
        file,
        transparent,
        Image.fromarray(data.camera()),
    ]
    for image in stored:
        ours = decode(image, patch_size)
        (theirs,) = decoded_by_verl([dict(image) if isinstance(image, dict) else image], patch_size)
        assert ours.mode == "RGB" and ours.size == theirs.size
        assert ours.tobytes() == theirs.tobytes()


def test_every_stored_form_of_a_picture(score, tmp_path):
    file = tmp_path / "cat.png"
    CAT.save(file)
    reference = score(bytes_dataset([CAT]))[0]
    feature = datasets.Features({"images": datasets.List(datasets.Image())})
    for dataset in (
        datasets.Dataset.from_dict({"images": [[str(file)]]}),
        datasets.Dataset.from_dict({"images": [[{"path": str(file), "bytes": None}]]}),
        datasets.Dataset.from_dict({"images": [[{"image": f"file://{file}"}]]}),
        datasets.Dataset.from_dict({"images": [[CAT]]}, features=feature),
        datasets.Dataset.from_dict({"images": [[str(file)]]}, features=feature),
    ):
        assert score(dataset)[0] == pytest.approx(reference, abs=1e-9)


def test_what_changes_the_picture_changes_the_key(score, tmp_path, encoded):
    def sized(**sizes) -> datasets.Dataset:
        return datasets.Dataset.from_dict({"images": [[{"bytes": png(CAT), **sizes}]]})

    large, small = score(sized(max_pixels=140 * 140)), score(sized(max_pixels=70 * 70))
    assert large != small

    file = tmp_path / "picture.png"
    by_path = datasets.Dataset.from_dict({"images": [[str(file)]]})
    CAT.save(file)
    before = score(by_path)
    COFFEE.save(file)
    assert score(by_path) != before

    # The alpha channel is dropped from a decoded picture and blended with white in one given as bytes, as in training.
    pixels = np.dstack([data.chelsea(), np.tile(np.linspace(0, 255, 451, dtype=np.uint8), (300, 1))])
    transparent = Image.fromarray(pixels)
    decoded = datasets.Dataset.from_dict(
        {"images": [[transparent]]}, features=datasets.Features({"images": datasets.List(datasets.Image())})
    )
    assert score(decoded) != score(bytes_dataset([transparent]))
    assert sum(encoded) == 6


def test_broken_images_name_the_row(score, tmp_path):
    truncated = datasets.Dataset.from_dict(
        {"images": [[{"bytes": png(CAT)}], None, [{"bytes": png(noise())[:5000]}]]},
    )
    with pytest.raises(ValueError, match="row 2: cannot decode an image: .*truncated"):
        score(truncated)
    with pytest.raises(ValueError, match="row 1: cannot decode an image: cannot identify"):
        score(datasets.Dataset.from_dict({"images": [None, [{"bytes": b"no picture"}]]}))
    with pytest.raises(ValueError, match="row 0, image 1: .*absent.png"):
        cat = tmp_path / "cat.png"
        CAT.save(cat)
        score(datasets.Dataset.from_dict({"images": [[str(cat), str(tmp_path / "absent.png")]]}))
    with pytest.raises(ValueError, match="row 0, image 0: .*fields: bytes"):
        score(datasets.Dataset.from_dict({"images": [[{"bytes": None}], [{"bytes": b""}]]}))
    with pytest.raises(ValueError, match="row 0: .*a list of images.*dict"):
        score(datasets.Dataset.from_dict({"images": [{"bytes": png(CAT)}]}))


def test_a_missing_column_is_named(score):
    with pytest.raises(ValueError, match="no column 'images'.*only: prompt, image"):
        score(datasets.Dataset.from_dict({"prompt": ["?"], "image": [None]}))


def test_features_that_are_not_finite_name_the_row(score, monkeypatch):
    monkeypatch.setattr(VisionTower, "features", lambda *args: [torch.ones(4, 4), torch.full((4, 4), math.nan)])
    with pytest.raises(ValueError, match="row 2: .*NaN"):
        score(bytes_dataset([CAT], None, [COFFEE]))


def test_a_kill_loses_at_most_the_running_batch(tiny_qwen25vl, tmp_path, encoded):
    rows, cache = 12, tmp_path / "cache"
    dataset = bytes_dataset(*[[noise(seed)] for seed in range(rows)])
    dataset.to_parquet(tmp_path / "train.parquet")
    slow = f"""
import time
from pathlib import Path
import datasets
from verl_durian import scoring
from verl_durian.vision_tower import VisionTower
scoring.PATCH_BUDGET = 1
features = VisionTower.features
def slow(self, *args):
    time.sleep(0.3)
    return features(self, *args)
VisionTower.features = slow
dataset = datasets.Dataset.from_parquet({str(tmp_path / "train.parquet")!r}, cache_dir={str(tmp_path)!r})
scoring.score_dataset(dataset, "images", {str(tiny_qwen25vl)!r}, Path({str(cache)!r}))
"""
    with subprocess.Popen([sys.executable, "-c", slow]) as process:
        while sum(len(file.read_bytes().splitlines()) for file in cache.glob("*/*.jsonl")) < 3:
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    kept = sum(len(file.read_bytes().splitlines()) for file in cache.glob("*/*.jsonl"))
    assert 3 <= kept < rows

    entropies = score_dataset(dataset, "images", str(tiny_qwen25vl), cache)
    assert sum(encoded) == rows - kept
    np.testing.assert_allclose(
        entropies, score_dataset(dataset, "images", str(tiny_qwen25vl), tmp_path / "fresh"), atol=1e-5
    )


def test_damaged_entries_do_not_spoil_the_rest(tmp_path):
    first, second = EntropyCache(tmp_path), EntropyCache(tmp_path)
    first.add({"a": 1.25, "b": 0.1})
    second.add({"c": 0.0})
    first.add({"d": 2.0})
    assert EntropyCache(tmp_path).load() == {"a": 1.25, "b": 0.1, "c": 0.0, "d": 2.0}

    unfinished = json.dumps({"key": "z", "entropy": 12.5}).encode()
    for number, line in enumerate(
        [unfinished[:end] for end in range(len(unfinished))]
        + [b'{"key": "z", "entropy": NaN}', b'{"key": "z", "entropy": "1"}', b'{"entropy": 1.0}', b"[1]", b"\xff\x00"]
        + [b'{"key": 3, "entropy": 1.0}']
    ):
        (tmp_path / f"{number}.jsonl").write_bytes(b'{"key": "e", "entropy": 0.5}\n' + line)
    assert EntropyCache(tmp_path).load() == {"a": 1.25, "b": 0.1, "c": 0.0, "d": 2.0, "e": 0.5}


def test_an_empty_cache(tmp_path):
    assert EntropyCache(tmp_path / "absent").load() == {}


def test_the_cache_folder_follows_the_environment(monkeypatch, tiny_qwen25vl, tmp_path):
    monkeypatch.delenv("VERL_DURIAN_CACHE", raising=False)
    assert scoring.default_cache_dir() == Path.home() / ".cache" / "verl_durian"
    monkeypatch.setenv("VERL_DURIAN_CACHE", str(tmp_path / "own"))
    score_dataset(bytes_dataset([CAT]), "images", str(tiny_qwen25vl))
    assert len(list((tmp_path / "own").glob("*/*.jsonl"))) == 1

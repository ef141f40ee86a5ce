# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, picture
from PIL import Image, ImageDraw
from qwen_vl_utils import fetch_image
from skimage import data
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from verl_durian.entropy.cache import Score
from verl_durian.entropy.media import Media, collect
from verl_durian.entropy.scorer import Scorer, to_arrays
from verl_durian.entropy.vision_tower import TowerSettings, VisionTower, read_tower
from verl_durian.entropy.visual_entropy import visual_entropy


def file(image: Image.Image) -> dict[str, bytes]:
    return {"bytes": encoded(image)}


CAT, GRASS, COFFEE = picture("chelsea"), picture("grass", 140, 56), picture("coffee", 70, 120)


def media(*images: Image.Image, videos: list | None = None) -> Media:
    collected = collect([file(image) for image in images], videos)
    assert collected is not None
    return collected


def scorer(folder: Path, max_patches: int = 2048, layer="merger") -> Scorer:
    settings, state = read_tower(str(folder), layer)
    return Scorer(settings, to_arrays(state), "cpu", max_patches)


def by_key(scores: list[Score]) -> dict[str, Score]:
    return {score.key: score for score in scores}


def assert_same(scores: dict[str, Score], expected: dict[str, Score]) -> None:
    """Entropies to 1e-6 nats, which the documentation promises for float32 on a CPU."""
    assert scores.keys() == expected.keys()
    for key, score in scores.items():
        assert (score.patches, score.error) == (expected[key].patches, expected[key].error)
        assert score.entropy == pytest.approx(expected[key].entropy, abs=1e-6)


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    """A scorer sets the number of torch's threads to one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_all_images_of_a_row_are_one_matrix(tiny_qwen25vl):
    rows = [[CAT], [GRASS, COFFEE], [COFFEE, CAT, GRASS]]
    expected = {}
    tower = VisionTower(*read_tower(str(tiny_qwen25vl)))
    for row in rows:
        features = torch.cat(tower.features(*tower.preprocess([fetch_image({"image": image}) for image in row])))
        expected[media(*row).key] = Score(media(*row).key, visual_entropy(features).item(), len(features))
    assert_same(by_key(scorer(tiny_qwen25vl).score([media(*row) for row in rows])), expected)


def test_a_video_counts_by_its_frames(tiny_qwen25vl):
    frames = [file(CAT.rotate(angle)) for angle in (0, 10, 20, 30)]
    video = {"video": frames, "min_pixels": 56 * 56, "max_pixels": 112 * 112}
    rows = [media(CAT), collect(None, [video]), collect([file(CAT)], [video])]
    scores = by_key(scorer(tiny_qwen25vl).score(rows))
    still, moving, both = (scores[row.key] for row in rows)
    assert both.patches == still.patches + moving.patches
    assert still.entropy > 0 and moving.entropy > 0 and both.entropy > 0


@pytest.mark.parametrize("layer", ["merger", "blocks"])
def test_entropies_do_not_depend_on_passes_calls_and_order(tiny_qwen25vl, layer):
    rows = [media(picture("astronaut", *size)) for size in [(56, 56), (112, 84), (140, 140), (84, 56), (64, 64)] * 3]
    rows.insert(4, media(GRASS, COFFEE))
    expected = by_key(scorer(tiny_qwen25vl, layer=layer).score(rows))
    assert len(expected) == 6
    for max_patches in (1, 50, 150, 100_000):
        assert_same(by_key(scorer(tiny_qwen25vl, max_patches, layer).score(rows[::-1])), expected)
    shared = scorer(tiny_qwen25vl, max_patches=64, layer=layer)
    with ThreadPoolExecutor(3) as callers:
        for scores in callers.map(shared.score, [rows[:5], rows[4:], rows]):
            assert_same(by_key(scores), {score.key: expected[score.key] for score in scores})


def test_a_pass_has_at_most_max_patches_or_one_image(tiny_qwen25vl, monkeypatch):
    passes, features = [], VisionTower.features

    def recorded(self, pixel_values, grid_thw):
        passes.append(grid_thw.prod(dim=-1).tolist())
        return features(self, pixel_values, grid_thw)

    monkeypatch.setattr(VisionTower, "features", recorded)
    rows = [media(picture("astronaut", *size)) for size in [(56, 56), (56, 57), (140, 140), (56, 58), (56, 59)]]
    rows.append(media(*[picture("astronaut", 56, size) for size in (60, 61, 62)]))
    scorer(tiny_qwen25vl, max_patches=40).score(rows)
    assert passes == [[16, 16], [100], [16, 16], [16], [16], [16]]
    assert scorer(tiny_qwen25vl).score([]) == []


def test_an_error_concerns_its_own_row_only(tiny_qwen25vl):
    broken = collect([file(CAT), {"bytes": b"no picture"}], None)
    cut = collect([{"bytes": file(CAT)["bytes"][:2000]}], None)
    strip = media(Image.new("RGB", (5990, 30)))  # rounded to patches, its aspect ratio is above the processor's 200
    scores = by_key(scorer(tiny_qwen25vl).score([media(CAT), broken, media(GRASS), cut, strip]))
    assert scores[broken.key].error.startswith("image 1: not a picture")
    assert scores[cut.key].error.startswith("image 0: ") and np.isnan(scores[cut.key].entropy)
    assert "absolute aspect ratio" in scores[strip.key].error
    assert [scores[media(image).key].error for image in (CAT, GRASS)] == ["", ""]


def test_features_that_are_not_finite_are_an_error_of_the_row(tiny_qwen25vl):
    settings, state = read_tower(str(tiny_qwen25vl))
    state["merger.mlp.2.bias"] = torch.full_like(state["merger.mlp.2.bias"], torch.nan)
    (score,) = Scorer(settings, to_arrays(state), "cpu", 2048).score([media(CAT)])
    assert score.error == "features contain NaN or inf"


@pytest.mark.parametrize("layer", ["merger", "blocks"])
def test_busier_pictures_score_higher(layer):
    """In the architecture of Qwen2.5-VL-7B with 2 of its 32 blocks and random weights: wider than the tiny towers."""
    config = Qwen2_5_VisionTransformerPretrainedModel.config_class(
        depth=2, fullatt_block_indexes=[1], hidden_size=1280, intermediate_size=3420, num_heads=16,
        out_hidden_size=3584, window_size=112,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = Qwen2_5_VisionTransformerPretrainedModel(config).state_dict()
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28})
    shape = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(shape).ellipse([60, 60, 150, 150], fill="red")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    texture = Image.fromarray(data.grass()[:224, :224]).convert("RGB")
    pictures = [Image.new("RGB", (224, 224), "blue"), shape, picture("astronaut", 224, 224), texture, noise]
    rows = [media(image) for image in pictures]
    settings = TowerSettings("real", "qwen2_5_vl", config, processor, None, layer, "float32", "", None)
    scores = by_key(Scorer(settings, to_arrays(state), "cpu", 2048).score(rows))
    assert_same(by_key(Scorer(settings, to_arrays(state), "cpu", 1).score(rows)), scores)  # whatever is in the pass
    entropies = [scores[row.key].entropy for row in rows]
    assert entropies == sorted(entropies) and len(set(entropies)) == len(entropies), entropies
    assert entropies[0] == 0

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import math
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from qwen_vl_utils import fetch_image
from safetensors.torch import load_file, save_file
from skimage import data
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from verl_durian.entropy.media import Media, collect
from verl_durian.entropy.scorer import Scorer, from_arrays, to_arrays
from verl_durian.entropy.vision_tower import TowerSettings, VisionTower, load_vision_tower, read_tower
from verl_durian.entropy.visual_entropy import visual_entropy


def picture(name: str, width: int = 112, height: int = 84) -> Image.Image:
    return Image.fromarray(getattr(data, name)()).convert("RGB").resize((width, height))


def file(image: Image.Image) -> dict[str, bytes]:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue()}


CAT, GRASS, COFFEE = picture("chelsea"), picture("grass", 140, 56), picture("coffee", 70, 120)


def media(*images: Image.Image, videos: list | None = None) -> Media:
    collected = collect([file(image) for image in images], videos)
    assert collected is not None
    return collected


def scorer(folder: Path, max_patches: int = 2048, threads: int = 1, layer="merger", precision="float32") -> Scorer:
    settings, state = read_tower(str(folder), layer, precision)
    return Scorer(settings, to_arrays(state), "cpu", max_patches, threads)


def by_key(scores) -> dict[str, tuple[float, int, int, str]]:
    return {score.key: (score.entropy, score.patches, score.images, score.error) for score in scores}


@pytest.fixture(autouse=True)
def threads():
    """A scorer takes one thread for itself."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_all_images_of_a_row_are_one_matrix(tiny_qwen25vl):
    rows = [[CAT], [GRASS, COFFEE], [COFFEE, CAT, GRASS]]
    scores = by_key(scorer(tiny_qwen25vl).score([media(*row) for row in rows]))
    tower = load_vision_tower(str(tiny_qwen25vl))
    for row in rows:
        features = torch.cat(tower.features(*tower.preprocess([fetch_image({"image": image}) for image in row])))
        assert scores[media(*row).key] == (visual_entropy(features).item(), len(features), len(row), "")


def test_a_video_counts_by_its_frames(tiny_qwen25vl):
    frames = [file(CAT.rotate(angle)) for angle in (0, 10, 20, 30)]
    limits = {"min_pixels": 56 * 56, "max_pixels": 112 * 112}
    still, moving, both = (
        media(CAT),
        collect(None, [{"video": frames, **limits}]),
        collect([file(CAT)], [{"video": frames, **limits}]),
    )
    scores = by_key(scorer(tiny_qwen25vl).score([still, moving, both]))
    patches = [scores[row.key][1] for row in (still, moving, both)]
    assert patches[2] == patches[0] + patches[1]
    assert [scores[row.key][2] for row in (still, moving, both)] == [1, 1, 2]
    assert all(scores[row.key][0] > 0 for row in (still, moving, both))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("layer", ["merger", "blocks"])
def test_passes_and_threads_and_order_change_nothing(tiny_qwen25vl, layer, precision):
    rows = [media(picture("astronaut", *size)) for size in [(56, 56), (112, 84), (140, 140), (84, 56), (64, 64)] * 3]
    rows.insert(4, media(GRASS, COFFEE))
    expected = by_key(scorer(tiny_qwen25vl, layer=layer, precision=precision).score(rows))
    assert len(expected) == 6
    for max_patches, threads in ((1, 1), (50, 2), (150, 3), (100_000, 2)):
        other = scorer(tiny_qwen25vl, max_patches, threads, layer, precision)
        assert by_key(other.score(rows[::-1])) == expected


def test_a_pass_holds_at_most_so_many_patches_or_one_row(tiny_qwen25vl, monkeypatch):
    passes, features = [], VisionTower.features

    def seen(self, pixel_values, grid_thw):
        passes.append(grid_thw.prod(dim=-1).tolist())
        return features(self, pixel_values, grid_thw)

    monkeypatch.setattr(VisionTower, "features", seen)
    rows = [media(picture("astronaut", *size)) for size in [(56, 56), (56, 57), (140, 140), (56, 58), (56, 59)]]
    scorer(tiny_qwen25vl, max_patches=40).score(rows)
    assert passes == [[16, 16], [100], [16, 16]]


def test_a_broken_image_costs_its_own_row_only(tiny_qwen25vl):
    broken = collect([file(CAT), {"bytes": b"no picture"}], None)
    cut = collect([{"bytes": file(CAT)["bytes"][:2000]}], None)
    scores = by_key(scorer(tiny_qwen25vl).score([media(CAT), broken, media(GRASS), cut]))
    assert scores[broken.key][3].startswith("image 1: not a picture") and scores[broken.key][2] == 2
    assert scores[cut.key][3].startswith("image 0: ")
    assert math.isnan(scores[cut.key][0])
    assert [scores[media(image).key][3] for image in (CAT, GRASS)] == ["", ""]


def test_features_that_are_not_finite_are_an_error_of_the_row(tiny_qwen25vl):
    settings, state = read_tower(str(tiny_qwen25vl))
    state["merger.mlp.2.bias"] = torch.full_like(state["merger.mlp.2.bias"], torch.nan)
    (score,) = Scorer(settings, to_arrays(state), "cpu", 2048, 1).score([media(CAT)])
    assert score.error == "features hold NaN or inf"


def test_nothing_to_score(tiny_qwen25vl):
    assert scorer(tiny_qwen25vl).score([]) == []


def test_several_threads_may_score_at_once(tiny_qwen25vl):
    sets = [[media(CAT), media(GRASS)], [media(CAT, GRASS)], [media(GRASS, CAT)]]
    shared = scorer(tiny_qwen25vl, max_patches=64)
    with ThreadPoolExecutor(len(sets)) as threads:
        told = list(threads.map(shared.score, sets))
    assert [by_key(scores) for scores in told] == [by_key(scorer(tiny_qwen25vl).score(rows)) for rows in sets]


def test_what_the_processor_refuses_is_an_error_of_the_row(tiny_qwen25vl):
    """Rounded to whole patches, the sides are in a ratio above the 200 that qwen_vl_utils checks before."""
    (score,) = scorer(tiny_qwen25vl).score([media(Image.new("RGB", (5990, 30)))])
    assert "absolute aspect ratio" in score.error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_become_arrays_and_back_on_the_same_memory(dtype):
    state = {"a": torch.randn(3, 4).to(dtype)}
    back = from_arrays(to_arrays(state))
    assert back["a"].dtype == dtype and torch.equal(back["a"], state["a"])
    assert back["a"].data_ptr() == state["a"].data_ptr()


def shape() -> Image.Image:
    image = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(image).ellipse([60, 60, 150, 150], fill="red")
    return image


def test_busier_pictures_score_higher_in_the_real_architecture():
    """Qwen2.5-VL-7B's vision tower, with random weights."""
    config = Qwen2_5_VisionTransformerPretrainedModel.config_class(
        depth=32, fullatt_block_indexes=[7, 15, 23, 31], hidden_size=1280, intermediate_size=3420, num_heads=16,
        out_hidden_size=3584, window_size=112,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = Qwen2_5_VisionTransformerPretrainedModel(config).state_dict()
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28})
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    texture = Image.fromarray(data.grass()[:224, :224]).convert("RGB")
    pictures = [Image.new("RGB", (224, 224), "blue"), shape(), picture("astronaut", 224, 224), texture, noise]
    rows = [media(image) for image in pictures]
    for layer in ("merger", "blocks"):
        settings = TowerSettings("real", "qwen2_5_vl", config, processor, None, layer, "float32", "", None)
        scores = by_key(Scorer(settings, to_arrays(state), "cpu", 2048, 1).score(rows))
        entropies = [scores[row.key][0] for row in rows]
        assert entropies == sorted(entropies) and len(set(entropies)) == len(entropies), (layer, entropies)
        assert entropies[0] == 0


def test_weights_may_come_from_memory_that_is_read_only(tiny_qwen25vl, tmp_path):
    settings, state = read_tower(str(tiny_qwen25vl))
    save_file(state, tmp_path / "state.safetensors")
    arrays = to_arrays(load_file(tmp_path / "state.safetensors"))
    for array in arrays.values():
        array.flags.writeable = False
    read_only = Scorer(settings, arrays, "cpu", 2048, 1).score([media(CAT)])
    assert by_key(read_only) == by_key(scorer(tiny_qwen25vl).score([media(CAT)]))

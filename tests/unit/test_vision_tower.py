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
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data
from tiny_model import make_tiny_qwen25vl
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from verl_durian import vision_tower
from verl_durian.vision_tower import load_vision_tower

PICTURES = [
    Image.fromarray(data.astronaut()),
    Image.fromarray(data.chelsea()).resize((90, 60)),
    Image.fromarray(data.coffee()).resize((60, 140)),
]


@pytest.fixture
def checkpoint(tiny_qwen25vl, tmp_path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_qwen25vl, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    """The tiny checkpoint in several files."""
    return make_tiny_qwen25vl(tmp_path_factory.mktemp("sharded"), max_shard_size="60KB")


def rewrite(checkpoint: Path, change) -> None:
    """Replaces the tensors of a single-file checkpoint."""
    file = checkpoint / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def language_files(sharded: Path) -> list[str]:
    """Files that hold no vision tensor."""
    weight_map = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    return sorted(set(weight_map.values()) - {file for name, file in weight_map.items() if "visual." in name})


def merger_features(folder: Path) -> list[torch.Tensor]:
    tower = load_vision_tower(str(folder))
    return tower.features(*tower.preprocess(PICTURES))


def assert_same(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_features_are_those_of_the_full_model(tiny_qwen25vl):
    inputs = AutoProcessor.from_pretrained(tiny_qwen25vl)(
        text=["<|image_pad|>" * len(PICTURES)], images=PICTURES, return_tensors="pt"
    )
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_qwen25vl).eval()
    with torch.no_grad():
        output = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])

    tower = load_vision_tower(str(tiny_qwen25vl))
    pixel_values, grid_thw = tower.preprocess(PICTURES)
    torch.testing.assert_close(pixel_values, inputs["pixel_values"], rtol=0, atol=0)
    features = tower.features(pixel_values, grid_thw)
    torch.testing.assert_close(torch.cat(features), output.pooler_output, rtol=0, atol=0)
    assert [tuple(image.shape) for image in features] == [(25, 128), (6, 128), (10, 128)]

    blocks = load_vision_tower(str(tiny_qwen25vl), feature_layer="blocks").features(pixel_values, grid_thw)
    torch.testing.assert_close(torch.cat(blocks), output.last_hidden_state, rtol=0, atol=0)
    assert [tuple(image.shape) for image in blocks] == [(100, 128), (24, 128), (40, 128)]


@pytest.mark.parametrize("layer", ["merger", "blocks"])
def test_images_do_not_see_each_other(tiny_qwen25vl, layer):
    tower = load_vision_tower(str(tiny_qwen25vl), feature_layer=layer)
    together = tower.features(*tower.preprocess(PICTURES))
    for picture, features in zip(PICTURES, together, strict=True):
        torch.testing.assert_close(tower.features(*tower.preprocess([picture]))[0], features)


def test_shards_and_both_names_give_the_same_tower(tiny_qwen25vl, sharded, checkpoint):
    rewrite(checkpoint, lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()})
    assert_same(merger_features(sharded), merger_features(tiny_qwen25vl))
    assert_same(merger_features(checkpoint), merger_features(tiny_qwen25vl))
    fingerprints = {load_vision_tower(str(folder)).fingerprint for folder in (tiny_qwen25vl, sharded, checkpoint)}
    assert len(fingerprints) == 1


def test_files_of_the_language_model_are_not_needed(tiny_qwen25vl, sharded, tmp_path):
    folder = Path(shutil.copytree(sharded, tmp_path / "checkpoint"))
    removed = language_files(folder)
    assert removed
    for file in removed:
        (folder / file).unlink()
    assert_same(merger_features(folder), merger_features(tiny_qwen25vl))


def test_only_vision_tensors_are_read(tiny_qwen25vl, monkeypatch):
    read = []

    class Spy:
        def __init__(self, *args, **kwargs):
            self.file = safe_open(*args, **kwargs)

        def __enter__(self):
            self.tensors = self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def keys(self):
            return self.tensors.keys()

        def get_tensor(self, name):
            read.append(name)
            return self.tensors.get_tensor(name)

    safe_open = vision_tower.safe_open
    monkeypatch.setattr(vision_tower, "safe_open", Spy)
    load_vision_tower(str(tiny_qwen25vl))
    assert read and all(name.startswith("visual.") for name in read)


def test_the_tower_runs_in_float32(checkpoint):
    rewrite(checkpoint, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    tower = load_vision_tower(str(checkpoint))
    assert {parameter.dtype for parameter in tower.model.parameters()} == {torch.float32}
    assert tower.features(*tower.preprocess(PICTURES))[0].dtype == torch.float32


def test_a_picture_of_one_colour_has_equal_patches(tiny_qwen25vl):
    tower = load_vision_tower(str(tiny_qwen25vl))
    (features,) = tower.features(*tower.preprocess([Image.new("RGB", (140, 140), (120, 160, 90))]))
    torch.testing.assert_close(features, features[:1].expand_as(features))


def test_the_fingerprint_follows_weights_processor_and_layer(tiny_qwen25vl, checkpoint):
    fingerprints = [load_vision_tower(str(tiny_qwen25vl)).fingerprint]
    fingerprints.append(load_vision_tower(str(tiny_qwen25vl), feature_layer="blocks").fingerprint)
    assert load_vision_tower(str(checkpoint)).fingerprint == fingerprints[0]

    processor = json.loads((checkpoint / "processor_config.json").read_text())
    processor["image_processor"]["size"]["longest_edge"] = 280 * 280
    (checkpoint / "processor_config.json").write_text(json.dumps(processor))
    fingerprints.append(load_vision_tower(str(checkpoint)).fingerprint)

    config = json.loads((checkpoint / "config.json").read_text())
    config["vision_config"]["fullatt_block_indexes"] = [0, 1]
    (checkpoint / "config.json").write_text(json.dumps(config))
    fingerprints.append(load_vision_tower(str(checkpoint)).fingerprint)

    rewrite(checkpoint, lambda tensors: tensors | {"visual.merger.ln_q.weight": torch.full((128,), 2.0)})
    fingerprints.append(load_vision_tower(str(checkpoint)).fingerprint)
    assert len(set(fingerprints)) == len(fingerprints)

    rewrite(checkpoint, lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    assert load_vision_tower(str(checkpoint)).fingerprint == fingerprints[-1]


def test_missing_and_unexpected_tensors_are_named(checkpoint):
    def without_bias(tensors):
        return {name: tensor for name, tensor in tensors.items() if name != "visual.blocks.1.attn.qkv.bias"}

    whole = (checkpoint / "model.safetensors").read_bytes()
    rewrite(checkpoint, lambda tensors: tensors | {"visual.blocks.7.bias": torch.ones(3)})
    with pytest.raises(ValueError, match=r"unexpected tensors .*: blocks\.7\.bias"):
        load_vision_tower(str(checkpoint))
    (checkpoint / "model.safetensors").write_bytes(whole)
    rewrite(checkpoint, without_bias)
    with pytest.raises(ValueError, match=r"missing tensors .*: blocks\.1\.attn\.qkv\.bias"):
        load_vision_tower(str(checkpoint))


def test_a_checkpoint_without_safetensors_is_refused(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no model\.safetensors.*\.bin"):
        load_vision_tower(str(checkpoint))


def test_unknown_models_and_layers_are_refused(tiny_qwen25vl, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "llava"}))
    with pytest.raises(ValueError, match="'llava'.*qwen2_5_vl"):
        load_vision_tower(str(checkpoint))
    with pytest.raises(ValueError, match="'pixels'.*merger, blocks"):
        load_vision_tower(str(tiny_qwen25vl), feature_layer="pixels")


@pytest.fixture
def hub_cache(sharded, tmp_path, monkeypatch) -> Path:
    """The sharded checkpoint as someone/tiny in a local copy of the Hub, without network. Returns its snapshot."""
    model, commit = tmp_path / "models--someone--tiny", "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return Path(shutil.copytree(sharded, model / "snapshots" / commit))


def test_a_hub_model_is_found_offline(hub_cache, tiny_qwen25vl):
    for file in language_files(hub_cache):
        (hub_cache / file).unlink()
    tower = load_vision_tower("someone/tiny")
    assert tower.fingerprint == load_vision_tower(str(tiny_qwen25vl)).fingerprint


def test_only_settings_and_vision_files_are_downloaded(hub_cache, monkeypatch):
    asked = []

    def download(repo, allow_patterns):
        asked.extend(allow_patterns)
        return str(hub_cache)

    monkeypatch.setattr(vision_tower, "snapshot_download", download)
    load_vision_tower("someone/tiny")
    weights = {name for name in asked if name.endswith(".safetensors")}
    assert weights and weights.isdisjoint(language_files(hub_cache))
    assert not any("*" in name for name in asked)

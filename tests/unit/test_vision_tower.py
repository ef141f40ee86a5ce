# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from qwen_vl_utils import fetch_video, vision_process
from safetensors.torch import load_file, save_file
from skimage import data
from tiny_model import make_tiny_qwen2vl, make_tiny_qwen3vl, make_tiny_qwen25vl
from transformers import AutoModelForImageTextToText, AutoProcessor
from verl.utils.tokenizer.tokenizer import build_multimodal_processor_inputs

from verl_durian.entropy import vision_tower
from verl_durian.entropy.vision_tower import FAMILIES, Precision, VisionTower, read_tower
from verl_durian.entropy.visual_entropy import visual_entropy

PICTURES = [
    Image.fromarray(data.astronaut()),
    Image.fromarray(data.chelsea()).resize((90, 60)),
    Image.fromarray(data.coffee()).resize((60, 140)),
    Image.fromarray(data.rocket()).resize((90, 60)),
]
ORDERS = [[3, 2, 1, 0], [2, 0, 3, 1], [1, 3]]

MAKERS = {  # one per family
    "qwen2_vl": make_tiny_qwen2vl,
    "qwen2_5_vl": make_tiny_qwen25vl,
    "qwen3_vl": make_tiny_qwen3vl,
    "qwen3_vl_moe": partial(make_tiny_qwen3vl, experts=True),
}

assert MAKERS.keys() == FAMILIES.keys()

every_layer = pytest.mark.parametrize("layer", ["merger", "blocks"])
every_precision = pytest.mark.parametrize("precision", ["float32", "bfloat16"])


@pytest.fixture(scope="module", params=MAKERS)
def folder(request, tmp_path_factory) -> Path:
    """The tiny checkpoint of each family."""
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def checkpoint(tiny_qwen25vl, tmp_path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_qwen25vl, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    """The tiny checkpoint in several files."""
    return make_tiny_qwen25vl(tmp_path_factory.mktemp("sharded"), max_shard_size="60KB")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the workers of a scoring run have it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rewrite(checkpoint: Path, change) -> None:
    """Replaces the tensors of a single-file checkpoint."""
    file = checkpoint / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def edit(file: Path, path: str, value: Any) -> None:
    """Sets one value of a JSON file."""
    content = inner = json.loads(file.read_text())
    *keys, last = path.split()
    for key in keys:
        inner = inner[key]
    inner[last] = value
    file.write_text(json.dumps(content))


def load(folder: Path | str, **options: str) -> VisionTower:
    return VisionTower(*read_tower(str(folder), **options))


def language_files(sharded: Path) -> list[str]:
    """Files without vision tensors."""
    weight_map = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    return sorted(set(weight_map.values()) - {file for name, file in weight_map.items() if "visual." in name})


def assert_same(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one, other)


def assert_same_entropies(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    """To 1e-6 nats, which the documentation promises for float32 on a CPU."""
    assert [len(one) for one in left] == [len(other) for other in right]
    for one, other in zip(left, right, strict=True):
        assert visual_entropy(one).item() == pytest.approx(visual_entropy(other).item(), abs=1e-6)


def read_video(folder: Path, picture: Image.Image, frames: int = 5) -> tuple[torch.Tensor, dict[str, Any]]:
    """A picture that turns, as verl reads it from a list of frames; an odd number of them is made even."""
    video = [picture.resize((112, 84)).rotate(10 * frame) for frame in range(frames)]
    patch_size = read_tower(str(folder))[0].image_processor.patch_size
    return fetch_video(
        {"video": video, "min_pixels": 56 * 56, "max_pixels": 112 * 112},
        image_patch_size=patch_size,
        return_video_metadata=True,
    )


class FullModel:
    """The checkpoint as transformers loads it, with its language model."""

    def __init__(self, folder: Path, precision: str):
        self.processor = AutoProcessor.from_pretrained(folder)
        self.visual = AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, precision)).model.visual

    @torch.no_grad()
    def features(self, layer: str, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
        """What the tower gives to the language model, or what goes into its last merger."""
        entered = []
        hook = self.visual.merger.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
        output = self.visual.eval()(pixel_values, grid_thw=grid_thw)
        hook.remove()
        return (output.pooler_output if layer == "merger" else entered[0]).float()


@every_layer
@every_precision
def test_features_are_those_of_the_full_model(folder, layer, precision):
    full = FullModel(folder, precision)
    video = read_video(folder, PICTURES[0])
    inputs = build_multimodal_processor_inputs(
        full.processor,
        text=["<|image_pad|>" * len(PICTURES) + "<|vision_start|><|video_pad|><|vision_end|>"],
        images=PICTURES,
        videos=[video],
    )
    tower = load(folder, feature_layer=layer, precision=precision)
    pixel_values, grid_thw = tower.preprocess(PICTURES, [video])
    assert torch.equal(pixel_values, torch.cat([inputs["pixel_values"], inputs["pixel_values_videos"]]))
    assert torch.equal(grid_thw, torch.cat([inputs["image_grid_thw"], inputs["video_grid_thw"]]))
    assert grid_thw[:, 0].tolist() == [1, 1, 1, 1, 3]

    features = tower.features(pixel_values, grid_thw)
    patches = grid_thw.prod(dim=-1)
    assert torch.equal(torch.cat(features), full.features(layer, pixel_values, grid_thw))
    assert [len(of_one) for of_one in features] == (patches if layer == "blocks" else patches // 4).tolist()
    (of_video,) = tower.features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    assert torch.equal(of_video, full.features(layer, inputs["pixel_values_videos"], inputs["video_grid_thw"]))


@every_layer
def test_entropies_do_not_depend_on_the_neighbours(folder, layer):
    tower = load(folder, feature_layer=layer)
    alone = [tower.features(*tower.preprocess([picture]))[0] for picture in PICTURES]
    for order in ORDERS:
        together = tower.features(*tower.preprocess([PICTURES[i] for i in order]))
        assert_same_entropies(together, [alone[i] for i in order])
    videos = [read_video(folder, picture) for picture in PICTURES[:2]]
    moving = [tower.features(*tower.preprocess([], [video]))[0] for video in videos]
    assert_same_entropies(tower.features(*tower.preprocess(PICTURES, videos)), alone + moving)


def test_a_video_without_settings_is_refused(checkpoint):
    processors = json.loads((checkpoint / "processor_config.json").read_text())
    video = read_video(checkpoint, PICTURES[0])
    del processors["video_processor"]
    (checkpoint / "processor_config.json").write_text(json.dumps(processors))
    tower = load(checkpoint)
    assert len(tower.features(*tower.preprocess(PICTURES))) == len(PICTURES)
    with pytest.raises(ValueError, match=r"checkpoint has no settings for videos: add .*video_preprocessor_config"):
        tower.preprocess(PICTURES, [video])


def test_every_layout_of_a_checkpoint_gives_the_same_tower(tiny_qwen25vl, sharded, checkpoint):
    """Shards; the names of tensors in older checkpoints; and files of their own for the settings of videos."""
    processors = json.loads((checkpoint / "processor_config.json").read_text())
    (checkpoint / "processor_config.json").unlink()
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(processors["image_processor"]))
    (checkpoint / "video_preprocessor_config.json").write_text(json.dumps(processors["video_processor"]))
    rewrite(checkpoint, lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()})
    for folder in (sharded, checkpoint):
        assert fingerprint(folder) == fingerprint(tiny_qwen25vl)
        tower, same = load(folder), load(tiny_qwen25vl)
        assert_same(tower.features(*tower.preprocess(PICTURES)), same.features(*same.preprocess(PICTURES)))


@every_precision
def test_the_tower_uses_read_only_memory_in_place(folder, precision, tmp_path):
    settings, state = read_tower(str(folder), precision=precision)
    mapped = {}
    for number, (name, tensor) in enumerate(state.items()):
        file = tmp_path / str(number)
        file.write_bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # a write would end the process
            pages = torch.from_numpy(np.memmap(file, mode="r"))
        mapped[name] = pages.view(tensor.dtype).view(tensor.shape)

    tower = VisionTower(settings, mapped)
    parameters = dict(tower.model.named_parameters())
    assert parameters.keys() == mapped.keys()
    assert {parameter.dtype for parameter in parameters.values()} == {getattr(torch, precision)}
    assert all(parameters[name].data_ptr() == tensor.data_ptr() for name, tensor in mapped.items())
    inputs = tower.preprocess(PICTURES)
    assert_same(tower.features(*inputs), VisionTower(settings, state).features(*inputs))


def fingerprint(folder: Path, device_type: str = "cpu", **options: str) -> str:
    return read_tower(str(folder), **options)[0].fingerprint(device_type)


@pytest.mark.parametrize(
    ("file", "path", "value", "same"),
    [
        ("processor_config.json", "image_processor size longest_edge", 280 * 280, False),
        ("processor_config.json", "image_processor image_mean", [0.5, 0.5, 0.5], False),
        ("processor_config.json", "video_processor size longest_edge", 280 * 280, False),
        ("config.json", "vision_config window_size", 112, False),
        ("config.json", "vision_config transformers_version", "5.0.0", True),
        ("processor_config.json", "image_processor transformers_version", "5.0.0", True),
        ("processor_config.json", "video_processor transformers_version", "5.0.0", True),
    ],
)
def test_the_fingerprint_follows_the_settings_but_not_the_release_that_saved_them(checkpoint, file, path, value, same):
    before = fingerprint(checkpoint)
    edit(checkpoint / file, path, value)
    assert (fingerprint(checkpoint) == before) is same


def test_the_fingerprint_follows_the_weights_of_the_tower_alone(checkpoint):
    before = fingerprint(checkpoint)
    rewrite(checkpoint, lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    assert fingerprint(checkpoint) == before
    nearly_one = torch.ones(128)
    nearly_one[-1] += 1e-6
    rewrite(checkpoint, lambda tensors: tensors | {"visual.merger.ln_q.weight": nearly_one})
    assert fingerprint(checkpoint) != before


def test_the_fingerprint_follows_options_packages_environment_and_attention(tiny_qwen25vl, monkeypatch, tmp_path):
    settings = {precision: read_tower(str(tiny_qwen25vl), precision=precision)[0] for precision in get_args(Precision)}
    variants = [each.fingerprint(device) for each in settings.values() for device in ("cpu", "cuda")]
    assert len({*variants, fingerprint(tiny_qwen25vl, feature_layer="blocks")}) == 5
    before, version = settings["float32"].fingerprint("cpu"), vision_tower.version
    for package in ("torch", "torchvision", "transformers", "pillow", "qwen-vl-utils"):
        with monkeypatch.context() as patch:
            patch.setattr(vision_tower, "version", lambda name, other=package: "0" if name == other else version(name))
            assert settings["float32"].fingerprint("cpu") != before
    for name, value in (("MODEL_SEQ_LEN", 4096), ("FORCE_QWENVL_VIDEO_READER", "another")):
        with monkeypatch.context() as patch:
            patch.setattr(vision_process, name, value)
            assert settings["float32"].fingerprint("cpu") != before

    cases = [("bfloat16", "cuda"), ("float32", "cuda"), ("bfloat16", "cpu")]
    without = [settings[precision].fingerprint(device) for precision, device in cases]
    (tmp_path / "flash_attn.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    installed = [settings[precision].fingerprint(device) for precision, device in cases]
    assert installed[0] != without[0] and installed[1:] == without[1:]


def test_a_checkpoint_that_cannot_be_used_is_named(checkpoint):
    weights = checkpoint / "model.safetensors"
    complete = weights.read_bytes()
    rewrite(checkpoint, lambda tensors: tensors | {"visual.blocks.7.bias": torch.ones(3)})
    with pytest.raises(ValueError, match=r"unexpected tensors .*: blocks\.7\.bias"):
        load(checkpoint)
    weights.write_bytes(complete)
    lost = "visual.blocks.1.attn.qkv.bias"
    rewrite(checkpoint, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != lost})
    with pytest.raises(ValueError, match=r"missing tensors .*: blocks\.1\.attn\.qkv\.bias"):
        load(checkpoint)
    weights.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load(checkpoint)
    weights.rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no model\.safetensors.*\.bin"):
        load(checkpoint)
    weights.write_bytes(complete)
    edit(checkpoint / "config.json", "model_type", "llava")
    with pytest.raises(ValueError, match="'llava' is not supported, only: qwen2_5_vl, qwen2_vl, qwen3_vl, qwen3_vl_"):
        load(checkpoint)
    (checkpoint / "config.json").write_text("")
    with pytest.raises(OSError, match="config.json' is not a valid JSON file"):
        load(checkpoint)
    (checkpoint / "model.safetensors.index.json").write_text("")
    with pytest.raises(ValueError, match="index.json is damaged .*: copy or download it again"):
        load(checkpoint)
    with pytest.raises(ValueError, match="no such folder, and no accessible model on the Hub"):
        load("absent/model/folder")


@pytest.fixture
def hub_cache(sharded, tmp_path, monkeypatch) -> Path:
    """The sharded checkpoint as someone/tiny in a local copy of the Hub, without network. Returns its snapshot."""
    model, commit = tmp_path / "models--someone--tiny", "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return Path(shutil.copytree(sharded, model / "snapshots" / commit))


def test_of_a_hub_model_only_settings_and_vision_files_are_needed(hub_cache, tiny_qwen25vl, monkeypatch):
    asked = []

    def download(repo, allow_patterns):
        asked.extend(allow_patterns)
        return huggingface_hub.snapshot_download(repo, allow_patterns=allow_patterns)

    monkeypatch.setattr(vision_tower, "snapshot_download", download)
    absent = language_files(hub_cache)
    for file in absent:
        (hub_cache / file).unlink()
    found, local = read_tower("someone/tiny")[0], read_tower(str(tiny_qwen25vl))[0]
    assert found.fingerprint("cpu") == local.fingerprint("cpu")
    assert (found.revision, local.revision) == ("0" * 40, None)
    weights = {name for name in asked if name.endswith(".safetensors")}
    assert weights and weights.isdisjoint(absent) and not any("*" in name for name in asked)
    assert "video_preprocessor_config.json" in asked

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The vision tower of a checkpoint, without its language model.

`read_tower` reads only the tensors of the tower: 0.7 of the 8.3 billion parameters of Qwen2.5-VL-7B.
"""

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import snapshot_download
from PIL import Image
from qwen_vl_utils import vision_process
from safetensors import SafetensorError, safe_open

from verl_durian.entropy.visual_entropy import ROUNDING

FAMILIES = {
    "qwen2_5_vl": "Qwen2_5_VisionTransformerPretrainedModel",
    "qwen2_vl": "Qwen2VisionTransformerPretrainedModel",
    "qwen3_vl": "Qwen3VLVisionModel",
    "qwen3_vl_moe": "Qwen3VLMoeVisionModel",
}
"""Supported model families: `model_type` of the checkpoint, and class of its vision tower in transformers."""

FeatureLayer = Literal["merger", "blocks"]
"""The output of the tower that is used as the feature matrix F of Eq. 5.

`merger`: after the patch merger. d = width of the language model, P = number of image tokens.
`blocks`: after the last block, before the merger. d = width of the tower, P = 4 times as many (2 x 2 patches a token).
"""

Precision = Literal["float32", "bfloat16"]
"""Type of the tower's weights and activations, independent of the type of the stored weights.

bfloat16 adds rounding noise in all directions, which matters where most of the spectrum is empty: a thin line scored
2.93 nats instead of 2.74 (shape of the 7B tower, random weights). Photographs changed by less than 0.01.
"""

_INDEX = "model.safetensors.index.json"
_SETTINGS = ["config.json", _INDEX, "preprocessor_config.json", "processor_config.json"]
_SETTINGS += ["video_preprocessor_config.json"]
_PREFIXES = ("visual.", "model.visual.")  # in published checkpoints, and in those that transformers saves
_PACKAGES = ("datasets", "pillow", "qwen-vl-utils", "torch", "torchvision", "transformers")  # from file to features
_METHOD = 1  # increase when a change of this package changes scores by more than rounding
_OPTIONAL = ("decord", "flash-attn", "torchcodec")  # decide how videos are read and attention is computed


@dataclass(frozen=True)
class TowerSettings:
    """The settings of a tower: small and picklable."""

    model_path: str
    model_type: str
    """A key of `FAMILIES`."""
    config: Any
    """Vision configuration of transformers."""
    image_processor: Any
    video_processor: Any
    """None if the checkpoint has no settings for videos."""
    feature_layer: FeatureLayer
    precision: Precision
    weights: str
    """SHA-256 of the stored tensors, independent of the file layout."""
    revision: str | None
    """Commit of a snapshot of the Hub; None for a local folder."""

    @property
    def remote_code(self) -> list[str]:
        """Modules of processors that come with the checkpoint; their names contain a hash of the code or a commit."""
        modules = [type(processor).__module__ for processor in (self.image_processor, self.video_processor)]
        return [module for module in modules if module.startswith("transformers_modules.")]

    def attention(self, device_type: str) -> str:
        """Attention implementation of transformers: FlashAttention if supported and installed, else SDPA."""
        flash = device_type == "cuda" and self.precision == "bfloat16" and find_spec("flash_attn") is not None
        return "flash_attention_2" if flash else "sdpa"

    def fingerprint(self, device_type: str) -> str:
        """Returns a hash of everything that determines the features of an image on a device type (`cpu`, `cuda`).

        The constants of qwen_vl_utils are limits for resizing and sampling; some come from environment variables.
        """
        constants = {name: value for name, value in vars(vision_process).items() if name.isupper()}
        parts = [
            self.weights,
            self.model_type,
            _plain(self.config.to_diff_dict()),
            _plain(self.image_processor.to_dict()),
            self.video_processor and _plain(self.video_processor.to_dict()),
            self.feature_layer,
            self.precision,
            device_type,
            self.attention(device_type),
            {package: version(package) for package in _PACKAGES},
            {package: _version(package) for package in _OPTIONAL},
            {name: value for name, value in constants.items() if isinstance(value, int | float | str | None)},
            ROUNDING,
            _METHOD,
            *self.remote_code,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


class VisionTower:
    """A frozen vision tower (`model`, a module of transformers) with the processors of its checkpoint.

    On a CPU the tensors of `state` are used as parameters without a copy. They are only read, so their memory may be
    read-only or shared with other processes.

    Args:
        settings, state: From `read_tower`.
        device: Device of the tower.

    Raises:
        ValueError: tensors are missing or unexpected; the message names them.
    """

    def __init__(self, settings: TowerSettings, state: Mapping[str, torch.Tensor], device: torch.device | str = "cpu"):
        self.settings = settings
        model, report = _tower_class(settings.model_path, settings.model_type).from_pretrained(
            None,
            config=settings.config,
            state_dict=dict(state),
            dtype=getattr(torch, settings.precision),
            attn_implementation=settings.attention(torch.device(device).type),
            output_loading_info=True,
        )
        for problem in ("missing", "unexpected"):
            if names := sorted(report[f"{problem}_keys"]):
                raise ValueError(f"{problem} tensors in the vision tower of {settings.model_path}: {', '.join(names)}")
        self.model = model.to(device).eval().requires_grad_(False)

    def preprocess(
        self, images: Sequence[Image.Image], videos: Sequence[tuple[torch.Tensor, dict[str, Any]]] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Converts images and videos of `media.decode` to normalized patches. All frames are used.

        Returns:
            `pixel_values`, `(patches of all, values of a patch)`; and `grid_thw`, the number of patches in time, height
            and width, `(images + videos, 3)`.

        Raises:
            ValueError: there are videos, but the checkpoint has no settings for videos.
        """
        parts = []
        if images:
            inputs = self.settings.image_processor(images=list(images), return_tensors="pt")
            parts.append((inputs["pixel_values"], inputs["image_grid_thw"]))
        if videos:
            if self.settings.video_processor is None:
                raise ValueError(
                    f"{self.settings.model_path} has no settings for videos: add the video_preprocessor_config.json "
                    "of its base model"
                )
            frames, metadata = map(list, zip(*videos, strict=True))
            # As in verl: fetch_video has sampled the frames.
            inputs = self.settings.video_processor(
                videos=frames, video_metadata=metadata, do_sample_frames=False, return_tensors="pt"
            )
            parts.append((inputs["pixel_values_videos"], inputs["video_grid_thw"]))
        pixel_values, grid_thw = map(torch.cat, zip(*parts, strict=True))
        return pixel_values, grid_thw

    @torch.no_grad()
    def features(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> list[torch.Tensor]:
        """Encodes the images and videos of one `preprocess` call, or of several concatenated, in one forward pass.

        Attention stays within an image or frame, so other images in the pass only cause rounding differences: in
        float32 on a CPU, visual entropies differed by at most 7e-8 nats (width of the 7B tower, random weights).

        Returns:
            F of each image and video, `(num_patches, dim)`, float32, on the device of the tower. With `blocks` the
            patches are in the order of the attention windows, if the tower has any.
        """
        device, merger = self.model.device, self.settings.feature_layer == "merger"
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 would round float32 to 10 bits
            output = self.model(pixel_values.to(device, self.model.dtype), grid_thw=grid_thw.to(device))
        features = output.pooler_output if merger else output.last_hidden_state
        patches_per_row = self.model.spatial_merge_size**2 if merger else 1
        return list(features.float().split((grid_thw.prod(dim=-1) // patches_per_row).tolist()))


def read_tower(
    model_path: str,
    feature_layer: FeatureLayer = "merger",
    precision: Precision = "float32",
    config_path: str | None = None,
    processor: Any = None,
) -> tuple[TowerSettings, dict[str, torch.Tensor]]:
    """Reads the vision tower and the processors of a checkpoint without executing code of the checkpoint.

    Args:
        model_path: Local folder, or id of a model on the Hugging Face Hub.
        feature_layer, precision: See above.
        config_path: Local folder or id on the Hub of the config.json. Default: `model_path`.
        processor: The processor of the training. Default: that of the checkpoint.

    Returns:
        The settings; and the tensors by their names inside the tower, in `precision`, on the CPU.

    Raises:
        ValueError: unsupported model_type, or a checkpoint that is missing, damaged or without safetensors.
    """
    folder, files, revision = _tower_files(model_path)
    config_source = config_path or folder
    model_type = transformers.PretrainedConfig.get_config_dict(config_source)[0].get("model_type", "")
    config = _tower_class(model_path, model_type).config_class.from_pretrained(config_source)
    image_processor = getattr(processor, "image_processor", None)
    video_processor = getattr(processor, "video_processor", None)
    if image_processor is None:
        image_processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        with suppress(OSError):  # the checkpoint has no settings for videos
            video_processor = transformers.AutoVideoProcessor.from_pretrained(folder, trust_remote_code=False)
    state = _read_tensors(files)
    digest, processors = _hash(state), (image_processor, video_processor)
    settings = TowerSettings(model_path, model_type, config, *processors, feature_layer, precision, digest, revision)
    return settings, {name: tensor.to(getattr(torch, precision)) for name, tensor in state.items()}


def _tower_class(model_path: str, model_type: str) -> Any:
    """The class of the tower in transformers."""
    if model_type not in FAMILIES:
        raise ValueError(f"{model_path}: model_type {model_type!r} is not supported, only: {', '.join(FAMILIES)}")
    module = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    return getattr(module, FAMILIES[model_type])


def _tower_files(model_path: str) -> tuple[Path, list[Path], str | None]:
    """The folder of a checkpoint, its files with vision tensors, downloaded if missing, and its commit on the Hub."""
    folder = Path(model_path).expanduser()
    local = folder.is_dir()
    if not local:
        try:
            folder = Path(snapshot_download(model_path, allow_patterns=_SETTINGS))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{model_path}: no such folder, and no accessible model on the Hub ({type(error).__name__})"
            ) from error
    names = ["model.safetensors"]
    if (folder / _INDEX).exists():
        with _file_named(folder / _INDEX):
            weight_map = json.loads((folder / _INDEX).read_text())["weight_map"]
        names = sorted({file for tensor, file in weight_map.items() if tensor.startswith(_PREFIXES)})
    if not local:
        snapshot_download(model_path, allow_patterns=names)
    absent = [name for name in names if not (folder / name).exists()]
    if absent or not names:
        raise ValueError(
            f"{model_path} has no {', '.join(absent) or 'vision tensors'}. Only safetensors files are supported. To "
            "convert a checkpoint of .bin files, load it and call save_pretrained"
        )
    # A folder in the cache of the Hub is named after its commit.
    return folder, [folder / name for name in names], None if local else folder.name


@contextmanager
def _file_named(file: Path) -> Iterator[None]:
    """Adds the name of a damaged file to an error."""
    try:
        yield
    except (ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"{file} is damaged ({error}): copy or download it again") from error


def _read_tensors(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The tensors of the tower with their names inside the tower. No other tensor is read."""
    state = {}
    for file in files:
        with _file_named(file), safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, safe_open is not a mapping
                if name.startswith(_PREFIXES):
                    state[name.split("visual.", 1)[1]] = tensors.get_tensor(name)
    return state


def _hash(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the version of transformers that saved them."""
    return {key: value for key, value in settings.items() if key != "transformers_version"}

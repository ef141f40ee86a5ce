# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Model families whose vision tower is supported. To add one, write a class below and add it to `FAMILIES`."""

import importlib
from typing import Any, Literal

import torch
import transformers

FeatureLayer = Literal["merger", "blocks"]
"""The output of the tower that is used as the feature matrix F of Eq. 5.

`merger`: after the patch merger. d = width of the language model, P = number of image tokens.
`blocks`: after the last block, before the merger. d = width of the tower, P = 4 times as many (2 x 2 patches a token).
"""


class Family:
    """A model family: what is specific to its vision tower."""

    model_type: str
    """As in `config.json`, and in the module names of transformers."""
    tower: str
    """Name of the tower's class in transformers."""

    @classmethod
    def tower_class(cls) -> Any:
        """Imports the class of the tower. A transformers without it still supports the other families.

        Raises:
            ImportError: the installed transformers lacks the class.
        """
        module = f"transformers.models.{cls.model_type}.modeling_{cls.model_type}"
        try:
            return getattr(importlib.import_module(module), cls.tower)
        except (ImportError, AttributeError) as error:
            raise ImportError(
                f"transformers {transformers.__version__} lacks {module}.{cls.tower}, the vision tower of "
                f"{cls.model_type}: install a newer release"
            ) from error

    @staticmethod
    def encode(
        model: Any, pixel_values: torch.Tensor, grid_thw: torch.Tensor, feature_layer: FeatureLayer
    ) -> torch.Tensor:
        """F of all images and videos, concatenated, shape (P of all, d).

        `pixel_values` has shape (patches of all, values of a patch), `grid_thw` has shape (images + videos, 3).
        """
        output = model(pixel_values, grid_thw=grid_thw)
        return output.pooler_output if feature_layer == "merger" else output.last_hidden_state


class Qwen2VL(Family):
    """Qwen2-VL."""

    model_type = "qwen2_vl"
    tower = "Qwen2VisionTransformerPretrainedModel"


class Qwen25VL(Family):
    """Qwen2.5-VL. After its blocks the patches of an image are in the order of the attention windows."""

    model_type = "qwen2_5_vl"
    tower = "Qwen2_5_VisionTransformerPretrainedModel"


class Qwen3VL(Family):
    """Qwen3-VL with a dense language model."""

    model_type = "qwen3_vl"
    tower = "Qwen3VLVisionModel"


class Qwen3VLMoe(Family):
    """Qwen3-VL with a mixture of experts, which has its own class for the same tower."""

    model_type = "qwen3_vl_moe"
    tower = "Qwen3VLMoeVisionModel"


FAMILIES: tuple[type[Family], ...] = (Qwen2VL, Qwen25VL, Qwen3VL, Qwen3VLMoe)


def find_family(model_path: str, model_type: str | None) -> type[Family]:
    """The family of a checkpoint. Raises ValueError for a `model_type` that is not supported."""
    families = {family.model_type: family for family in FAMILIES}
    if model_type not in families:
        raise ValueError(
            f"{model_path}: model_type {model_type!r} is not supported, only: {', '.join(sorted(families))}"
        )
    return families[model_type]

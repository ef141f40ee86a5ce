# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The families of checkpoints whose vision tower is known.

To add one, write a class like those below and list it in `FAMILIES`.
"""

import importlib
from typing import Any, Literal

import torch
import transformers

FeatureLayer = Literal["merger", "blocks"]
"""Which output of the tower is the feature matrix F of Eq. 5.

`merger`: after the patch merger, aligned with the language model. d = its width, P = number of image tokens.
`blocks`: after the last block, before the merger. d = the tower's width, P = 4 times as many (2 x 2 patches a token).
"""


class Family:
    """A family of checkpoints: its `model_type`, and all that is particular to its tower.

    Attributes:
        model_type (str): As `config.json` has it. The modules of transformers are called after it.
        tower (str): Name of the tower's class in transformers.
    """

    model_type: str
    tower: str

    @classmethod
    def tower_class(cls) -> Any:
        """The class of the tower, imported only now: a transformers without it still serves the other families.

        Raises:
            ImportError: the installed transformers lacks it.
        """
        module = f"transformers.models.{cls.model_type}.modeling_{cls.model_type}"
        try:
            return getattr(importlib.import_module(module), cls.tower)
        except (ImportError, AttributeError) as error:
            raise ImportError(
                f"transformers {transformers.__version__} lacks {module}.{cls.tower}, the vision tower of "
                f"{cls.model_type}: install a release that has it"
            ) from error

    @staticmethod
    def encode(
        model: Any, pixel_values: torch.Tensor, grid_thw: torch.Tensor, feature_layer: FeatureLayer
    ) -> torch.Tensor:
        """F of all images and videos, one after the other, shape (P of all, d).

        `pixel_values` has shape (patches of all, values of a patch), `grid_thw` (images + videos, 3).
        """
        output = model(pixel_values, grid_thw=grid_thw)
        return output.pooler_output if feature_layer == "merger" else output.last_hidden_state


class Qwen2VL(Family):
    """Qwen2-VL."""

    model_type = "qwen2_vl"
    tower = "Qwen2VisionTransformerPretrainedModel"


class Qwen25VL(Family):
    """Qwen2.5-VL, whose blocks have the patches of an image in the order of the attention windows."""

    model_type = "qwen2_5_vl"
    tower = "Qwen2_5_VisionTransformerPretrainedModel"


class Qwen3VL(Family):
    """Qwen3-VL with a dense language model."""

    model_type = "qwen3_vl"
    tower = "Qwen3VLVisionModel"


class Qwen3VLMoe(Family):
    """Qwen3-VL with a mixture of experts, which has a class of its own for the same tower."""

    model_type = "qwen3_vl_moe"
    tower = "Qwen3VLMoeVisionModel"


FAMILIES: tuple[type[Family], ...] = (Qwen2VL, Qwen25VL, Qwen3VL, Qwen3VLMoe)


def find_family(model_path: str, model_type: str | None) -> type[Family]:
    """The family of a checkpoint.

    Args:
        model_path (str): The checkpoint, for the error.
        model_type (str | None): As its `config.json` has it.

    Raises:
        ValueError: no family has this `model_type`; the message lists those that are known.
    """
    families = {family.model_type: family for family in FAMILIES}
    if model_type not in families:
        raise ValueError(f"{model_path} is a {model_type!r} model; its tower must be of: {', '.join(sorted(families))}")
    return families[model_type]

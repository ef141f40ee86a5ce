# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The options under `algorithm.durian`. The `description` of a field lists the allowed values."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Predicate
from omegaconf import OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

_FORBID = ConfigDict(extra="forbid")
_PATH = "algorithm.durian"

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Weight = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False, description="a finite number >= 0")]
Quantiles = Annotated[
    list[Annotated[float, Field(strict=True, gt=0, lt=1)]],
    Predicate(lambda values: values == sorted(set(values))),
    Field(description="a list of numbers in (0, 1), ascending and without duplicates"),
]
Thresholds = Annotated[
    Literal["batch", "dataset"] | Annotated[list[Finite], Predicate(lambda values: values == sorted(values))],
    Field(description="batch, dataset or a list of finite numbers in ascending order"),
]
Folder = Annotated[
    str,
    Predicate(lambda path: path != "" and "://" not in path),
    Field(strict=True, description="the path of a local folder, or null"),
]


@dataclass(config=_FORBID)
class Weights:
    """Weights of the three advantage terms (Eq. 20). The defaults have the best average in Table 3 of the paper."""

    original: Weight = 0.1
    """a_ori, of the GRPO advantage of the prompt (Eq. 2)."""
    perceptual: Weight = 0.2
    """a_perc, of the advantage whose std is shared by prompts with similar visual entropy (Eq. 12)."""
    reasoning: Weight = 0.7
    """a_reas, of the advantage whose std is shared by prompts with similar confidence (Eq. 18)."""

    @model_validator(mode="after")
    def _not_all_zero(self) -> "Weights":
        if self.original == self.perceptual == self.reasoning == 0:
            raise ValueError("original, perceptual and reasoning are all 0; at least one must be > 0")
        return self


@dataclass(config=_FORBID)
class Perceptual:
    """The perceptual axis (section 3.1)."""

    key: Annotated[str, Field(min_length=1, description="the name of a column")] = "visual_entropy"
    """Column of the training data with the visual entropy of each row in nats, null for a row without image."""
    quantiles: Quantiles = Field(default_factory=lambda: [0.25, 0.75])
    """Quantiles of visual entropy that split the prompts into groups (Eq. 10). An empty list makes one group, whose
    std is that of all rewards of the prompts with an image."""
    thresholds: Thresholds = "batch"
    """Threshold source. `batch`: quantiles of each batch, as in the paper. `dataset`: quantiles of the training set,
    computed before the first step. A list: the thresholds themselves, in nats; `quantiles` is then unused, and an empty
    list makes one group."""
    score_workers: Annotated[
        int | None, Field(strict=True, ge=1, description="an integer >= 1, or null for one for each free GPU")
    ] = None
    """Maximum number of workers that score a training set without the column `key` before the first step, each on one
    GPU (or one CPU core when training on CPUs)."""


@dataclass(config=_FORBID)
class Reasoning:
    """The reasoning axis (section 3.2)."""

    num_groups: Annotated[int, Field(strict=True, ge=1, le=10_000, description="an integer from 1 to 10000")] = 12
    """b, the number of groups by confidence (Eq. 16). 12 is best in Table 2 of the paper."""
    confidence: Annotated[Literal["mean", "sum"], Field(description="mean or sum")] = "mean"
    """How the token log-probabilities of a rollout are reduced (Eq. 14): their `mean` or `sum`."""


@dataclass(config=_FORBID)
class DurianConfig:
    """All options of the estimator `durian`. The defaults are the paper's."""

    weights: Weights = Field(default_factory=Weights)
    perceptual: Perceptual = Field(default_factory=Perceptual)
    reasoning: Reasoning = Field(default_factory=Reasoning)
    epsilon: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False, description="a finite number > 0")] = 1e-6
    """Added to every std, as in verl's GRPO."""
    record: Folder | None = None
    """A local folder for one Parquet file per step, with rewards, groups, stds and advantages of the rollouts; null
    records nothing. Unlike all others, the options `record*` also apply to other estimators."""
    record_every: Annotated[int, Field(strict=True, ge=1, description="an integer >= 1")] = 1
    """Records the steps whose number is a multiple of this."""
    record_texts: Annotated[bool, Field(strict=True, description="true or false")] = False
    """Also records the text of prompts and answers."""

    @classmethod
    def from_algorithm(cls, algorithm: Mapping[str, Any] | None) -> "DurianConfig":
        """Reads the options from verl's `algorithm` node, whose key `durian` may be absent or null.

        Raises:
            ValueError: An unknown key, a wrong type or an invalid value. The message names the key and the allowed
                values.
        """
        options = algorithm.get("durian") if algorithm is not None else None
        if options is None:
            return cls()
        if OmegaConf.is_config(options):
            options = OmegaConf.to_container(options, resolve=True)
        options = _python_values(options)
        try:
            return _ADAPTER.validate_python(options)
        except ValidationError as error:
            raise ValueError(_message(error, options)) from None


_ADAPTER = TypeAdapter(DurianConfig)


def _python_values(value: Any) -> Any:
    """Converts NumPy scalars, and drops the key `_target_`, which a verl with these options adds."""
    if isinstance(value, Mapping):
        return {key: _python_values(each) for key, each in value.items() if key != "_target_"}
    if isinstance(value, list):
        return [_python_values(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def _message(error: ValidationError, options: Any) -> str:
    """The first error, as `key=value: must be ...`."""
    first = error.errors()[0]
    section: Any = DurianConfig
    path, value, description = _PATH, options, ""
    for name in first["loc"]:
        fields = getattr(section, "__pydantic_fields__", {})
        if name not in fields:  # an unknown key, a position in a list, or a member of a union
            break
        path, value, description = f"{path}.{name}", value[name], fields[name].description
        section = fields[name].annotation
    keys = ", ".join(getattr(section, "__pydantic_fields__", {}))
    if first["type"] == "unexpected_keyword_argument":
        return f"{path}.{first['loc'][-1]}: unknown option. Allowed under {path}: {keys}"
    if keys and first["type"] == "value_error":
        return f"{path}: {first['ctx']['error']}"
    return f"{path}={value!r:.200}: must be {f'a mapping with the keys {keys}' if keys else description}"

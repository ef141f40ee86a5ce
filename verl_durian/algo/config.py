# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The options under ``algorithm.durian``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, get_args

import numpy as np
from omegaconf import OmegaConf

CONFIDENCES = ("mean", "sum")
THRESHOLDS = ("batch", "dataset")
MOST_GROUPS = 10_000  # far beyond any batch's number of prompts


@dataclass
class Weights:
    """Weights of the three advantages (Eq. 20). The defaults have the best average in the paper's Table 3."""

    original: float = 0.1
    """a_ori, of the prompt's own GRPO advantage (Eq. 2). Not negative."""
    perceptual: float = 0.2
    """a_perc, of the advantage whose std is shared by prompts of like visual entropy (Eq. 12). Not negative."""
    reasoning: float = 0.7
    """a_reas, of the advantage whose std is shared by prompts of like confidence (Eq. 18). Not negative."""

    def __post_init__(self) -> None:
        for item in fields(self):
            weight = getattr(self, item.name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"algorithm.durian.weights.{item.name}={weight}: must be a finite number >= 0")
        if self.original == self.perceptual == self.reasoning == 0:
            raise ValueError("algorithm.durian.weights: original, perceptual and reasoning are all 0; one must be > 0")


@dataclass
class Perceptual:
    """The perceptual axis (section 3.1)."""

    key: str = "visual_entropy"
    """Column of the training data that holds each row's visual entropy in nats, null where a row has no image."""
    quantiles: list[float] = field(default_factory=lambda: [0.25, 0.75])
    """Quantiles of visual entropy that part the groups (Eq. 10): ascending, each in (0, 1). An empty list makes one
    group, whose std is that of all rewards of the batch's prompts with an image."""
    thresholds: str | list[float] = "batch"
    """Whose quantiles they are: those of the ``batch``, as in the paper, or of the whole training set (``dataset``,
    which the hook replaces by numbers before the first step). Or the thresholds themselves, ascending and in nats;
    ``quantiles`` then plays no role, and an empty list makes one group."""
    score_workers: int | None = None
    """Most workers that score a training set without the column ``key`` at start, each on one GPU (or CPU core, where
    training is on CPUs). None: one for each free GPU."""

    def __post_init__(self) -> None:
        where = f"algorithm.durian.perceptual.quantiles={self.quantiles}"
        if not all(0 < quantile < 1 for quantile in self.quantiles):
            raise ValueError(f"{where}: every quantile must lie in (0, 1)")
        if not all(low < high for low, high in pairwise(self.quantiles)):
            raise ValueError(f"{where}: quantiles must ascend and differ")
        where = f"algorithm.durian.perceptual.thresholds={self.thresholds!r}"
        if isinstance(self.thresholds, str):
            if self.thresholds not in THRESHOLDS:
                raise ValueError(f"{where}: must be {_KINDS[str | list[float]]}")
        else:
            if not all(math.isfinite(threshold) for threshold in self.thresholds):
                raise ValueError(f"{where}: every threshold must be a finite number")
            if not all(low <= high for low, high in pairwise(self.thresholds)):
                raise ValueError(f"{where}: thresholds must ascend")
        if not self.key:
            raise ValueError("algorithm.durian.perceptual.key is empty: name the column that holds the visual entropy")
        if self.score_workers is not None and self.score_workers < 1:
            raise ValueError(
                f"algorithm.durian.perceptual.score_workers={self.score_workers}: must be {_KINDS[int | None]}"
            )


@dataclass
class Reasoning:
    """The reasoning axis (section 3.2)."""

    num_groups: int = 12
    """b, the number of groups by confidence (Eq. 16). 12 is best in the paper's Table 2."""
    confidence: str = "mean"
    """How a rollout's token log-probabilities become one number (Eq. 14): ``mean`` or ``sum`` over its tokens."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_groups <= MOST_GROUPS:
            raise ValueError(
                f"algorithm.durian.reasoning.num_groups={self.num_groups}: must be an integer from 1 to {MOST_GROUPS}"
            )
        if self.confidence not in CONFIDENCES:
            raise ValueError(
                f"algorithm.durian.reasoning.confidence={self.confidence!r}: must be one of {', '.join(CONFIDENCES)}"
            )


@dataclass
class DurianConfig:
    """All options of the estimator ``durian``, with the paper's defaults."""

    weights: Weights = field(default_factory=Weights)
    perceptual: Perceptual = field(default_factory=Perceptual)
    reasoning: Reasoning = field(default_factory=Reasoning)
    epsilon: float = 1e-6
    """Added to every std, as in verl's GRPO. Greater than 0."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ValueError(f"algorithm.durian.epsilon={self.epsilon}: must be a finite number > 0")

    @classmethod
    def from_algorithm(cls, algorithm: Mapping[str, Any] | None) -> "DurianConfig":
        """Reads the options from verl's ``algorithm`` node.

        Args:
            algorithm: the node ``algorithm`` of verl's config; its key ``durian`` may be absent or null.

        Raises:
            ValueError: an unknown key, a wrong type or a forbidden value; the message names the key and what it may be.
        """
        given = algorithm.get("durian") if algorithm is not None else None
        return _read(
            cls,
            OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given,
            "algorithm.durian",
        )


def _read(section: Any, given: Any, path: str) -> Any:
    """Makes the dataclass ``section`` of a plain mapping, or raises ValueError naming the key under ``path``."""
    if given is None and section is DurianConfig:
        return section()
    if not isinstance(given, Mapping):
        raise ValueError(f"{path}={given!r}: must be a mapping with the keys {_keys(section)}")
    options = {item.name: item for item in fields(section)}
    values = {}
    for key, value in given.items():
        if key == "_target_":  # of a verl that has these options itself
            continue
        if key not in options:
            raise ValueError(f"{path}.{key}: there is no such option. Allowed under {path}: {_keys(section)}")
        kind: Any = options[key].type
        if is_dataclass(kind):
            values[key] = _read(kind, value, f"{path}.{key}")
        elif not _fits(value, kind):
            raise ValueError(f"{path}.{key}={value!r}: must be {_KINDS[kind]}")
        else:
            values[key] = _plain(value)
    return section(**values)


_KINDS: dict[Any, str] = {
    float: "a number",
    int: "an integer",
    str: "a text",
    list[float]: "a list of numbers",
    str | list[float]: f"{', '.join(THRESHOLDS)} or a list of numbers",
    int | None: "an integer >= 1, or null for all free GPUs",
}


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if kind is NoneType:
        return value is None
    if kind == list[float]:
        return isinstance(value, list) and all(_fits(each, float) for each in value)
    if kind is str:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        return False
    try:
        float(value)
    except OverflowError:  # of an integer beyond the range of a double
        return False
    return True


def _plain(value: Any) -> Any:
    """A NumPy scalar, or a list of them, as Python numbers."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def _keys(section: Any) -> str:
    return ", ".join(item.name for item in fields(section))

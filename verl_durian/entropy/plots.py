# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Plots of the visual entropies of a dataset: a histogram, and example images of low, medium and high entropy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from verl_durian.algo.groups import perceptual_groups
from verl_durian.files import whole_file

_COLOURS = ("#004488", "#DDAA33", "#BB5566")
"""Low, medium and high: Paul Tol's high-contrast colors, which also differ in grayscale."""
_DPI = 120
_MIN_SPAN = 0.2
"""Minimum width of the histogram in nats, so that equal values do not fill the entire plot."""
_LONGEST_SIDE = 400
"""Maximum side of an example, in pixels."""


def plot_histogram(entropies: np.ndarray, thresholds: tuple[float, float], file: Path) -> None:
    """Plots the distribution of H with Q25 and Q75 (Fig. 4 of the paper) as PNG.

    Args:
        entropies: H in nats, without NaN, `(rows,)`, at least one.
        thresholds: Q25 and Q75 in nats, which separate the groups S1, S2 and S3 (Eq. 10).
        file: The PNG; an existing file is replaced.
    """
    low, high = thresholds
    group = perceptual_groups(torch.from_numpy(entropies), torch.tensor(thresholds, dtype=torch.float64)).numpy()
    groups = [entropies[group == number] for number in range(3)]
    names = ("easy (S1): H ≤ Q25", "medium (S2)", f"hard (S3): H {'≥' if low < high else '>'} Q75")
    labels = [f"{name}, {len(of_group) / len(entropies):.1%}" for name, of_group in zip(names, groups, strict=True)]
    margin = max(0.0, _MIN_SPAN - np.ptp(entropies)) / 2
    span = max(0.0, entropies.min() - margin), entropies.max() + margin

    figure = Figure(figsize=(8, 4.5), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.hist(groups, bins=40, range=span, stacked=True, color=_COLOURS, label=labels)
    axes.axvline(low, color="black", linestyle="--", label=f"Q25 = {low:.3f}")
    axes.axvline(high, color="black", linestyle=":", label=f"Q75 = {high:.3f}")
    axes.set(title=f"Visual entropy of {len(entropies):,} rows", xlabel="H in nats", ylabel="rows")
    axes.legend()
    _save(figure, file)


def plot_examples(groups: Mapping[str, Sequence[tuple[Image.Image, float]]], file: Path) -> None:
    """Plots example images with their H (Fig. 5 of the paper) as PNG, one line of at most four per group.

    Args:
        groups: Name of each group, such as "low", with its images and their H in nats.
        file: The PNG; an existing file is replaced.
    """
    figure = Figure(figsize=(8, 2.4 * len(groups)), dpi=_DPI, layout="constrained")
    lines = figure.subplots(len(groups), 4, squeeze=False)
    for axes in lines.flat:
        axes.set_axis_off()
    for (name, group), line in zip(groups.items(), lines, strict=True):
        for (picture, entropy), axes in zip(group, line, strict=False):
            picture = picture.convert("RGB")
            picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
            axes.imshow(picture)
            axes.set_title(f"{name}: H = {entropy:.3f}", fontsize="medium")
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    with whole_file(file) as stream:
        figure.savefig(stream, format="png")

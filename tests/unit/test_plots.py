# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from skimage import data

from verl_durian.entropy import plots
from verl_durian.entropy.plots import plot_examples, plot_histogram

RANDOM = np.random.default_rng(0)
DATA_SETS = {
    "photographs": RANDOM.normal(4.2, 0.6, 12_345).clip(0, 7),
    "a peak at 0": np.concatenate([np.zeros(61_234), RANDOM.normal(4.5, 0.5, 50_000)]),
    "a single value": np.array([3.217]),
    "equal up to rounding": 4.2 + 1e-14 * RANDOM.normal(size=100),
    "coinciding thresholds": np.array([1.0, 1.0, 1.0, 1.0, 2.0]),
}
CAT = Image.fromarray(data.chelsea())


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures, save = [], plots._save

    def keep(figure: Figure, file: Path) -> None:
        figures.append(figure)
        save(figure, file)

    monkeypatch.setattr(plots, "_save", keep)
    return figures


@pytest.mark.parametrize("entropies", DATA_SETS.values(), ids=DATA_SETS)
def test_every_row_is_in_a_bar_of_its_group(tmp_path, drawn, entropies):
    low, high = np.quantile(entropies, [0.25, 0.75]).tolist()
    plot_histogram(entropies, (low, high), tmp_path / "histogram.png")
    assert Image.open(tmp_path / "histogram.png").size == (960, 540)
    (axes,) = drawn[0].axes
    heights = [sum(bar.get_height() for bar in container.patches) for container in axes.containers]
    hard = np.count_nonzero(entropies >= high) if low < high else np.count_nonzero(entropies > low)
    easy = np.count_nonzero(entropies <= low)
    assert heights == [easy, len(entropies) - easy - hard, hard]
    assert axes.get_xlim()[1] - axes.get_xlim()[0] > 0.1
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"easy (S1): H ≤ Q25, {easy / len(entropies):.1%}" in labels and f"Q75 = {high:.3f}" in labels
    assert f"hard (S3): H {'≥' if low < high else '>'} Q75, {hard / len(entropies):.1%}" in labels
    assert axes.get_title() == f"Visual entropy of {len(entropies):,} rows"


def test_each_example_has_its_entropy(tmp_path, drawn):
    low = [(CAT.convert("L"), 1.0), (Image.new("RGB", (1, 1)), 0.0)]
    plot_examples({"low": low, "medium": [], "high": 4 * [(CAT, 6.5)]}, tmp_path / "examples.png")
    assert Image.open(tmp_path / "examples.png").size == (960, 864)
    shown = [(axes.get_title(), len(axes.images)) for axes in drawn[0].axes if axes.get_title()]
    assert shown == [("low: H = 1.000", 1), ("low: H = 0.000", 1), *4 * [("high: H = 6.500", 1)]]
    assert plt.get_fignums() == []

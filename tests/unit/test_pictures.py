# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The histogram of visual entropies and the contact sheet."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox
from PIL import Image
from skimage import data

from verl_durian.entropy.plots import (
    CELL,
    COLUMNS,
    GAP,
    HEADING_HEIGHT,
    MARGIN,
    MOST_BINS,
    SHADES,
    SHEET_TOP,
    TEXT_SIZE,
    bin_edges,
    build_contact_sheet,
    build_histogram,
    draw_contact_sheet,
    draw_histogram,
    fit,
    save,
)

RANDOM = np.random.default_rng(0)

DATA_SETS = {
    "photographs": RANDOM.normal(4.2, 0.6, 12_345).clip(0, 7),
    "a spike at 0": np.concatenate([np.zeros(61_234), RANDOM.normal(4.5, 0.5, 50_000)]),
    "a spike at the top": RANDOM.normal(5, 1, 5000).clip(0, 5.2),
    "a spike in the middle": np.concatenate([np.full(9000, 3.0), RANDOM.uniform(0, 6.5, 3000)]),
    "zeros and a single other": np.append(np.zeros(99_999), 5.0),
    "a single value": np.array([3.217]),
    "zeros": np.zeros(7),
    "equal values": np.full(2000, 4.1),
    "equal up to rounding": 4.2 + 1e-14 * RANDOM.normal(size=100),
    "within a bin's width": np.array([4.2, 4.207]),
    "a narrow range": RANDOM.normal(4.2, 0.02, 5000),
    "few": np.array([2.1, 3.3, 3.4, 4.0, 4.1, 5.2]),
    "a million": RANDOM.beta(5, 2, 1_000_000) * 6.5,
}

data_sets = pytest.mark.parametrize("entropies", DATA_SETS.values(), ids=DATA_SETS)


def quartiles(entropies: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(entropies, [0.25, 0.75])
    return float(low), float(high)


def histogram(entropies: np.ndarray) -> Figure:
    return build_histogram(entropies, quartiles(entropies))


def plot_of(figure: Figure) -> Axes:
    _, plot = figure.axes
    return plot


def shown(figure: Figure) -> list[Text]:
    """The texts that are drawn: of the ticks, only those within the axes."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
            hidden |= {label for label in axis.get_ticklabels() if not axes.axison}
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible() and artist.get_text())
    return [text for text in texts if text not in hidden]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in shown(figure)]


def check_texts(figure: Figure) -> None:
    """No text is too small, leaves the figure or meets another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes: list[tuple[str, Bbox]] = []
    for text in shown(figure):
        assert text.get_fontsize() >= TEXT_SIZE
        box = text.get_window_extent(canvas.get_renderer())
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width, text
        assert 0 <= box.y0 and box.y1 <= figure.bbox.height, text
        for other, taken in boxes:
            assert not box.overlaps(taken), (text.get_text(), other)
        boxes.append((text.get_text(), box))


def bars(figure: Figure) -> dict[str, list[float]]:
    """The heights of the bars, by colour."""
    return {
        to_hex(container.patches[0].get_facecolor()): [bar.get_height() for bar in container.patches]
        for container in plot_of(figure).containers
    }


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8))


CAT, COINS, PAGE = (Image.fromarray(array) for array in (data.chelsea(), data.coins(), data.page()))
ODD = [(noise(*size), entropy) for size, entropy in (((1, 1), 0.0), ((4000, 10), 0.5), ((10, 4000), 0.512))]


def pixels_of(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@data_sets
def test_every_row_is_in_a_bar_of_its_group(entropies: np.ndarray) -> None:
    low, high = quartiles(entropies)
    hard = np.count_nonzero(entropies >= high) if low < high else np.count_nonzero(entropies > low)
    easy = np.count_nonzero(entropies <= low)
    heights = bars(histogram(entropies))
    assert [sum(heights[shade.face.lower()]) for shade in SHADES] == [easy, len(entropies) - easy - hard, hard]


def test_a_bar_has_the_rows_between_its_edges() -> None:
    entropies = DATA_SETS["photographs"]
    for patches in zip(*(container.patches for container in plot_of(histogram(entropies)).containers), strict=True):
        left, width = patches[0].get_x(), patches[0].get_width()
        stacked = sum(bar.get_height() for bar in patches)
        assert stacked == np.count_nonzero((entropies >= left) & (entropies < left + width))
        assert patches[2].get_y() + patches[2].get_height() == stacked


@data_sets
def test_texts_of_a_histogram_can_be_read(entropies: np.ndarray) -> None:
    figure = histogram(entropies)
    check_texts(figure)
    low, high = quartiles(entropies)
    rows = "1 row" if len(entropies) == 1 else f"{len(entropies):,} rows"
    assert {f"Q25\n{low:.3f}", f"Q75\n{high:.3f}", "visual entropy H in nats"} <= set(words(figure))
    assert f"Visual entropy of the images\nof {rows}" in words(figure)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 8.5) | st.sampled_from([0.0, 4.2]), min_size=1), st.sampled_from([0.0, 2.5, 8.5]))
def test_any_entropies_are_drawn(values: list[float], spike: float) -> None:
    for entropies in (np.array(values), np.array(values + 1000 * [spike])):
        figure = histogram(entropies)
        check_texts(figure)
        assert sum(map(sum, bars(figure).values())) == len(entropies)


def test_shares_and_thresholds_of_known_entropies() -> None:
    figure = histogram(np.array([0.0, 0.0, 1.0, 2.0, 3.0]))
    assert {"easy (S1)", "40.0%", "H ≤ Q25", "medium (S2)", "20.0%", "hard (S3)", "H ≥ Q75"} <= set(words(figure))
    assert {"Q25\n0.000", "Q75\n2.000"} <= set(words(figure))
    lines = [line.get_xdata() for line in plot_of(figure).lines]
    assert lines == [[0.0, 0.0], [2.0, 2.0]]


def test_where_the_thresholds_coincide_equal_values_are_easy() -> None:
    shown_words = words(histogram(np.array([1.0, 1.0, 1.0, 1.0, 2.0])))
    assert {"80.0%", "0.0%", "20.0%", "H ≤ Q25", "H > Q75"} <= set(shown_words)
    assert "H ≥ Q75" not in shown_words


@data_sets
def test_bins_are_bounded_and_even(entropies: np.ndarray) -> None:
    edges = bin_edges(entropies, quartiles(entropies))
    assert 2 <= len(edges) <= MOST_BINS + 2
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0], rtol=1e-9)
    assert edges[0] < entropies.min() and entropies.max() < edges[-1]


def test_more_rows_have_finer_bins() -> None:
    entropies = RANDOM.normal(4, 0.5, 10_000)
    few, many = (len(bin_edges(part, quartiles(part))) for part in (entropies[:200], entropies))
    assert few < many


def test_equal_values_make_a_bar_and_not_a_wall() -> None:
    plot = plot_of(histogram(DATA_SETS["equal values"]))
    (bar,) = plot.containers[0].patches
    low, high = plot.get_xlim()
    assert bar.get_height() == 2000 and bar.get_width() < (high - low) / 10
    assert bar.get_x() + bar.get_width() / 2 == pytest.approx(4.1)


def test_a_spike_is_cut_off_and_the_others_can_be_told_apart() -> None:
    figure = histogram(DATA_SETS["a spike at 0"])
    spike, *others = np.sum(list(bars(figure).values()), axis=0)
    assert "bar cut off:\n61,234 rows" in words(figure)
    _, top = plot_of(figure).get_ylim()
    assert max(others) < top < 2 * max(others) < spike
    assert not any("cut off" in text for text in words(histogram(DATA_SETS["photographs"])))


@data_sets
def test_axes_tell_no_negative_entropies(entropies: np.ndarray) -> None:
    figure = histogram(entropies)
    FigureCanvasAgg(figure).draw()
    assert not any("\N{MINUS SIGN}" in text for text in words(figure))


def test_the_smallest_text_is_28_pixels_high() -> None:
    assert TextPath((0, 0), "0", size=TEXT_SIZE).get_extents().height >= 28


@data_sets
def test_a_histogram_is_a_png_of_the_promised_size(tmp_path: Path, entropies: np.ndarray) -> None:
    draw_histogram(entropies, quartiles(entropies), tmp_path / "histogram.png")
    pixels = pixels_of(tmp_path / "histogram.png")
    assert pixels.shape == (1440, 1080, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["histogram.png"]


def test_a_contact_sheet_is_a_png_of_the_promised_size(tmp_path: Path) -> None:
    file = tmp_path / "sheet.png"
    four = [(CAT, 2.0), (COINS, 2.5), (PAGE, 3.0), (CAT, 4.0)]
    for groups, height in (
        ({"low": ODD, "medium": four, "high": four[:1]}, 1378),
        ({"low": [*four, *ODD], "medium": four, "high": four}, 1696),
        ({"low": four, "medium": [], "high": four}, 1060),
    ):
        draw_contact_sheet(groups, file)
        assert pixels_of(file).shape == (height, 1080, 3)


def test_texts_of_a_contact_sheet_can_be_read() -> None:
    figure = build_contact_sheet({"low": ODD, "medium": [], "high": [(CAT, 6.5), (COINS, 4.25), *4 * [(PAGE, 5.0)]]})
    check_texts(figure)
    assert {"H = 0.000", "H = 0.500", "H = 0.512", "H = 6.500", "H = 4.250"} <= set(words(figure))
    assert words(figure).count("H = 5.000") == 4
    headings = ["low H", "0.000 to 0.512 nats", "medium H", "no pictures", "high H", "4.250 to 6.500 nats"]
    assert [text for text in words(figure) if text in headings] == headings


def cells(file: Path) -> Iterator[np.ndarray]:
    """The cells of a sheet's first line, from the left."""
    pixels, top = pixels_of(file), SHEET_TOP + HEADING_HEIGHT + GAP
    for left in range(MARGIN, MARGIN + COLUMNS * (CELL + GAP), CELL + GAP):
        yield pixels[top : top + CELL, left : left + CELL]


def test_each_picture_is_in_the_middle_of_its_cell_pixel_by_pixel(tmp_path: Path) -> None:
    small = noise(7, 5)
    draw_contact_sheet({"low": [(small, 1.0), (CAT, 2.0), (noise(1, 1), 0.0)]}, tmp_path / "sheet.png")
    enlarged, cat, dot, empty = cells(tmp_path / "sheet.png")

    squares = np.asarray(small).repeat(34, axis=0).repeat(34, axis=1)
    assert squares.shape == (170, CELL, 3)
    np.testing.assert_array_equal(enlarged[34:204], squares)
    assert (enlarged[:34] == 0xE8).all() and (enlarged[204:] == 0xE8).all()

    # Scaled down with another filter, the cat looks nearly the same.
    box = np.asarray(CAT.resize((CELL, round(300 * CELL / 451)), Image.Resampling.BOX), dtype=float)
    top = (CELL - len(box)) // 2
    assert np.abs(cat[top : top + len(box)] - box).mean() < 3

    assert (dot == dot[0, 0]).all() and (dot[0, 0] != 0xE8).any()
    assert (empty == 255).all()


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000))
def test_pictures_fit_their_cell_without_distortion(width: int, height: int) -> None:
    fitted = fit(Image.new("RGB", (width, height)))
    assert CELL / 2 < max(fitted.size) <= CELL
    scale = max(fitted.size) / max(width, height)
    assert fitted.size == pytest.approx((max(1, width * scale), max(1, height * scale)), abs=0.5)
    assert scale < 1 or scale == int(scale)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_every_mode_are_drawn(mode: str) -> None:
    assert fit(CAT.convert("L").convert(mode) if mode == "I;16" else CAT.convert(mode)).mode == "RGB"


def test_the_same_input_gives_the_same_bytes_in_threads_too(tmp_path: Path) -> None:
    entropies, groups = DATA_SETS["a spike at 0"], {"low": ODD, "medium": [], "high": [(CAT, 4.0), (COINS, 5.0)]}

    def draw(number: int) -> tuple[bytes, bytes]:
        files = tmp_path / f"histogram{number}.png", tmp_path / f"sheet{number}.png"
        draw_histogram(entropies, quartiles(entropies), files[0])
        draw_contact_sheet(groups, files[1])
        return files[0].read_bytes(), files[1].read_bytes()

    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(draw, range(4)))
    assert set(drawn) == {draw(4)}
    assert plt.get_fignums() == []


def test_nothing_is_left_behind_when_drawing_fails(tmp_path: Path) -> None:
    file = tmp_path / "histogram.png"
    entropies = DATA_SETS["few"]
    draw_histogram(entropies, quartiles(entropies), file)
    before = file.read_bytes()

    figure = histogram(entropies)
    figure.text(0, 0, r"$\unknown$")
    with pytest.raises(ValueError, match="unknown"):
        save(figure, file)

    buffer = BytesIO()
    CAT.save(buffer, "PNG")
    truncated = Image.open(BytesIO(buffer.getvalue()[:5000]))
    with pytest.raises(OSError, match="truncated"):
        draw_contact_sheet({"low": [(truncated, 1.0)]}, file)

    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of the visual entropies of a data set: their histogram, and example images with the H of each.

Both are sheets to be read on a phone, see `sheet.py`.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

from verl_durian.algo.groups import perceptual_groups
from verl_durian.sheet import MARGIN, TEXT_SIZE, TITLE_SIZE, WIDTH, Shade, blank_sheet, save, write_line, write_title

Group = Sequence[tuple[Image.Image, float]]

HISTOGRAM_HEIGHT = 1440
BOXES_TOP, BOXES_HEIGHT, BOXES_GAP = 190, 190, 20
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 180, 970, 530, 1290

LEAST_BINS, MOST_BINS = 15, 60
FINEST_BIN = 0.01
"""Nats. Values that differ by less than half of it share a bar."""
NARROWEST = 0.2
"""Nats that the axis spans at least, so that values that are all equal make a bar and not a wall."""
CUT = 5
"""How many times as high as the next a bar must be to be cut off, so that the others can be told apart."""

COLUMNS = 4
SHEET_TOP = 130
HEADING_HEIGHT = 68
GAP = 16
CELL = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
CAPTION_HEIGHT = 64
LINE_HEIGHT = GAP + CELL + CAPTION_HEIGHT
GROUP_GAP = 30
CELL_COLOUR = "#E8E8E8"


SHADES = (Shade("#004488", "white"), Shade("#DDAA33", "black"), Shade("#BB5566", "white"))
"""Of low, medium and high visual entropy: Paul Tol's high-contrast colours, which differ in a grey print too."""


def draw_histogram(entropies: np.ndarray, thresholds: tuple[float, float], file: Path) -> None:
    """Draws the visual entropies H of a data set with Q25 and Q75 (the paper's Fig. 4) as a PNG of 1080 x 1440 pixels.

    Args:
        entropies: float64 nats of the rows with images, without NaN.
            shape is (rows,), at least one
        thresholds: Q25 and Q75 of the entropies in nats, which part the groups (Eq. 10).
        file: The PNG; one that is there is replaced.
    """
    save(build_histogram(entropies, thresholds), file)


def draw_contact_sheet(groups: Mapping[str, Group], file: Path) -> None:
    """Draws example images of low, medium and high visual entropy with the H of each (the paper's Fig. 5) as a PNG.

    The PNG is 1080 pixels wide, and 1378 high for three groups of one to four pictures; more pictures take more lines.

    Args:
        groups: Name of each group, such as "low", with its pictures and the visual entropy of each in nats.
        file: The PNG; one that is there is replaced.
    """
    save(build_contact_sheet(groups), file)


def build_histogram(entropies: np.ndarray, thresholds: tuple[float, float]) -> Figure:
    """The figure of `draw_histogram`."""
    figure, sheet = blank_sheet(HISTOGRAM_HEIGHT)
    rows = "1 row" if len(entropies) == 1 else f"{len(entropies):,} rows"
    write_title(sheet, f"Visual entropy of the images\nof {rows}")
    parts = _parts(entropies, thresholds)
    _draw_shares(sheet, [len(part) / len(entropies) for part in parts], distinct=thresholds[0] < thresholds[1])
    plot = figure.add_axes(
        (
            PLOT_LEFT / WIDTH,
            1 - PLOT_BOTTOM / HISTOGRAM_HEIGHT,
            (PLOT_RIGHT - PLOT_LEFT) / WIDTH,
            (PLOT_BOTTOM - PLOT_TOP) / HISTOGRAM_HEIGHT,
        )
    )
    edges = bin_edges(entropies, thresholds)
    _draw_bars(plot, parts, edges)
    _draw_thresholds(plot, thresholds)
    _label_axes(plot, edges)
    return figure


def bin_edges(entropies: np.ndarray, thresholds: tuple[float, float]) -> np.ndarray:
    """The bins' edges: of equal width, the first centred on the smallest value and the last on the largest.

    So a spike at 0 is a bar over the 0. The width is that of Freedman and Diaconis, bounded on both sides: a spike can
    make their width 0.

    Args:
        entropies: nats.
            shape is (rows,), at least one
        thresholds: Q25 and Q75 of the entropies in nats.

    Returns:
        The edges in nats, ascending.
            shape is (bins + 1,)
    """
    low, high = thresholds
    smallest, largest = entropies.min(), entropies.max()
    spread = largest - smallest
    width = 2 * (high - low) / len(entropies) ** (1 / 3)
    width = max(np.clip(width, spread / MOST_BINS, spread / LEAST_BINS), FINEST_BIN)
    steps = round(spread / width)
    width = spread / steps if steps else width
    return (smallest + largest) / 2 + width * (np.arange(steps + 2) - (steps + 1) / 2)


def _parts(entropies: np.ndarray, thresholds: tuple[float, float]) -> list[np.ndarray]:
    """The entropies of S1, S2 and S3 (Eq. 10)."""
    group = perceptual_groups(torch.tensor(entropies), torch.tensor(thresholds, dtype=torch.float64)).numpy()
    return [entropies[group == number] for number in range(3)]


def _draw_shares(sheet: Axes, shares: list[float], distinct: bool) -> None:
    """A box for each group: the legend of the bars' colours with the group's share of the rows."""
    names = ("easy (S1)", "medium (S2)", "hard (S3)")
    bounds = ("H ≤ Q25", "Q25 < H < Q75", "H ≥ Q75" if distinct else "H > Q75")
    width = (WIDTH - 2 * MARGIN - 2 * BOXES_GAP) / 3
    for column, (name, share, bound, shade) in enumerate(zip(names, shares, bounds, SHADES, strict=True)):
        left = MARGIN + column * (width + BOXES_GAP)
        sheet.add_patch(Rectangle((left, BOXES_TOP), width, BOXES_HEIGHT, color=shade.face))
        middle = left + width / 2
        write_line(sheet, middle, BOXES_TOP + 38, name, color=shade.text)
        write_line(sheet, middle, BOXES_TOP + 95, f"{share:.1%}", TITLE_SIZE, color=shade.text, weight="bold")
        write_line(sheet, middle, BOXES_TOP + 152, bound, color=shade.text)


def _draw_bars(plot: Axes, parts: list[np.ndarray], edges: np.ndarray) -> None:
    """The bars of the three groups on top of each other; one that towers above all others is cut off."""
    width = edges[1] - edges[0]
    heights = np.zeros(len(edges) - 1, dtype=int)
    for part, shade in zip(parts, SHADES, strict=True):
        counts, _ = np.histogram(part, edges)
        plot.bar(edges[:-1], counts, width, heights, align="edge", color=shade.face, edgecolor="white", linewidth=1)
        heights += counts
    tallest = int(heights.argmax())
    next_to_tallest = np.sort(heights)[-2:][0]
    top = 1.1 * heights[tallest]
    if heights[tallest] > CUT * next_to_tallest:
        top = 1.5 * next_to_tallest
        _mark_cut(plot, edges, tallest, top, f"bar cut off:\n{heights[tallest]:,} rows")
    plot.set_ylim(0, top)


def _mark_cut(plot: Axes, edges: np.ndarray, bar: int, top: float, text: str) -> None:
    """A white gap through a bar near the top of the axes, and beside it, where there is more room, the text."""
    plot.plot(edges[bar : bar + 2], (0.85 * top, 0.87 * top), color="white", linewidth=12, zorder=3)
    right = bar < len(edges) / 2
    plot.annotate(
        text,
        (edges[bar + 1] if right else edges[bar], top),
        xytext=(16 if right else -16, -10),
        textcoords="offset points",
        size=TEXT_SIZE,
        ha="left" if right else "right",
        va="top",
        bbox={"color": "white"},
    )


def _draw_thresholds(plot: Axes, thresholds: tuple[float, float]) -> None:
    """Q25 and Q75 as lines, with their values beside the ends above the axes: to the left and to the right."""
    for name, value, side, towards in zip(("Q25", "Q75"), thresholds, ("right", "left"), (-10, 10), strict=True):
        plot.axvline(value, ymax=1.15, color="black", linewidth=4, linestyle="--", clip_on=False)
        plot.annotate(
            f"{name}\n{value:.3f}",
            (value, 1),
            xycoords=plot.get_xaxis_transform(),
            xytext=(towards, 26),
            textcoords="offset points",
            size=TEXT_SIZE,
            weight="bold",
            ha=side,
            va="bottom",
        )


def _label_axes(plot: Axes, edges: np.ndarray) -> None:
    middle, half = (edges[0] + edges[-1]) / 2, max(0.55 * (edges[-1] - edges[0]), NARROWEST / 2)
    # There are no entropies below 0: only the half of a bar over the 0 needs room there.
    plot.set_xlim(max(middle - half, -0.15 * half), middle + half)
    plot.set_xlabel("visual entropy H in nats", size=TEXT_SIZE, labelpad=12)
    plot.set_ylabel(f"rows per bin of {edges[1] - edges[0]:.2g} nats", size=TEXT_SIZE, labelpad=12)
    plot.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    plot.yaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 2.5, 5, 10), integer=True))
    plot.yaxis.set_major_formatter(EngFormatter(sep=""))
    plot.tick_params(labelsize=TEXT_SIZE, length=10, width=2)
    plot.tick_params(axis="x", pad=16)
    plot.grid(axis="y", alpha=0.3)
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)


def build_contact_sheet(groups: Mapping[str, Group]) -> Figure:
    """The figure of `draw_contact_sheet`."""
    heights = [HEADING_HEIGHT + math.ceil(len(group) / COLUMNS) * LINE_HEIGHT + GROUP_GAP for group in groups.values()]
    figure, sheet = blank_sheet(SHEET_TOP + sum(heights))
    write_title(sheet, "Images by visual entropy H")
    top = SHEET_TOP
    for (name, group), height, shade in zip(groups.items(), heights, cycle(SHADES), strict=False):
        _draw_heading(sheet, f"{name} H", group, top, shade)
        for number, (picture, entropy) in enumerate(group):
            line, column = divmod(number, COLUMNS)
            left, line_top = MARGIN + column * (CELL + GAP), top + HEADING_HEIGHT + GAP + line * LINE_HEIGHT
            _draw_picture(figure, sheet, picture, left, line_top)
            write_line(sheet, left + CELL / 2, line_top + CELL + CAPTION_HEIGHT / 2, f"H = {entropy:.3f}")
        top += height
    return figure


def fit(picture: Image.Image) -> Image.Image:
    """Scales a picture to the size of a cell: down with smoothing, up by a whole factor with its pixels as squares."""
    picture = picture.convert("RGB")
    longest = max(picture.size)
    if longest > CELL:
        width, height = (max(1, round(side * CELL / longest)) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.LANCZOS)
    factor = CELL // longest
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _draw_heading(sheet: Axes, name: str, group: Group, top: int, shade: Shade) -> None:
    """A coloured bar with a group's name and the range of its visual entropies."""
    sheet.add_patch(Rectangle((MARGIN, top), WIDTH - 2 * MARGIN, HEADING_HEIGHT, color=shade.face))
    entropies = [entropy for _, entropy in group]
    span = f"{min(entropies):.3f} to {max(entropies):.3f} nats" if entropies else "no pictures"
    middle = top + HEADING_HEIGHT / 2
    write_line(sheet, MARGIN + GAP, middle, name, color=shade.text, ha="left", weight="bold")
    write_line(sheet, WIDTH - MARGIN - GAP, middle, span, color=shade.text, ha="right")


def _draw_picture(figure: Figure, sheet: Axes, picture: Image.Image, left: int, top: int) -> None:
    """A picture in the middle of a grey cell, on which its edges show whatever its colour."""
    sheet.add_patch(Rectangle((left, top), CELL, CELL, facecolor=CELL_COLOUR))
    pixels = np.asarray(fit(picture))
    height, width, _ = pixels.shape
    # figimage copies pixel by pixel where imshow would sample again; it counts from the bottom of the figure.
    bottom = figure.bbox.height - top - (CELL + height) // 2
    figure.figimage(pixels, left + (CELL - width) // 2, bottom, origin="upper")

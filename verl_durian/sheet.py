# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Sheets to be read on a phone: portrait PNGs, 1080 pixels wide, measured in pixels from the top left corner.

A figure is drawn on a canvas of its own, never through pyplot, so that it can be drawn in any thread.
"""

from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from verl_durian.files import whole_file

DPI = 72
"""One point is one pixel: font sizes and line widths are pixels, as everything else on a sheet."""
WIDTH = 1080
MARGIN = 40
TITLE_SIZE = 50
TEXT_SIZE = 38
"""The smallest font; its digits are 28 pixels high."""


class Shade(NamedTuple):
    """A colour and that of the text on it."""

    face: str
    text: str


def blank_sheet(height: int) -> tuple[Figure, Axes]:
    """A white figure, and axes all over it whose coordinates are pixels from the top left corner."""
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    sheet = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    sheet.set_axis_off()
    return figure, sheet


def write_title(sheet: Axes, title: str) -> None:
    """The title, at the top of a sheet."""
    sheet.text(WIDTH / 2, MARGIN, title, size=TITLE_SIZE, weight="bold", ha="center", va="top")


def write_line(
    sheet: Axes, x: float, y: float, line: str, size: int = TEXT_SIZE, ha: str = "center", **style: Any
) -> None:
    """One line of text, whose middle is at the height y."""
    sheet.text(x, y, line, size=size, ha=ha, va="center_baseline", **style)


def save(figure: Figure, file: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with whole_file(file) as stream:
        FigureCanvasAgg(figure).print_png(stream)

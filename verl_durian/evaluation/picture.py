# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of an evaluation: the accuracy on each benchmark beside the paper's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from verl_durian.evaluation.paper import BASE, BENCHMARKS, DAPO, DURIAN, PAPER
from verl_durian.sheet import MARGIN, TEXT_SIZE, WIDTH, Shade, blank_sheet, save, write_line, write_title

OURS = Shade("#004488", "white")
THEIRS = {
    BASE: ("paper: base model", Shade("#BBBBBB", "black")),
    DAPO: ("paper: DAPO", Shade("#DDAA33", "black")),
    DURIAN: ("paper: Durian on DAPO (0.1/0.2/0.7)", Shade("#BB5566", "white")),
}
"""The paper's rows that are drawn: their name there, and their colour."""

LEGEND_TOP, LEGEND_LINE = 140, 58
PLOT_TOP = LEGEND_TOP + (1 + len(THEIRS)) * LEGEND_LINE + 30
HEADING, BAR, GAP = 62, 46, 26
BLOCK = HEADING + (1 + len(THEIRS)) * BAR + GAP
FULL = WIDTH - 2 * MARGIN - 110
"""Pixels of 100 percent; the rest is for the number behind the bar."""


def draw_bars(benchmarks: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draws the accuracies as a PNG of 1080 x 2034 pixels.

    Args:
        benchmarks: `accuracy`, a share, and the number of `questions` of each benchmark by its name, such as `wemath`;
            a benchmark that is missing has no bar.
        file: The PNG; one that is there is replaced.
    """
    save(build_bars(benchmarks), file)


def build_bars(benchmarks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The figure of `draw_bars`."""
    figure, sheet = blank_sheet(PLOT_TOP + (len(BENCHMARKS) + 1) * BLOCK)
    write_title(sheet, "Accuracy in percent")
    legend = [("this model", OURS), *THEIRS.values()]
    for number, (name, shade) in enumerate(legend):
        middle = LEGEND_TOP + (number + 0.5) * LEGEND_LINE
        sheet.add_patch(Rectangle((MARGIN, middle - 18), 60, 36, color=shade.face))
        write_line(sheet, MARGIN + 80, middle, name, ha="left")

    ours = {name: 100 * each["accuracy"] for name, each in benchmarks.items()}
    for number, (name, benchmark) in enumerate(BENCHMARKS.items()):
        title = benchmark.title
        if name in benchmarks and benchmarks[name]["questions"] != benchmark.questions:
            title += f": {benchmarks[name]['questions']:,} of {benchmark.questions:,} questions"
        theirs = {row: PAPER[row][number] for row in THEIRS}
        _draw_block(sheet, PLOT_TOP + number * BLOCK, title, ours.get(name), theirs)
    average = sum(ours.values()) / len(ours) if len(ours) == len(BENCHMARKS) else None
    theirs = {row: sum(PAPER[row]) / len(BENCHMARKS) for row in THEIRS}
    _draw_block(sheet, PLOT_TOP + len(BENCHMARKS) * BLOCK, "average of the five", average, theirs)
    return figure


def _draw_block(sheet: Axes, top: float, title: str, ours: float | None, theirs: Mapping[str, float]) -> None:
    """A heading and its bars: ours first, then the paper's."""
    write_line(sheet, MARGIN, top + HEADING / 2, title, ha="left", weight="bold")
    bars = [(ours, OURS), *((theirs[row], shade) for row, (_, shade) in THEIRS.items())]
    for number, (percent, shade) in enumerate(bars):
        middle = top + HEADING + (number + 0.5) * BAR
        width = FULL * (percent or 0) / 100
        sheet.add_patch(Rectangle((MARGIN, middle - BAR / 2 + 2), width, BAR - 4, color=shade.face))
        text = "not evaluated" if percent is None else f"{percent:.1f}"
        weight = "bold" if shade is OURS else "normal"
        write_line(sheet, MARGIN + width + 12, middle, text, TEXT_SIZE, ha="left", weight=weight)

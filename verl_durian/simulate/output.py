# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The style of a normalizer in figures, and the output of a simulation."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from verl_durian.files import whole_file
from verl_durian.simulate.normalizers import NAMES

STYLES: dict[str, dict[str, Any]] = {
    "grpo": {"color": "#555555", "marker": "o", "markersize": 5},
    "dr_grpo": {"color": "#E69F00", "marker": "s", "markersize": 5, "linestyle": "--"},
    "batch_std": {"color": "#009E73", "marker": "^", "markersize": 5, "linestyle": "-."},
    "mad": {"color": "#CC79A7", "marker": "v", "markersize": 5, "linestyle": ":"},
    "durian": {"color": "#0072B2", "marker": "D", "markersize": 4},
}
"""Colours of Okabe and Ito, which also differ for colour-blind readers."""


def print_table(title: str, table: pd.DataFrame, rows: str, columns: str) -> None:
    """Prints the column `text`, arranged by the values of two other columns."""
    view = Table("", *(NAMES.get(each, each) for each in table[columns].unique()), title=title)
    for row, of_row in table.groupby(rows, sort=False):
        view.add_row(NAMES.get(row, row), *of_row["text"])
    Console().print(view)


def save(output: Path, name: str, figure: Figure, table: pd.DataFrame) -> None:
    """Writes the figure as SVG and PNG, and the table as CSV, and prints their paths."""
    for suffix in ("svg", "png"):
        with whole_file(output / f"{name}.{suffix}") as stream:
            figure.savefig(stream, format=suffix, dpi=150)
    with whole_file(output / f"{name}.csv") as stream:
        stream.write(table.to_csv(index=False).encode())
    print(f"figure:  {output / name}.svg, {output / name}.png\nnumbers: {output / name}.csv")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation: the site builds without warnings, and its tables, paths and numbers agree with the code."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import durian_advantages
from verl_durian.algo.metrics import durian_metrics
from verl_durian.simulate.normalizers import NAMES

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "patches/README.md", "recipes/README.md")),
]
EXTERNAL = re.compile(
    r"""<script[^>]+src=["']?(?:https?:)?//|<img[^>]+src=["']?(?:https?:)?//|<link[^>]+href=["']?(?:https?:)?//"""
    r"""|@import[^;]*//|url\(["']?(?:https?:)?//"""
)


def test_the_site_builds_without_warnings_and_needs_no_network(tmp_path):
    for module in ("sphinx", "myst_parser", "pydata_sphinx_theme"):
        pytest.importorskip(module)
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", tmp_path / "cache"]
        + [ROOT / "docs", tmp_path / "site"],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    for file in (tmp_path / "site").rglob("*"):
        if file.suffix in (".html", ".css"):
            assert not EXTERNAL.search(file.read_text()), file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_links_exist(page):
    text = page.read_text()
    if page.parent != ROOT / "patches":  # whose paths are verl's
        for path in re.findall(r"`((?:verl_durian|recipes|tests|benchmarks|docs/figures)/[\w./-]*)`", text):
            assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    for file, name in re.findall(r"`(verl_durian/[\w/]+\.py)`: `(\w+)`", text):
        assert re.search(rf"^(def|class) {name}\b", (ROOT / file).read_text(), flags=re.MULTILINE), (file, name)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def test_every_option_is_documented_with_its_default():
    table = (ROOT / "docs/options.md").read_text()
    documented = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", table, flags=re.MULTILINE))
    options = {}
    for section in dataclasses.fields(DurianConfig):
        default = getattr(DurianConfig(), section.name)
        if dataclasses.is_dataclass(default):
            options |= {f"{section.name}.{key}": value for key, value in dataclasses.asdict(default).items()}
        else:
            options[section.name] = default
    assert documented.keys() == options.keys()
    for name, value in options.items():
        assert documented[name] == ("null" if value is None else "1e-6" if value == 1e-6 else str(value).lower()), name


def test_every_metric_is_documented():
    table = (ROOT / "docs/metrics.md").read_text()
    documented = re.findall(r"^\| `([a-z_]+/[\w/]+)`", table, flags=re.MULTILINE)
    assert documented == sorted(documented)  # as W&B and TensorBoard show them
    found = durian_advantages(
        torch.tensor([0, 1, 1, 0, 0, 1], dtype=torch.float64),
        uids=np.array(list("aaabbb")),
        entropy=torch.tensor([1, 1, 1, 2, 2, 2], dtype=torch.float64),
        log_probs=torch.tensor([-1, -1, -1, -2, -2, -2], dtype=torch.float64),
        options=DurianConfig(),
    )
    logged = {name for name in durian_metrics(found) if not re.search("/S[23]|threshold_(?!0?1$)", name)}
    assert set(documented) == logged | {"timing_s/durian"}


def test_the_figure_of_weights_and_its_table_are_those_of_the_estimators():
    spec = importlib.util.spec_from_file_location("prompt_weight", ROOT / "docs/figures/prompt_weight.py")
    figure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figure)
    method = (ROOT / "docs/method.md").read_text()
    for name, weights in figure.table().groupby("normalizer"):
        row = " | ".join(f"{weight:.2f}" for weight in weights["largest"])
        assert f"| {NAMES[name]} | {row} |" in method
        if name == "grpo":
            assert weights["largest"].iloc[[3, 6]].tolist() == pytest.approx([0.935, 2.475], abs=1e-3)

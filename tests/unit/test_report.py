# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The report on a run's metrics."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from recipes.quickstart.report import report

COLOR, SHAPE = (f"val-core/easy_vqa_{kind}/acc/mean@1" for kind in ("color", "shape"))


def printed(folder: Path, durian: bool = False, correlation: float = 0.9999) -> str:
    """The report on a run of two steps with a validation before and after."""
    steps: list[dict[str, float]] = [{COLOR: 0.5, SHAPE: 0.25}]
    for step in (1, 2):
        metrics = {"critic/score/mean": step / 10, "timing_s/step": 3.0}
        metrics["training/rollout_actor_probs_pearson_corr"] = correlation
        if durian:
            metrics |= {"durian/perceptual/S1/std": 0.3, "durian/perceptual/S1/mean_abs_advantage": 0.7}
        steps.append(metrics)
    steps[-1] |= {COLOR: 0.75, SHAPE: 0.25}
    lines = [json.dumps({"step": step, "data": metrics}) + "\n" for step, metrics in enumerate(steps)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    console = Console(record=True, width=120)
    report(folder, console)
    return console.export_text()


@pytest.mark.parametrize("durian", [False, True])
def test_table_and_figure(tmp_path: Path, durian: bool) -> None:
    text = printed(tmp_path, durian)
    rows = {line.split()[1]: line for line in text.splitlines() if "%" in line}
    assert "50.0%" in rows["color"] and "75.0%" in rows["color"] and "+25.0 points" in rows["color"]
    assert "+0.0 points" in rows["shape"] and "+12.5 points" in rows["mean"]
    assert "2 steps of 3.0 s; mean reward 0.100 in the first, 0.200 in the last" in text
    assert "should be" not in text
    assert (tmp_path / "learning.png").read_bytes().startswith(b"\x89PNG")


def test_a_low_correlation_is_reported(tmp_path: Path) -> None:
    assert "should be at least 0.999" in printed(tmp_path, correlation=0.64)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The reward of the comparison: accuracy alone, 0 or 1.

Elsewhere the reward has a part for the format, see `verl_durian.reward`. Here the start always keeps the format, and
MaxRL needs rewards that are 0 or 1, so that their mean is the pass rate.
"""

from typing import Any

from verl_durian.reward import last_boxed


def compute_score(data_source: str, solution_str: str, ground_truth: str, **kwargs: Any) -> dict[str, float]:
    """Scores one response, with the signature that verl expects of a reward function."""
    accuracy = float(last_boxed(solution_str) == ground_truth)
    return {"score": accuracy, "acc": accuracy}

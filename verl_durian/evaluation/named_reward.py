# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The training reward, with the name of the question beside.

verl's validation dumps all that a reward function returns, in an order that is drawn anew in each run, and nothing else
that tells which row of the data an answer belongs to. Named in verl as `reward.custom_reward_function.path`.
"""

from typing import Any

from verl_durian import reward


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], **kwargs: object
) -> dict[str, Any]:
    """What `verl_durian.reward.compute_score` returns, with `data_source` and `id`.

    Args:
        data_source: Name of the benchmark.
        solution_str: The response, decoded without special tokens.
        ground_truth: The right answer, a text.
        extra_info: The row's `extra_info` with its `id`.
        **kwargs: Whatever else verl passes.
    """
    verdict = reward.compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)
    return {**verdict, "data_source": data_source, "id": extra_info["id"]}

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The training reward, plus the name of the question.

verl's validation dumps what the reward function returns, in random order and without the row's id. The name assigns
each answer to its row. Set as `reward.custom_reward_function.path`.
"""

from typing import Any

from verl_durian import reward


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], **kwargs: object
) -> dict[str, Any]:
    """Returns the result of `verl_durian.reward.compute_score`, plus `data_source` and the row's `id`."""
    score = reward.compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)
    return {**score, "data_source": data_source, "id": extra_info["id"]}

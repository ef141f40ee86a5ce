# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The datasets that `verl-durian prepare` supports, by name."""

from verl_durian.prepare.geometry3k import GEOMETRY3K
from verl_durian.prepare.hallusionbench import HALLUSIONBENCH
from verl_durian.prepare.mathverse import MATHVERSE
from verl_durian.prepare.mathvision import MATHVISION
from verl_durian.prepare.mathvista import MATHVISTA
from verl_durian.prepare.virl39k import VIRL39K
from verl_durian.prepare.wemath import WEMATH

DATASETS = {each.name: each for each in (GEOMETRY3K, VIRL39K, MATHVERSE, MATHVISION, MATHVISTA, WEMATH, HALLUSIONBENCH)}

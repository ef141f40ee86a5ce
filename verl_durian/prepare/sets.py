# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The sets that `verl-durian prepare` knows, by name."""

from verl_durian.prepare.geometry3k import GEOMETRY3K
from verl_durian.prepare.hallusionbench import HALLUSIONBENCH
from verl_durian.prepare.mathverse import MATHVERSE
from verl_durian.prepare.mathvision import MATHVISION
from verl_durian.prepare.mathvista import MATHVISTA
from verl_durian.prepare.virl39k import VIRL39K
from verl_durian.prepare.wemath import WEMATH

SETS = {each.name: each for each in (GEOMETRY3K, VIRL39K, MATHVERSE, MATHVISION, MATHVISTA, WEMATH, HALLUSIONBENCH)}

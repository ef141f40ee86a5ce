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
"""verl's config from the overrides of a command line, and what Hydra has against them."""

import difflib
import re

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf

from verl_durian.preflight import Finding, one_line
from verl_durian.preflight.installation import folder_of

_UNKNOWN_KEY = re.compile(r"Could not override '(.+?)'")


def compose(overrides: list[str]) -> DictConfig:
    """verl's config for `verl.trainer.main_ppo`, without importing verl.

    Args:
        overrides: Such as `["data.train_batch_size=512"]`.

    Raises:
        HydraException: an override that cannot be read, or names an unknown key.
    """
    with hydra.initialize_config_dir(str(folder_of("verl") / "trainer" / "config"), version_base=None):
        return hydra.compose("ppo_trainer", overrides)


def compose_what_can_be(overrides: list[str]) -> tuple[DictConfig, list[Finding]]:
    """verl's config from the overrides that Hydra takes, and a finding for each of the others."""
    taken, findings = [], []
    parser = OverridesParser.create()
    for override in overrides:
        try:
            readable = not parser.parse_override(override).is_sweep_override()
        except HydraException:
            readable = False
        if readable:
            taken.append(override)
        else:
            findings.append(
                Finding(
                    f"{override}: Hydra cannot read this; a setting is written key=value, and a value with one of "
                    "{}[](),=' in it stands in quotes that the shell leaves: key=\"'value'\""
                )
            )
    while True:
        try:
            return compose(taken), findings
        except ConfigCompositionException as error:
            unknown = _UNKNOWN_KEY.search(str(error))
            bad = [each for each in taken if unknown and _key(each) == unknown.group(1)]
            if not bad:
                raise ValueError(f"Hydra cannot compose the config: {one_line(error)}") from error
            findings.append(Finding(_unknown_key(bad[0])))
            taken = [each for each in taken if each not in bad]
        except HydraException as error:  # such as a group that does not exist
            raise ValueError(f"Hydra cannot compose the config: {one_line(error)}") from error


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def _unknown_key(override: str) -> str:
    """What is wrong with an override whose key verl's config lacks."""
    parent, (*_, last) = compose([]), _key(override).split(".")
    path = []
    for part in _key(override).split("."):
        if not isinstance(parent, DictConfig) or part not in parent:
            last = part
            break
        parent = parent[part]
        path.append(part)
    known = list(map(str, parent)) if OmegaConf.is_dict(parent) else []
    near = difflib.get_close_matches(last, known, n=3) or known[:12]
    where = ".".join(path) or "verl's config"
    remedy = f"; in {where} there is {', '.join(near)}" if near else ""
    return f"{override}: verl has no such key{remedy}; a key of your own takes a + in front"

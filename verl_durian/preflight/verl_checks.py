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
"""verl's own check of its config."""

import contextlib
import inspect
import io
import warnings

from omegaconf import DictConfig

from verl_durian.preflight import Finding, one_line


def check(config: DictConfig) -> list[Finding]:
    """What verl's `validate_config` has against the settings; it stops at the first. Needs verl.

    Args:
        config: verl's whole config.
    """
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils import config as verl_config

    own = inspect.unwrap(verl_config.validate_config)  # without what our plugin adds to it
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    except Exception as error:  # assertions, ValueErrors, and Hydra's around either
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return [Finding(f"verl refuses these settings: {one_line(cause)}")]
    return []

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
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

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The entry point of the group `verl.plugins`: `import verl` loads this module in every process.

Imports nothing heavy: a function of verl is wrapped after its module has been imported. A symbol that this verl lacks
is skipped, so that other estimators work; `durian` then refuses to start.
"""

import sys
from types import ModuleType

import wrapt

from verl_durian.hooks import verl_symbols


def _register_estimator(core_algos: ModuleType) -> None:
    symbol = verl_symbols.REGISTER
    if verl_symbols.problem(symbol):
        return
    with verl_symbols.recording_failure(symbol):
        # A patched verl keeps its own estimator of this name.
        if "durian" not in core_algos.ADV_ESTIMATOR_REGISTRY:
            from verl_durian.algo.estimator import compute_durian_outcome_advantage

            core_algos.register_adv_est("durian")(compute_durian_outcome_advantage)


_MODULES = list(dict.fromkeys(symbol.module for symbol in verl_symbols.SYMBOLS if symbol.wrapper))

# Imported before this plugin, by VERL_USE_EXTERNAL_MODULES or another plugin: other modules may hold their functions.
_IMPORTED_BEFORE = [name for name in _MODULES if name in sys.modules]


def _wrap_functions(module: ModuleType) -> None:
    for symbol in verl_symbols.SYMBOLS:
        if symbol.module == module.__name__ and symbol.wrapper and not verl_symbols.problem(symbol):
            with verl_symbols.recording_failure(symbol):
                verl_symbols.wrap(symbol, everywhere=module.__name__ in _IMPORTED_BEFORE)


wrapt.register_post_import_hook(_register_estimator, verl_symbols.CORE_ALGOS)
for _name in _MODULES:
    wrapt.register_post_import_hook(_wrap_functions, _name)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Loaded by ``import verl`` in every process (entry point group ``verl.plugins``).

Nothing of weight is imported here: verl's functions are wrapped once the module that holds them has been imported. A
symbol that this verl lacks is left alone, so that other estimators work; ``durian`` itself then refuses to start.
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
        # A verl that has an estimator of this name keeps its own.
        if "durian" not in core_algos.ADV_ESTIMATOR_REGISTRY:
            from verl_durian.algo.estimator import compute_durian_outcome_advantage

            core_algos.register_adv_est("durian")(compute_durian_outcome_advantage)


_MODULES = list(dict.fromkeys(symbol.module for symbol in verl_symbols.SYMBOLS if symbol.wrapper))

# Imported before the plugin, by VERL_USE_EXTERNAL_MODULES or another plugin: other modules may hold their functions.
_IMPORTED_BEFORE = [name for name in _MODULES if name in sys.modules]


def _wrap_functions(module: ModuleType) -> None:
    for symbol in verl_symbols.SYMBOLS:
        if symbol.module == module.__name__ and symbol.wrapper and not verl_symbols.problem(symbol):
            with verl_symbols.recording_failure(symbol):
                verl_symbols.wrap(symbol, everywhere=module.__name__ in _IMPORTED_BEFORE)


wrapt.register_post_import_hook(_register_estimator, verl_symbols.CORE_ALGOS)
for _name in _MODULES:
    wrapt.register_post_import_hook(_wrap_functions, _name)

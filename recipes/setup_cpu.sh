#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Makes .venv in the repository's root: verl, vLLM and this project for a machine without a GPU. Needs Python 3.11.
# Does nothing where the environment is up to date. VENV names another folder, CONSTRAINTS other pins, and arguments what
# pip installs in place of this project and verl_cpu.

set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3.11}
VENV=${VENV:-.venv}
CONSTRAINTS=${CONSTRAINTS:-constraints-cpu.txt}
[ $# -gt 0 ] || set -- --editable ".[dev]" --editable recipes/cpu

STAMP=$VENV/verl-durian.sha256
WANTED=$({ cat pyproject.toml "$CONSTRAINTS" recipes/cpu/{pyproject.toml,verl_cpu.pth} recipes/setup_cpu.sh && echo "$@"; } | sha256sum)
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$WANTED" ]; then
    exit 0
fi

if [ -e "$VENV/verl-durian-gpu.sha256" ]; then
    echo "$VENV is the environment of recipes/setup_gpu.sh; VENV=... names another folder" >&2 && exit 2
fi
command -v "$PYTHON" >/dev/null || { echo "$PYTHON is not installed; PYTHON=... names another 3.11" >&2 && exit 2; }
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
export PIP_DISABLE_PIP_VERSION_CHECK=1
install() { "$VENV/bin/python" -m pip install --constraint "$CONSTRAINTS" "$@"; }

# First torch's build for CPUs: else pip would fetch the one with CUDA, and gigabytes of libraries with it.
echo "Installing PyTorch for CPUs"
if ! install --quiet torch==2.13.0+cpu 2>/dev/null; then
    install --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu torchvision==0.28.0+cpu
fi
echo "Installing $* (some minutes)"
install --quiet "$@"

# What was installed may ask for these two, and pip may find builds with CUDA, which fail on import beside a torch
# without it. An absent package is what transformers and vLLM expect where no sound is read; one that fails ends them.
for package in torchaudio torchcodec; do
    if ! "$VENV/bin/python" -c "import $package" 2>/dev/null; then
        "$VENV/bin/python" -m pip uninstall --quiet --yes "$package" 2>/dev/null
    fi
done

echo "$WANTED" >"$STAMP"

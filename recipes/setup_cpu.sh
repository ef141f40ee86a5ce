#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Installs verl, vLLM and this project for machines without a GPU into .venv (Python 3.11); does nothing if .venv is up to
# date. PYTHON names another interpreter, VENV another folder, CONSTRAINTS another file of pins; arguments replace the
# packages that pip installs (this project and verl_cpu).

set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3.11}
VENV=${VENV:-.venv}
CONSTRAINTS=${CONSTRAINTS:-constraints-cpu.txt}
[ $# -gt 0 ] || set -- --editable ".[dev]" --editable recipes/cpu

STAMP=$VENV/verl-durian.sha256
SOURCES=(pyproject.toml "$CONSTRAINTS" recipes/cpu/{pyproject.toml,verl_cpu.pth} recipes/setup_cpu.sh)
WANTED=$({ cat "${SOURCES[@]}" && echo "$@"; } | sha256sum)
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$WANTED" ]; then
    exit 0
fi

if [ -e "$VENV/verl-durian-gpu.sha256" ]; then
    echo "$VENV is the environment of recipes/setup_gpu.sh; name another folder with VENV=..." >&2 && exit 2
fi
command -v "$PYTHON" >/dev/null || { echo "$PYTHON is not installed; set PYTHON=... to a Python 3.11" >&2 && exit 2; }
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
export PIP_DISABLE_PIP_VERSION_CHECK=1
install() { "$VENV/bin/python" -m pip install --constraint "$CONSTRAINTS" "$@"; }

# Install the CPU build of torch first; pip would choose the CUDA build with gigabytes of libraries.
echo "Installing PyTorch for CPUs"
if ! install --quiet torch==2.13.0+cpu 2>/dev/null; then
    install --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu torchvision==0.28.0+cpu
fi
echo "Installing $* (some minutes)"
install --quiet "$@"

# Dependencies may install CUDA builds of these audio packages, whose import fails with a CPU build of torch. transformers
# and vLLM work without them, but not if their import fails.
for package in torchaudio torchcodec; do
    if ! "$VENV/bin/python" -c "import $package" 2>/dev/null; then
        "$VENV/bin/python" -m pip uninstall --quiet --yes "$package" 2>/dev/null
    fi
done

echo "$WANTED" >"$STAMP"

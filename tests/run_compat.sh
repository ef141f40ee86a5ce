#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Installs releases of verl, each in its own environment, and runs the tests of the estimator and the hooks there.
#
#     bash tests/run_compat.sh                       # the supported releases, and two older ones
#     bash tests/run_compat.sh 0.9.0 ../verl         # this release, and a clone
#
# A release in SEEN_IN (verl_durian/hooks/verl_symbols.py) is supported: pip must install it together with this project, and
# all tests must pass. Any other release is installed by force and must be rejected (tests/compat/refusal.py). Failures
# with a clone are only reported. COMPAT names the folder of environments and logs, PYTHON another Python.
set -euo pipefail
cd "$(dirname "$0")/.."

export PYTHON=${PYTHON:-python3.11}
COMPAT=${COMPAT:-.compat}
TESTS=(tests/unit/test_{config,estimator,metrics}.py tests/integration/test_{hook,plugin,trainers,training_data}.py)
# For the images of the tests. These tests need no vLLM.
PACKAGES=(easy-vqa psutil scikit-image torchvision)

export VERL_PLATFORM=cpu HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0
export PIP_DISABLE_PIP_VERSION_CHECK=1

mkdir -p "$COMPAT"
grep -v '^verl==' constraints-cpu.txt >"$COMPAT/constraints.txt"
claimed=$("$PYTHON" -c 'from verl_durian.hooks.verl_symbols import SEEN_IN; print(*SEEN_IN)')
# shellcheck disable=SC2086
[ $# -gt 0 ] || set -- $claimed 0.8.0 0.7.1

install() { # VENV KIND RELEASE
    local verl="verl==$3"
    [ "$2" = claimed ] || verl="verl==${claimed##* }"
    # In a function that `if` calls, a failed command does not end the function.
    VENV=$1 CONSTRAINTS=$COMPAT/constraints.txt bash recipes/setup_cpu.sh --editable ".[dev]" "$verl" \
        "${PACKAGES[@]}" || return
    # The platform "cpu", without its requirement verl 0.9.1.
    "$1/bin/python" -m pip install --quiet --no-deps --editable recipes/cpu || return
    case $2 in
        # Without its requirements: verl below 0.9 requires numpy 1, with which no new pyarrow works.
        other) "$1/bin/python" -m pip install --quiet --no-deps "verl==$3" || return ;;
        clone) "$1/bin/python" -m pip install --quiet --editable "$3" || return ;;
    esac
}

failed=0
table=$(printf '%-20s %-12s %-13s %-6s %s' release installed should result tests)
for release in "$@"; do
    name=$(basename "$release") tests=("${TESTS[@]}")
    if [ -d "$release" ]; then
        kind=clone should="(a clone)"
    elif [[ " $claimed " == *" $release "* ]]; then
        kind=claimed should=pass
    else
        kind=other should="be refused" tests=(tests/compat/refusal.py)
    fi
    venv=$COMPAT/$name log=$COMPAT/$name.log result=ok version="-" said="not installed: see $log"
    echo "verl $release: installing and testing; $log"
    if install "$venv" "$kind" "$release" >"$log" 2>&1; then
        version=$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("verl"))')
        "$venv/bin/python" -m pytest "${tests[@]}" >>"$log" 2>&1 || result=FAILED
        said=$(tail -n 1 "$log" | tr -d '=')
    else
        result=FAILED
    fi
    [ "$result" = ok ] || [ "$kind" = clone ] || failed=1
    table+=$(printf '\n%-20s %-12s %-13s %-6s %s' "$name" "$version" "$should" "$result" "$said")
done
echo "$table"
exit "$failed"

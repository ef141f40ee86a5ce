# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The patches in patches/verl-0.9.1, on a pristine download of verl 0.9.1, and the plugin on a patched verl.

verl's own tests and checks are run on the patched verl by tests/run_upstream.sh.
"""

import filecmp
import json
import os
import sys
from pathlib import Path

import durian_in_verl
import numpy as np
import pytest
from patched_verl import INSTALLED, PATCHES, download, patch, run, to_import, unpack

from verl_durian.hooks import known_failures
from verl_durian.preflight.compose import compose

OF_A_CLONE = ("docs/extend_guide.rst", "docs/index.rst", "examples/README.md")
"""Files that the last two patches change and no release contains."""


def changed(file: Path) -> list[str]:
    """The paths that a patch changes."""
    return [line.split(" b/")[-1] for line in file.read_text().splitlines() if line.startswith("diff --git ")]


def files(tree: Path) -> list[Path]:
    return sorted(path.relative_to(tree) for path in tree.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return download(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def tree(wheel, tmp_path) -> Path:
    """A folder with the released files, as they are in site-packages."""
    return unpack(wheel, tmp_path / "verl")


def test_patches_touch_what_the_readme_says():
    assert [file.name[:4] for file in PATCHES] == [f"000{number}" for number in range(1, 8)]
    tops = [{path.split("/")[0] for path in changed(file)} for file in PATCHES]
    assert tops == [{"verl", "tests"}] * 5 + [{"docs"}, {"docs", "examples"}]
    for file in PATCHES:
        message = file.read_text().split("\n---\n")[0]
        trailers = [line for line in message.splitlines() if line.lower().startswith("co-authored-by:")]
        assert trailers == ["Co-authored-by: Claude <noreply@anthropic.com>"], file
    assert "register_adv_est" in PATCHES[5].read_text() and "rollout.load_format=auto" in PATCHES[6].read_text()


def test_patch_applies_to_an_installed_tree_and_is_reverted(tree, wheel, tmp_path):
    pristine = unpack(wheel, tmp_path / "pristine")
    patch(tree)
    assert "DURIAN" in (tree / "verl/trainer/ppo/core_algos.py").read_text()
    assert not [path for path in files(tree) if path.suffix in (".orig", ".rej")]  # no fuzz, no offset kept aside
    patch(tree, "-R", patches=INSTALLED[::-1])
    assert files(tree) == files(pristine)
    assert filecmp.cmpfiles(tree, pristine, files(tree), shallow=False)[1:] == ([], [])


def test_git_am_applies_the_whole_series(tree, wheel, tmp_path):
    git = ("git", "-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
    run(*git, "init", "-q", cwd=tree)
    run(*git, "add", "-A", "-f", cwd=tree)
    run(*git, "commit", "-qm", "verl 0.9.1", cwd=tree)
    run(*git, "am", "-q", "--keep-non-patch", *INSTALLED, cwd=tree)
    left_out = [f"--exclude={path}" for path in OF_A_CLONE]
    run(*git, "am", "-q", "--keep-non-patch", *left_out, PATCHES[6], cwd=tree)
    assert run(*git, "rev-list", "--count", "HEAD", cwd=tree) == "7\n"
    patched = unpack(wheel, tmp_path / "patched")
    patch(patched)
    assert filecmp.cmpfiles(tree, patched, files(patched), shallow=False)[1:] == ([], [])
    assert set(changed(PATCHES[6])) - set(OF_A_CLONE) <= {str(path) for path in files(tree)}


def test_preflight_sees_whether_verl_crashes_without_images(tree, monkeypatch):
    monkeypatch.setattr(known_failures, "package_folder", tree.joinpath)
    config = compose(["actor_rollout_ref.actor.strategy=fsdp2"])
    assert known_failures.crashes_without_images(config)
    patch(tree, patches=[PATCHES[2]])
    assert not known_failures.crashes_without_images(config)


def test_dummy_weights_are_accepted_where_verl_keeps_the_buffers(tree, monkeypatch):
    monkeypatch.setattr(known_failures, "package_folder", tree.joinpath)
    of_vllm = tree / "vllm/model_executor/models/vision.py"
    of_vllm.parent.mkdir(parents=True)
    of_vllm.write_text("class FusedInputNorm")
    config = compose(["actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.rollout.load_format=dummy"])
    assert ["load_format=dummy" in each for each in known_failures.find(config, "qwen2_5_vl")] == [True]
    patch(tree, patches=[PATCHES[3]])
    assert known_failures.find(config, "qwen2_5_vl") == []


def test_patches_that_do_not_depend_on_each_other(tree):
    """The second needs the first, the fifth needs both; the third and the fourth need none."""
    for alone in (PATCHES[:1], PATCHES[2:3], PATCHES[3:4]):
        patch(tree, patches=alone)
        patch(tree, "-R", patches=alone)
    patch(tree, patches=[*PATCHES[:2], PATCHES[4]])


@pytest.fixture(scope="module")
def steps(wheel, tiny_qwen25vl, tmp_path_factory) -> dict[str, dict]:
    """What verl's advantage steps give: unpatched with the plugin, patched with it and without, and with the plugin and
    all patches but the estimator."""
    folder = tmp_path_factory.mktemp("steps")
    for verl, patches in (("patched", INSTALLED), ("no_estimator", INSTALLED[:4])):
        to_import(wheel, folder / verl, patches)
    found = {}
    for name, verl, policy in (
        ("plugin", None, "auto"),
        ("both", "patched", "auto"),
        ("patches", "patched", "none"),
        ("no_estimator", "no_estimator", "auto"),
    ):
        path = [str(folder / verl)] if verl else []
        out = folder / f"{name}.json"
        run(
            *(sys.executable, durian_in_verl.__file__, out, tiny_qwen25vl, folder),
            cwd=folder,
            VERL_USE_EXTERNAL_PLUGINS=policy,
            PYTHONPATH=os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        )
        found[name] = json.loads(out.read_text())
    assert [str(folder) in step["verl"] for step in found.values()] == [False, True, True, True]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["v1", "v1_padded", "v1_several_outputs", "v1_non_finite", "older", "older_non_finite"]
)
def test_the_same_advantages_with_the_plugin_the_patches_and_both(step, steps):
    plugin, both, patches = (np.array(steps[name][step]) for name in ("plugin", "both", "patches"))
    assert np.abs(plugin).max() > 0.5
    assert (patches == plugin).all() and (both == plugin).all()
    if step.endswith("_non_finite"):
        assert not np.allclose(patches, steps["patches"][step.removesuffix("_non_finite")])


@pytest.mark.slow
def test_the_hook_is_inactive_if_verl_computes_durian(steps):
    assert steps["plugin"]["estimator"] == "verl_durian.algo.estimator"
    assert steps["both"]["estimator"] == steps["patches"]["estimator"] == "verl.trainer.ppo.core_algos"
    assert len(steps["plugin"]["hooked"]) == 8
    assert steps["both"]["hooked"] == ["_create_dataloader", "_init_dataloader"]
    assert steps["patches"]["hooked"] == []
    # One fetch and one estimate, where the hook has to fetch two columns more.
    assert steps["both"]["calls"] == steps["patches"]["calls"] == ["fetch", "estimate"]
    assert steps["plugin"]["calls"] == ["fetch", "fetch", "fetch", "estimate"]
    assert steps["plugin"]["metrics"] and not steps["both"]["metrics"]
    # The plugin still prepares the training set.
    assert steps["plugin"]["validated"] == steps["both"]["validated"] == "dataset"
    assert steps["plugin"]["thresholds"] == steps["both"]["thresholds"] == [3.0, 5.0]
    for step in ("v1_thresholds", "v1_without_perceptual"):
        assert steps["both"][step] == steps["plugin"][step]
        assert not np.allclose(steps["both"][step], steps["both"]["v1"])
    # With the other patches it works as without.
    differ = [name for name, found in steps["plugin"].items() if steps["no_estimator"][name] != found]
    assert differ == ["verl"]

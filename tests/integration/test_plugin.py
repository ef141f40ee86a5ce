# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The plugin in real processes: what ``import verl`` loads, what happens if verl changed, what doctor reports."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import advantage_step
import pytest

from verl_durian.hooks import checks, verl_symbols

HELPERS = str(Path(advantage_step.__file__).parent)


def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


def test_import_verl_loads_nothing_of_weight():
    loaded = set(run("import sys, verl; print(*(m for m in sys.modules if 'durian' in m))").stdout.split())
    assert "verl_durian.hooks.plugin" in loaded
    heavy = {"estimator", "trainers", "entropy", "metrics", "preflight", "doctor"}
    assert not {name.split(".")[-1] for name in loaded} & heavy


def test_estimator_and_hooks_follow_verls_modules():
    code = (
        "from verl.trainer.ppo.core_algos import get_adv_estimator_fn as get; import sys;"
        "print(get('durian').__module__, 'verl_durian.hooks.trainers' in sys.modules);"
        "import verl.trainer.ppo.v1; print('verl_durian.hooks.trainers' in sys.modules)"
    )
    assert run(code).stdout.split()[-3:] == ["verl_durian.algo.estimator", "False", "True"]


# The plugin is kept out at first, so that it meets a verl that has already lost a symbol.
LACKING = """
import os, sys
os.environ.pop("VERL_PLATFORM", None)
import verl, verl.trainer.ppo.ray_trainer as ray_trainer
del ray_trainer.RayPPOTrainer._get_gen_batch
import verl_durian.hooks.plugin
helpers, model, estimator, use_v1 = sys.argv[1:]
sys.path.insert(0, helpers)
import advantage_step
from verl.utils import config as verl_config
config = advantage_step.compose(
    *advantage_step.ROLLOUT, f"actor_rollout_ref.model.path={model}", "actor_rollout_ref.actor.use_dynamic_bsz=True",
    f"algorithm.adv_estimator={estimator}", f"trainer.use_v1={use_v1}",
)
verl_config.validate_config(config, use_reference_policy=False, use_critic=False)
print("accepted")
"""


@pytest.mark.parametrize(("estimator", "use_v1"), [("durian", False), ("durian", True), ("grpo", False)])
def test_a_missing_symbol_stops_only_durian_and_only_the_trainers_that_need_it(estimator, use_v1, tiny_qwen25vl):
    done = run(LACKING, HELPERS, tiny_qwen25vl, estimator, use_v1, VERL_USE_EXTERNAL_PLUGINS="none")
    if use_v1 or estimator == "grpo":
        assert done.returncode == 0 and "accepted" in done.stdout, done.stderr
    else:
        assert done.returncode != 0
        assert "verl.trainer.ppo.ray_trainer.RayPPOTrainer._get_gen_batch is missing" in done.stderr
        assert "Install one of those versions" in done.stderr and "0.9.1" in done.stderr


# verl after TransferQueue, with fully asynchronous training in another package.
AHEAD = """
import sys, json
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("transfer_queue", "verl.experimental.fully_async_policy")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
sys.path.insert(0, sys.argv[1])
import verl, advantage_step
from verl_durian.hooks import checks, verl_symbols
from verl_durian.hooks.doctor import check_process
found = check_process((verl_symbols.EVERY, verl_symbols.OLDER))
assert all(each.level != "problem" for each in found), found
print(json.dumps({each.subject: each.detail for each in found if each.level == "note"}))
print([each.subject for each in check_process() if each.level == "problem"])
durian = ("algorithm.adv_estimator=durian", f"actor_rollout_ref.model.path={sys.argv[2]}", *advantage_step.ROLLOUT)
assert advantage_step.run_v0(advantage_step.make_rows(), advantage_step.compose(*durian))[0].any()
checks.check(advantage_step.compose(*durian, "trainer.use_v1=False"))
try:
    checks.check(advantage_step.compose(*durian))
except RuntimeError as error:
    print(error)
"""


def test_trainers_that_a_later_verl_lacks_cost_only_those_trainers(tiny_qwen25vl):
    done = run(AHEAD, HELPERS, tiny_qwen25vl)
    assert done.returncode == 0, done.stderr
    notes, needed, refused = done.stdout.strip().splitlines()[-3:]
    notes = json.loads(notes)
    assert set(notes) == {"hook in trainer V1", "hook in fully asynchronous training"}
    assert "transfer_queue" in notes["hook in trainer V1"]
    assert "fully_async_policy" in notes["hook in fully asynchronous training"]
    assert needed == "['hook in trainer V1']"  # which is verl's default
    assert "trainer_base" in refused and "transfer_queue" in refused


@pytest.mark.parametrize(
    ("broken", "module", "symbol"),
    [
        ("hooks.dataset", "ray_trainer", "metric_utils.compute_data_metrics"),
        ("algo.estimator", "core_algos", "core_algos.register_adv_est"),
    ],
)
def test_a_hook_that_fails_does_not_break_verl_and_is_reported(broken, module, symbol):
    code = (
        f"import sys, types; sys.modules['verl_durian.{broken}'] = types.ModuleType('broken');"
        f"import verl.trainer.ppo.{module}; from verl_durian.hooks.verl_symbols import problems; print(*problems())"
    )
    done = run(code)
    assert done.returncode == 0 and f"{symbol}: the hook failed (ImportError" in done.stdout


def test_std_normalization_switched_off_is_refused():
    config = advantage_step.compose("algorithm.adv_estimator=durian", "algorithm.norm_adv_by_std_in_grpo=False")
    with pytest.raises(ValueError, match="norm_adv_by_std_in_grpo"):
        checks.check(config)


@pytest.mark.parametrize("of_verl", [True, False])
@pytest.mark.parametrize("fully_async", [True, False])
@pytest.mark.parametrize("thresholds", ["dataset", "[1.5]"])
def test_thresholds_that_would_not_reach_a_fully_asynchronous_trainer_are_refused(
    thresholds, fully_async, of_verl, monkeypatch
):
    monkeypatch.setattr(verl_symbols, "computes_durian", lambda: of_verl)
    overrides = ["algorithm.adv_estimator=durian", f"+algorithm.durian.perceptual.thresholds={thresholds}"]
    config = advantage_step.compose(*overrides, *["+async_training.staleness_threshold=0.5"] * fully_async)
    if thresholds == "dataset" and fully_async and of_verl:
        with pytest.raises(ValueError, match="thresholds=dataset: fully asynchronous.*verl-durian score"):
            checks.check_options(config)
    else:
        checks.check_options(config)


def test_a_typo_in_an_option_is_refused_before_ray_starts():
    code = (
        "import sys; sys.argv = ['main_ppo', 'algorithm.adv_estimator=durian', '+algorithm.durian.reasoning.groups=3'];"
        "from verl.trainer.main_ppo import main; main()"
    )
    done = run(code, HYDRA_FULL_ERROR="1")
    assert done.returncode != 0
    assert "algorithm.durian.reasoning.groups" in done.stderr and "ray.init" not in done.stderr


def doctor(*arguments: str, first_on_path: object = HELPERS, **environment: str) -> tuple[int, str]:
    """Exit code, and what is printed, with single spaces."""
    code = "import sys; from verl_durian.cli import app; sys.argv[0] = 'verl-durian'; app()"
    path = os.pathsep.join([str(first_on_path), os.environ.get("PYTHONPATH", "")])
    done = run(code, "doctor", *arguments, PYTHONPATH=path, **environment)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_doctor_finds_no_problem():
    code, said = doctor("--verbose")
    assert code == 0 and "Ready. verl-durian" in said and f"verl {version('verl')}" in said, said
    assert "a Ray worker: hook in trainer V1" in said, said


def test_doctor_gives_the_command_for_unmet_requirements(tmp_path):
    """Metadata that comes first on the path asks for more."""
    folder = tmp_path / "verl_durian-9.9.dist-info"
    folder.mkdir()
    lines = (
        "Metadata-Version: 2.1\nName: verl-durian\nVersion: 9.9\nRequires-Dist: rich>=999\nRequires-Dist: durian-x\n"
    )
    (folder / "METADATA").write_text(lines)
    code, said = doctor(first_on_path=tmp_path)
    assert code == 1 and "durian-x: not installed" in said and "rich " in said
    assert "grep -viE '^(rich)==') 'rich>=999' durian-x" in said and "this process" not in said


def test_doctor_names_what_is_wrong():
    code, said = doctor(VERL_USE_EXTERNAL_PLUGINS="other")
    assert code == 1
    assert "VERL_USE_EXTERNAL_PLUGINS=other Remedy: unset VERL_USE_EXTERNAL_PLUGINS" in said
    assert "Ready." not in said


def test_without_typer_the_command_names_what_to_install(tmp_path):
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    code, said = doctor(first_on_path=tmp_path)
    assert code == 1 and said.startswith("verl-durian: typer is not installed. In bash:"), said
    assert "Traceback" not in said


def test_missing_flash_attn_is_a_note(monkeypatch):
    from verl_durian.hooks.doctor import check_packages

    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    missing = [] if find_spec("flash_attn") else [("note", "flash-attn: not installed")]
    assert [(each.level, each.detail) for each in check_packages()] == missing

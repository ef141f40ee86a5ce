# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The plugin in real processes: what ``import verl`` loads, what happens if verl changed, what doctor reports."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import advantage_step
import pytest
from packaging.requirements import Requirement

from verl_durian.hooks import checks
from verl_durian.hooks import doctor as module
from verl_durian.hooks.doctor import install_command, unmet

HELPERS = str(Path(advantage_step.__file__).parent)


def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


def test_modules_are_loaded_when_verl_needs_them():
    code = (
        "import sys, verl; loaded = lambda: [m.split('.')[-1] for m in sys.modules if 'durian' in m]; print(*loaded());"
        "from verl.trainer.ppo.core_algos import get_adv_estimator_fn as get; print(get('durian').__module__);"
        "print('trainers' in loaded()); import verl.trainer.ppo.v1; print('trainers' in loaded())"
    )
    at_first, *later = run(code).stdout.splitlines()[-4:]
    assert "plugin" in at_first.split()
    assert not set(at_first.split()) & {"estimator", "trainers", "entropy", "metrics", "preflight", "doctor"}
    assert later == ["verl_durian.algo.estimator", "False", "True"]


# The plugin is kept out at first, so that it meets a verl that has already lost a symbol.
LACKING = """
import os, sys
os.environ.pop("VERL_PLATFORM", None)
import verl, verl.trainer.ppo.ray_trainer as ray_trainer
del ray_trainer.RayPPOTrainer._get_gen_batch
import verl_durian.hooks.plugin
sys.path.insert(0, sys.argv[1])
import advantage_step
from verl.utils import config as verl_config
for estimator, use_v1 in (("durian", True), ("grpo", False), ("durian", False)):
    config = advantage_step.compose(
        *advantage_step.ROLLOUT, f"actor_rollout_ref.model.path={sys.argv[2]}", f"trainer.use_v1={use_v1}",
        "actor_rollout_ref.actor.use_dynamic_bsz=True", f"algorithm.adv_estimator={estimator}",
    )
    verl_config.validate_config(config, use_reference_policy=False, use_critic=False)
    print(f"{estimator} accepted")
"""


def test_a_missing_symbol_stops_only_durian_and_only_the_trainers_that_need_it(tiny_qwen25vl):
    done = run(LACKING, HELPERS, tiny_qwen25vl, VERL_USE_EXTERNAL_PLUGINS="none")
    assert done.returncode != 0 and done.stdout.count("accepted") == 2, done.stderr
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


def test_hooks_that_fail_do_not_break_verl_and_are_reported():
    done = run(
        "import sys, types; sys.modules['verl_durian.algo.estimator'] = types.ModuleType('broken');"
        "import verl.trainer.ppo.ray_trainer; from verl_durian.hooks.verl_symbols import problems; print(*problems())"
    )
    assert done.returncode == 0
    for symbol in ("core_algos.register_adv_est", "metric_utils.compute_data_metrics"):
        assert f"{symbol}: the hook failed (ImportError" in done.stdout


def test_std_normalization_switched_off_is_refused():
    config = advantage_step.compose("algorithm.adv_estimator=durian", "algorithm.norm_adv_by_std_in_grpo=False")
    with pytest.raises(ValueError, match="norm_adv_by_std_in_grpo"):
        checks.check(config)


def test_a_typo_in_an_option_is_rejected_before_ray_starts():
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
    code, said = doctor()
    assert code == 0 and said.startswith("Ready. verl-durian"), said  # when all is well, nothing else


def test_doctor_shows_its_progress(monkeypatch):
    shown = []
    monkeypatch.setattr("rich.status.Status.update", lambda self, text: shown.append(text))
    monkeypatch.setattr(module, "check_process", list)
    monkeypatch.setattr(module, "_check_worker", list)
    monkeypatch.setattr(module, "unmet", lambda: [Requirement("TransferQueue>=99")])  # not the end of the checks
    assert module.examine() and shown == ["Importing verl in this process ...", "Importing verl in a Ray worker ..."]


def test_doctor_gives_the_command_for_a_missing_requirement_of_verl(tmp_path):
    (tmp_path / "codetiming.py").write_text("raise ModuleNotFoundError(\"No module named 'codetiming'\")")
    write_metadata(tmp_path, "verl", version("verl"), "codetiming", "durian-y>=2; python_version>'3'", "numpy>=999")
    code, said = doctor(first_on_path=tmp_path)
    assert code == 1 and "import verl" in said and "No module named 'codetiming'" in said, said
    assert "keeps all other packages: " in said and said.count("durian-y>=2") == 1 and "numpy>=999" not in said, said


def test_doctor_gives_the_command_for_unmet_requirements(tmp_path):
    """The metadata that comes first on the path has more requirements."""
    write_metadata(tmp_path, "verl-durian", "9.9", "rich>=999", "durian-x")
    code, said = doctor(first_on_path=tmp_path)
    assert code == 1 and "durian-x: not installed" in said and f"rich>=999: {version('rich')}" in said
    assert "grep -viE '^(rich)==') 'rich>=999' durian-x" in said and "this process" not in said


def test_doctor_names_what_is_wrong():
    code, said = doctor(VERL_USE_EXTERNAL_PLUGINS="other")
    assert code == 1
    assert "VERL_USE_EXTERNAL_PLUGINS=other Fix: unset VERL_USE_EXTERNAL_PLUGINS" in said
    assert "Ready." not in said


def test_without_typer_the_command_names_what_to_install(tmp_path):
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    code, said = doctor(first_on_path=tmp_path)
    assert code == 1 and said.startswith("verl-durian: typer is not installed. In bash:"), said
    assert "Traceback" not in said


def metadata(name: str, release: str, *required: str) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {release}"]
    return "\n".join([*lines, *map("Requires-Dist: {}".format, required), ""])


def write_metadata(folder: Path, name: str, release: str, *required: str) -> None:
    """A distribution of which only the metadata is there."""
    of_distribution = folder / f"{name.replace('-', '_')}-{release}.dist-info"
    of_distribution.mkdir()
    (of_distribution / "METADATA").write_text(metadata(name, release, *required))


def test_missing_and_too_old_requirements_are_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    required = ("durian-b>=2", "durian-c[x]", "durian-d; python_version<'3'", "durian-e; extra=='x'", "durian-g>=2")
    write_metadata(tmp_path, "durian-a", "1.0", *required, "verl>=999")
    write_metadata(tmp_path, "durian-b", "1.5")
    write_metadata(tmp_path, "durian-g", "2.1.dev1")
    assert [str(each) for each in unmet("durian-a")] == ["durian-b>=2", "durian-c[x]"]  # verl is never replaced


def test_the_command_installs_what_is_missing_and_changes_nothing_else(tmp_path, monkeypatch):
    """pip would take the newest durian-base for durian-new; the environment's own must stay."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()

    def wheel(name: str, release: str, *required: str) -> Path:
        stem = f"{name.replace('-', '_')}-{release}"
        with zipfile.ZipFile(wheels / f"{stem}-py3-none-any.whl", "w") as file:
            file.writestr(f"{stem}.dist-info/METADATA", metadata(name, release, *required))
            file.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{stem}.dist-info/RECORD", "")
        return wheels / f"{stem}-py3-none-any.whl"

    base, old = wheel("durian-base", "1.0"), wheel("durian-old", "1.0")
    wheel("durian-base", "2.0"), wheel("durian-old", "2.0", "durian-base"), wheel("durian-new", "1.0", "durian-base")
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    offline = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    offline.pop("PYTHONPATH", None)
    subprocess.run([python, "-m", "pip", "install", "-q", base, old], check=True, env=offline)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "executable", str(python))
    write_metadata(tmp_path, "durian-a", "1.0", "durian-new", "durian-old>=2")
    write_metadata(tmp_path, "durian-old", "1.0")
    subprocess.run(["bash", "-euc", install_command(unmet("durian-a"))], check=True, env=offline)
    frozen = subprocess.check_output([python, "-m", "pip", "list", "--format=freeze"], text=True, env=offline)
    assert {"durian-base==1.0", "durian-new==1.0", "durian-old==2.0"} <= set(frozen.split())

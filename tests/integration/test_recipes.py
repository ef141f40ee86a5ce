# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The settings that the recipe scripts pass to verl, for every preset, without GPUs and without weights."""

import itertools
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from recipes.evidence.runs import ARMS
from verl_durian.hooks import known_failures
from verl_durian.preflight.compose import compose

ROOT = Path(__file__).parents[2]
RECIPE = "recipes/run_qwen25vl_durian.sh"
README = (ROOT / "recipes" / "README.md").read_text()
CHOICES = ("BACKBONE", "ENGINE", "ATTENTION", "DATASET", "LORA_RANK")
SCRIPTS = {"fsdp": RECIPE, "megatron": "recipes/run_qwen25vl_durian_megatron.sh"}
OURS = ("BACKBONE", "ESTIMATOR", "ENGINE", "DATASET", "DATA_DIR", "OUTPUT", "RAY_ADDRESS", "VERL_PLATFORM", "OFFLOAD")

# Layers, attention heads and key-value heads in the config.json of the published models.
SHAPES = {"3B": (36, 16, 2), "7B": (28, 28, 4), "32B": (64, 40, 8), "72B": (80, 64, 8)}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Folders with what verl and the plugin read of the published models, by size."""
    folders = {size: tmp_path_factory.mktemp("models") / f"Qwen2.5-VL-{size}-Instruct" for size in SHAPES}
    for folder in folders.values():
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    return {size: str(folder) for size, folder in folders.items()}


class Recipe:
    """Runs a script with a `python` that only records its arguments."""

    def __init__(self, folder: Path):
        self.folder, self.record = folder, folder / "calls"
        shim = folder / "bin" / "python"
        shim.parent.mkdir()
        shim.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@" "" >>"$RECORD"\n')
        shim.chmod(0o755)

    def run(
        self, *arguments: str, script: str = RECIPE, command: list[str] | None = None, **variables: str
    ) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if name not in OURS}
        environment |= {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "RECORD": str(self.record)}
        environment |= variables if command else {"OUTPUT": str(self.folder / "out"), **variables}
        command = command or ["bash", str(ROOT / script), *arguments]
        return subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True)

    def calls(self, *arguments: str, **options: Any) -> list[list[str]]:
        """The arguments of each call of python."""
        self.record.unlink(missing_ok=True)
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stderr
        words = self.record.read_text().split("\0")[:-1]
        return [list(group) for empty, group in itertools.groupby(words, key=lambda word: word == "") if not empty]

    def settings(self, *arguments: str, **options: str) -> list[str]:
        """The settings of the trainer, which are those that were checked before."""
        check, train = self.calls(*arguments, **options)
        assert check[:2] == ["-m", "verl_durian.preflight"] and train[:2] == ["-m", "verl.trainer.main_ppo"]
        assert check[2:] == train[2:]
        return train[2:]

    def config(self, *arguments: str, **options: str) -> DictConfig:
        return compose(self.settings(*arguments, **options))


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return Recipe(tmp_path)


def validate(config: DictConfig) -> None:
    """verl's own validation of its config, with that of the plugin."""
    import verl.trainer.ppo.core_algos  # noqa: F401
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    validate_config(config, need_reference_policy(config), need_critic(config))
    assert known_failures.find(config, "qwen2_5_vl") == []


@pytest.mark.parametrize("engine", ["fsdp", "megatron"])
@pytest.mark.parametrize("backbone", ["dapo", "grpo"])
def test_presets_are_valid_and_those_of_the_paper(recipe, models, backbone, engine):
    config = recipe.config(script=SCRIPTS[engine], MODEL_PATH=models["7B"], BACKBONE=backbone)
    validate(config)

    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (config.data.train_batch_size, actor.ppo_mini_batch_size, rollout.n) == (512, 128, 8)
    assert (config.data.max_prompt_length, config.data.max_response_length) == (2048, 2048)
    assert (rollout.temperature, rollout.top_p, rollout.load_format) == (1.0, 1.0, "auto")
    assert (rollout.val_kwargs.temperature, rollout.val_kwargs.top_p, rollout.val_kwargs.n) == (0.6, 0.95, 1)
    assert (actor.optim.lr, actor.optim.weight_decay, actor.optim.lr_warmup_steps_ratio) == (1e-6, 0.01, 0)
    assert (actor.optim.clip_grad if engine == "megatron" else actor.grad_clip) == 1.0
    assert (actor.loss_agg_mode, actor.clip_ratio_c) == ("token-mean", 3.0)
    assert config.trainer.total_epochs == 15 and config.data.seed == 1
    assert config.algorithm.adv_estimator == "durian" and not config.algorithm.use_kl_in_reward
    assert actor.strategy == {"fsdp": "fsdp2", "megatron": "megatron"}[engine]
    model = config.actor_rollout_ref.model
    assert "attn_implementation" not in model.override_config and (engine == "megatron" or model.use_remove_padding)
    if backbone == "dapo":
        assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.use_kl_loss) == (0.2, 0.28, False)
        assert config.algorithm.filter_groups.enable and config.algorithm.filter_groups.metric == "score"
        assert config.reward.reward_manager.name == "dapo"
        assert config.reward.reward_kwargs.overlong_buffer_cfg.len == 512
        assert config.reward.reward_kwargs.max_resp_len == 2048
    else:
        assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.2, 0.3)
        assert (actor.use_kl_loss, actor.kl_loss_type, actor.kl_loss_coef) == (True, "low_var_kl", 1e-2)
        assert not config.algorithm.filter_groups.enable
        assert "overlong_buffer_cfg" not in config.reward.get("reward_kwargs", {})


@pytest.mark.parametrize("engine", ["fsdp", "megatron"])
@pytest.mark.parametrize(("size", "lora"), [("3B", 0), ("7B", 0), ("7B", 64), ("32B", 0), ("72B", 0), ("72B", 64)])
def test_every_size_is_divided_evenly(recipe, models, size, lora, engine):
    config = recipe.config(script=SCRIPTS[engine], MODEL_PATH=models[size], LORA_RANK=str(lora), BACKBONE="grpo")
    validate(config)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert known_failures.is_lora(config) == (lora > 0)
    assert actor.optim.lr == (1e-5 if lora else 1e-6)
    layers, heads, kv_heads = SHAPES[size]
    assert heads % rollout.tensor_model_parallel_size == 0
    if engine == "megatron":
        reference = config.actor_rollout_ref.ref.megatron
        assert kv_heads % actor.megatron.tensor_model_parallel_size == 0
        assert layers % actor.megatron.pipeline_model_parallel_size == 0
        assert reference.tensor_model_parallel_size == actor.megatron.tensor_model_parallel_size
    (nodes,) = re.findall(rf"^\| {size} \| {engine} \| (\d+) \|", README, flags=re.MULTILINE)
    assert config.trainer.nnodes == int(nodes)


def test_variables_and_arguments_override_defaults(recipe):
    config = recipe.config(
        "actor_rollout_ref.rollout.n=5",
        "+algorithm.durian.reasoning.num_groups=8",
        ROLLOUTS="4",
        DATASET="virl39k",
        DATA_DIR="/data",
        LOGGER="[console,wandb]",
        NNODES="2",
        NGPUS_PER_NODE="4",
        RESUME="disable",
        OVERLONG_BUFFER="0",
        SEED="7",
        ATTENTION="sdpa",
    )
    model = config.actor_rollout_ref.model
    assert model.override_config.attn_implementation == "sdpa" and not model.use_remove_padding
    assert config.actor_rollout_ref.rollout.n == 5
    assert config.algorithm.durian.reasoning.num_groups == 8
    assert config.data.train_files == "/data/virl39k/train.parquet"
    assert config.data.val_files == "/data/geometry3k/validation.parquet"
    assert list(config.trainer.logger) == ["console", "wandb"]
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (2, 4)
    assert config.trainer.resume_mode == "disable"
    assert config.reward.reward_manager.name != "dapo" and config.data.seed == 7


def test_paths_are_absolute(recipe):
    """The workers of a running cluster have another working directory and another environment."""
    for name in ("data/geometry3k", "models/tiny", "old/global_step_3"):
        (recipe.folder / name).mkdir(parents=True)
    (recipe.folder / "data/geometry3k/train.parquet").touch()
    config = recipe.config(MODEL_PATH="models/tiny", OUTPUT="runs/a", RESUME="old/global_step_3")
    assert config.actor_rollout_ref.model.path == str(recipe.folder / "models/tiny")
    assert config.data.train_files == str(recipe.folder / "data/geometry3k/train.parquet")
    assert config.trainer.default_local_dir == str(recipe.folder / "runs/a/checkpoints")
    assert config.trainer.resume_mode == "resume_path"
    assert config.trainer.resume_from_path == str(recipe.folder / "old/global_step_3")
    metrics = config.ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH
    assert metrics == str(recipe.folder / "runs/a/metrics.jsonl")


def test_default_output_folder(recipe):
    settings = recipe.settings(OUTPUT="", BACKBONE="grpo", ESTIMATOR="rloo", LORA_RANK="8")
    folder = recipe.folder / "outputs" / "Qwen2.5-VL-7B-Instruct_geometry3k_grpo_rloo_lora8"
    assert f"trainer.default_local_dir={folder}/checkpoints" in settings and folder.is_dir()


def test_metrics_of_an_interrupted_run_are_kept(recipe):
    (recipe.folder / "out").mkdir()
    (recipe.folder / "out/metrics.jsonl").write_text("before\n")
    recipe.settings()
    (kept,) = (recipe.folder / "out").iterdir()
    assert kept.name.startswith("metrics-until-") and kept.read_text() == "before\n"


def test_dry_run_starts_nothing(recipe):
    (check,) = recipe.calls("data.seed=3", "--dry-run")
    assert check[:2] == ["-m", "verl_durian.preflight"] and check[-2:] == ["data.seed=3", "--dry-run"]
    assert not (recipe.folder / "out").exists()


@pytest.mark.parametrize(
    ("script", "variables", "message"),
    [
        *((RECIPE, {name: "ppo"}, f"{name}=ppo: must be ") for name in CHOICES),
        (SCRIPTS["megatron"], {"ATTENTION": "sdpa"}, "ATTENTION=sdpa: must be flash_attention_2, or sdpa with FSDP"),
        (
            RECIPE,
            {"TRAIN_FILES": "mine.parquet", "OUTPUT": ""},
            "OUTPUT: must name a folder for runs on your own TRAIN",
        ),
    ],
)
def test_unknown_choices_are_rejected(recipe, script, variables, message):
    done = recipe.run(script=script, **variables)
    assert done.returncode == 2 and message in done.stderr


def test_settings_for_a_cpu(recipe, models):
    small = {"MODEL_PATH": models["7B"], "NGPUS_PER_NODE": "1", "VERL_PLATFORM": "cpu", "ATTENTION": "sdpa"}
    config = recipe.config(**small)
    validate(config)
    assert config.trainer.device == "cpu" and config.ray_kwargs.ray_init.num_gpus == 1
    assert config.actor_rollout_ref.rollout.max_model_len == 4096
    assert config.actor_rollout_ref.model.override_config.attn_implementation == "sdpa"
    assert not config.actor_rollout_ref.model.use_remove_padding
    settings = recipe.settings(**small, RAY_ADDRESS="127.0.0.1:6379")
    assert not any("ray_init.num_" in setting for setting in settings)


def test_commands_of_the_readme_are_complete(recipe, models):
    """Every row of the paper's tables has a command, and verl accepts the commands."""
    (recipe.folder / "recipes").symlink_to(ROOT / "recipes")
    blocks = re.findall(r"^```bash\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    runs, folders = [], []
    for block in blocks[:-1]:
        calls = recipe.calls(command=["bash", "-euc", block])
        rows = [call[2:] for call in calls if call[1] == "verl.trainer.main_ppo"]
        validate(compose([*rows[0], f"actor_rollout_ref.model.path={models['7B']}"]))
        for row in rows:
            assert shlex.join(row).count("default_local_dir") == 1
            runs.append(dict(setting.lstrip("+").split("=", 1) for setting in row))
            folders.append(runs[-1]["trainer.default_local_dir"])
    assert len(set(folders)) == len(folders), "two runs would write to one folder"

    def values(*names: str) -> set[tuple[str | None, ...]]:
        return {tuple(run.get(name) for name in names) for run in runs}

    sets = {"data/geometry3k/train.parquet", "data/virl39k/train.parquet"}
    assert values("algorithm.adv_estimator", "algorithm.filter_groups.enable") == {
        (estimator, enable) for estimator in ("grpo", "durian") for enable in (None, "True")
    }
    assert {train_files for (train_files,) in values("data.train_files")} == sets
    groups = values("algorithm.durian.reasoning.num_groups")
    assert groups >= {(str(number),) for number in (4, 6, 10, 12, 16, 20, 24, 32, 40, 48)}
    axes = ("original", "perceptual", "reasoning")
    table_3 = "0.1 0.2 0.7, 0.15 0.25 0.6, 0.2 0.1 0.7, 0.3 0.1 0.6, 0.4 0.3 0.3, 0.6 0.2 0.2, 0.7 0.1 0.2"
    weights = values(*(f"algorithm.durian.weights.{axis}" for axis in axes))
    assert weights >= {tuple(row.split()) for row in table_3.split(", ")}
    assert values("actor_rollout_ref.rollout.n") >= {(str(n),) for n in (2, 4, 8, 16, 24, 32)}


def test_the_comparison_of_the_readme_has_a_run_for_each_arm_and_seed(recipe, models):
    (recipe.folder / "recipes").symlink_to(ROOT / "recipes")
    block = re.findall(r"^```bash\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)[-1]
    calls = recipe.calls(command=["bash", "-euc", block.replace("1 2 3 4 5 6 7 8", "1 2")])
    rows = [call[2:] for call in calls if call[1] == "verl.trainer.main_ppo"]
    seen = {}
    for row in rows:
        config = compose([*row, f"actor_rollout_ref.model.path={models['7B']}"])
        validate(config)
        assert config.algorithm.evidence.match_rms and config.data.seed == config.actor_rollout_ref.rollout.seed
        *_, arm, seed, _ = Path(config.trainer.default_local_dir).parts
        ours = [each for each in ARMS[arm] if "num_groups" not in each]
        assert all(each in row for each in ours if not each.startswith("algorithm.adv_estimator")), arm
        assert f"algorithm.adv_estimator={config.algorithm.adv_estimator}" in ours
        seen[arm, int(seed)] = row
    assert set(seen) == {(arm, seed) for arm in ARMS if arm != "durian_true" for seed in (1, 2)}


def test_slurm_starts_ray_on_every_node_and_then_the_recipe(recipe):
    """With stand-ins: Slurm runs every step here, Ray only records its arguments."""
    tools = {
        "scontrol": "printf 'n1\\nn2\\nn3\\n'",
        "srun": "node=; while [[ $1 == --* ]]; do case $1 in --nodelist=*) node=${1#*=};; esac; shift; done\n"
        'NODE=$node "$@"',
        "hostname": "echo 10.0.0.1 172.17.0.1",
        "ray": 'echo "$NODE $*" >>ray.calls',
        "python": 'if [ "$1" = -c ]; then wc -l <ray.calls | sed "s/^ */nodes /"; else\n'
        'echo "$NODE $RAY_ADDRESS $*" >>python.calls; fi',
        "sleep": "exec /bin/sleep 0.1",
    }
    for name, text in tools.items():
        (recipe.folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (recipe.folder / "bin" / name).chmod(0o755)
    (recipe.folder / "recipes").symlink_to(ROOT / "recipes")
    slurm = {"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_GPUS_ON_NODE": "4"}
    slurm |= {"SLURM_SUBMIT_DIR": str(recipe.folder), "SLURM_CPUS_PER_TASK": "16"}
    done = recipe.run("data.seed=5", script="recipes/slurm.sh", **slurm)
    assert done.returncode == 0, done.stderr
    started = sorted((recipe.folder / "ray.calls").read_text().splitlines())
    everywhere = "--num-cpus=16 --num-gpus=4 --disable-usage-stats --block"
    assert started == [
        f"n1 start --head --node-ip-address=10.0.0.1 --port=6379 {everywhere}",
        f"n2 start --address=10.0.0.1:6379 {everywhere}",
        f"n3 start --address=10.0.0.1:6379 {everywhere}",
    ]
    check, train = (recipe.folder / "python.calls").read_text().splitlines()
    assert train.startswith("n1 10.0.0.1:6379 -m verl.trainer.main_ppo ") and train.endswith(" data.seed=5")
    assert " trainer.nnodes=3 " in train and " trainer.n_gpus_per_node=4 " in train

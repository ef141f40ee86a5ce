# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Lets torchvision import beside a CPU build of torch, whichever build of torchvision is installed.

The torchvision that pip finds first is a CUDA build, here version 0.28.0. Its compiled extension cannot load without
CUDA, and then ``import torchvision`` dies because it registers fake kernels for two operators that the extension would
have defined ("operator torchvision::nms does not exist"). Declaring the two is enough: image transforms are plain
torch and call no operator.

It hangs on an import hook from a .pth file because vLLM's spawned processes import torchvision, through transformers,
before they load any plugin. The hook costs nothing until torchvision is imported.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None  # torch drops the declarations when the Library object is collected


def _load_extension(folder: str) -> bool:
    """Whether torchvision's own compiled operators could be loaded from its folder."""
    import torch

    for extension in Path(folder).glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            return False
        return True
    return False


def declare_missing_ops(folder: str) -> None:
    """Declares the operators that ``import torchvision`` needs, where its extension does not define them.

    Args:
        folder: Where torchvision is installed.
    """
    global _library
    if _library is not None or _load_extension(folder):
        return
    import torch

    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)


class _TorchvisionHook:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Acts before torchvision is imported, and leaves finding it to the ordinary finders."""
        if name == "torchvision":
            spec = PathFinder.find_spec(name, path)
            if spec is not None and spec.submodule_search_locations:
                declare_missing_ops(spec.submodule_search_locations[0])
        return None


def install_import_hook() -> None:
    """Called from ``verl_cpu.pth`` when the interpreter starts with VERL_PLATFORM=cpu."""
    sys.meta_path.insert(0, _TorchvisionHook)  # type: ignore[arg-type]

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Makes every build of torchvision importable with a CPU build of torch.

pip prefers a CUDA build of torchvision (here 0.28.0). Its extension module cannot be loaded without CUDA, and then
`import torchvision` fails because it registers fake kernels for two operators that the extension should define
("operator torchvision::nms does not exist"). Declaring these two operators is sufficient: image transforms are plain
torch and call no operator.

`verl_cpu.pth` installs an import hook for this, because processes that vLLM spawns import torchvision (by transformers)
before they load plugins. The hook does nothing until torchvision is imported.
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
_library: Any = None  # the declarations last as long as the Library object


def _load_extension(folder: str) -> bool:
    """Whether the operators of torchvision could be loaded from its folder."""
    import torch

    for extension in Path(folder).glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            return False
        return True
    return False


def declare_missing_ops(folder: str) -> None:
    """Declares the operators that `import torchvision` needs, unless its extension in this folder defines them."""
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
        """Declares the operators before the other finders find torchvision."""
        if name == "torchvision":
            spec = PathFinder.find_spec(name, path)
            if spec is not None and spec.submodule_search_locations:
                declare_missing_ops(spec.submodule_search_locations[0])
        return None


def install_import_hook() -> None:
    """Called by `verl_cpu.pth` when the interpreter starts with VERL_PLATFORM=cpu."""
    sys.meta_path.insert(0, _TorchvisionHook)  # type: ignore[arg-type]

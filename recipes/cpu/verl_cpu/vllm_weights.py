# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps vLLM's weights on a CPU in the form in which verl sends new ones."""

from verl_cpu import enabled


def keep_weights_loadable() -> None:
    """Stops vLLM's CPU backend from packing linear weights and dropping the originals.

    Seen in vLLM 0.28.0: ``dispatch_cpu_unquantized_gemm`` replaces ``layer.weight`` by an empty parameter after the
    first load, so that the weight sync after the first update fails ("'Parameter' object has no attribute
    'weight_loader'"). ``torch.nn.functional.linear`` on the kept weight is vLLM's own last choice there.

    vLLM calls this in each of its processes (entry point group ``vllm.general_plugins``) and lets it raise.

    Raises:
        RuntimeError: vLLM no longer has the function.
    """
    if not enabled():
        return
    import torch
    import vllm.model_executor.layers.utils as layer_utils

    if not hasattr(layer_utils, "dispatch_cpu_unquantized_gemm"):
        raise RuntimeError(
            "verl_cpu: vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm is missing, which was "
            "there in vLLM 0.28.0: the weight sync on a CPU is not known to work"
        )

    def plain_linear(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layer_utils.dispatch_cpu_unquantized_gemm = plain_linear

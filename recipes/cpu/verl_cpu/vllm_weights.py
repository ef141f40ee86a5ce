# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps vLLM's weights on a CPU in the layout in which verl sends new ones."""

from verl_cpu import enabled


def keep_weights_loadable() -> None:
    """Prevents vLLM's CPU backend from packing linear weights and deleting the originals.

    In vLLM 0.28.0, `dispatch_cpu_unquantized_gemm` replaces `layer.weight` by an empty parameter after the first load.
    The weight sync after the first update then fails ("'Parameter' object has no attribute 'weight_loader'").
    `torch.nn.functional.linear` with the original weight is also vLLM's fallback there.

    vLLM calls this in all its processes (entry point group `vllm.general_plugins`) and passes on exceptions.

    Raises:
        RuntimeError: vLLM does not have the function.
    """
    if not enabled():
        return
    import torch
    import vllm.model_executor.layers.utils as layer_utils

    if not hasattr(layer_utils, "dispatch_cpu_unquantized_gemm"):
        raise RuntimeError(
            "verl_cpu: vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm is missing; it exists in "
            "vLLM 0.28.0. Without it the weight sync on a CPU is not known to work"
        )

    def plain_linear(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layer_utils.dispatch_cpu_unquantized_gemm = plain_linear

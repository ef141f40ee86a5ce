# Copyright 2026 The verl-durian authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Keeps vLLM's weights on a CPU in the form in which verl sends new ones."""

from verl_durian.cpu import enabled


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
            "verl_durian.cpu: vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm is missing, which was "
            "there in vLLM 0.28.0: the weight sync on a CPU is not known to work"
        )

    def plain_linear(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layer_utils.dispatch_cpu_unquantized_gemm = plain_linear

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""One Ray for all tests of a session that score in this process."""

import pytest
import ray


def join_local_ray() -> None:
    """Starts Ray with two CPUs and two GPUs, which exist in its count only, unless this process has joined it."""
    if not ray.is_initialized() or ray.cluster_resources().get("GPU") != 2:
        ray.shutdown()  # of another test
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray would declare no more GPUs than it names
            ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)

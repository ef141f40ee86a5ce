# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""One Ray for all tests of a session that score in this process."""

import time

import pytest
import ray


def join_local_ray() -> None:
    """Joins a Ray with two free CPUs and two free GPUs, which exist in its count only."""
    if not ray.is_initialized() or ray.cluster_resources().get("GPU") != 2:
        ray.shutdown()  # of another test
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray would declare no more GPUs than it names
            ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    for _ in range(600):  # Ray counts the resources of a worker as taken until its process has ended
        if ray.available_resources().get("CPU") == 2 and ray.available_resources().get("GPU") == 2:
            return
        time.sleep(0.1)

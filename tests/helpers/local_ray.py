# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""One Ray, with one TransferQueue in it, for all tests of a process that need either."""

import time

import pytest
import ray


def join_local_ray() -> None:
    """Joins a Ray with two free CPUs and two free GPUs, which exist in its count only. TransferQueue has two more CPUs.

    Nothing ends it before the process ends: TransferQueue cannot be started again after its Ray is gone.
    """
    if not ray.is_initialized():
        import transfer_queue as tq

        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray would declare no more GPUs than it names
            ray.init("local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
        tq.init({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}})
    for _ in range(600):  # Ray counts the resources of a worker as taken until its process has ended
        if ray.available_resources().get("CPU") == 2 and ray.available_resources().get("GPU") == 2:
            return
        time.sleep(0.1)

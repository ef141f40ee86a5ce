# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_qwen25vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Qwen2.5-VL checkpoint with tokenizer and processor. Not to be changed."""
    from tiny_model import make_tiny_qwen25vl

    return make_tiny_qwen25vl(tmp_path_factory.mktemp("tiny_qwen25vl"))


@pytest.fixture
def local_ray() -> None:
    """A Ray of this process, see `join_local_ray`."""
    from local_ray import join_local_ray

    join_local_ray()

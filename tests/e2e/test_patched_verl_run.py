# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Two steps by the recipe on a patched verl, which has Durian itself, with the plugin installed."""

import os

import pytest
import recipe
from patched_verl import download, to_import

from recipes.quickstart.data import make_rows, write_parquet
from recipes.quickstart.model import write_model

pytestmark = pytest.mark.slow


def test_rows_with_and_without_image(tmp_path):
    tree = to_import(download(tmp_path), tmp_path / "verl")
    write_model(tmp_path / "model")
    rows = list(make_rows("train", per_kind=16))
    for row in rows[::2]:  # micro-batches of two rows often have no image then, which crashes an unpatched verl
        row["images"] = []
        row["prompt"][0]["content"] = row["prompt"][0]["content"].replace("<image>", "")
    write_parquet(rows, tmp_path / "train.parquet")
    output = recipe.run(
        "run_qwen25vl_durian.sh",
        "trainer.val_before_train=False",
        "algorithm.durian.reasoning.num_groups=3",  # without +: verl knows the option
        PYTHONPATH=os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        MODEL_PATH=tmp_path / "model",
        TRAIN_FILES=tmp_path / "train.parquet",
        VAL_FILES=tmp_path / "train.parquet",
        OUTPUT=tmp_path / "run",
        VERL_DURIAN_CACHE=tmp_path / "cache",
        PPO_MICRO_BATCH_SIZE=2,
        ROLLOUTS=4,
        LR=1e-4,
        TOTAL_STEPS=2,
    )
    assert "visual entropy: 100%" in output
    steps = recipe.metrics(tmp_path / "run")
    assert sorted(steps) == [1, 2]
    for step in steps.values():
        assert step["actor/grad_norm"] > 0 and step["critic/advantages/max"] > 0
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.999
        assert not any(key.startswith("durian/") for key in step)

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
"""Every training row has its visual entropy before the first step: a column as it is, or scored once."""

import math
from pathlib import Path

import advantage_step
import datasets
import numpy as np
import pytest
import ray
from omegaconf import OmegaConf
from PIL import Image
from skimage import data as pictures
from transformers import AutoProcessor
from verl.trainer.ppo.utils import create_rl_dataset

from verl_durian.config import DurianConfig
from verl_durian.training_data import add_visual_entropy, dataset_thresholds


@pytest.fixture(scope="module", autouse=True)
def joined():
    """The Ray that a trainer has joined."""
    ray.shutdown()  # what other tests left
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def config(tiny_qwen25vl, tmp_path, monkeypatch):
    monkeypatch.setenv("VERL_DURIAN_CACHE", str(tmp_path / "cache"))
    return advantage_step.compose(
        "algorithm.adv_estimator=durian",
        f"actor_rollout_ref.model.path={tiny_qwen25vl}",
        "trainer.device=cpu",
        f"+data.cache_dir={tmp_path / 'data'}",
    )


def training_set(config, folder: Path, columns: dict):
    """verl's own RLHFDataset of a parquet file with these columns."""
    images = columns.get("images", [[]] * len(next(iter(columns.values()))))
    prompts = [[{"role": "user", "content": "<image>" * len(of_row) + "What is it?"}] for of_row in images]
    datasets.Dataset.from_dict({"prompt": prompts, **columns}).to_parquet(folder / "train.parquet")
    processor = AutoProcessor.from_pretrained(config.actor_rollout_ref.model.path)
    return create_rl_dataset(str(folder / "train.parquet"), config.data, processor.tokenizer, processor)


def picture_bytes(name: str, folder) -> dict:
    path = folder / f"{name}.png"
    Image.fromarray(getattr(pictures, name)()).convert("RGB").resize((112, 84)).save(path)
    return {"bytes": path.read_bytes()}


def test_a_column_is_used_as_it_is(config, tmp_path):
    images = [[{"bytes": b"no picture"}], []]
    rows = training_set(config, tmp_path, {"visual_entropy": [1.5, None], "images": images})
    add_visual_entropy(rows, config)
    assert rows.dataframe["visual_entropy"][:] == [1.5, None]


@pytest.mark.parametrize(("value", "problem"), [(None, "row 1 has an image"), (math.inf, "row 1: .* is infinite")])
def test_a_column_that_cannot_be_right_is_refused(config, tmp_path, value, problem):
    images = [[{"bytes": b"one"}], [{"bytes": b"two"}]]
    rows = training_set(config, tmp_path, {"visual_entropy": [1.5, value], "images": images})
    with pytest.raises(ValueError, match=problem):
        add_visual_entropy(rows, config)


def test_images_are_scored_once_and_found_again(config, tmp_path, caplog):
    images = [[picture_bytes("astronaut", tmp_path)], [], [picture_bytes("grass", tmp_path)]]
    rows = training_set(config, tmp_path, {"images": images})
    add_visual_entropy(rows, config)
    entropy = np.array(rows.dataframe["visual_entropy"][:])
    assert np.isnan(entropy[1]) and 0 < entropy[0] < entropy[2]
    assert "1 of 3 training rows have no image" in caplog.text

    kept = {file: file.read_bytes() for file in (tmp_path / "cache").glob("*/*.jsonl")}
    assert sum(len(lines.splitlines()) for lines in kept.values()) == 2
    again = training_set(config, tmp_path, {"images": images})
    add_visual_entropy(again, config)
    np.testing.assert_array_equal(again.dataframe["visual_entropy"][:], entropy)
    assert {file: file.read_bytes() for file in (tmp_path / "cache").glob("*/*.jsonl")} == kept


def test_without_a_free_device_the_remedy_is_told(config, tmp_path):
    rows = training_set(config, tmp_path, {"images": [[picture_bytes("grass", tmp_path)]]})
    config.trainer.device = "cuda"  # of which this Ray has none
    with pytest.raises(ValueError, match="no cuda is free in Ray. Score them before with `verl-durian score`"):
        add_visual_entropy(rows, config)


def test_an_image_that_cannot_be_scored_is_named(config, tmp_path):
    config.data.filter_overlong_prompts = False  # verl leaves such rows out where it measures prompts
    images = [[picture_bytes("astronaut", tmp_path)], [{"bytes": b"no picture"}], [{"bytes": b""}]]
    rows = training_set(config, tmp_path, {"images": images})
    with pytest.raises(ValueError, match="training row 1: image 0: not a picture.*and 1 more"):
        add_visual_entropy(rows, config)


def test_thresholds_are_the_quantiles_of_all_rows_with_an_image(config, tmp_path):
    values = [4.0, None, 1.0, 2.0, 2.0, 3.0]
    images = [[] if value is None else [{"bytes": b"x"}] for value in values]
    rows = training_set(config, tmp_path, {"visual_entropy": values, "images": images})
    assert dataset_thresholds(rows, DurianConfig()) == [2.0, 3.0]
    OmegaConf.update(config, "algorithm.durian.perceptual.quantiles", [0.5, 0.6], force_add=True)
    assert dataset_thresholds(rows, DurianConfig.from_algorithm(config.algorithm)) == [2.0, pytest.approx(2.4)]


def test_thresholds_of_a_set_without_images_or_without_rows_to_see_are_refused(config, tmp_path):
    rows = training_set(config, tmp_path, {"data_source": ["a", "b"]})
    add_visual_entropy(rows, config)
    with pytest.raises(ValueError, match="thresholds=dataset: no row of the training set has an image"):
        dataset_thresholds(rows, DurianConfig())
    with pytest.raises(ValueError, match=r"thresholds=dataset: list \(data.custom_cls\) holds no `dataframe`"):
        dataset_thresholds([{"visual_entropy": 1.0}], DurianConfig())


def test_a_set_without_images(config, tmp_path, caplog):
    rows = training_set(config, tmp_path, {"data_source": ["a", "b"]})
    add_visual_entropy(rows, config)
    assert np.isnan(rows.dataframe["visual_entropy"][:]).all()
    assert caplog.text.count("no training row has an image: there is no perceptual axis") == 1


def test_a_weight_of_zero_needs_nothing(config, tmp_path):
    OmegaConf.update(config, "algorithm.durian.weights.perceptual", 0, force_add=True)
    rows = training_set(config, tmp_path, {"images": [[{"bytes": b"no picture"}]]})
    add_visual_entropy(rows, config)
    assert "visual_entropy" not in rows.dataframe.column_names


def test_a_custom_set_must_bring_the_column(config):
    add_visual_entropy([{"visual_entropy": 1.0}], config)
    with pytest.raises(ValueError, match="data.custom_cls.*visual_entropy"):
        add_visual_entropy([{"prompt": "a"}], config)


@pytest.mark.parametrize(("setting", "value"), [("mm_processor_kwargs", {"max_pixels": 784}), ("image_patch_size", 16)])
def test_settings_of_the_images_that_scoring_does_not_know_are_refused(config, tmp_path, setting, value):
    rows = training_set(config, tmp_path, {"images": [[picture_bytes("grass", tmp_path)]]})
    OmegaConf.update(config, f"data.{setting}", value, force_add=True)
    with pytest.raises(ValueError, match=f"data.{setting}=.*'visual_entropy'"):
        add_visual_entropy(rows, config)


def test_the_older_trainer_prepares_its_training_set(config, tmp_path):
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    config.data.train_batch_size, config.data.val_batch_size = 2, 2
    config.actor_rollout_ref.rollout.name, config.actor_rollout_ref.rollout.load_format = "vllm", "auto"
    images = [[picture_bytes("astronaut", tmp_path)], [picture_bytes("grass", tmp_path)]]
    rows = training_set(config, tmp_path, {"images": images})
    trainer = object.__new__(RayPPOTrainer)
    trainer.config = config
    trainer._create_dataloader(rows, rows, None, None)
    assert np.isfinite(trainer.train_dataset.dataframe["visual_entropy"][:]).all()
    (batch,) = trainer.train_dataloader
    assert sorted(batch["visual_entropy"].tolist()) == sorted(rows.dataframe["visual_entropy"][:])

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

import advantage_step
import datasets
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from skimage import data as pictures

from verl_durian import scoring
from verl_durian.training_data import add_visual_entropy


class TrainingSet:
    """What ``add_visual_entropy`` uses of verl's RLHFDataset."""

    image_key = "images"

    def __init__(self, columns: dict):
        self.dataframe = datasets.Dataset.from_dict(columns)


@pytest.fixture
def config(tiny_qwen25vl, tmp_path, monkeypatch):
    monkeypatch.setenv("VERL_DURIAN_CACHE", str(tmp_path / "cache"))
    return advantage_step.compose(
        "algorithm.adv_estimator=durian", f"actor_rollout_ref.model.path={tiny_qwen25vl}", "trainer.device=cpu"
    )


def picture_bytes(name: str, folder) -> dict:
    path = folder / f"{name}.png"
    Image.fromarray(getattr(pictures, name)()).convert("RGB").resize((112, 84)).save(path)
    return {"bytes": path.read_bytes()}


def test_a_column_is_used_as_it_is(config):
    training_set = TrainingSet({"visual_entropy": [1.5, None], "images": [[{"bytes": b"no picture"}]] * 2})
    add_visual_entropy(training_set, config)
    assert training_set.dataframe["visual_entropy"][:] == [1.5, None]


def test_images_are_scored_once_and_found_again(config, tmp_path, monkeypatch, caplog):
    images = [[picture_bytes("astronaut", tmp_path)], [], [picture_bytes("grass", tmp_path)]]
    training_set = TrainingSet({"images": images})
    add_visual_entropy(training_set, config)
    entropy = np.array(training_set.dataframe["visual_entropy"][:])
    assert np.isnan(entropy[1]) and 0 < entropy[0] < entropy[2]
    assert "1 of 3 training rows have no image" in caplog.text

    def never(*args):
        raise AssertionError("an image was decoded again")

    monkeypatch.setattr(scoring, "decode", never)
    again = TrainingSet({"images": images})
    add_visual_entropy(again, config)
    np.testing.assert_array_equal(again.dataframe["visual_entropy"][:], entropy)


def test_a_set_without_images(config, caplog):
    training_set = TrainingSet({"prompt": ["a", "b"]})
    add_visual_entropy(training_set, config)
    assert np.isnan(training_set.dataframe["visual_entropy"][:]).all()
    assert "2 of 2 training rows have no image" in caplog.text


def test_a_weight_of_zero_needs_nothing(config):
    OmegaConf.update(config, "algorithm.durian.weights.perceptual", 0, force_add=True)
    training_set = TrainingSet({"images": [[{"bytes": b"no picture"}]]})
    add_visual_entropy(training_set, config)
    assert training_set.dataframe.column_names == ["images"]


def test_a_custom_set_must_bring_the_column(config):
    add_visual_entropy([{"visual_entropy": 1.0}], config)
    with pytest.raises(ValueError, match="data.custom_cls.*visual_entropy"):
        add_visual_entropy([{"prompt": "a"}], config)


def test_settings_that_are_not_applied_are_named(config, tmp_path, caplog):
    config.data.mm_processor_kwargs = {"max_pixels": 784}
    add_visual_entropy(TrainingSet({"images": [[picture_bytes("grass", tmp_path)]]}), config)
    assert "data.mm_processor_kwargs={'max_pixels': 784} is not applied" in caplog.text

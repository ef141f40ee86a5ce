# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Every training row has its visual entropy before the first step: a column as it is, or scored once."""

import json
import math
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import advantage_step
import datasets
import numpy as np
import pandas as pd
import pytest
import ray
from omegaconf import OmegaConf
from pictures import encoded, picture
from transformers import AutoProcessor
from verl.trainer.ppo.utils import create_rl_dataset

from verl_durian.algo.config import DurianConfig
from verl_durian.entropy import pipeline
from verl_durian.hooks.dataset import _identity, add_visual_entropy, dataset_thresholds, with_column

pytestmark = pytest.mark.usefixtures("local_ray")  # which a trainer has joined


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
    return load(config, folder)


def load(config, folder: Path):
    model = config.actor_rollout_ref.model
    processor = AutoProcessor.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    return create_rl_dataset(str(folder / "train.parquet"), config.data, processor.tokenizer, processor)


def picture_bytes(name: str) -> dict[str, bytes]:
    return {"bytes": encoded(picture(name))}


def one_picture(config, folder):
    return training_set(config, folder, {"images": [[picture_bytes("grass")]]})


def test_a_column_is_used_as_it_is(config, tmp_path):
    images = [[{"bytes": b"no picture"}], []]
    rows = training_set(config, tmp_path, {"visual_entropy": [1.5, None], "images": images})
    add_visual_entropy(rows, config)
    assert rows.dataframe["visual_entropy"][:] == [1.5, None]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([1.5, None], "row 1 has an image or a video, but no visual_entropy"),
        ([1.5, math.inf], r"row 1: visual_entropy is 'inf' \(float\): it must be a finite number"),
        ([None, "1.5"], r"row 1: visual_entropy is '1.5' \(str\)"),
        ([True, False], r"row 0: visual_entropy is 'True' \(bool\)"),
    ],
)
def test_a_column_that_cannot_be_right_is_refused(config, tmp_path, values, problem):
    images = [[{"bytes": b"one"}], [{"bytes": b"two"}]]
    rows = training_set(config, tmp_path, {"visual_entropy": values, "images": images})
    with pytest.raises(ValueError, match=problem):
        add_visual_entropy(rows, config)


def test_a_custom_set_without_a_dataframe(config):
    add_visual_entropy([{"visual_entropy": 1.0}], config)
    with pytest.raises(ValueError, match="data.custom_cls.*visual_entropy"):
        add_visual_entropy([{"prompt": "a"}], config)
    for value in (pd.NA, "1.5", [1.5], {"nats": 1.5}, math.inf):
        with pytest.raises(ValueError, match="training row 0: visual_entropy is .* a finite number"):
            add_visual_entropy([{"visual_entropy": value}], config)


def test_a_custom_set_may_name_no_column_of_images(config):
    rows = datasets.Dataset.from_dict({"visual_entropy": [1.5, None], "picture": ["a", "b"]})
    custom = SimpleNamespace(dataframe=rows)
    add_visual_entropy(custom, config)
    assert custom.dataframe is rows
    custom.dataframe = rows.remove_columns("visual_entropy")
    with pytest.raises(ValueError, match="SimpleNamespace .data.custom_cls. has no column 'visual_entropy'"):
        add_visual_entropy(custom, config)


def no_images_are_read(*args):
    raise AssertionError("images are read")


def test_images_are_scored_once_and_then_read_from_the_cache(config, tmp_path, monkeypatch, caplog):
    """In a filtered set, of which neither a copy is written nor an image read again."""
    names = ["astronaut", "coffee", "text", "grass", "brick"]
    images = [[] if name == "text" else [picture_bytes(name)] for name in names]
    training_set(config, tmp_path, {"images": images, "name": names})

    def filtered():
        rows = load(config, tmp_path)
        rows.dataframe = rows.dataframe.filter(lambda row: row["name"] != "coffee").select([3, 0, 1, 2])
        return rows

    rows = filtered()
    folder = Path(rows.dataframe.cache_files[0]["filename"]).parent
    before = {file: file.stat().st_size for file in folder.iterdir()}
    add_visual_entropy(rows, config)
    assert {file: file.stat().st_size for file in folder.iterdir()} == before
    assert rows.dataframe["name"][:] == ["brick", "astronaut", "text", "grass"]
    entropy = np.array(rows.dataframe["visual_entropy"][:])
    assert np.isnan(entropy[2]) and 0 < entropy[1] < entropy[3]
    assert rows[1]["visual_entropy"] == entropy[1]
    assert "Use `verl-durian score` to do this before training" in caplog.text
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows.dataframe))["visual_entropy"][:], entropy)
    assert "1 of 4 training rows have no image" in caplog.text
    (scores,) = (tmp_path / "cache").glob("*/*.jsonl")
    assert len(scores.read_text().splitlines()) == 3

    another_order = filtered()
    another_order.dataframe = another_order.dataframe.select([2, 1, 0])
    add_visual_entropy(another_order, config)
    np.testing.assert_array_equal(another_order.dataframe["visual_entropy"][:], entropy[[2, 1, 0]])
    assert list((tmp_path / "cache").glob("*/*.jsonl")) == [scores]  # read again, but not scored

    monkeypatch.setattr(pipeline, "score_rows", no_images_are_read)
    again = filtered()
    add_visual_entropy(again, config)
    np.testing.assert_array_equal(again.dataframe["visual_entropy"][:], entropy)


def test_a_transform_of_the_rows_is_kept():
    rows = datasets.Dataset.from_dict({"a": ["x", "y", "z"]}).select([2, 0])
    rows = rows.with_transform(lambda batch: {"a": [f"{value}!" for value in batch["a"]], "b": batch.get("b")})
    assert with_column(rows, "b", np.array([1.0, 2.0]))[:] == {"a": ["z!", "x!"], "b": [1.0, 2.0]}


def test_rows_are_identified_by_their_files(tmp_path):
    def stored(number: int, cells: list) -> datasets.Dataset:
        file = str(tmp_path / f"{number}.parquet")
        if not Path(file).exists():
            datasets.Dataset.from_dict({"images": [*([cell] for cell in cells), []]}).to_parquet(file)
        return datasets.load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))

    def identity(rows: datasets.Dataset) -> str | None:
        return _identity(rows, ["images"])

    grass, path = picture_bytes("grass"), str(tmp_path / "grass.png")
    Path(path).write_bytes(grass["bytes"])
    cells = [{**grass, "path": "a.png"}, {**grass, "path": None}]
    rows = stored(0, cells)
    assert identity(rows) == identity(stored(0, cells)) is not None
    selections = [rows.select([1, 0, 2]), rows.select([0]), rows.select([1])]
    others = [*selections, datasets.concatenate_datasets([rows, rows]), stored(1, cells)]
    assert len({identity(rows), *map(identity, others)}) == 6
    in_other_files = [{"bytes": None, "path": path}, path, [path, path], {"image": path, "max_pixels": 999}]
    assert [identity(stored(2 + number, [cell])) for number, cell in enumerate(in_other_files)] == [None] * 4
    assert identity(datasets.Dataset.from_dict({"images": [[grass]]})) is None  # in memory

    both = [{"images": [grass], "pictures": [{**grass, "path": None}]}]
    datasets.Dataset.from_list(both).to_parquet(str(tmp_path / "both.parquet"))
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "both.parquet"), split="train")
    assert len({_identity(rows, [name]) for name in ("images", "pictures")} - {None}) == 2


def test_one_option_limits_the_workers(config, tmp_path, monkeypatch):
    placements = []

    def score_rows(sources, settings, state, cache, placement):
        placements.append(placement)
        return pipeline.Scores(*[np.zeros(1)] * 3, [], 1, 0, 0.0)

    monkeypatch.setattr(pipeline, "score_rows", score_rows)
    for workers in (None, 1, 7):
        OmegaConf.update(config, "algorithm.durian.perceptual.score_workers", workers, force_add=True)
        rows = one_picture(config, tmp_path)
        rows.dataframe = datasets.Dataset.from_list(rows.dataframe.to_list())  # in memory: nothing is kept
        add_visual_entropy(rows, config)
    assert [placement.workers for placement in placements] == [2, 1, 2]


def test_a_cache_folder_that_cannot_be_written_is_named_before_workers_start(config, tmp_path, monkeypatch):
    rows = one_picture(config, tmp_path)
    monkeypatch.setattr(pipeline, "_blocks", lambda rows, *_: (no_images_are_read() for _ in rows))
    for folder in (tmp_path / "train.parquet" / "cache", Path("/proc/cache")):
        monkeypatch.setenv("VERL_DURIAN_CACHE", str(folder))
        with pytest.raises(ValueError, match=f"cache folder {folder}/.* is not writable .*VERL_DURIAN_CACHE"):
            add_visual_entropy(rows, config)


def test_the_config_and_the_code_of_the_processor_may_be_elsewhere(config, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    images = {"images": [[picture_bytes("astronaut")], [picture_bytes("grass")]]}
    rows = training_set(config, tmp_path, images)
    add_visual_entropy(rows, config)
    expected = rows.dataframe["visual_entropy"][:]

    model = Path(shutil.copytree(config.actor_rollout_ref.model.path, tmp_path / "model"))
    (tmp_path / "config").mkdir()
    shutil.move(model / "config.json", tmp_path / "config")
    settings = json.loads((model / "processor_config.json").read_text())
    settings["image_processor"]["image_processor_type"] = "Own"
    settings["image_processor"]["auto_map"] = {"AutoImageProcessor": "own.Own"}
    (model / "processor_config.json").write_text(json.dumps(settings))
    (model / "own.py").write_text("import transformers\n\nclass Own(transformers.Qwen2VLImageProcessor):\n    pass\n")
    changes = {"path": str(model), "hf_config_path": str(tmp_path / "config"), "trust_remote_code": True}
    config.actor_rollout_ref.model.update(changes)
    rows = training_set(config, tmp_path, images)
    assert type(rows.processor.image_processor).__name__ == "Own"
    add_visual_entropy(rows, config)
    assert rows.dataframe["visual_entropy"][:] == expected
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_without_a_free_device_the_error_names_the_fix(config, tmp_path, monkeypatch):
    rows = one_picture(config, tmp_path)
    config.trainer.device = "cuda"
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ValueError, match="Ray has no free cuda. Score them before training with `verl-durian score`"):
        add_visual_entropy(rows, config)


def test_an_image_that_cannot_be_scored_is_named(config, tmp_path):
    config.data.filter_overlong_prompts = False  # verl leaves such rows out where it measures prompts
    images = [[picture_bytes("astronaut")], [{"bytes": b"no picture"}], [{"bytes": b""}]]
    rows = training_set(config, tmp_path, {"images": images})
    with pytest.raises(ValueError, match="training row 1: image 0: not a picture.*1 more rows have images"):
        add_visual_entropy(rows, config)
    OmegaConf.update(config, "algorithm.durian.weights.perceptual", 0, force_add=True)
    add_visual_entropy(rows, config)  # needs no scores


def test_thresholds_are_the_quantiles_of_all_rows_with_an_image(config, tmp_path):
    values = [4.0, None, 1.0, 2.0, 2.0, 3.0]
    images = [[] if value is None else [{"bytes": b"x"}] for value in values]
    rows = training_set(config, tmp_path, {"visual_entropy": values, "images": images})
    assert dataset_thresholds(rows, DurianConfig()) == [2.0, 3.0]
    OmegaConf.update(config, "algorithm.durian.perceptual.quantiles", [0.5, 0.6], force_add=True)
    assert dataset_thresholds(rows, DurianConfig.from_algorithm(config.algorithm)) == [2.0, pytest.approx(2.4)]


def test_a_set_without_images(config, tmp_path, caplog):
    rows = training_set(config, tmp_path, {"data_source": ["a", "b"]})
    add_visual_entropy(rows, config)
    assert np.isnan(rows.dataframe["visual_entropy"][:]).all()
    assert caplog.text.count("2 of 2 training rows have no image") == 1
    with pytest.raises(ValueError, match="thresholds=dataset: no row of the training set has an image"):
        dataset_thresholds(rows, DurianConfig())
    with pytest.raises(ValueError, match=r"thresholds=dataset: list \(data.custom_cls\) has no `dataframe`"):
        dataset_thresholds([{"visual_entropy": 1.0}], DurianConfig())


@pytest.mark.parametrize(("setting", "value"), [("mm_processor_kwargs", {"max_pixels": 784}), ("image_patch_size", 16)])
def test_image_settings_that_scoring_does_not_support_are_rejected(config, tmp_path, setting, value):
    rows = one_picture(config, tmp_path)
    OmegaConf.update(config, f"data.{setting}", value, force_add=True)
    with pytest.raises(ValueError, match=f"data.{setting}=.*'visual_entropy'"):
        add_visual_entropy(rows, config)

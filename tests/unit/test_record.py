# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The record of a step: its columns against plain loops, its files, and what goes wrong."""

import json
import threading
from collections import defaultdict
from pathlib import Path

import advantage_step
import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import synthetic_records
import torch
from durian_reference import durian as reference
from durian_reference import std
from full_disk import full_disk
from omegaconf import OmegaConf
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, get_adv_estimator_fn
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_durian.hooks import record
from verl_durian.hooks.dataset import with_column
from verl_durian.report.runs import read_run

GROUPS = 3


def make_trainer(folder, estimator="grpo", step=1, reasoning=None, **options) -> synthetic_records.Trainer:
    options["reasoning"] = {"num_groups": GROUPS, **(reasoning or {})}
    files = ["a.parquet", "s3://b.parquet"]
    trainer = synthetic_records.make_trainer(folder, estimator, files, 7, 4, "first", **options)
    trainer.global_steps = step
    return trainer


def make_data(estimator="grpo", seed=0, confidence="mean") -> DataProto:
    """A batch with advantages, a prompt without image, some that lost rollouts, rejected rows and a padding row."""
    rows = advantage_step.make_rows(seed=seed)
    data = advantage_step.data_proto(rows)
    data.batch["token_level_rewards"] = data.batch["rm_scores"]
    rejected = ("prompt0_0", "prompt4_1", "prompt6_0", "prompt6_1", "prompt6_3")
    without_tokens = np.flatnonzero([row["key"].startswith(rejected) for row in rows])
    data.batch["response_mask"][without_tokens] = 0
    data.non_tensor_batch["uid"][without_tokens[0]] = "pad"
    reasoning = {"num_groups": GROUPS, "confidence": confidence}
    given = {
        "token_level_rewards": data.batch["token_level_rewards"],
        "response_mask": data.batch["response_mask"],
        "index": data.non_tensor_batch["uid"],
        "config": OmegaConf.create({"durian": {"reasoning": reasoning}, "gamma": 1.0}),
    }
    if estimator == "durian":
        given |= {"batch": data.batch, "non_tensor_batch": data.non_tensor_batch}
    data.batch["advantages"] = get_adv_estimator_fn(estimator)(**given)[0]
    return data


def records(folder) -> dict[str, pd.DataFrame]:
    return {file.name: pq.read_table(file).to_pandas() for file in sorted(folder.glob("*.parquet"))}


def written(folder, trainer, data=None) -> pd.DataFrame:
    """The record of one step, and that it is the only file."""
    record.recorder(trainer).add(trainer, make_data(trainer.config.algorithm.adv_estimator) if data is None else data)
    record.recorder(trainer).flush()
    (rows,) = records(folder).values()
    return rows


def terms(data: DataProto, **options) -> list[np.ndarray]:
    """The three unweighted advantages of all rows, by loops over float64 numbers."""
    log_probs = data.batch["old_log_probs"].double().numpy()
    entropy = data.non_tensor_batch["visual_entropy"]
    rewards, mask = data.batch["token_level_rewards"].double().numpy(), data.batch["response_mask"].numpy()
    given = (rewards, mask, data.non_tensor_batch["uid"], log_probs, entropy)
    each = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    settings = {"quantiles": (0.25, 0.75), "num_groups": GROUPS, **options}
    return [np.array(reference(*given, weights=weights, **settings)) for weights in each]


@pytest.mark.parametrize("confidence", ["mean", "sum"])
@pytest.mark.parametrize("estimator", ["durian", "grpo", "reinforce_plus_plus"])
def test_columns_against_loops(estimator, confidence, tmp_path):
    data = make_data(estimator, confidence=confidence)
    reasoning = {"num_groups": GROUPS, "confidence": confidence}
    rows = written(tmp_path, make_trainer(tmp_path, estimator, reasoning=reasoning), data)
    assert list(rows.columns) == record.SCHEMA.names
    mask, uids = data.batch["response_mask"].numpy(), data.non_tensor_batch["uid"]
    kept = mask.sum(1) > 0
    assert len(rows) == kept.sum() < len(kept) and set(rows["step"]) == {1} and set(rows["update"]) == {0}
    assert rows["uid"].tolist() == uids[kept].tolist()
    rewards = data.batch["token_level_rewards"].sum(-1).double().numpy()
    np.testing.assert_array_equal(rows["reward"], rewards[kept])
    np.testing.assert_array_equal(rows["response_length"], mask.sum(1)[kept])
    np.testing.assert_array_equal(rows["accuracy"], data.non_tensor_batch["acc"][kept])
    np.testing.assert_array_equal(rows["row"], data.non_tensor_batch[record.ROW][kept])
    np.testing.assert_array_equal(rows["visual_entropy"], data.non_tensor_batch["visual_entropy"][kept].astype(float))

    for name, term in zip(("original", "perceptual", "reasoning"), terms(data, confidence=confidence), strict=True):
        np.testing.assert_allclose(rows[f"term_{name}"], term[kept], rtol=1e-9, atol=1e-12)
    weighted = 0.1 * rows["term_original"] + 0.2 * rows["term_perceptual"] + 0.7 * rows["term_reasoning"]
    np.testing.assert_allclose(rows["advantage_durian"], weighted, rtol=1e-12)
    of_verl = compute_grpo_outcome_advantage(data.batch["token_level_rewards"], data.batch["response_mask"], uids)[0]
    first = of_verl[torch.arange(len(mask)), data.batch["response_mask"].argmax(-1)]
    np.testing.assert_array_equal(rows["advantage_grpo"], first.numpy()[kept])
    advantages = data.batch["advantages"].double().numpy()
    np.testing.assert_allclose(rows["advantage"], (advantages * mask).sum(1)[kept] / mask.sum(1)[kept], rtol=1e-12)
    if estimator != "reinforce_plus_plus":
        np.testing.assert_allclose(rows["advantage"], rows[f"advantage_{estimator}"], rtol=1e-6)

    per_token = data.batch["old_log_probs"].double().numpy()
    level = defaultdict(list)
    for row in np.flatnonzero(kept):
        total = (per_token[row] * mask[row]).sum()
        level[uids[row]].append(total / mask[row].sum() if confidence == "mean" else total)
    np.testing.assert_allclose(rows["confidence"], [np.mean(level[uid]) for uid in rows["uid"]], rtol=1e-6)
    for uid, of_prompt in rows.groupby("uid"):
        assert sorted(of_prompt["rollout"]) == sorted(set(of_prompt["rollout"])), uid
        np.testing.assert_allclose(of_prompt["std_original"], std(of_prompt["reward"].tolist()), rtol=1e-12)
    for axis, groups in (("perceptual", {1, 2, 3}), ("reasoning", set(range(1, GROUPS + 1)))):
        assert set(rows[f"{axis}_group"].dropna()) == groups
        for _, of_group in rows.groupby(f"{axis}_group"):
            np.testing.assert_allclose(of_group[f"std_{axis}"], std(of_group["reward"].tolist()), rtol=1e-12)
    without = rows["visual_entropy"].isna()
    assert without.any() and rows[without][["perceptual_group", "std_perceptual"]].isna().all(axis=None)
    np.testing.assert_array_equal(rows[without]["term_perceptual"], rows[without]["term_original"])


def test_settings_are_metadata(tmp_path):
    trainer = make_trainer(tmp_path, "durian", perceptual={"thresholds": "dataset"})
    record.remember(trainer)
    trainer.config.algorithm.durian.perceptual.thresholds = [1.0, 2.0]  # as the hook replaces it
    written(tmp_path, trainer)
    found = json.loads(pq.read_schema(tmp_path / "step_00000001.parquet").metadata[b"verl_durian"])
    thresholds = found.pop("thresholds")
    assert thresholds["perceptual"] == [1.0, 2.0] and len(thresholds["reasoning"]) == GROUPS - 1
    assert found == {
        "version": 1,
        "estimator": "durian",
        "experiment": "first",
        "project": "verl",
        "seed": 7,
        "weights": {"original": 0.1, "perceptual": 0.2, "reasoning": 0.7},
        "confidence": "mean",
        "num_groups": GROUPS,
        "quantiles": [0.25, 0.75],
        "threshold_source": {"perceptual": "dataset", "reasoning": "batch"},
        "epsilon": 1e-6,
        "train_files": [str(Path.cwd() / "a.parquet"), "s3://b.parquet"],
        "prompt_key": "prompt",
        "image_key": "images",
        "rollout_n": 4,
    }


@pytest.mark.parametrize("lost", ["visual_entropy", "old_log_probs", "acc", record.ROW])
def test_what_a_run_lacks_is_null(lost, tmp_path):
    data, trainer = make_data(), make_trainer(tmp_path)
    data.pop([lost]) if lost == "old_log_probs" else data.non_tensor_batch.pop(lost)
    rows = written(tmp_path, trainer, data)
    null = {
        "visual_entropy": "visual_entropy perceptual_group std_perceptual term_perceptual advantage_durian",
        "old_log_probs": "confidence reasoning_group std_reasoning term_reasoning advantage_durian",
        "acc": "accuracy",
        record.ROW: "row",
    }[lost].split()
    assert {name for name in rows if rows[name].isna().all()} == set(null)
    assert pq.read_schema(tmp_path / "step_00000001.parquet").equals(record.SCHEMA)


def test_an_axis_of_weight_0_is_not_computed_and_not_needed(tmp_path):
    data, trainer = make_data(), make_trainer(tmp_path, weights={"perceptual": 0})
    data.non_tensor_batch["visual_entropy"][:] = None
    rows = written(tmp_path, trainer, data)
    assert rows["term_perceptual"].isna().all()
    np.testing.assert_allclose(rows["advantage_durian"], 0.1 * rows["term_original"] + 0.7 * rows["term_reasoning"])


@pytest.mark.parametrize("accuracy", ["good", [0.5, 1.0], {"letter": 1.0}, pd.NA, None])
def test_an_accuracy_that_is_no_number_is_null(accuracy, tmp_path):
    data = make_data()
    data.non_tensor_batch["acc"] = np.fromiter([accuracy] * len(data), dtype=object, count=len(data))
    assert written(tmp_path, make_trainer(tmp_path), data)["accuracy"].isna().all()


def test_rows_keep_their_number_where_visual_entropy_is_added_first():
    dataset = object.__new__(RLHFDataset)
    rows = datasets.Dataset.from_dict({"number": range(5)}).filter(lambda each: each["number"] > 0)
    dataset.dataframe, dataset.shuffle = with_column(rows, "visual_entropy", np.arange(4.0)), False
    assert record._row_numbers(dataset).tolist() == list(dataset.dataframe["number"]) == [1, 2, 3, 4]
    assert list(dataset.dataframe["visual_entropy"]) == [0, 1, 2, 3]


def train(folder, first, last, **options) -> None:
    """Trains some steps as a process of its own."""
    trainer = make_trainer(folder, **options)
    for trainer.global_steps in range(first, last + 1):
        record.recorder(trainer).add(trainer, make_data(seed=trainer.global_steps))
        record.recorder(trainer).flush()


def steps(folder) -> list[int]:
    return [int(name[5:13]) for name in records(folder)]


@pytest.mark.parametrize(
    ("first", "every", "replaced"),
    [
        (6, 1, []),  # resumed where it ended
        (4, 1, [4, 5]),  # resumed from an earlier checkpoint
        (3, 4, [3, 4, 5]),
        (1, 1, [1, 2, 3, 4, 5]),  # the command was repeated
        (1, 3, [1, 2, 3, 4, 5]),
    ],
)
def test_records_of_steps_that_are_trained_again_are_moved(first, every, replaced, tmp_path, caplog):
    folder = tmp_path / "records"
    train(folder, 1, 5)
    before = records(folder)
    caplog.set_level("INFO")
    train(folder, first, 7, record_every=every)
    recorded = [step for step in range(1, 8) if (step % every == 0 if step >= first else step <= 5)]
    assert steps(folder) == list(read_run(folder).records) == list(read_run(tmp_path).records) == recorded
    moved = {file.name: pd.read_parquet(file) for file in folder.glob("replaced/*/*")}
    assert [int(name[5:13]) for name in sorted(moved)] == replaced
    assert all((records(folder) | moved)[name].equals(rows) for name, rows in before.items())
    assert len(caplog.records) == bool(replaced)
    assert not replaced or f"{len(replaced)} records of steps that are trained again are now in" in caplog.text


@pytest.mark.parametrize("broken", ["reward", "folder"])
def test_old_records_stay_if_no_new_one_can_be_written(broken, tmp_path, caplog):
    train(tmp_path, 1, 2)
    data, trainer = make_data(), make_trainer(tmp_path)
    if broken == "reward":
        data.batch["token_level_rewards"].fill_(float("nan"))
    else:
        (tmp_path / "replaced").write_text("a file in its place")
    before = records(tmp_path)
    for trainer.global_steps in (1, 2):
        record.recorder(trainer).add(trainer, data)
        record.recorder(trainer).flush()
    after = records(tmp_path)
    assert len(before) == len(after) == 2 and all(after[name].equals(rows) for name, rows in before.items())
    assert caplog.text.count("has ended because of an error, training goes on") == len(caplog.records) == 1


def test_updates_of_a_step_share_its_file(tmp_path):
    trainer = make_trainer(tmp_path)
    for trainer.local_trigger_step in (0, 1, 1):  # the last is recorded twice
        rows = written(tmp_path, trainer, make_data(seed=trainer.local_trigger_step))
    assert rows["update"].value_counts().to_dict() == {0: len(rows) // 2, 1: len(rows) // 2}


def test_step_of_fully_asynchronous_training_is_the_one_it_logs(tmp_path):
    trainer = make_trainer(tmp_path, step=6)
    trainer.current_param_version, trainer.local_trigger_step = 2, 2
    rows = written(tmp_path, trainer)
    assert set(rows["step"]) == {3} and set(rows["update"]) == {1}


def test_the_last_output_of_a_session_is_recorded(tmp_path):
    trainer, data = make_trainer(tmp_path), make_data()
    keys = [f"uid_{row // 2 + 5}_{10 - row % 2}" for row in range(len(data))]  # output 10 comes before output 9
    data.non_tensor_batch["uid"][:], data.non_tensor_batch["visual_entropy"][:] = "uid", 1.0
    data.batch["response_mask"][:, 0] = 1
    record.recorder(trainer).add(trainer, data, keys)
    record.recorder(trainer).flush()
    (rows,) = records(tmp_path).values()
    assert rows["rollout"].tolist() == [row // 2 + 5 for row in range(0, len(data), 2)]
    np.testing.assert_array_equal(rows["reward"], data.batch["token_level_rewards"].sum(-1)[::2].double())


def test_texts(tmp_path):
    data, trainer = make_data(), make_trainer(tmp_path, record_texts=True)
    trainer.tokenizer = advantage_step.Tokenizer()
    prompt = torch.tensor([len(uid) for uid in data.non_tensor_batch["uid"]])
    mask = data.batch["response_mask"]
    data.batch["prompts"] = torch.stack([torch.zeros_like(prompt), prompt, prompt + 1], dim=1)
    data.batch["responses"] = torch.arange(mask.numel()).reshape(mask.shape)
    data.batch["attention_mask"] = torch.cat([torch.tensor([[0, 1, 1]] * len(mask)), mask], dim=1)
    rows = written(tmp_path, trainer, data)
    assert list(rows.columns) == [*record.SCHEMA.names, "prompt", "answer"]
    assert rows["prompt"].tolist() == [f"{len(uid)} {len(uid) + 1}" for uid in rows["uid"]]
    kept = mask.sum(-1) > 0
    answers = [" ".join(map(str, ids[m.bool()].tolist())) for ids, m in zip(data.batch["responses"], mask, strict=True)]
    assert rows["answer"].tolist() == [answer for answer, each in zip(answers, kept, strict=True) if each]


BREAKS = {
    "no folder": lambda folder, data, trainer: folder.write_text("a file in its place"),
    "odd entropy": lambda folder, data, trainer: data.non_tensor_batch["visual_entropy"].fill("high"),
    "no uid": lambda folder, data, trainer: data.non_tensor_batch.pop("uid"),
    "no step": lambda folder, data, trainer: delattr(trainer, "global_steps"),
    "NaN reward": lambda folder, data, trainer: data.batch["token_level_rewards"].fill_(float("nan")),
    "fetch fails": lambda folder, data, trainer: setattr(trainer, "fetch", lambda names: 1 / 0),
}


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS)
def test_an_error_is_one_warning_and_ends_the_recording(break_it, tmp_path, caplog):
    data, trainer, folder = make_data(), make_trainer(tmp_path / "records"), tmp_path / "records"
    break_it(folder, data, trainer)
    fetch = getattr(trainer, "fetch", None)
    for step in (1, 2):
        record.recorder(trainer).add(trainer, data, None, fetch)
        record.recorder(trainer).flush()
        trainer.global_steps = step + 1
        data = make_data()  # which is fine
    assert caplog.text.count("has ended because of an error, training goes on") == 1
    assert str(folder) in caplog.text and len(caplog.records) == 1
    assert not folder.is_dir() or not any(folder.iterdir())


def test_a_full_disk_is_one_warning_and_leaves_no_part_of_a_file(tmp_path, caplog):
    trainer = make_trainer(tmp_path)
    written(tmp_path, trainer)
    for trainer.global_steps in (2, 3):
        with full_disk(1024):
            record.recorder(trainer).add(trainer, make_data())
            record.recorder(trainer).flush()
    trainer.global_steps = 4
    written(tmp_path, trainer)  # asserts that there is still only the first file
    assert caplog.text.count("has ended because of an error, training goes on") == 1
    assert "no space left to write" in caplog.text and "step_00000002.parquet" in caplog.text


def test_a_slow_disk_leaves_steps_out(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("verl_durian.algo.estimator._WARNED", set())
    trainer, gate, write = make_trainer(tmp_path), threading.Event(), record.Recorder._write

    def slow(self, *args):
        gate.wait(60)
        write(self, *args)

    monkeypatch.setattr(record.Recorder, "_write", slow)
    for trainer.global_steps in range(1, 7):
        record.recorder(trainer).add(trainer, make_data())
    gate.set()
    record.recorder(trainer).flush()
    assert len(records(tmp_path)) == record._MAX_WAITING
    assert caplog.text.count("written too slowly") == 1


def test_the_last_step_is_waited_for(tmp_path):
    trainer = make_trainer(tmp_path, step=3)
    trainer.total_training_steps = 3
    record.recorder(trainer).add(trainer, make_data())
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize("change", [{"estimator": "durian"}, {"epsilon": 1e-5}, {}])
def test_a_resumed_run_with_other_settings_is_one_warning(change, tmp_path, caplog):
    train(tmp_path, 1, 1)
    train(tmp_path, 2, 3, **change)
    warnings = [f"durian: earlier records in {tmp_path} have another {name}" for name in change]
    assert steps(tmp_path) == [1, 2, 3] and [each.message for each in caplog.records] == warnings
    first, *resumed = (json.loads(pq.read_schema(file).metadata[b"verl_durian"]) for file in sorted(tmp_path.iterdir()))
    assert all(each.items() >= change.items() for each in resumed) and not (change and first.items() >= change.items())


def test_a_damaged_record_is_no_reason_to_end_the_recording(tmp_path):
    (tmp_path / "step_00000001.parquet").write_bytes(b"PAR1")
    train(tmp_path, 2, 3)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("algorithm", [None, {}, {"durian": None}, {"durian": "text"}, {"durian": {"record": None}}])
def test_off_unless_a_folder_is_given(algorithm):
    assert not record.is_recorded(algorithm)
    assert not record.is_recorded(OmegaConf.create(algorithm or {}))

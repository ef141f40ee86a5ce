# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The data files: columns, answers, images and prompt lengths of the first rows, as verl will read them."""

import copy
from collections.abc import Iterator
from functools import partial
from glob import has_magic
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from verl_durian import reward
from verl_durian.algo.config import DurianConfig
from verl_durian.entropy.media import MediaError, in_time
from verl_durian.hooks import known_failures
from verl_durian.hooks.checks import is_durian
from verl_durian.hooks.dataset import is_entropy
from verl_durian.preflight import Finding, machine, note, one_line

Row = dict[str, Any]

_ROWS = 16
"""Rows of each file that are read and turned into prompts."""
_SECONDS = 60
"""Time limit for a prompt, because a server of images may never answer, and reading a pipe may never end."""
_FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
_PREPARED_SETS = ("geometry3k", "virl39k")
_OUR_REWARDS = ("pkg://verl_durian.reward", "pkg://verl_durian.evaluation.named_reward")
_MEDIA = ("image", "video", "audio")


def check(config: DictConfig, model: Any | None) -> Iterator[Finding]:
    """Checks the training and validation files; without the model (`model.read`), nothing that depends on it."""
    if config.data.custom_cls.path is not None:
        yield note(f"data.custom_cls.path={config.data.custom_cls.path}: the data of a custom class is not checked")
        return
    trains, trainer = known_failures.trains(config), config.trainer
    used = {"train_files": trains, "val_files": trainer.val_before_train or trainer.test_freq > 0}
    for key, is_used in used.items():
        for file in _names(config, key):
            where, path = f"data.{key}={file}", Path(file).expanduser()
            if "://" in file or file.startswith("hdfs:") or has_magic(file):
                yield note(f"{where}: not checked, because it is not the path of a local file")
                continue
            if not path.is_file():
                remedy = "correct the path (TRAIN_FILES, VAL_FILES), or create the file with `verl-durian prepare`"
                if path.parent.name in _PREPARED_SETS:
                    remedy = f"create it: verl-durian prepare {path.parent.name} --output {path.parent}"
                yield machine.local_problem(config, f"{where}: no such file; {remedy}")
                continue
            try:
                rows = _read_first_rows(path)
            except Exception as error:  # datasets and pyarrow raise many types for a damaged file
                yield Finding(f"{where}: cannot be read ({one_line(error)}); write it again")
                continue
            if not rows:
                yield Finding(f"{where}: the file has no rows, and verl cannot read it; write it again or omit it")
                continue
            for finding in _check_rows(rows, where, config, model, trains and key == "train_files"):
                yield finding if is_used else note(finding.text)
    if trains:
        yield from _check_batch_size(config)


def _names(config: DictConfig, key: str) -> list[str]:
    files = config.data[key]
    return [str(file) for file in (files if OmegaConf.is_list(files) else [files])]


def _check_batch_size(config: DictConfig) -> Iterator[Finding]:
    """Checks that the training set has at least one complete batch."""
    batch, limit = config.data.train_batch_size, config.data.train_max_samples
    if not known_failures.uses_v1(config):
        batch = config.data.get("gen_batch_size") or batch
    files = [Path(file).expanduser() for file in _names(config, "train_files")]
    if not all(file.is_file() for file in files):
        return  # reported
    try:
        total = sum(pq.read_metadata(file).num_rows for file in files)
    except (OSError, pa.ArrowException):  # JSON has no number of rows; other files were reported
        return
    total = min(total, limit) if limit > 0 else total
    if 0 < total < batch:
        text = f"data.train_batch_size={batch}: the training set has {total} rows, fewer than a batch; lower it"
        yield Finding(f"{text} (TRAIN_BATCH_SIZE)")


def _read_first_rows(path: Path) -> list[Row]:
    """The first rows of a file. Makes no copy, unlike verl."""
    import datasets  # type: ignore[import-untyped]

    if path.suffix not in _FORMATS:
        raise ValueError(f"verl reads {', '.join(_FORMATS)}")
    if path.stat().st_size == 0 or (path.suffix == ".parquet" and pq.read_metadata(path).num_rows == 0):
        return []  # `datasets` fails on files without rows
    datasets.disable_progress_bars()
    rows = datasets.load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train", streaming=True)
    return list(islice(rows, _ROWS))


def _check_rows(rows: list[Row], where: str, config: DictConfig, model: Any, trains: bool) -> Iterator[Finding]:
    """Checks the first rows of a file: one line about its worst row, then what concerns all of them."""
    needed = [config.data.prompt_key, *(("data_source", "reward_model") if _verl_grades(config) else ())]
    if missing := [name for name in needed if name not in rows[0]]:
        text = f"{where}: no column {', '.join(missing)}, only {', '.join(rows[0])}; write it as `verl-durian prepare`"
        yield Finding(f"{text} does, or set the column of the prompts (data.prompt_key)")
        return
    if model is not None and not hasattr(model.processor, "image_processor"):
        if any(_has_media(row, config) for row in rows):
            path = f"actor_rollout_ref.model.path={config.actor_rollout_ref.model.path}"
            yield Finding(f"{where}: rows have images, and {path} only accepts text; use a vision-language model")
            return
    findings, lengths, kept, ungraded = list[Finding](), list[int](), dict[int, Row](), 0
    longest, filters = config.data.max_prompt_length, config.data.filter_overlong_prompts
    dataset = None if model is None else _dataset_without_files(config, model)
    for number, row in enumerate(rows):
        here = f"{where}: row {number}"
        of_row = list(_check_answer(row, here, config))
        ungraded += len(of_row)
        of_row = of_row or list(_check_media(row, here, config))
        if dataset is not None and not of_row:
            try:
                of_row = list(_check_prompt(row, here, config, dataset, lengths))
            except MediaError as error:
                of_row = [note(f"{here}: {error}; the prompts of this file are not checked further")]
                dataset = None
        if not (filters and (of_row or (lengths and lengths[-1] > longest))):
            kept[number] = row
        findings += of_row
    if ungraded == len(rows):  # trainer V1 skips the rollouts of some such rows, but a run needs other rows
        findings = [Finding(findings[0].text)]
    yield from sorted(findings, key=lambda finding: not finding.stops)[:1]
    if over := sum(length > longest for length in lengths):
        fate = "drops them" if filters else "skips the rollouts of those with images, and truncates the others"
        yield note(
            f"{where}: {over} of the first {len(lengths)} prompts are longer than data.max_prompt_length={longest} "
            f"tokens (maximum {max(lengths)}), and verl {fate}; raise it (MAX_PROMPT_LENGTH), or use smaller images"
        )
    if trains and not any(finding.stops for finding in findings):
        if model is not None and model.hf_config.model_type in known_failures.QWEN2_VL_FAMILY:
            yield from _check_text_rows(rows, where, config)
        yield from _check_visual_entropy(kept, where, config)


def _verl_grades(config: DictConfig) -> bool:
    """Whether one of verl's reward managers passes each row and its answer to a reward function."""
    manager, rewards = config.reward.reward_manager, config.reward
    by_function = rewards.custom_reward_function.path is not None or not rewards.reward_model.enable
    return by_function and manager.source == "register" and manager.name in ("naive", "dapo")


def _has_media(row: Row, config: DictConfig) -> bool:
    return any(row.get(config.data[f"{kind}_key"]) for kind in _MEDIA)


def _check_answer(row: Row, where: str, config: DictConfig) -> Iterator[Finding]:
    """Checks the answer of a row. Trainer V1 only skips the prompts of rollouts that cannot be graded."""
    graded, stops = row.get("reward_model"), not known_failures.uses_v1(config)
    if not _verl_grades(config):
        return
    if not isinstance(graded, dict) or "ground_truth" not in graded:
        yield Finding(f"{where}: no reward_model.ground_truth; add it, or remove the row", stops)
    elif config.reward.custom_reward_function.path in _OUR_REWARDS:
        try:
            reward.compute_score(row["data_source"], "", graded["ground_truth"], row.get("extra_info"))
        except ValueError as error:
            yield Finding(f"{where}: {one_line(error)}", stops)


def _check_media(row: Row, where: str, config: DictConfig) -> Iterator[Finding]:
    """Checks the messages and the number of images of a row."""
    key = config.data.prompt_key
    if not isinstance(row[key], list) or not row[key] or not all(isinstance(message, dict) for message in row[key]):
        yield _raised_by_dataset(f"{where}: {key} must be a list of messages with role and content", config)
        return
    texts = [content for message in row[key] if isinstance(content := message.get("content"), str)]
    for kind in _MEDIA:
        key = config.data[f"{kind}_key"]
        media, marks = row.get(key) or [], sum(text.count(f"<{kind}>") for text in texts)
        if not isinstance(media, list):
            yield Finding(f"{where}: {key}={media!r} must be a list (data.{kind}_key)")
        elif marks != len(media):
            text = f"{where}: {marks} <{kind}> in the prompt and {len(media)} in the column {key}; write one <{kind}> "
            text += f"for each, or set the column (data.{kind}_key)"
            # If a row has no media, verl keeps the tag as text and silently trains without images.
            yield _raised_by_dataset(text, config) if _has_media(row, config) else Finding(text, stops=key not in row)


def _raised_by_dataset(text: str, config: DictConfig) -> Finding:
    """A row for which verl's dataset raises an error: the run ends, unless the filter for long prompts is on."""
    if config.data.filter_overlong_prompts:
        return note(f"{text}; verl drops such rows (data.filter_overlong_prompts)")
    return Finding(f"{text}; verl stops at such rows: remove it")


def _check_prompt(row: Row, where: str, config: DictConfig, dataset: Any, lengths: list[int]) -> Iterator[Finding]:
    """Builds the prompt of a row with verl's dataset, and adds its length in tokens to `lengths`. Raises MediaError."""
    reason, in_dataset = "", True
    contents = str([message.get("content") for message in row[config.data.prompt_key]])
    for name in ("image_token", "video_token"):
        if (token := getattr(dataset.processor, name, None)) and token in contents:
            reason = f"the prompt contains {token}, the model's own token for an image or a video, but has none for it"
    try:
        build = partial(dataset._build_messages, copy.deepcopy(row), config.data.prompt_key)
        messages = in_time(build, "the row's images", _SECONDS)
        in_dataset = False
        lengths.append(in_time(partial(_count_tokens, messages, dataset), "the row's images", _SECONDS))
    except MediaError:
        raise
    except Exception as error:  # damaged images, and prompts that do not fit the chat template
        reason = reason or f"verl cannot build its prompt ({one_line(error)})"
        if in_dataset or config.data.filter_overlong_prompts:
            yield _raised_by_dataset(f"{where}: {reason}", config)
            return
    if reason:  # trainer V1 only skips the prompt of a failed rollout; the older trainers stop
        text = f"{where}: {reason}, and verl skips its rollouts; correct or remove it"
        yield Finding(text, stops=not known_failures.uses_v1(config))


def _dataset_without_files(config: DictConfig, model: Any) -> Any:
    """verl's dataset without data, to call its methods."""
    from verl.utils.dataset.rl_dataset import RLHFDataset

    class WithoutFiles(RLHFDataset):
        def _read_files_and_tokenize(self) -> None:
            pass

    return WithoutFiles([], model.tokenizer, config.data, model.processor)


def _count_tokens(messages: list[Row], dataset: Any) -> int:
    """The length of a prompt with its resized images, as verl's filter for long prompts computes it."""
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    template = (dataset.processor or dataset.tokenizer).apply_chat_template
    options = {"tools": dataset.tool_schemas, **dataset.apply_chat_template_kwargs}
    text = template(messages, add_generation_prompt=True, tokenize=False, **options)
    media = dataset._process_multi_modal_info(messages, dataset.image_patch_size, dataset.config)
    if not any(media):
        return len(dataset.tokenizer(text, add_special_tokens=False)["input_ids"])
    media = dict(zip(("images", "videos", "audio"), media, strict=True))
    settings = {"mm_processor_kwargs": dataset.mm_processor_kwargs, **media}
    return len(build_multimodal_processor_inputs(dataset.processor, text=[text], **settings)["input_ids"][0])


def _check_text_rows(rows: list[Row], where: str, config: DictConfig) -> Iterator[Finding]:
    """Checks for rows without images: with some models, verl crashes on a micro batch of only such rows."""
    without_media = sum(not _has_media(row, config) for row in rows)
    if without_media and known_failures.crashes_without_images(config):
        only_text = not any(config.data[f"{kind}_key"] in rows[0] for kind in _MEDIA)
        text = f"{where}: {without_media} of the first {len(rows)} rows have no image, and verl crashes on a micro "
        text += "batch of only such rows; remove them, use larger micro batches (PPO_MICRO_BATCH_SIZE), or patch verl "
        yield Finding(f"{text}(patches/README.md)", stops=only_text and len(_names(config, "train_files")) == 1)


def _check_visual_entropy(rows: dict[int, Row], where: str, config: DictConfig) -> Iterator[Finding]:
    """Checks the visual entropy column, if there is one, in the rows that verl keeps (by row number)."""
    if not is_durian(config.algorithm.adv_estimator):
        return
    try:
        options = DurianConfig.from_algorithm(config.algorithm)
    except ValueError:  # reported with the estimator
        return
    key, weight = options.perceptual.key, options.weights.perceptual
    for number, row in rows.items():
        if weight == 0 or key not in row:
            return
        missing = _has_media(row, config) and (row[key] is None or row[key] != row[key])
        if missing or not is_entropy(row[key]):
            problem = "is missing for a row with an image" if missing else "is not a finite number of nats"
            fix = "write it with `verl-durian score` and remove rows that cannot be scored, or remove the column"
            yield Finding(f"{where}: row {number}: {key}={row[key]!r} {problem}; {fix}")
            return

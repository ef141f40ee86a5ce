# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The data files: columns, answers, images and prompt lengths of the first rows, as verl will read them."""

import math
import re
from collections.abc import Iterator
from glob import has_magic
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from verl_durian import reward
from verl_durian.algo.config import DurianConfig
from verl_durian.entropy.vision_families import FAMILIES
from verl_durian.hooks.checks import is_durian
from verl_durian.hooks.dataset import is_entropy
from verl_durian.preflight import Finding, machine, note, one_line, settings
from verl_durian.preflight.model import Model

_ROWS = 16
"""Rows of a file that are read, decoded and tokenized."""
_FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
_KNOWN_SETS = ("geometry3k", "virl39k")


def check(config: DictConfig, model: Model | None) -> list[Finding]:
    """Checks the files that the settings name.

    Args:
        config: verl's whole config.
        model: Whose processor sees the rows; None where it cannot be read, and nothing is decoded.
    """
    if config.data.custom_cls.path is not None:
        return [note(f"data.custom_cls.path={config.data.custom_cls.path}: a data set of your own is not checked")]
    findings: list[Finding] = []
    rows: int | None = 0
    for key in ("train_files", "val_files"):
        for file in _listed(config.data[key]):
            if "://" in str(file) or str(file).startswith("hdfs:") or has_magic(str(file)):
                findings.append(note(f"data.{key}={file}: is not checked, as it is no path of a file on this machine"))
                count = None
            else:
                found, count = _check_file(str(file), f"data.{key}={file}", config, model)
                findings += found
            if key == "train_files":
                rows = None if rows is None or count is None else rows + count
    return findings + (_check_rows(config, rows) if settings.trains(config) else [])


def _listed(files: Any) -> list[Any]:
    return list(files) if OmegaConf.is_list(files) else [files]


def _check_rows(config: DictConfig, rows: int | None) -> list[Finding]:
    """Whether the training set fills a step; `rows` is None where they are not known."""
    if rows is None:
        return []
    if config.data.train_max_samples > 0:
        rows = min(rows, config.data.train_max_samples)
    if rows >= config.data.train_batch_size:
        return []
    return [
        Finding(
            f"data.train_batch_size={config.data.train_batch_size}: the training set has {rows} rows, and verl takes "
            "no step that is not full; lower it (TRAIN_BATCH_SIZE)"
        )
    ]


def _check_file(file: str, where: str, config: DictConfig, model: Model | None) -> tuple[list[Finding], int | None]:
    """The findings, and the number of rows; None where the file was not read, or does not tell."""
    path = Path(file).expanduser()
    if not path.is_file():
        text = f"{where}: there is no such file; {_how_to_make(path)}"
        return [Finding(text, stops=not machine.joins_cluster(config))], None
    if path.suffix not in _FORMATS:
        return [Finding(f"{where}: verl reads {', '.join(_FORMATS)}; convert it")], None
    try:
        count = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
        # verl cannot read a file without rows, nor can `datasets`.
        rows = [] if count == 0 or path.stat().st_size == 0 else list(islice(_rows(path), _ROWS))
    except Exception as error:  # datasets and pyarrow raise many types for a broken file
        return [Finding(f"{where}: cannot be read ({one_line(error)}); write it again")], None
    if not rows:
        return [
            Finding(f"{where}: the file has no rows, and verl cannot read it; write it again or leave it out")
        ], None
    needed = [config.data.prompt_key, *(("data_source", "reward_model") if _verl_grades(config) else ())]
    if missing := [name for name in needed if name not in rows[0]]:
        return [
            Finding(
                f"{where}: no column {', '.join(missing)}, but {', '.join(rows[0])}; write it as "
                "`verl-durian prepare` does, or name the column of the prompts (data.prompt_key)"
            )
        ], count
    by_row = [_check_row(row, number, where, config) for number, row in enumerate(rows)]
    findings = sorted((each for each in by_row if each), key=lambda each: not each.stops)[:1]
    if findings and findings[0].stops:
        return findings, count
    has_images = any(_has_media(row, config) for row in rows)
    if has_images and model is not None and not model.takes_images:
        return [
            Finding(
                f"{where}: rows have images, and actor_rollout_ref.model.path={config.actor_rollout_ref.model.path} "
                "takes texts alone; take a vision-language model"
            )
        ], count
    if where.startswith("data.train_files") and settings.trains(config):
        if model is not None:
            findings += _check_texts(rows, where, config, model)
        if is_durian(config.algorithm.adv_estimator):
            findings += _check_perceptual(rows, has_images, where, config, model)
    if model is not None and not any(each.stops for each in findings):
        sound = {number: row for number, row in enumerate(rows) if by_row[number] is None}
        findings += _check_prompts(sound, where, config, model)
    return findings, count


def _verl_grades(config: DictConfig) -> bool:
    """Whether one of verl's own reward managers gives each row and its answer to a reward function."""
    manager, rewards = config.reward.reward_manager, config.reward
    by_function = rewards.custom_reward_function.path is not None or not rewards.reward_model.enable
    return by_function and manager.source == "register" and manager.name in ("naive", "dapo")


def _has_media(row: dict[str, Any], config: DictConfig) -> bool:
    return any(row.get(key) for key in (config.data.image_key, config.data.video_key, config.data.audio_key))


def _how_to_make(path: Path) -> str:
    if path.parent.name in _KNOWN_SETS:
        return f"make it: verl-durian prepare {path.parent.name} --output {path.parent}"
    return "correct the path (TRAIN_FILES, VAL_FILES), or make it with `verl-durian prepare`"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Reads a file from its start, without the copy that verl will make of it."""
    import datasets  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    return iter(datasets.load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train", streaming=True))


def _check_row(row: dict[str, Any], number: int, where: str, config: DictConfig) -> Finding | None:
    """What keeps verl from using this row; None where nothing does."""
    graded, our_reward = row.get("reward_model"), str(config.reward.custom_reward_function.path)
    if _verl_grades(config):
        if not isinstance(graded, dict) or "ground_truth" not in graded:
            return Finding(f"{where}: row {number} has no reward_model.ground_truth; write it, or take the row out")
        if our_reward in ("pkg://verl_durian.reward", "pkg://verl_durian.evaluation.named_reward"):
            try:
                reward.compute_score(row["data_source"], "", graded["ground_truth"], row.get("extra_info"))
            except ValueError as error:
                return Finding(f"{where}: row {number}: {one_line(error)}")
    prompt = row[config.data.prompt_key]
    if not isinstance(prompt, list) or not prompt or not all(isinstance(message, dict) for message in prompt):
        return Finding(
            f"{where}: row {number}: {config.data.prompt_key} must be a list of messages with role and content"
        )
    texts = [content for message in prompt if isinstance(content := message.get("content"), str)]
    has_media = _has_media(row, config)
    for setting in ("image_key", "video_key", "audio_key"):
        if not isinstance(row.get(key := config.data[setting]), list | None):
            return Finding(f"{where}: row {number}: {key}={row[key]!r} must be a list (data.{setting})")
    for mark in ("<image>", "<video>", "<audio>"):
        setting = f"{mark[1:-1]}_key"
        key = config.data[setting]
        marks, found = sum(text.count(mark) for text in texts), len(row.get(key) or [])
        if marks == found:
            continue
        text = (
            f"{where}: row {number} has {marks} {mark} in its prompt and {found} in its column {key}; write one {mark} "
            f"for each, or name the column (data.{setting})"
        )
        # Without any image verl leaves the mark as text, and a model trained without its images is no error to it.
        return _dropped(text, config) if has_media else Finding(text, stops=key not in row)
    for place, image in enumerate(row.get(config.data.image_key) or []):
        if isinstance(image, dict) and "bytes" in image:
            try:
                Image.open(BytesIO(image["bytes"]))
            except Exception as error:  # PIL raises many types
                return _dropped(f"{where}: row {number}: image {place} is no picture ({one_line(error)})", config)
    return None


def _dropped(text: str, config: DictConfig) -> Finding:
    """A row on which verl's data set raises an error: it ends the run, unless the filter for long prompts is on."""
    if config.data.filter_overlong_prompts:
        return note(f"{text}; verl leaves such rows out (data.filter_overlong_prompts)")
    return Finding(f"{text}; take the row out")


def _check_texts(rows: list[dict[str, Any]], where: str, config: DictConfig, model: Model) -> list[Finding]:
    """Whether rows without image would make micro batches on which verl crashes."""
    if model.type not in settings.QWEN2_VL_FAMILY or not settings.needs_images(config):
        return []
    without = sum(not _has_media(row, config) for row in rows)
    text = f"{where}: {without} of the first {len(rows)} rows have no image, and verl crashes on a micro batch of such"
    only_texts = config.data.image_key not in rows[0] and config.data.video_key not in rows[0]
    if only_texts and len(_listed(config.data.train_files)) == 1:
        remedy = "add rows with images, train a model that takes texts alone, or patch verl (patches/README.md)"
        return [Finding(f"{text} rows; {remedy}")]
    return (
        [note(f"{text} rows alone; take them out, or make a micro batch large (PPO_MICRO_BATCH_SIZE)")]
        if without
        else []
    )


def _check_perceptual(
    rows: list[dict[str, Any]], has_images: bool, where: str, config: DictConfig, model: Model | None
) -> list[Finding]:
    """Whether the rows have what durian's perceptual axis needs."""
    try:
        options = DurianConfig.from_algorithm(config.algorithm)
    except ValueError:  # told with the estimator
        return []
    key, families = options.perceptual.key, [family.model_type for family in FAMILIES]
    if options.weights.perceptual == 0:
        return []
    for number, row in enumerate(rows if key in rows[0] else ()):
        if problem := _entropy_problem(row[key], _has_media(row, config)):
            return [
                Finding(
                    f"{where}: row {number}: {key}={row[key]!r} {problem}; write it with `verl-durian score`, or take "
                    "the column out, and the images are scored at the start"
                )
            ]
    if not has_images:
        return [
            note(
                f"{where}: the first {len(rows)} rows have no image; such a row takes its own GRPO advantage for the "
                "perceptual one (+algorithm.durian.weights.perceptual=0 leaves that axis out)"
            )
        ]
    if key not in rows[0] and model is not None and model.type not in families:
        return [
            Finding(
                f"{where}: no column {key}, and the images cannot be scored by the vision tower of a {model.type} "
                f"(known: {', '.join(families)}); add it with `verl-durian score --model` and one of those"
            )
        ]
    return []


def _entropy_problem(value: Any, has_media: bool) -> str | None:
    """What the start of training has against a visual entropy; None where nothing."""
    if not is_entropy(value):
        return "is no finite number of nats"
    missing = value is None or math.isnan(value)
    return "is missing for an image or a video" if missing and has_media else None


def _check_prompts(rows: dict[int, dict[str, Any]], where: str, config: DictConfig, model: Model) -> list[Finding]:
    """Decodes and tokenizes the rows of these numbers, and compares with the longest prompt that is allowed.

    In trainer V1 a rollout that fails costs its prompt alone; in the older trainers it ends the run.
    """
    longest, filtered = config.data.max_prompt_length, config.data.filter_overlong_prompts
    lengths: list[int] = []
    findings: list[Finding] = []
    for number, row in rows.items():
        problem, has_media = _placeholder_problem(row, config, model), _has_media(row, config)
        try:
            if problem is None:
                lengths.append(_prompt_tokens(row, config, model))
        except Exception as error:  # of pictures that cannot be decoded, and of templates that a prompt does not fit
            problem = f"cannot be made a prompt ({one_line(error)})"
        if problem and not findings:
            fate = "leaves such rows out" if filtered and has_media else "has no rollouts of such rows"
            text = f"{where}: row {number} {problem}, and verl {fate}; correct it or take it out"
            findings.append(Finding(text, stops=not (filtered and has_media) and not settings.uses_v1(config)))
    if over := sum(length > longest for length in lengths):
        fate = "leaves them out" if filtered else "has no rollouts of those with images, and cuts the others"
        findings.append(
            note(
                f"{where}: {over} of the first {len(rows)} prompts are longer than data.max_prompt_length={longest} "
                f"tokens (the longest has {max(lengths)}), and verl {fate}; raise it (MAX_PROMPT_LENGTH), or make the "
                "images smaller"
            )
        )
    return findings


def _placeholder_problem(row: dict[str, Any], config: DictConfig, model: Model) -> str | None:
    """The tokens that stand for an image or a video in the text of a prompt, without one behind them."""
    text = str([message.get("content") for message in row[config.data.prompt_key]])
    tokens = (getattr(model.processor, name, None) for name in ("image_token", "video_token"))
    if model.takes_images and (found := next((token for token in tokens if token and token in text), None)):
        return f"has {found} in its prompt, the model's own token for an image or a video, with nothing behind it"
    return None


def _prompt_tokens(row: dict[str, Any], config: DictConfig, model: Model) -> int:
    """Length of a row's prompt, with its images as verl resizes them."""
    from verl_durian.entropy.media import collect, decode

    processor = model.processor
    messages = row[config.data.prompt_key]
    media = collect(row.get(config.data.image_key), row.get(config.data.video_key))
    if media is None:
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return len(getattr(processor, "tokenizer", processor)(text, add_special_tokens=False)["input_ids"])
    images, videos = decode(media, processor.image_processor.patch_size)
    structured = [{**message, "content": _parts(message.get("content"))} for message in messages]
    text = processor.apply_chat_template(structured, add_generation_prompt=True, tokenize=False)
    options: dict[str, Any] = {"images": images} if images else {}
    if videos:
        frames, metadata = zip(*videos, strict=True)
        options |= {"videos": list(frames), "video_metadata": list(metadata), "do_sample_frames": False}
    return len(processor(text=[text], **options)["input_ids"][0])


def _parts(content: Any) -> Any:
    """A prompt's text with its marks, as chat templates take it; what is no text stays."""
    if not isinstance(content, str):
        return content
    kinds = {"<image>": {"type": "image"}, "<video>": {"type": "video"}}
    pieces = (piece for piece in re.split("(<image>|<video>)", content) if piece)
    return [kinds.get(piece, {"type": "text", "text": piece}) for piece in pieces]

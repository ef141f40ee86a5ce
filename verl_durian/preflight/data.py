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
"""The data files: columns, images and prompt lengths of the first rows, as verl will read them."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from verl_durian.config import DurianConfig
from verl_durian.preflight import Finding, note, one_line, settings
from verl_durian.preflight.model import Model
from verl_durian.start_checks import is_durian
from verl_durian.vision_families import FAMILIES

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
            if file.startswith("hdfs:"):
                rows = None
                continue
            found, count = _check_file(file, f"data.{key}={file}", config, model)
            findings += found
            if key == "train_files":
                rows = None if rows is None or count is None else rows + count
    return findings + _check_rows(config, rows)


def _listed(files: Any) -> list[str]:
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
        return [Finding(f"{where}: there is no such file; {_how_to_make(path)}")], None
    if path.suffix not in _FORMATS:
        return [Finding(f"{where}: verl reads {', '.join(_FORMATS)}; convert it")], None
    try:
        rows = list(islice(_rows(path), _ROWS))
        count = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    except Exception as error:  # datasets and pyarrow raise many types for a broken file
        return [Finding(f"{where}: cannot be read ({one_line(error)}); write it again")], None
    if not rows:
        return [Finding(f"{where}: the file has no row; write it again")], count
    missing = [
        name for name in (config.data.prompt_key, config.data.reward_fn_key, "reward_model") if name not in rows[0]
    ]
    if missing:
        return [
            Finding(
                f"{where}: no column {', '.join(missing)}, but {', '.join(rows[0])}; write it as "
                "`verl-durian prepare` does, or name its columns (data.prompt_key, data.reward_fn_key)"
            )
        ], count
    problem = next((text for number, row in enumerate(rows) if (text := _row_problem(row, number, config))), None)
    if problem:
        return [Finding(f"{where}: {problem}")], count
    has_images = any(row.get(key) for row in rows for key in (config.data.image_key, config.data.video_key))
    if has_images and model is not None and not model.takes_images:
        return [
            Finding(
                f"{where}: rows have images, and actor_rollout_ref.model.path={config.actor_rollout_ref.model.path} "
                "takes texts alone; take a vision-language model"
            )
        ], count
    findings = []
    if where.startswith("data.train_files") and not config.trainer.val_only and model is not None:
        findings += _check_texts(rows, where, config, model)
    if where.startswith("data.train_files") and is_durian(config.algorithm.adv_estimator):
        findings += _check_perceptual(rows, has_images, where, config, model)
    if model is not None and not any(finding.stops for finding in findings):
        findings += _check_lengths(rows, where, config, model)
    return findings, count


def _how_to_make(path: Path) -> str:
    if path.parent.name in _KNOWN_SETS:
        return f"make it: verl-durian prepare {path.parent.name} --output {path.parent}"
    return "correct the path (TRAIN_FILES, VAL_FILES), or make it with `verl-durian prepare`"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Reads a file from its start, without the copy that verl will make of it."""
    import datasets  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    return iter(datasets.load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train", streaming=True))


def _row_problem(row: dict[str, Any], number: int, config: DictConfig) -> str | None:
    """What keeps verl from using this row; None where nothing does."""
    if not isinstance(row["reward_model"], dict) or row["reward_model"].get("ground_truth") is None:
        return f"row {number} has no answer in reward_model.ground_truth; take it out"
    prompt = row[config.data.prompt_key]
    if not isinstance(prompt, list) or not prompt or not all(isinstance(message, dict) for message in prompt):
        return f"row {number}: {config.data.prompt_key} must be a list of messages with role and content"
    for mark, key in (("<image>", config.data.image_key), ("<video>", config.data.video_key)):
        marks = sum(str(message["content"]).count(mark) for message in prompt)
        if marks != (found := len(row.get(key) or [])):
            return (
                f"row {number} has {marks} {mark} in its prompt and {found} in its column {key}; write one {mark} for "
                f"each, or name the column (data.{key.rstrip('s')}_key)"
            )
    return None


def _check_texts(rows: list[dict[str, Any]], where: str, config: DictConfig, model: Model) -> list[Finding]:
    """Whether rows without image would make micro batches on which verl crashes."""
    if model.type not in settings.QWEN2_VL_FAMILY or not settings.needs_images(config):
        return []
    keys = (config.data.image_key, config.data.video_key)
    without = sum(not any(row.get(key) for key in keys) for row in rows)
    text = f"{where}: {without} of the first {len(rows)} rows have no image, and verl crashes on a micro batch of such"
    if without == len(rows):
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
    if options.weights.perceptual == 0:
        return []
    if not has_images:
        return [
            note(
                f"{where}: the first {len(rows)} rows have no image; such a row takes its own GRPO advantage for the "
                "perceptual one (+algorithm.durian.weights.perceptual=0 leaves that axis out)"
            )
        ]
    key, families = options.perceptual.key, [family.model_type for family in FAMILIES]
    if key not in rows[0] and model is not None and model.type not in families:
        return [
            Finding(
                f"{where}: no column {key}, and the images cannot be scored by the vision tower of a {model.type} "
                f"(known: {', '.join(families)}); add it with `verl-durian score --model` and one of those"
            )
        ]
    return []


def _check_lengths(rows: list[dict[str, Any]], where: str, config: DictConfig, model: Model) -> list[Finding]:
    """Decodes and tokenizes the rows, and compares with the longest prompt that is allowed."""
    longest = config.data.max_prompt_length
    lengths = []
    for number, row in enumerate(rows):
        try:
            lengths.append(_prompt_tokens(row, config, model))
        except Exception as error:  # of pictures that cannot be decoded, and of templates that a prompt does not fit
            return [Finding(f"{where}: row {number} cannot be made a prompt ({one_line(error)}); take it out")]
    over = sum(length > longest for length in lengths)
    text = f"{where}: {over} of the first {len(rows)} prompts are longer than data.max_prompt_length={longest} tokens "
    text += f"(the longest has {max(lengths)})"
    remedy = "; raise it (MAX_PROMPT_LENGTH), or make the images smaller"
    filtered, trains = config.data.filter_overlong_prompts, not config.trainer.val_only
    if over == len(rows) or (over and trains and not filtered):
        return [Finding(text + remedy)]
    fate = "will be left out" if filtered else "will count as wrong"
    return [note(f"{text} and {fate}{remedy}")] if over else []


def _prompt_tokens(row: dict[str, Any], config: DictConfig, model: Model) -> int:
    """Length of a row's prompt, with its images as verl resizes them."""
    from verl_durian.scoring.media import collect, decode

    processor = model.processor
    messages = row[config.data.prompt_key]
    media = collect(row.get(config.data.image_key), row.get(config.data.video_key))
    if media is None:
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return len(getattr(processor, "tokenizer", processor)(text, add_special_tokens=False)["input_ids"])
    images, videos = decode(media, processor.image_processor.patch_size)
    structured = [{**message, "content": _parts(message["content"])} for message in messages]
    text = processor.apply_chat_template(structured, add_generation_prompt=True, tokenize=False)
    options: dict[str, Any] = {"images": images} if images else {}
    if videos:
        frames, metadata = zip(*videos, strict=True)
        options |= {"videos": list(frames), "video_metadata": list(metadata), "do_sample_frames": False}
    return len(processor(text=[text], **options)["input_ids"][0])


def _parts(content: str) -> list[dict[str, str]]:
    """A prompt's text with its marks, as chat templates take it."""
    kinds = {"<image>": {"type": "image"}, "<video>": {"type": "video"}}
    pieces = (piece for piece in re.split("(<image>|<video>)", content) if piece)
    return [kinds.get(piece, {"type": "text", "text": piece}) for piece in pieces]

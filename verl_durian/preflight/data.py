# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The data files: columns, answers, images and prompt lengths of the first rows, as verl will read them."""

import copy
from glob import has_magic
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from verl_durian import reward
from verl_durian.algo.config import DurianConfig
from verl_durian.entropy.vision_tower import FAMILIES
from verl_durian.hooks import known_failures
from verl_durian.hooks.checks import is_durian
from verl_durian.hooks.dataset import is_entropy
from verl_durian.preflight import Finding, machine, note, one_line
from verl_durian.preflight.model import Model

_ROWS = 16
"""Rows of each file that are read and turned into prompts."""
_FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
_PREPARED_SETS = ("geometry3k", "virl39k")
_MEDIA = ("image", "video", "audio")


def check(config: DictConfig, model: Model | None) -> list[Finding]:
    """Checks the training and validation files.

    Args:
        config: verl's config.
        model: The model whose processor builds the prompts; None skips everything that depends on it.
    """
    if config.data.custom_cls.path is not None:
        return [note(f"data.custom_cls.path={config.data.custom_cls.path}: the data of a custom class is not checked")]
    findings: list[Finding] = []
    counts: list[int | None] = []
    for key in ("train_files", "val_files"):
        files = config.data[key]
        for file in map(str, files if OmegaConf.is_list(files) else [files]):
            found, count = _check_file(file, f"data.{key}={file}", config, model)
            findings += found
            if key == "train_files":
                counts.append(count)
    if known_failures.trains(config) and None not in counts:
        total, limit = sum(count or 0 for count in counts), config.data.train_max_samples
        total = min(total, limit) if limit > 0 else total
        if total < config.data.train_batch_size:
            text = f"data.train_batch_size={config.data.train_batch_size}: the training set has {total} rows, and verl"
            findings.append(Finding(f"{text} drops incomplete batches; lower it (TRAIN_BATCH_SIZE)"))
    return findings


def _check_file(file: str, where: str, config: DictConfig, model: Model | None) -> tuple[list[Finding], int | None]:
    """The findings and the number of rows; None if the number is unknown, or the file already has a problem."""
    path = Path(file).expanduser()
    if "://" in file or file.startswith("hdfs:") or has_magic(file):
        return [note(f"{where}: not checked, because it is not the path of a local file")], None
    if not path.is_file():
        remedy = "correct the path (TRAIN_FILES, VAL_FILES), or create the file with `verl-durian prepare`"
        if path.parent.name in _PREPARED_SETS:
            remedy = f"create it: verl-durian prepare {path.parent.name} --output {path.parent}"
        return [machine.local_problem(config, f"{where}: no such file; {remedy}")], None
    if path.suffix not in _FORMATS:
        return [Finding(f"{where}: verl reads {', '.join(_FORMATS)}; convert it")], None
    try:
        count, rows = _read_first_rows(path)
    except Exception as error:  # datasets and pyarrow raise many types for a damaged file
        return [Finding(f"{where}: cannot be read ({one_line(error)}); write it again")], None
    if not rows:
        return [Finding(f"{where}: the file has no rows, and verl cannot read it; write it again or omit it")], None
    needed = [config.data.prompt_key, *(("data_source", "reward_model") if _verl_grades(config) else ())]
    if missing := [name for name in needed if name not in rows[0]]:
        text = f"{where}: no column {', '.join(missing)}, but {', '.join(rows[0])}; write it as `verl-durian prepare`"
        return [Finding(f"{text} does, or name the column of the prompts (data.prompt_key)")], None
    checked = [_check_row(row, f"{where}: row {number}", config) for number, row in enumerate(rows)]
    # One line per file: the first row that stops the run, otherwise the first with a note.
    findings = sorted(filter(None, checked), key=lambda finding: not finding.stops)[:1]
    without_media = sum(not _has_media(row, config) for row in rows)
    if without_media < len(rows) and model is not None and not hasattr(model.processor, "image_processor"):
        text = f"{where}: rows have images, and actor_rollout_ref.model.path={config.actor_rollout_ref.model.path}"
        findings.append(Finding(f"{text} only takes text; use a vision-language model"))
    if any(finding.stops for finding in findings):
        return findings, None
    if where.startswith("data.train_files") and known_failures.trains(config):
        text = f"{where}: {without_media} of the first {len(rows)} rows have no image"
        if without_media:
            findings += _check_text_rows(text, rows[0], config, model)
        if is_durian(config.algorithm.adv_estimator):
            findings += _check_perceptual_axis(rows, where, config, model)
            if without_media == len(rows):
                findings += _note_unused_perceptual_axis(text, config)
    if model is not None:
        sound = {number: row for number, (row, finding) in enumerate(zip(rows, checked, strict=True)) if not finding}
        findings += _check_prompts(sound, where, config, model)
    return findings, count


def _read_first_rows(path: Path) -> tuple[int | None, list[dict[str, Any]]]:
    """The number of rows, None if the format does not store it, and the first rows. Makes no copy, unlike verl."""
    import datasets  # type: ignore[import-untyped]

    count = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    if count == 0 or path.stat().st_size == 0:  # `datasets` fails on files without rows
        return count, []
    datasets.disable_progress_bars()
    rows = datasets.load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train", streaming=True)
    return count, list(islice(rows, _ROWS))


def _verl_grades(config: DictConfig) -> bool:
    """Whether one of verl's reward managers passes each row and its answer to a reward function."""
    manager, rewards = config.reward.reward_manager, config.reward
    by_function = rewards.custom_reward_function.path is not None or not rewards.reward_model.enable
    return by_function and manager.source == "register" and manager.name in ("naive", "dapo")


def _has_media(row: dict[str, Any], config: DictConfig) -> bool:
    return any(row.get(config.data[f"{kind}_key"]) for kind in _MEDIA)


def _check_row(row: dict[str, Any], where: str, config: DictConfig) -> Finding | None:
    """The first problem of a row that can be found without its prompt."""
    graded, our_reward = row.get("reward_model"), str(config.reward.custom_reward_function.path)
    if _verl_grades(config):
        if not isinstance(graded, dict) or "ground_truth" not in graded:
            return Finding(f"{where}: no reward_model.ground_truth; add it, or remove the row")
        if our_reward in ("pkg://verl_durian.reward", "pkg://verl_durian.evaluation.named_reward"):
            try:
                reward.compute_score(row["data_source"], "", graded["ground_truth"], row.get("extra_info"))
            except ValueError as error:
                return Finding(f"{where}: {one_line(error)}")
    prompt = row[config.data.prompt_key]
    if not isinstance(prompt, list) or not prompt or not all(isinstance(message, dict) for message in prompt):
        return Finding(f"{where}: {config.data.prompt_key} must be a list of messages with role and content")
    texts = [content for message in prompt if isinstance(content := message.get("content"), str)]
    for kind in _MEDIA:
        key = config.data[f"{kind}_key"]
        if not isinstance(row.get(key), list | None):
            return Finding(f"{where}: {key}={row[key]!r} must be a list (data.{kind}_key)")
        marks, found = sum(text.count(f"<{kind}>") for text in texts), len(row.get(key) or [])
        if marks == found:
            continue
        text = f"{where}: {marks} <{kind}> in the prompt and {found} in the column {key}; write one <{kind}> for each, "
        text += f"or name the column (data.{kind}_key)"
        if _has_media(row, config):
            return _raised_by_dataset(text, config)
        # Without any image verl keeps the mark as text and silently trains without images.
        return Finding(text, stops=key not in row)
    return None


def _raised_by_dataset(text: str, config: DictConfig) -> Finding:
    """A row for which verl's dataset raises an error: the run ends, unless the filter for long prompts is on."""
    if config.data.filter_overlong_prompts:
        return note(f"{text}; verl drops such rows (data.filter_overlong_prompts)")
    return Finding(f"{text}; verl stops at such rows, remove it")


def _check_text_rows(text: str, first_row: dict, config: DictConfig, model: Model | None) -> list[Finding]:
    """Rows without images, on a micro batch of which verl crashes with some models."""
    if model is None or model.type not in known_failures.QWEN2_VL_FAMILY:
        return []
    if not known_failures.crashes_without_images(config):
        return []
    text += ", and verl crashes on a micro batch of such rows"
    files = config.data.train_files
    only_text = config.data.image_key not in first_row and config.data.video_key not in first_row
    if only_text and not (OmegaConf.is_list(files) and len(files) > 1):
        return [Finding(f"{text}; add rows with images, train a text model, or patch verl (patches/README.md)")]
    return [note(f"{text} alone; remove them, or use larger micro batches (PPO_MICRO_BATCH_SIZE)")]


def _check_perceptual_axis(
    rows: list[dict[str, Any]], where: str, config: DictConfig, model: Model | None
) -> list[Finding]:
    """Values of the visual entropy column, or whether the images can be scored without it."""
    try:
        options = DurianConfig.from_algorithm(config.algorithm)
    except ValueError:  # reported with the estimator
        return []
    key = options.perceptual.key
    if options.weights.perceptual == 0:
        return []
    for number, row in enumerate(rows if key in rows[0] else ()):
        missing = _has_media(row, config) and (row[key] is None or row[key] != row[key])
        if missing or not is_entropy(row[key]):
            problem = "is missing for a row with an image" if missing else "is not a finite number of nats"
            fix = "write it with `verl-durian score` and remove rows that cannot be scored, or remove the column"
            return [Finding(f"{where}: row {number}: {key}={row[key]!r} {problem}; {fix}")]
    has_images = any(_has_media(row, config) for row in rows)
    if has_images and key not in rows[0] and model is not None and model.type not in FAMILIES:
        return [
            Finding(
                f"{where}: no column {key}, and the vision tower of {model.type} is not supported (supported: "
                f"{', '.join(FAMILIES)}); add the column with `verl-durian score --model` and one of those"
            )
        ]
    return []


def _note_unused_perceptual_axis(text: str, config: DictConfig) -> list[Finding]:
    """Text-only rows, for which durian's perceptual axis has no meaning."""
    try:
        options = DurianConfig.from_algorithm(config.algorithm)
    except ValueError:  # reported with the estimator
        return []
    if options.weights.perceptual == 0:
        return []
    text += "; for such rows the GRPO advantage replaces the perceptual one"
    return [note(f"{text} (+algorithm.durian.weights.perceptual=0 disables that axis)")]


def _check_prompts(rows: dict[int, dict[str, Any]], where: str, config: DictConfig, model: Model) -> list[Finding]:
    """Builds the prompts of these rows with verl's dataset, and compares their lengths with the limit.

    In trainer V1 a failed rollout only loses its prompt; the older trainers stop.
    """
    dataset, longest = _dataset_without_files(config, model), config.data.max_prompt_length
    filtered = config.data.filter_overlong_prompts
    tokens = [getattr(model.processor, name, None) for name in ("image_token", "video_token")]
    lengths: list[int] = []
    problems: list[Finding] = []
    for number, row in rows.items():
        in_dataset, dropped, reason = True, False, ""
        text = str([message.get("content") for message in row[config.data.prompt_key]])
        if stray := next((token for token in tokens if token and token in text), None):
            reason = f"{stray} in the prompt is the model's own token for an image or a video, and has none"
        try:
            messages = dataset._build_messages(copy.deepcopy(row), config.data.prompt_key)
            in_dataset = False
            lengths.append(_count_tokens(messages, dataset))
        except Exception as error:  # damaged images, and prompts that do not fit the chat template
            reason, dropped = reason or f"verl cannot build its prompt ({one_line(error)})", filtered
        if not reason:
            continue
        reason = f"{where}: row {number}: {reason}"
        if in_dataset or dropped:
            problems.append(_raised_by_dataset(reason, config))
        else:
            text = f"{reason}, and verl skips its rollouts; correct or remove it"
            problems.append(Finding(text, stops=not known_failures.uses_v1(config)))
    findings = problems[:1]
    if over := sum(length > longest for length in lengths):
        fate = "drops them" if filtered else "skips the rollouts of those with images, and truncates the others"
        text = f"{where}: {over} of the first {len(rows)} prompts are longer than data.max_prompt_length={longest} "
        text += f"tokens (maximum {max(lengths)}), and verl {fate}; raise it (MAX_PROMPT_LENGTH), or use smaller images"
        findings.append(note(text))
    return findings


def _dataset_without_files(config: DictConfig, model: Model) -> Any:
    """verl's dataset, only for its methods."""
    from verl.utils.dataset.rl_dataset import RLHFDataset

    class WithoutFiles(RLHFDataset):
        def _read_files_and_tokenize(self) -> None:
            pass

    return WithoutFiles([], model.tokenizer, config.data, model.processor)


def _count_tokens(messages: list[dict[str, Any]], dataset: Any) -> int:
    """The length of a prompt with its resized images, as verl's filter for long prompts computes it."""
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    options = dict(dataset.apply_chat_template_kwargs)
    if dataset.tool_schemas is not None:
        options["tools"] = dataset.tool_schemas
    template = (dataset.processor or dataset.tokenizer).apply_chat_template
    text = template(messages, add_generation_prompt=True, tokenize=False, **options)
    media = dataset._process_multi_modal_info(messages, dataset.image_patch_size, dataset.config)
    if not any(media):
        return len(dataset.tokenizer(text, add_special_tokens=False)["input_ids"])
    inputs = build_multimodal_processor_inputs(
        dataset.processor,
        text=[text],
        **dict(zip(("images", "videos", "audio"), media, strict=True)),
        mm_processor_kwargs=dataset.mm_processor_kwargs,
    )
    return len(inputs["input_ids"][0])

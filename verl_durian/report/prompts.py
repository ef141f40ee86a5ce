# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The prompts that the report shows one by one: their rollouts from the records, their images from the training set."""

import base64
import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from verl_durian.report.runs import COLUMNS, Run, read_record
from verl_durian.report.schema import TEXTS

MAX_PROMPTS = 240
"""Prompts in the page, of all runs together."""
MAX_TEXT = 1_500_000
"""Characters of answers in the page."""
MAX_QUESTION = 2000
"""Characters of a question or of a ground truth."""
MAX_IMAGES = 3_500_000
"""Bytes of images in the page, as base64."""
LONGEST_SIDE = 320
"""Pixels of an image in the page."""
QUALITY = 75
MAX_HISTORY = 8
"""Steps that the history of a prompt shows."""
KINDS = ("weight raised", "weight lowered", "hardest", "easiest")
ROLLOUT = (
    *("rollout", "reward", "accuracy", "response_length", "term_original", "term_perceptual", "term_reasoning"),
    *("advantage_grpo", "advantage_durian", "advantage"),
)
"""Values of a rollout in the page, in this order."""
PROMPT = (
    *("step", "passed", "mean_passed", "weight_grpo", "weight_durian", "change", "visual_entropy", "perceptual_group"),
    *("confidence", "reasoning_group", "std_original", "std_perceptual", "std_reasoning"),
)
"""Values of a prompt in the page."""


def shown_prompts(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Collects the prompts of the page.

    Returns:
        The prompts, ready for JSON, and the images that they name, as data URLs. What is missing is added to the
        notes of the runs.
    """
    prompts: list[dict[str, Any]] = []
    images: dict[str, str] = {}
    room = MAX_IMAGES
    with_records = [run for run in runs if not run.prompts.empty]
    for run in with_records:
        chosen = interesting(run.prompts, MAX_PROMPTS // len(with_records))
        rollouts = _rollouts(run, chosen)
        texts = sum(map(len, rollouts.values())) * len(with_records)
        longest = MAX_TEXT // max(1, texts)
        rows = training_rows(run, {int(row) for row in chosen["row"].dropna()})
        differing = set()
        left_out = 0
        for prompt in chosen.to_dict("records"):
            of_prompt = rollouts.get((prompt["step"], prompt["uid"]), [])
            row = {} if pd.isna(prompt["row"]) else rows.get(int(prompt["row"]), {})
            name, image = str(row.get("name")), row.get("image")
            if image and name not in images:
                if len(image) <= room:
                    images[name], room = image, room - len(image)
                else:
                    left_out += 1
            recorded = of_prompt[0]["prompt"] if of_prompt else None
            question = row.get("question") or recorded
            if recorded and question and not _contains(recorded, question):
                differing.add(name)
            prompts.append(
                {value: _number(prompt[value]) for value in PROMPT}
                | {
                    "run": run.name,
                    "name": str(prompt["key"])[:36],
                    "kinds": prompt["kinds"],
                    "weights": run.settings.get("weights"),
                    "unit": run.confidence_unit,
                    "history": _history(run.prompts, prompt["key"]),
                    "rollouts": [[_number(rollout[value]) for value in ROLLOUT] for rollout in of_prompt],
                    "answers": [_cut(rollout["answer"], longest) for rollout in of_prompt],
                    "question": _cut(question, MAX_QUESTION),
                    "truth": _cut(row.get("truth"), MAX_QUESTION),
                    "image": name if name in images else None,
                }
            )
        if differing:
            run.notes.append(
                f"Questions of shown prompts that differ from the recorded prompt: {len(differing)} (first: "
                f"{min(differing)}). Has the training set changed since?"
            )
        if left_out:
            run.notes.append(f"{left_out} images of prompts are not shown: the page would be too large.")
    return prompts, images


def interesting(prompts: pd.DataFrame, most: int) -> pd.DataFrame:
    """Chooses prompts: those whose weight changed most, the hardest and the easiest.

    Args:
        prompts: A row per step and prompt, see `Run.prompts`.
        most: Number of rows, about a quarter for each kind.

    Returns:
        Rows of `prompts` with `change`, the ratio of the weights under durian and grpo, `mean_passed`, the pass rate
        over the run, and `kinds`, a list. A prompt is chosen once per kind: in the step of its largest change, or in
        the last step it was seen in. The hardest and the easiest are at most a quarter of the prompts each.
    """
    prompts = prompts.reset_index(drop=True)
    prompts["change"] = (prompts["weight_durian"] / prompts["weight_grpo"]).where(
        (prompts["weight_grpo"] > 0) & (prompts["weight_durian"] > 0)
    )
    quarter = max(1, most // len(KINDS))
    changed = prompts["change"].dropna().sort_values(kind="stable")
    raised, lowered = changed[changed > 1][::-1], changed[changed < 1]
    by_prompt = prompts.groupby("key", sort=False)
    prompts["mean_passed"] = by_prompt["passed"].transform("mean")
    last = by_prompt.tail(1)
    means = by_prompt[["passed", "confidence"]].mean().loc[last["key"]].set_index(last.index)
    ranked = means.sort_values(["passed", "confidence"], kind="stable").index
    part = max(1, len(ranked) // 4)
    chosen: dict[int, list[str]] = {}
    candidates = (raised.index, lowered.index, ranked[:part], ranked[::-1][:part])
    for kind, rows in zip(KINDS, candidates, strict=True):
        once = ~prompts["key"].loc[rows].duplicated()
        for row in rows[once][:quarter]:
            chosen.setdefault(row, []).append(kind)
    return prompts.loc[list(chosen)].assign(kinds=list(chosen.values()))


def training_rows(run: Run, wanted: set[int]) -> dict[int, dict[str, Any]]:
    """Reads question, ground truth and first image of rows of the training set; notes of the run say what is missing.

    Returns:
        For each row that was found `name`, `question`, `truth` and `image`, a JPEG as data URL or None.
    """
    found: dict[int, dict[str, Any]] = {}
    image_key = run.settings.get("image_key") or "images"
    prompt_key = run.settings.get("prompt_key") or "prompt"
    files = run.settings.get("train_files") or []
    start, broken = 0, list[str]()
    for name in [files] if isinstance(files, str) else files:
        try:
            if not name.endswith(".parquet"):
                raise OSError("the report reads only Parquet files")
            with pq.ParquetFile(name, pre_buffer=False) as parquet:
                count = parquet.metadata.num_rows
                inside = sorted(row - start for row in wanted if start <= row < start + count)
                for row, cells in _cells(parquet, inside, (prompt_key, "reward_model", image_key)):
                    image, failed = _thumbnail(cells.get(image_key))
                    broken += [f"{failed} of row {row} of {name}"] if failed else []
                    model = cells.get("reward_model")
                    found[start + row] = {
                        "name": f"{name}:{row}",
                        "question": _question(cells.get(prompt_key)),
                        "truth": str(model.get("ground_truth", "")) if isinstance(model, dict) else None,
                        "image": image,
                    }
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:150]
            if isinstance(error, FileNotFoundError):
                reason = "not found. Make the report where the training set is to see them"
            run.notes.append(f"No questions and images from {name}: {reason}.")
            break  # the rows of further files cannot be numbered
        start += count
    else:
        if files and (beyond := wanted - found.keys()):
            run.notes.append(
                f"Shown prompts whose row is beyond the end of the training set ({start:,} rows): {len(beyond)}. "
                "Has it changed since?"
            )
    if broken:
        run.notes.append(f"Images of shown prompts that cannot be read: {len(broken)} (first: {broken[0]}).")
    if not any(run.prompts["row"].notna()):
        run.notes.append("The records do not name rows of the training set: no questions and images.")
    return found


def _cells(parquet: pq.ParquetFile, rows: Sequence[int], wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Some rows of a training set, by their numbers in ascending order."""
    columns = [name for name in wanted if name in parquet.schema_arrow.names]
    first = 0
    for group in range(parquet.num_row_groups):
        end = first + parquet.metadata.row_group(group).num_rows
        if any(first <= row < end for row in rows):
            start = first
            for batch in parquet.iter_batches(64, row_groups=[group], columns=columns):
                for row in rows:
                    if start <= row < start + batch.num_rows:
                        yield row, batch.slice(row - start, 1).to_pylist()[0]
                start += batch.num_rows
        first = end


def _thumbnail(images: Any) -> tuple[str | None, str]:
    """The first image of a row as a small JPEG in a data URL, and what cannot be read."""
    if not images:
        return None, ""
    stored = images[0]
    if isinstance(stored, dict):
        stored = stored.get("bytes") or stored.get("image") or stored.get("path")
    try:
        source = BytesIO(stored) if isinstance(stored, bytes) else str(stored).removeprefix("file://")
        with Image.open(source) as picture:
            small = picture.convert("RGBA")
        small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        white = Image.new("RGBA", small.size, "white")
        file = BytesIO()
        Image.alpha_composite(white, small).convert("RGB").save(file, "JPEG", quality=QUALITY, optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # of PIL's plugins, for damaged files
        return None, "the bytes" if isinstance(stored, bytes) else str(stored)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", ""


def _question(prompt: Any) -> str | None:
    """The text of verl's chat messages."""
    if not isinstance(prompt, list):
        return prompt if isinstance(prompt, str) else None
    return "\n\n".join(str(message.get("content", "")) for message in prompt if isinstance(message, dict))


def _contains(recorded: str, question: str) -> bool:
    """Whether the last paragraph of a question is in a prompt, without the tags of media and whitespace."""
    words = re.sub(r"<(image|video)>|\s", "", question.strip().rsplit("\n\n")[-1])
    return words in re.sub(r"\s", "", recorded)


def _rollouts(run: Run, chosen: pd.DataFrame) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """The rollouts of the chosen prompts by step and uid."""
    rollouts: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for step, of_step in chosen.groupby("step"):
        table, _ = read_record(run.records[int(step)], (*COLUMNS, *(field.name for field in TEXTS)))
        uids = pa.array(of_step["uid"].unique().tolist(), pa.string())
        for rollout in table.filter(pc.is_in(table["uid"], uids)).to_pylist():
            rollouts.setdefault((int(step), rollout["uid"]), []).append(rollout)
    return rollouts


def _history(prompts: pd.DataFrame, key: str) -> list[tuple[int, Any]]:
    """Step and pass rate of the last times that a prompt was seen."""
    seen = prompts[prompts["key"] == key].tail(MAX_HISTORY)
    return [(int(step), _number(passed)) for step, passed in zip(seen["step"], seen["passed"], strict=True)]


def _cut(text: str | None, longest: int) -> str | None:
    return text if text is None or len(text) <= longest else f"{text[:longest]} … ({len(text):,} characters)"


def _number(value: Any) -> float | int | None:
    """A number for JSON with four significant digits; None instead of NaN and infinity."""
    if value is None or not np.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.4g}")

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The data card of a prepared dataset: README.md in its folder."""

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verl_durian.prepare.base import ANSWER_TYPES, DatasetSpec
from verl_durian.prepare.rows import THINKING_PROMPT
from verl_durian.prepare.sources import Source

_CARD = """\
# {spec.name} for verl

[{spec.hub_id}](https://huggingface.co/datasets/{spec.hub_id}) in verl's row format, made by

    {command}

- Source: `{source.name}`{revision}
- License of the dataset: {spec.license}
- Images with fewer than {spec.pixels.least:,} or more than {spec.pixels.most:,} pixels are resized with PIL
  (bicubic) and stored as PNG; all others are the unchanged files of the source.

## Rows

| split | source rows | dropped | rows | images | resized | answers |
|---|---|---|---|---|---|---|
{splits}

`extra_info.answer_type` is `number` (a number, LaTeX or text), `choice` (the letter is graded, and
`extra_info.choices` has the texts from A on if the dataset has them) or `yes_no`. `extra_info.index` is the row
in the split of the source.

## Treatment

{spec.treatment}

The prompt has exactly as many `<image>` as the row has images; images that the question does not place come before it.
This prompt precedes each question:

    {prompt}

## Dropped

`dropped.jsonl` lists each dropped row; it is absent if there is none.

| split | reason | rows |
|---|---|---|
{dropped}
"""


def data_card(spec: DatasetSpec, source: Source, output: Path, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the text of the card, with the command that makes the folder `output`, and the summary of each split."""
    splits, reasons = [], Counter[tuple[str, str]]()
    for split, summary in summaries.items():
        counts, dropped = Counter(summary["counts"]), len(summary["dropped"])
        answers = ", ".join(f"{counts[kind]} {kind}" for kind in ANSWER_TYPES if counts[kind])
        numbers = "{rows} | {images} | {resized}".format(**counts)
        splits.append(f"| {split} | {counts['rows'] + dropped} | {dropped} | {numbers} | {answers} |")
        reasons.update((split, row["reason"]) for row in summary["dropped"])
    return _CARD.format(
        spec=spec,
        command=shlex.join(["verl-durian", "prepare", spec.name, "--source", source.name, "--output", str(output)]),
        source=source,
        revision=f" at revision `{source.revision}`" if source.revision else "",
        splits="\n".join(splits),
        prompt=THINKING_PROMPT,
        dropped="\n".join(f"| {split} | {reason} | {rows} |" for (split, reason), rows in reasons.items()),
    )

# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The data card of a prepared dataset: README.md in its folder."""

import shlex
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from verl_durian.prepare.base import DatasetSpec
from verl_durian.prepare.rows import THINKING_PROMPT
from verl_durian.prepare.sources import Source
from verl_durian.prepare.splits import Summary

_IDS_SHOWN = 10
_CARD = """\
# {spec.title} for verl

[{spec.title}](https://huggingface.co/datasets/{spec.hub_id}) in verl's row format, made by

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

{treatment}
- The prompt has exactly as many `<image>` as the row has images; images that the question does not place
  come before it.
- This prompt precedes each question:

      {prompt}

## Dropped

{dropped}
"""


def data_card(spec: DatasetSpec, source: Source, output: Path, summaries: Mapping[str, Summary]) -> str:
    """Returns the text of the card, with the command that makes the folder `output` and the counts of each split."""
    splits = []
    for split, summary in summaries.items():
        answers = ", ".join(f"{number} {kind}" for kind, number in summary.answer_types.items())
        numbers = "{source_rows} | {dropped} | {rows} | {images} | {resized}"
        splits.append(f"| {split} | {numbers.format(dropped=len(summary.dropped), **summary.counts)} | {answers} |")
    return _CARD.format(
        spec=spec,
        command=shlex.join(["verl-durian", "prepare", spec.name, "--source", source.name, "--output", str(output)]),
        source=source,
        revision=f" at revision `{source.revision}`" if source.revision else "",
        splits="\n".join(splits),
        treatment="\n".join(f"- {sentence}" for sentence in spec.treatment),
        prompt=THINKING_PROMPT,
        dropped=_dropped_rows(summaries),
    )


def _dropped_rows(summaries: Mapping[str, Summary]) -> str:
    ids = defaultdict(list)
    for split, summary in summaries.items():
        for row in summary.dropped:
            ids[split, row["reason"]].append(row["id"])
    if not ids:
        return "No row."
    lines = ["| split | reason | rows | ids |", "|---|---|---|---|"]
    for (split, reason), dropped in ids.items():
        shown = ", ".join(dropped[:_IDS_SHOWN]) + (", ..." if len(dropped) > _IDS_SHOWN else "")
        lines.append(f"| {split} | {reason} | {len(dropped)} | {shown} |")
    return "\n".join([*lines, "", "`dropped.jsonl` lists each of them."])

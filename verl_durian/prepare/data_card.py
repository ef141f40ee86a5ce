# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The data card of a prepared set: README.md in its folder."""

import shlex
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from verl_durian.prepare.data_set import DataSet
from verl_durian.prepare.rows import THINKING_PROMPT
from verl_durian.prepare.sources import Source
from verl_durian.prepare.split_files import Summary

_IDS_TOLD = 10


def data_card(data_set: DataSet, source: Source, output: Path, summaries: Mapping[str, Summary]) -> str:
    """The text of the card.

    Args:
        data_set (DataSet): The set.
        source (Source): Where its rows come from.
        output (Path): Its folder, as it was given.
        summaries (Mapping[str, Summary]): How each split was made.
    """
    pixels = data_set.pixels
    revision = f" at revision `{source.revision}`" if source.revision else ""
    command = shlex.join(
        ["verl-durian", "prepare", data_set.name, "--source", source.name, "--output", str(output)],
    )
    lines = [
        f"# {data_set.title} for verl",
        "",
        f"[{data_set.title}](https://huggingface.co/datasets/{data_set.hub_id}) in verl's row format, made by",
        "",
        f"    {command}",
        "",
        f"- Source: `{source.name}`{revision}",
        f"- Licence of the set: {data_set.licence}",
        f"- Pictures of fewer than {pixels.least:,} or more than {pixels.most:,} pixels are resized with PIL, bicubic,",
        "  and stored as PNG; all others are the source's files to the bit.",
        "",
        "## Rows",
        "",
        "| split | rows of the source | dropped | rows | images | resized | answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for split, summary in summaries.items():
        counts, dropped = summary.counts, len(summary.dropped)
        answers = ", ".join(f"{number} {kind}" for kind, number in summary.answer_types.items())
        numbers = (counts["source_rows"], dropped, counts["rows"], counts["images"], counts["resized"])
        lines.append(f"| {split} | {' | '.join(map(str, numbers))} | {answers} |")
    lines += [
        "",
        "`extra_info.answer_type` is `number` (a number, LaTeX or a text), `choice` (the letter is graded,",
        "`extra_info.choices` are the texts from A on, if the set has them) or `yes_no`. `extra_info.index` is the row",
        "in the source's split.",
        "",
        "## Treatment",
        "",
        *(f"- {sentence}" for sentence in data_set.treatment),
        "- The prompt has exactly as many `<image>` as the row has images; those that the question did not place stand",
        "  before it.",
        "- Each question stands behind this prompt:",
        "",
        *(f"      {line}" for line in THINKING_PROMPT.splitlines()),
        "",
        "## Dropped",
        "",
        *_dropped(summaries),
    ]
    return "\n".join(lines) + "\n"


def _dropped(summaries: Mapping[str, Summary]) -> list[str]:
    ids = defaultdict(list)
    for split, summary in summaries.items():
        for row in summary.dropped:
            ids[split, row["reason"]].append(row["id"])
    if not ids:
        return ["No row."]
    lines = ["| split | reason | rows | ids |", "|---|---|---|---|"]
    for (split, reason), which in ids.items():
        told = ", ".join(which[:_IDS_TOLD]) + (", ..." if len(which) > _IDS_TOLD else "")
        lines.append(f"| {split} | {reason} | {len(which)} | {told} |")
    return [*lines, "", "`dropped.jsonl` has a line for each."]

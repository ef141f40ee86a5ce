# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The columns of a record: `algorithm.durian.record` writes them, `report` and `simulate` read them."""

import pyarrow as pa

VERSION = 1
"""Version of the records that this release writes."""

METADATA = b"verl_durian"
"""Key of the file's metadata that holds settings and thresholds as JSON."""

SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "update": pa.int32(),
        "uid": pa.string(),
        "row": pa.int64(),
        "rollout": pa.int32(),
        "reward": pa.float64(),
        "accuracy": pa.float64(),
        "response_length": pa.int32(),
        "visual_entropy": pa.float64(),
        "confidence": pa.float64(),
        "perceptual_group": pa.int32(),
        "reasoning_group": pa.int32(),
        "std_original": pa.float64(),
        "std_perceptual": pa.float64(),
        "std_reasoning": pa.float64(),
        "term_original": pa.float64(),
        "term_perceptual": pa.float64(),
        "term_reasoning": pa.float64(),
        "advantage": pa.float64(),
        "advantage_grpo": pa.float64(),
        "advantage_durian": pa.float64(),
    }
)
TEXTS = [pa.field("prompt", pa.string()), pa.field("answer", pa.string())]
"""Columns of `record_texts=true`."""

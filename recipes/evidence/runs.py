# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The runs of the comparison: settings of verl for each arm, and what remains of a run. See PROTOCOL.md."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
"""The published results, one file per run."""

BASELINE = "grpo"
SEEDS = 8
ROBUSTNESS_SEEDS = 4
VERL, VERL_SEEDS = "verl", 2
RESAMPLED = "resampled"
"""Variant with the same data order and other random numbers for the rollouts: how much do runs differ by chance?"""
RATE_SEEDS = (101, 102)

BATCH, ROLLOUTS, STEPS, TEST_EVERY = 32, 8, 30, 5
RATES = (1e-5, 2e-5, 5e-5, 1e-4)
LEARNING_RATE = 5e-5
"""Chosen among `RATES`, see PROTOCOL.md."""
NUM_GROUPS = 4
"""b of Durian."""

MATCHED = "+algorithm.evidence.match_rms=True"
GROUPS = f"+algorithm.durian.reasoning.num_groups={NUM_GROUPS}"


def weights(original: float, perceptual: float, reasoning: float) -> list[str]:
    """The settings of Durian's weights."""
    named = {"original": original, "perceptual": perceptual, "reasoning": reasoning}
    return [f"+algorithm.durian.weights.{name}={value}" for name, value in named.items()]


def durian(*settings: str) -> list[str]:
    """The settings of an arm with the estimator durian."""
    return ["algorithm.adv_estimator=durian", GROUPS, *settings]


ARMS = {
    "grpo": ["algorithm.adv_estimator=grpo"],
    "durian": durian(),
    "dr_grpo": ["algorithm.adv_estimator=evidence_dr_grpo"],
    "durian_permuted": durian("+algorithm.evidence.difficulty=permuted"),
    "durian_true": durian("+algorithm.evidence.difficulty=known", "+algorithm.durian.perceptual.key=true_difficulty"),
    "durian_perceptual": durian(*weights(0, 1, 0)),
    "durian_reasoning": durian(*weights(0, 0, 1)),
    "maxrl": ["algorithm.adv_estimator=evidence_maxrl"],
    "mad": ["algorithm.adv_estimator=evidence_mad"],
    "batch_std": ["algorithm.adv_estimator=evidence_batch_std"],
    "reinforce_plus_plus": ["algorithm.adv_estimator=evidence_reinforce_plus_plus"],
}
"""Settings of verl for each arm."""

TABLE_3 = (
    (0.1, 0.2, 0.7),
    (0.15, 0.25, 0.6),
    (0.2, 0.1, 0.7),
    (0.3, 0.1, 0.6),
    (0.4, 0.3, 0.3),
    (0.6, 0.2, 0.2),
    (0.7, 0.1, 0.2),
)
"""Weights in Table 3 of the paper; the first are those of the arm durian."""


@dataclass(frozen=True)
class Key:
    """What a run is called."""

    arm: str
    family: str
    seed: int
    variant: str = "main"
    """`main`, or what is changed in a robustness run or the choice of the learning rate."""

    @property
    def name(self) -> str:
        """Also that of the result file, without suffix."""
        return f"{self.variant}/{self.family}/{self.arm}/{self.seed}"


@dataclass(frozen=True)
class Run(Key):
    """One training run."""

    batch: int = BATCH
    rate: float = LEARNING_RATE
    validation: str = "test"
    """The split."""
    settings: tuple[str, ...] = (MATCHED,)
    """Settings of verl on top of those of the arm."""


def main_runs(families: Iterable[str], arms: Iterable[str], seeds: int = SEEDS) -> list[Run]:
    """The runs of the comparison. All arms of a seed come before the next seed."""
    return [Run(arm, family, seed) for seed in range(1, seeds + 1) for family in families for arm in arms]


def robustness_runs(families: Iterable[str], seeds: int = ROBUSTNESS_SEEDS) -> list[Run]:
    """The runs that vary one setting each."""
    runs = []
    for seed in range(1, seeds + 1):
        for family in families:
            runs.append(Run(BASELINE, family, seed, RESAMPLED))
            for b in (1, 12, 24):
                settings = (MATCHED, f"algorithm.durian.reasoning.num_groups={b}")
                runs.append(Run("durian", family, seed, f"b{b}", settings=settings))
            for row in TABLE_3[1:]:
                variant = "weights_" + "_".join(map(str, row))
                runs.append(Run("durian", family, seed, variant, settings=(MATCHED, *weights(*row))))
            for arm in ("durian", "dr_grpo", "maxrl", "mad", "batch_std"):
                runs.append(Run(arm, family, seed, "unmatched", settings=()))
            for arm in (BASELINE, "durian"):
                runs += [Run(arm, family, seed, f"batch{batch}", batch) for batch in (16, 64)]
                runs += [
                    Run(arm, family, seed, f"lr{rate:g}", rate=rate) for rate in RATES[1:] if rate != LEARNING_RATE
                ]
    return runs


def verl_runs(seeds: int = VERL_SEEDS) -> list[Run]:
    """The runs that are repeated in verl itself."""
    return [Run(arm, "aligned", seed, VERL) for seed in range(1, seeds + 1) for arm in (BASELINE, "durian")]


def rate_runs(families: Iterable[str]) -> list[Run]:
    """The runs that choose the learning rate: the baseline, on another split and with other seeds."""
    return [
        Run(BASELINE, family, seed, f"rate{rate:g}", rate=rate, validation="dev")
        for seed in RATE_SEEDS
        for rate in RATES
        for family in families
    ]


@dataclass(frozen=True, kw_only=True)
class Result(Key):
    """What remains of a run. A failed run has no `validation`, `reward` and `weight`."""

    status: str
    """`done` or `failed`."""
    attempts: int
    seconds: float
    """Duration of the last attempt."""
    settings: list[str]
    versions: dict[str, str]
    validation: dict[int, dict[str, float]] = field(default_factory=dict)
    """Accuracy by step, and cell as `kind_level`."""
    reward: list[float] = field(default_factory=list)
    """Mean reward of the rollouts of each step."""
    weight: dict[str, list[float]] = field(default_factory=dict)
    """Of all prompts with k = 0 to 8 correct rollouts: their number, and the sum of their squared advantages."""
    error: str = ""
    """The last lines of the log of a failed run."""

    def write(self, file: Path) -> None:
        """Writes the result, atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self)) + "\n")
        unfinished.rename(file)


def read_results(folder: Path) -> list[Result]:
    """Reads all results in a folder."""
    results = []
    for file in sorted(folder.glob("*/*/*/*.json")):
        fields: dict[str, Any] = json.loads(file.read_text())
        fields["validation"] = {int(step): cells for step, cells in fields["validation"].items()}
        results.append(Result(**fields))
    return results

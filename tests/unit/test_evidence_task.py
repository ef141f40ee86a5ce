# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The task of the comparison: determinism, answer priors, and how visual entropy depends on severity."""

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import spearmanr

from recipes.evidence.difficulty import features_of, visual_entropy
from recipes.evidence.make_start import habitual_reply, labels, true_reply, true_share
from recipes.evidence.model import START_WEIGHTS, processor_of_task
from recipes.evidence.reward import compute_score
from recipes.evidence.task import (
    CELLS,
    COLORS,
    CYCLE,
    FAMILIES,
    GRID,
    KINDS,
    LEVELS,
    NUMBERS,
    RADIUS,
    ROWS,
    SEED,
    SHAPES,
    SHAPES_IN_PICTURE,
    Example,
    ask,
    examples,
    generator,
    make_rows,
)
from recipes.quickstart.model import make_model


def draw(family: str, number: int) -> list[Example]:
    return list(itertools.islice(examples(family, generator("test", family)), number))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_depend_only_on_seed_family_and_split(family):
    first, again = (list(make_rows(family, "train", 24)) for _ in range(2))
    assert first == again
    others = [
        list(make_rows(*which, 24, seed)) for *which, seed in ((family, "dev", SEED), (family, "train", SEED + 1))
    ]
    for other in others:
        assert not {row["images"][0]["bytes"] for row in first} & {row["images"][0]["bytes"] for row in other}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_answer_is_more_frequent_in_any_cell_or_corruption(family):
    drawn = draw(family, 2 * CYCLE)
    assert all(rows % CYCLE == 0 for rows in ROWS.values())
    counts = Counter((each.question.kind, each.level, each.corruption, each.question.answer) for each in drawn)
    assert set(counts.values()) == {2} and len(counts) == CYCLE
    assert {key[:2] for key in counts} == set(CELLS)
    # Severity is uniform within a level whatever the answer.
    answers = [(list(COLORS) + list(NUMBERS)).index(each.question.answer) % 6 for each in drawn]
    assert abs(spearmanr(answers, [each.severity for each in drawn]).statistic) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_right(kind):
    random = np.random.default_rng(0)
    for number in range(60):
        question = ask(kind, number % 6, random)
        things = question.things
        by_shape = {thing.shape: [each for each in things if each.shape == thing.shape] for thing in things}
        assert len(things) == SHAPES_IN_PICTURE == len({(thing.row, thing.column) for thing in things})
        words = question.text.rstrip("?").replace(",", "").split()
        if kind == "count":
            assert question.answer == str(len(by_shape[words[2]]))
        elif kind == "compare":
            (first,), (second,) = by_shape[words[4]], by_shape[words[6]]
            assert {first.size, second.size} == {"small", "large"}
            assert question.answer == (first if first.size == "large" else second).color
        else:
            (subject,) = by_shape[words[-1]]
            place = subject.row, subject.column + (kind == "hop")
            assert question.answer == next(each.color for each in things if (each.row, each.column) == place)


def test_reward_is_the_accuracy_of_the_box():
    example = draw("aligned", 1)[0]
    text, gold = true_reply(example.question), example.question.answer
    assert compute_score("", text, gold) == {"score": 1.0, "acc": 1.0}
    for wrong in (gold, f"\\boxed{{not {gold}}}", ""):
        assert compute_score("", wrong, gold)["acc"] == 0


def test_share_of_true_replies_falls_with_severity_and_steps():
    drawn = draw("anti", CYCLE)
    assert all(0 < true_share(each) < 1 for each in drawn)
    assert spearmanr([each.severity for each in drawn], list(map(true_share, drawn))).statistic < -0.4
    assert spearmanr([each.steps for each in drawn], list(map(true_share, drawn))).statistic < -0.4
    random = generator("replies")
    for kind in KINDS:
        hard = next(each for each in drawn if each.question.kind == kind and each.level == LEVELS[-1])
        texts = [habitual_reply(hard, random) for _ in range(400)]
        right = sum(compute_score("", text, hard.question.answer)["acc"] for text in texts) / 400
        low, high = true_share(hard), true_share(hard) + (1 - true_share(hard)) * 0.75  # the habit may be right
        assert low - 0.1 < right < high + 0.1


def test_visual_entropy_rises_in_the_aligned_family_and_falls_in_the_other():
    from safetensors.torch import load_file

    processor = processor_of_task()
    model = make_model(processor.tokenizer)
    model.load_state_dict(load_file(START_WEIGHTS))
    for family, corruptions in FAMILIES.items():
        drawn = draw(family, CYCLE)
        pixels = processor.image_processor(images=[each.picture for each in drawn], return_tensors="pt")
        features = features_of(model, pixels["pixel_values"], pixels["image_grid_thw"])
        entropy = np.array([visual_entropy(each).item() for each in features])
        severity = np.array([each.severity for each in drawn])
        sign = 1 if family == "aligned" else -1
        for corruption in corruptions:
            chosen = np.array([each.corruption == corruption for each in drawn])
            assert sign * spearmanr(severity[chosen], entropy[chosen]).statistic > 0.5


def test_labels_name_each_shape_its_frequency_the_color_to_the_right_and_the_severity():
    example = draw("aligned", 1)[0]
    found = labels([example])
    shapes, colors, sizes = list(SHAPES), list(COLORS), list(RADIUS)
    things = {(thing.row, thing.column): thing for thing in example.question.things}
    level = 1 + LEVELS.index(example.level)
    for row, column in itertools.product(range(GRID), repeat=2):
        thing, right = things.get((row, column)), things.get((row, column + 1))
        expected = [0, 0, 0, 1 + colors.index(right.color) if right else 0, 0, level]
        if thing:
            names = shapes.index(thing.shape), colors.index(thing.color), sizes.index(thing.size)
            expected[:3] = [1 + name for name in names]
            expected[4] = sum(each.shape == thing.shape for each in things.values())
        assert found[:, row * GRID + column].tolist() == expected

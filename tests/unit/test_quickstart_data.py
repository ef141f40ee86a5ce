# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The data of the quickstart, with few rows."""

import io
import random
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from recipes.quickstart.data import (
    BACKGROUND_FILES,
    KINDS,
    SIZES,
    SPLITS,
    Painter,
    plain_questions,
    read_questions,
    split_images,
    write_data,
)

PER_KIND = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    write_data(out, dict.fromkeys(SPLITS, PER_KIND))
    return out


@pytest.fixture(scope="module")
def splits(folder):
    return {split: pq.read_table(folder / f"{split}.parquet").to_pylist() for split in SPLITS}


def test_rows_have_the_format_of_verl(splits):
    for split, rows in splits.items():
        sizes = set()
        for index, row in enumerate(rows):
            (message,) = row["prompt"]
            assert message["role"] == "user"
            thinking, question = message["content"].split("<image>")
            assert "<think>" in thinking and "\\boxed{" in thinking
            assert question.endswith("?")
            (image,) = row["images"]
            picture = Image.open(io.BytesIO(image["bytes"]))
            assert picture.width == picture.height and picture.mode == "RGB"
            sizes.add(picture.width)
            extra = row["extra_info"]
            assert (extra["split"], extra["index"]) == (split, index)
            assert row["data_source"] == f"easy_vqa_{extra['kind']}"
            assert row["reward_model"] == {"style": "rule", "ground_truth": extra["answer"]}
        assert sizes == set(SIZES)


def test_kinds_answers_and_backgrounds_are_balanced(splits):
    for rows in splits.values():
        assert Counter(row["extra_info"]["kind"] for row in rows) == dict.fromkeys(KINDS, PER_KIND)
        yesno = [row for row in rows if row["extra_info"]["kind"] == "yesno"]
        answers = Counter(row["extra_info"]["answer"] for row in yesno)
        assert answers == {"yes": PER_KIND // 2, "no": PER_KIND // 2}
    backgrounds = Counter(row["extra_info"]["background"] for rows in splits.values() for row in rows)
    assert 0.35 < backgrounds["flat"] / backgrounds.total() < 0.65
    assert set(backgrounds) == {"flat", *BACKGROUND_FILES}


def test_no_image_is_in_two_splits():
    paths = {split: {asked[0].image for asked in split_images(split).values()} for split in SPLITS}
    assert {split: len(found) for split, found in paths.items()} == {split: size for split, (_, size) in SPLITS.items()}
    assert len(set().union(*paths.values())) == sum(map(len, paths.values()))


def test_answers_agree_with_the_image():
    for question in plain_questions(read_questions("test")):
        if question.kind == "yesno":
            shown = any(
                word in question.text.split(" ") or f"{word}?" in question.text for word in question.thing.split()
            )
            assert question.answer == ("yes" if shown else "no")
        else:
            assert question.answer in question.thing.split()


def test_the_same_seed_gives_the_same_files_with_a_card(folder, tmp_path):
    write_data(tmp_path, dict.fromkeys(SPLITS, PER_KIND))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "dev.parquet", "sft.parquet", "test.parquet", "train.parquet"]
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)
    card = (folder / "README.md").read_text()
    assert f"| dev | {3 * PER_KIND} |" in card
    assert all(name in card for files in BACKGROUND_FILES.values() for name in files)


@pytest.mark.parametrize("background", ["flat", "photo", "texture"])
def test_painting_keeps_the_shape_and_its_color(background):
    asked = next(asked for asked in read_questions("train").values() if asked[0].thing == "red circle")
    picture = np.asarray(Painter().paint(asked[0].image, background, 112, random.Random(0)))
    share_of_red = (np.abs(picture - np.array([255.0, 0, 0])).sum(axis=2) < 30).mean()
    small = np.asarray(Image.open(asked[0].image).convert("RGB"))
    assert share_of_red == pytest.approx((np.abs(small - np.array([255.0, 0, 0])).sum(axis=2) < 30).mean(), abs=0.01)

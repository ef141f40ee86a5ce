# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Small copies of the seven sets' repositories on the hub, in their own layout and schemas, made of data at hand.

    python tests/helpers/prepare_fixtures.py FOLDER

writes FOLDER/<name> for each set. Pictures and questions come from easy-vqa, scikit-image and a few lines drawn here;
each set has the odd rows of the real one: a question without `<image>`, one with `<image1>`, pictures that are gray,
transparent, tiny, huge, broken or missing, rows without choices or answer, answers in percent.
"""

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

import easy_vqa
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from PIL import ImageDraw
from skimage import data

TEXT, WHOLE = Value("string"), Value("int64")
Picture = dict[str, Any]


def stored(picture: Pillow.Image, form: str = "PNG", name: str | None = None) -> Picture:
    """An image as the hub's parquet files have it."""
    content = io.BytesIO()
    picture.save(content, form)
    return {"bytes": content.getvalue(), "path": name}


def triangle(across: int, up: int, size: tuple[int, int] = (520, 512)) -> Pillow.Image:
    """A right triangle with its legs written beside it."""
    picture = Pillow.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    width, height = size
    corners = [(width // 8, height * 7 // 8), (width * 7 // 8, height * 7 // 8), (width // 8, height // 8)]
    draw.polygon(corners, outline="black", width=3)
    draw.text((width // 2, height * 15 // 16), str(across), fill="black")
    draw.text((width // 16, height // 2), str(up), fill="black")
    draw.text((width // 2, height // 3), "x", fill="black")
    return picture


def bars(heights: list[int]) -> Pillow.Image:
    """A bar chart."""
    picture = Pillow.new("RGB", (640, 480), "white")
    draw = ImageDraw.Draw(picture)
    for number, height in enumerate(heights):
        left = 60 + number * 120
        draw.rectangle([left, 440 - height * 4, left + 80, 440], fill=("red", "green", "blue", "black")[number])
        draw.text((left + 30, 450), str(height), fill="black")
    return picture


def photo(name: str, size: tuple[int, int]) -> Pillow.Image:
    """One of scikit-image's photographs, in RGB."""
    return Pillow.fromarray(getattr(data, name)()).convert("RGB").resize(size)


def transparent(picture: Pillow.Image) -> Pillow.Image:
    """The same picture, fading from left to right."""
    faded = picture.convert("RGBA")
    faded.putalpha(Pillow.fromarray(np.tile(np.linspace(0, 255, picture.width).astype(np.uint8), (picture.height, 1))))
    return faded


def shapes(number: int, yes_no: bool = False) -> list[tuple[str, str, Picture]]:
    """Question, answer and picture (64 x 64) of easy-vqa's first test questions: those of yes and no, or the others."""
    paths = easy_vqa.get_test_image_paths()
    found = []
    for question, answer, image in zip(*easy_vqa.get_test_questions(), strict=True):
        if (answer in ("yes", "no")) == yes_no and len(found) < number:
            found.append((question, answer, {"bytes": Path(paths[image]).read_bytes(), "path": f"{image}.png"}))
    return found


BROKEN = {"bytes": b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "path": "broken.png"}
TINY = stored(Pillow.new("RGB", (12, 9), "red"), name="tiny.png")
HUGE = stored(triangle(20, 21, (2500, 2000)), name="huge.png")
GRAY = stored(triangle(9, 12).convert("L"), name="gray.png")
FADED = stored(transparent(photo("chelsea", (451, 300))), name="faded.png")


def to_parquet(file: Path, rows: list[dict[str, Any]], features: dict[str, Any]) -> None:
    """Writes rows with the features of `datasets` in their schema, as `push_to_hub` does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(Dataset.from_list(rows, Features(features)).data.table, file)


def geometry3k(folder: Path) -> None:
    features = {
        "images": List(Image()),
        "problem": TEXT,
        "answer": TEXT,
        "id": WHOLE,
        "choices": List(TEXT),
        "ground_truth": TEXT,
    }
    triples = [(3, 4, 5), (6, 8, 10), (5, 12, 13), (9, 12, 15), (8, 15, 17), (12, 16, 20), (7, 24, 25), (20, 21, 29)]

    def row(number: int, **changes: Any) -> dict[str, Any]:
        across, up, x = triples[number % len(triples)]
        usual = {
            "images": [stored(triangle(across, up))],
            "problem": "<image>Find x.",
            "answer": str(x),
            "id": number,
            "choices": [str(across), str(up), str(x), str(across + up)],
            "ground_truth": "C",
        }
        return {**usual, **changes}

    root = row(8, answer="2 \\sqrt { 221 }", choices=["5", "2 \\sqrt { 221 }", "7", "9"], ground_truth="B")
    odd = [
        root,
        row(9, problem="Find the length of the longest side."),
        row(10, images=[GRAY]),
        row(
            11,
            images=[FADED],
            problem="<image>What is the percentage of the picture that shows a cat?",
            answer="100\\%",
        ),
        row(12, images=[HUGE]),
        row(13, images=[TINY]),
        row(
            14,
            images=[stored(photo("coffee", (600, 500)), "JPEG")],
            problem="<image>How many cups are there?",
            answer="1",
        ),
        row(15, images=[BROKEN]),
        row(16, answer=None),
        row(17, images=[]),
        row(18, answer="None"),
        row(19, images=[stored(Pillow.new("RGB", (3000, 4), "red"))]),
    ]
    to_parquet(folder / "data/train-00000-of-00001.parquet", [*map(row, range(8)), *odd], features)
    to_parquet(folder / "data/validation-00000-of-00001.parquet", [*map(row, range(4, 12))], features)
    to_parquet(folder / "data/test-00000-of-00001.parquet", [*map(row, range(8))], features)


def virl39k(folder: Path) -> None:
    images: dict[str, Picture] = {
        "images/triangle-0.png": stored(triangle(5, 12)),
        "images/chart-0.png": stored(bars([30, 60, 90])),
    }
    rows: list[dict[str, Any]] = []

    def add(
        question: str, answer: str, *paths: str, category: str = "(GradeSchool) Geometric", rate: float = 0.5
    ) -> None:
        rows.append(
            {
                "question": question,
                "answer": answer,
                "PassRate_32BTrained": rate,
                "PassRate_7BBase": -1.0,
                "category": category,
                "source": "Processed" if paths else "DeepScaleR",
                "qid": f"Fixture-{len(rows)}",
                "image": list(paths),
            }
        )

    for number, (question, answer, picture) in enumerate(shapes(12)):
        images[f"images/shape-{number}.png"] = picture
        add(f"<image>\n{question}", f"\\boxed{{{answer}}}", f"images/shape-{number}.png")
    for number, (question, answer, picture) in enumerate(shapes(4, yes_no=True)):
        images[f"images/yesno-{number}.png"] = picture
        add(f"<image>{question}", f"\\boxed{{{answer.capitalize()}}}", f"images/yesno-{number}.png")
    add("<image>\nFind x.\n(A) 12\n(B) 13\n(C) 17\n(D) 60", "\\boxed{B}", "images/triangle-0.png")
    add(
        "Which bar is the highest? A. red B. green C. blue",
        "\\boxed{C}",
        "images/chart-0.png",
        category="Tables/Diagrams/Charts",
    )
    add("<image>The red bar is what share of the green one?", "\\boxed{50\\%}", "images/chart-0.png")
    add(
        "Compare <image> with <image>: how many bars and triangles are there in all?",
        "\\boxed{4}",
        "images/chart-0.png",
        "images/triangle-0.png",
    )
    add("What is $1 + \\frac{1}{2}$?", "\\boxed{\\frac{3}{2}}", rate=1.0)
    add(
        "<image>\nIn HTML, what do the tags <image> and <video> have in common? Choose one: A) all B) nothing",
        "\\boxed{B}",
    )
    add("<image>What is this?", "\\boxed{a lost picture}", "images/lost.png")
    add("<image>What is this?", "\\boxed{}", "images/chart-0.png")
    add("<image>\nFind x.\n(A) 12\n(B) 13\n(C) 17\n(D) 60", "\\boxed{\\text{B. 13}}", "images/triangle-0.png")
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "39Krelease.parquet")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path, picture in images.items():
            archive.writestr(zipfile.ZipInfo(path), picture["bytes"])


def mathverse(folder: Path) -> None:
    versions = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
    features = {
        "sample_index": TEXT,
        "problem_index": TEXT,
        "problem_version": TEXT,
        "question": TEXT,
        "image": Image(),
        "answer": TEXT,
        "question_type": TEXT,
        "metadata": {"split": TEXT, "source": TEXT, "subject": TEXT, "subfield": TEXT},
        "query_wo": TEXT,
        "query_cot": TEXT,
        "question_for_eval": TEXT,
    }
    problems = [
        (3, 4, "Find the hypotenuse.\nChoices:\nA:4\nB:5\nC:6\nD:7", "B", "multi-choice"),
        (
            6,
            8,
            "As shown in the figure, the hypotenuse is ()\nChoices:\nA:10\nB:12\nC:14\nD:no such length",
            "A",
            "multi-choice",
        ),
        (5, 12, "Find the hypotenuse.", "13", "free-form"),
        (9, 12, "Find the angle between the legs in degrees.", "90^\\circ", "free-form"),
    ]
    rows = [
        {
            "sample_index": str(1 + problem * len(versions) + number),
            "problem_index": str(problem + 1),
            "problem_version": version,
            "question": "" if version == "Vision Only" else question,
            "image": stored(triangle(across, up)),
            "answer": answer,
            "question_type": kind,
            "metadata": {"split": "testmini", "source": "Fixture", "subject": "Plane Geometry", "subfield": "Triangle"},
            "query_wo": f"Please directly answer the question.\nQuestion: {question}",
            "query_cot": f"Please first conduct reasoning.\nQuestion: {question}",
            "question_for_eval": question,
        }
        for problem, (across, up, question, answer, kind) in enumerate(problems)
        for number, version in enumerate(versions)
    ]
    rows[-1]["image"] = GRAY
    to_parquet(folder / "testmini.parquet", rows, features)
    text_only = [{**row, "problem_version": "Text Only", "image": ""} for row in rows[::5]]
    to_parquet(folder / "testmini_text_only.parquet", text_only, {**features, "image": TEXT})


def mathvision(folder: Path) -> None:
    features = {
        "id": TEXT,
        "question": TEXT,
        "options": List(TEXT),
        "image": TEXT,
        "decoded_image": Image(),
        "answer": TEXT,
        "solution": TEXT,
        "level": WHOLE,
        "subject": TEXT,
    }
    rows: list[dict[str, Any]] = []

    def add(question: str, options: list[str], answer: str, picture: Picture) -> None:
        number = str(len(rows) + 1)
        names = {"id": number, "image": f"images/{number}.jpg", "solution": None, "level": 1 + len(rows) % 5}
        rows.append(
            {
                **names,
                "question": question,
                "options": options,
                "decoded_image": picture,
                "answer": answer,
                "subject": "metric geometry - length",
            }
        )

    for question, answer, picture in shapes(4):
        others = [other for other in ("circle", "triangle", "red", "blue") if other != answer]
        add(f"{question}\n<image1>", [answer, *others], "A", picture)
    for across, up, x in ((3, 4, "5"), (5, 12, "13"), (8, 15, "17")):
        add("How long is the side x?\n<image1>", [], x, stored(triangle(across, up)))
    add("Which bar is the highest? <image1>", ["A", "B", "C"], "C", stored(bars([10, 20, 30])))
    add("<image1> How much is the whole, if the part shown in <image1> is $\\frac{1}{2}$ of it?", [], "100%", TINY)
    add("How many coins are there?", ["(24)", "12", "6", "3"], "A", stored(photo("coins", (303, 384)).convert("L")))
    add("Which is it? <image1> (A) a cat (B) a dog", ["a cat", "a dog"], "A", FADED)
    add("Which is it? <image1>", ["a cat", "a dog"], "E", FADED)
    to_parquet(folder / "data/test-00000-of-00001-3532b8d3f1b4047a.parquet", rows, features)
    to_parquet(folder / "data/testmini-00000-of-00001-f8ff70fcb2f29b1d.parquet", rows[:3], features)


def mathvista(folder: Path) -> None:
    metadata = {
        **dict.fromkeys(("category", "context", "grade"), TEXT),
        **dict.fromkeys(("img_height", "img_width"), WHOLE),
        "language": TEXT,
        "skills": List(TEXT),
        **dict.fromkeys(("source", "split", "task"), TEXT),
    }
    features = {
        "pid": TEXT,
        "question": TEXT,
        "image": TEXT,
        "decoded_image": Image(),
        "choices": List(TEXT),
        "unit": TEXT,
        "precision": Value("float64"),
        "answer": TEXT,
        "question_type": TEXT,
        "answer_type": TEXT,
        "metadata": metadata,
        "query": TEXT,
    }
    rows: list[dict[str, Any]] = []

    def add(question: str, answer: str, picture: Picture, kind: str = "text", **others: Any) -> None:
        number = str(len(rows) + 1)
        about = {
            "category": "math-targeted-vqa",
            "context": "synthetic scene",
            "grade": "elementary school",
            "img_height": 64,
            "img_width": 64,
            "language": "english",
            "skills": ["geometry reasoning"],
            "source": "Fixture",
            "split": "testmini",
            "task": "figure question answering",
        }
        usual = {"choices": None, "unit": None, "precision": None, "metadata": about}
        rows.append(
            {
                **usual,
                "pid": number,
                "question": question,
                "image": f"images/{number}.jpg",
                "decoded_image": picture,
                "answer": answer,
                "question_type": "multi_choice" if "choices" in others else "free_form",
                "answer_type": kind,
                "query": f"Hint: Please answer the question.\nQuestion: {question}",
                **others,
            }
        )

    for question, answer, picture in shapes(6):
        others = [other for other in ("circle", "triangle", "red", "blue") if other != answer]
        add(question, answer, picture, choices=[others[0], answer, *others[1:]])
    for question, answer, picture in shapes(4, yes_no=True):
        add(question, answer.capitalize(), picture, choices=["Yes", "No"])
    chart = stored(bars([30, 60, 90]))
    add("How high is the red bar?", "30", chart, "integer")
    add("What is the mean height of the bars?", "60.0", chart, "float", precision=1.0, unit="cm")
    add("What is the ratio of the red bar to the blue one?", "0.33", chart, "float", precision=2.0)
    add("What are the heights?", "[30, 60, 90]", chart, "list")
    add("What is the share of the red bar in the green one?", "50%", chart)
    add("Which letter is it?", "A", GRAY, choices=["B", "A"])
    add("Which one?", "neither", chart, choices=["red", "green"])
    add("What is to be seen?", "a cat", FADED)
    to_parquet(folder / "data/testmini-00000-of-00001-725687bf7a18d64b.parquet", rows, features)
    hidden = [{**row, "answer": ""} for row in rows[:3]]
    to_parquet(folder / "data/test-00000-of-00002-6b81bd7f7e2065e6.parquet", hidden, features)


def wemath(folder: Path) -> None:
    features = {
        "ID": TEXT,
        "split": TEXT,
        "knowledge concept": TEXT,
        "question": TEXT,
        "option": TEXT,
        "answer": TEXT,
        "image_path": Image(),
        "key": TEXT,
        "question number": WHOLE,
        "knowledge concept description": TEXT,
    }
    steps = {
        "1": ("What is the square of the shorter leg?", "A. {aa}; B. {bb}; C. {a}; D. {x}; E. No correct answer", "A"),
        "2": ("What is the square of the longer leg?", "A. {aa}; B. {bb}; C. {a}; D. {x}; E. No correct answer", "B"),
        "3": ("What is the sum of both squares?", "A. {a}; B. {b}; C. {xx}; D. No correct answer", "C"),
        "multi": ("How long is x (   )?", "A. {a} cm; B. {b} cm; C. {x} cm; D. 2{x} cm; E. No correct answer", "C"),
    }
    rows = []
    problems = [(2, 3, 4, 5), (2, 5, 12, 13), (3, 8, 15, 17), (3, 7, 24, 25)]
    for number, (many, a, b, x) in enumerate(problems):
        for step in [*map(str, range(1, many + 1)), "multi"]:
            question, option, answer = steps[step]
            rows.append(
                {
                    "ID": str(number + 1),
                    "split": "testmini",
                    "knowledge concept": "Understanding of Triangles",
                    "question": question,
                    "option": option.format(a=a, b=b, x=x, aa=a * a, bb=b * b, xx=x * x),
                    "answer": answer,
                    "image_path": stored(triangle(a, b)),
                    "key": f"{many}steps_{step}",
                    "question number": len(rows) + 1,
                    "knowledge concept description": "The square of the hypotenuse is the sum of those of the legs.",
                }
            )
    rows[-1]["image_path"] = HUGE
    to_parquet(folder / "data/testmini-00000-of-00001-adbfe22dcd3558e6.parquet", rows, features)


def hallusionbench(folder: Path) -> None:
    names = ("category", "subcategory", "visual_input", "set_id", "figure_id", "sample_note", "question_id", "question")
    features = {**dict.fromkeys((*names, "gt_answer_details", "gt_answer", "filename"), TEXT), "image": Image()}
    charts = [("0", [30, 60, 90]), ("1", [90, 60, 30])]
    questions = [
        ("Is the blue bar the highest?", (1, 0)),
        ("Is the red bar 30 high?", (1, 0)),
        ("Are there 3 bars?", (1, 1)),
    ]
    rows: list[dict[str, Any]] = []

    def add(
        category: str,
        subcategory: str,
        group: str,
        figure: str,
        asked: int,
        question: str,
        yes: int,
        picture: Picture | None,
    ) -> None:
        name = f"hallusion_bench/{category}/{subcategory}/{group}_{figure}.png"
        rows.append(
            {
                "category": category,
                "subcategory": subcategory,
                "visual_input": "0" if picture is None else "1",
                "set_id": group,
                "figure_id": figure,
                "sample_note": "fixture",
                "question_id": str(asked),
                "question": question,
                "gt_answer_details": question,
                "gt_answer": str(yes),
                "filename": name,
                "image": picture,
            }
        )

    for group in ("0", "1"):
        for number, (figure, heights) in enumerate(charts):
            for asked, (question, answers) in enumerate(questions):
                add("VS", "chart", group, figure, asked, question, answers[number], stored(bars(heights)))
    for figure, (_, _, picture) in enumerate(shapes(3, yes_no=True)):
        add("VD", "illusion", "0", str(figure), 0, "Is there a shape in the picture?", 1, picture)
        add("VD", "illusion", "0", str(figure), 1, "Is there a cat in the picture?", 0, picture)
    add("VD", "figure", "1", "0", 0, "Is there a cat in the picture?", 1, FADED)
    add("VD", "figure", "1", "1", 0, "Is it red?", 1, TINY)
    with_image, without = list(rows), len(rows)
    for asked, (question, _) in enumerate(questions):
        add("VS", "chart", "0", "0", asked, question, 0, None)
    to_parquet(folder / "data/image-00000-of-00001.parquet", with_image, features)
    to_parquet(folder / "data/non_image-00000-of-00001.parquet", rows[without:], features)


FIXTURES = {
    make.__name__: make for make in (geometry3k, virl39k, mathverse, mathvision, mathvista, wemath, hallusionbench)
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write small copies of the sets' repositories on the hub.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, make in FIXTURES.items():
        make(folder / name)
        print(folder / name)


if __name__ == "__main__":
    main()

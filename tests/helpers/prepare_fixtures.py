# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Small copies of the hub repositories of the seven datasets: `FIXTURES[name](folder)` writes one.

Each has the layout of the real one, the columns that are read, and unusual rows: questions without `<image>` or with
`<image1>`, images that are gray, transparent, tiny, huge, broken or missing, rows without choices or answer, answers in
percent. Some questions and images are those of easy-vqa.
"""

import zipfile
from pathlib import Path
from typing import Any

import easy_vqa
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value
from pictures import encoded
from PIL import Image as Pillow
from PIL import ImageDraw

TEXT, INTEGER = Value("string"), Value("int64")
Picture = dict[str, Any]


def stored(picture: Pillow.Image, form: str = "PNG", name: str | None = None) -> Picture:
    """An image as the hub's parquet files store it."""
    return {"bytes": encoded(picture, form), "path": name}


def drawing(*lengths: int, size: tuple[int, int] = (520, 512)) -> Pillow.Image:
    """A line of each length, with its number."""
    picture = Pillow.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for number, length in enumerate(lengths, 1):
        draw.line([20, 50 * number, 20 + 4 * length, 50 * number], fill="black", width=3)
        draw.text((20, 50 * number + 5), str(length), fill="black")
    return picture


def photo(size: tuple[int, int], mode: str = "RGB") -> Pillow.Image:
    """A gray circle that fades; with the mode RGBA it also becomes transparent."""
    picture = Pillow.radial_gradient("L").resize(size).convert(mode)
    if mode == "RGBA":
        picture.putalpha(Pillow.linear_gradient("L").resize(size))
    return picture


def shapes(number: int, yes_no: bool = False) -> list[tuple[str, str, Picture]]:
    """Question, answer and picture (64 x 64) of easy-vqa's first test questions: yes/no questions, or the others."""
    paths, questions = easy_vqa.get_test_image_paths(), zip(*easy_vqa.get_test_questions(), strict=True)
    found = [(question, answer, image) for question, answer, image in questions if (answer in ("yes", "no")) == yes_no]
    return [
        (question, answer, {"bytes": Path(paths[image]).read_bytes(), "path": f"{image}.png"})
        for question, answer, image in found[:number]
    ]


BROKEN = {"bytes": b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "path": "broken.png"}
TINY = stored(Pillow.new("RGB", (12, 9), "red"), name="tiny.png")
HUGE = stored(drawing(20, 21, size=(2500, 2000)), name="huge.png")
GRAY = stored(drawing(9, 12).convert("L"), name="gray.png")
FADED = stored(photo((451, 300), "RGBA"), name="faded.png")
CHART = stored(drawing(30, 60, 90, size=(640, 480)))


def to_parquet(file: Path, rows: list[dict[str, Any]], **types: Any) -> None:
    """Writes rows as `push_to_hub` does; columns are text, except those whose types are given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    features = Features({name: types.get(name, TEXT) for name in rows[0]})
    pq.write_table(Dataset.from_list(rows, features).data.table, file)


def geometry3k(folder: Path) -> None:
    triples = [(3, 4, 5), (6, 8, 10), (5, 12, 13), (9, 12, 15), (8, 15, 17), (12, 16, 20), (7, 24, 25), (20, 21, 29)]

    def row(number: int, **changes: Any) -> dict[str, Any]:
        across, up, x = triples[number % len(triples)]
        usual = {
            "images": [stored(drawing(across, up))],
            "problem": "<image>Find x.",
            "answer": str(x),
            "id": number,
            "choices": [str(across), str(up), str(x), str(across + up)],
            "ground_truth": "C",
        }
        return {**usual, **changes}

    cat, cups = "<image>What is the percentage of the picture that shows a cat?", "<image>How many cups are there?"
    unusual = [
        row(8, answer="2 \\sqrt { 221 }", choices=["5", "2 \\sqrt { 221 }", "7", "9"], ground_truth="B"),
        row(9, problem="Find the length of the longest side."),
        row(10, images=[GRAY]),
        row(11, images=[FADED], problem=cat, answer="100\\%"),
        row(12, images=[HUGE]),
        row(13, images=[TINY]),
        row(14, images=[stored(photo((600, 500)), "JPEG")], problem=cups, answer="1"),
        row(15, images=[BROKEN]),
        row(16, answer=None),
        row(17, images=[]),
        row(18, answer="None"),
        row(19, images=[stored(Pillow.new("RGB", (3000, 4), "red"))]),
    ]
    splits = {
        "train": [*map(row, range(8)), *unusual],
        "validation": map(row, range(4, 12)),
        "test": map(row, range(8)),
    }
    for split, rows in splits.items():
        file = folder / f"data/{split}-00000-of-00001.parquet"
        to_parquet(file, list(rows), images=List(Image()), id=INTEGER, choices=List(TEXT))


def virl39k(folder: Path) -> None:
    images = {"images/triangle-0.png": stored(drawing(5, 12)), "images/chart-0.png": CHART}
    triangle_0, chart_0 = images
    rows: list[dict[str, Any]] = []

    def add(question: str, answer: str, *paths: str, category: str = "(GradeSchool) Geometric", rate: float = 0.5):
        rows.append(
            {
                "question": question,
                "answer": f"\\boxed{{{answer}}}",
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
        add(f"<image>\n{question}", answer, f"images/shape-{number}.png")
    for number, (question, answer, picture) in enumerate(shapes(4, yes_no=True)):
        images[f"images/yesno-{number}.png"] = picture
        add(f"<image>{question}", answer.capitalize(), f"images/yesno-{number}.png")
    listed = "<image>\nFind x.\n(A) 12\n(B) 13\n(C) 17\n(D) 60"
    add(listed, "B", triangle_0)
    add("Which bar is the highest? A. red B. green C. blue", "C", chart_0, category="Tables/Diagrams/Charts")
    add("<image>The red bar is what share of the green one?", "50\\%", chart_0)
    both = "Compare <image> with <image>: how many bars and triangles are there in all?"
    add(both, "4", chart_0, triangle_0)
    add("What is $1 + \\frac{1}{2}$?", "\\frac{3}{2}", rate=1.0)
    add("<image>\nIn HTML, what do the tags <image> and <video> have in common? Choose one: A) all B) nothing", "B")
    add("<image>What is this?", "a lost picture", "images/lost.png")
    add("<image>What is this?", "", chart_0)
    add(listed, "\\text{B. 13}", triangle_0)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "39Krelease.parquet")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path, picture in images.items():
            archive.writestr(zipfile.ZipInfo(path), picture["bytes"])


def mathverse(folder: Path) -> None:
    versions = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
    shown = "As shown in the figure, the hypotenuse is ()\nChoices:\nA:10\nB:12\nC:14\nD:no such length"
    problems = [
        (3, 4, "Find the hypotenuse.\nChoices:\nA:4\nB:5\nC:6\nD:7", "B", "multi-choice"),
        (6, 8, shown, "A", "multi-choice"),
        (5, 12, "Find the hypotenuse.", "13", "free-form"),
        (9, 12, "Find the angle between the legs in degrees.", "90^\\circ", "free-form"),
    ]
    metadata = {"split": "testmini", "source": "Fixture", "subject": "Plane Geometry", "subfield": "Triangle"}
    rows = [
        {
            "sample_index": str(1 + problem * len(versions) + number),
            "problem_index": str(problem + 1),
            "problem_version": version,
            "question": "" if version == "Vision Only" else question,
            "image": stored(drawing(across, up)),
            "answer": answer,
            "question_type": kind,
            "metadata": metadata,
            "question_for_eval": question,
        }
        for problem, (across, up, question, answer, kind) in enumerate(problems)
        for number, version in enumerate(versions)
    ]
    rows[-1]["image"] = GRAY
    to_parquet(folder / "testmini.parquet", rows, image=Image(), metadata=dict.fromkeys(metadata, TEXT))


def mathvision(folder: Path) -> None:
    rows: list[dict[str, Any]] = []

    def add(question: str, options: list[str], answer: str, picture: Picture) -> None:
        rows.append(
            {
                "id": str(len(rows) + 1),
                "question": question,
                "options": options,
                "image": f"images/{len(rows) + 1}.jpg",
                "decoded_image": picture,
                "answer": answer,
                "level": 1 + len(rows) % 5,
                "subject": "metric geometry - length",
            }
        )

    for question, answer, picture in shapes(4):
        others = [other for other in ("circle", "triangle", "red", "blue") if other != answer]
        add(f"{question}\n<image1>", [answer, *others], "A", picture)
    for across, up, x in ((3, 4, "5"), (5, 12, "13"), (8, 15, "17")):
        add("How long is the side x?\n<image1>", [], x, stored(drawing(across, up)))
    add("Which bar is the highest? <image1>", ["A", "B", "C"], "C", CHART)
    add("<image1> How much is the whole, if the part shown in <image1> is $\\frac{1}{2}$ of it?", [], "100%", TINY)
    add("How many coins are there?", ["(24)", "12", "6", "3"], "A", stored(photo((303, 384), "L")))
    add("Which is it? <image1> (A) a cat (B) a dog", ["a cat", "a dog"], "A", FADED)
    add("Which is it? <image1>", ["a cat", "a dog"], "E", FADED)
    types = {"options": List(TEXT), "decoded_image": Image(), "level": INTEGER}
    to_parquet(folder / "data/test-00000-of-00001-3532b8d3f1b4047a.parquet", rows, **types)
    to_parquet(folder / "data/testmini-00000-of-00001-f8ff70fcb2f29b1d.parquet", rows[:3], **types)


def mathvista(folder: Path) -> None:
    texts = ("category", "context", "grade", "language", "source", "split", "task")
    metadata = {**dict.fromkeys(texts, "fixture"), "img_height": 64, "img_width": 64, "skills": ["geometry reasoning"]}
    rows: list[dict[str, Any]] = []

    def add(question: str, answer: str, picture: Picture, kind: str = "text", **others: Any) -> None:
        rows.append(
            {
                "pid": str(len(rows) + 1),
                "question": question,
                "decoded_image": picture,
                "choices": None,
                "unit": None,
                "precision": None,
                "answer": answer,
                "question_type": "multi_choice" if "choices" in others else "free_form",
                "answer_type": kind,
                "metadata": metadata,
                **others,
            }
        )

    for question, answer, picture in shapes(6):
        others = [other for other in ("circle", "triangle", "red", "blue") if other != answer]
        add(question, answer, picture, choices=[others[0], answer, *others[1:]])
    for question, answer, picture in shapes(4, yes_no=True):
        add(question, answer.capitalize(), picture, choices=["Yes", "No"])
    add("How high is the red bar?", "30", CHART, "integer")
    add("What is the mean height of the bars?", "60.0", CHART, "float", precision=1.0, unit="cm")
    add("What is the ratio of the red bar to the blue one?", "0.33", CHART, "float", precision=2.0)
    add("What are the heights?", "[30, 60, 90]", CHART, "list")
    add("What is the share of the red bar in the green one?", "50%", CHART)
    add("Which letter is it?", "A", GRAY, choices=["B", "A"])
    add("Which one?", "neither", CHART, choices=["red", "green"])
    add("What is to be seen?", "a cat", FADED)
    record = {**dict.fromkeys(texts, TEXT), "img_height": INTEGER, "img_width": INTEGER, "skills": List(TEXT)}
    types = {"decoded_image": Image(), "choices": List(TEXT), "precision": Value("float64"), "metadata": record}
    to_parquet(folder / "data/testmini-00000-of-00001-725687bf7a18d64b.parquet", rows, **types)


def wemath(folder: Path) -> None:
    steps = {
        "1": ("What is the square of the shorter leg?", "A. {aa}; B. {bb}; C. {a}; D. {x}; E. No correct answer", "A"),
        "2": ("What is the square of the longer leg?", "A. {aa}; B. {bb}; C. {a}; D. {x}; E. No correct answer", "B"),
        "3": ("What is the sum of both squares?", "A. {a}; B. {b}; C. {xx}; D. No correct answer", "C"),
        "multi": ("How long is x (   )?", "A. {a} cm; B. {b} cm; C. {x} cm; D. 2{x} cm; E. No correct answer", "C"),
    }
    rows: list[dict[str, Any]] = []
    for number, (many, a, b, x) in enumerate([(2, 3, 4, 5), (2, 5, 12, 13), (3, 8, 15, 17), (3, 7, 24, 25)]):
        for step in [*map(str, range(1, many + 1)), "multi"]:
            question, option, answer = steps[step]
            rows.append(
                {
                    "ID": str(number + 1),
                    "knowledge concept": "Understanding of Triangles",
                    "question": question,
                    "option": option.format(a=a, b=b, x=x, aa=a * a, bb=b * b, xx=x * x),
                    "answer": answer,
                    "image_path": stored(drawing(a, b)),
                    "key": f"{many}steps_{step}",
                    "question number": len(rows) + 1,
                }
            )
    rows[-1]["image_path"] = HUGE
    file = folder / "data/testmini-00000-of-00001-adbfe22dcd3558e6.parquet"
    to_parquet(file, rows, image_path=Image(), **{"question number": INTEGER})


def hallusionbench(folder: Path) -> None:
    questions = {"Is the blue bar the highest?": (1, 0), "Is the red bar 30 high?": (1, 0), "Are there 3 bars?": (1, 1)}

    def row(place: str, number: int, question: str, yes: int, picture: Picture) -> dict[str, Any]:
        category, subcategory, group, figure = place.split()
        return {
            "category": category,
            "subcategory": subcategory,
            "set_id": group,
            "figure_id": figure,
            "question_id": str(number),
            "question": question,
            "gt_answer": str(yes),
            "image": picture,
        }

    rows = [
        row(f"VS chart {group} {figure}", number, question, answers[figure], CHART)
        for group in ("0", "1")
        for figure in (0, 1)
        for number, (question, answers) in enumerate(questions.items())
    ]
    for figure, (_, _, picture) in enumerate(shapes(3, yes_no=True)):
        rows.append(row(f"VD illusion 0 {figure}", 0, "Is there a shape in the picture?", 1, picture))
        rows.append(row(f"VD illusion 0 {figure}", 1, "Is there a cat in the picture?", 0, picture))
    rows.append(row("VD figure 1 0", 0, "Is there a cat in the picture?", 1, FADED))
    rows.append(row("VD figure 1 1", 0, "Is it red?", 1, TINY))
    to_parquet(folder / "data/image-00000-of-00001.parquet", rows, image=Image())


FIXTURES = {
    make.__name__: make for make in (geometry3k, virl39k, mathverse, mathvision, mathvista, wemath, hallusionbench)
}

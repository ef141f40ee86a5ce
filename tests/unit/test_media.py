# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What a row stores becomes the pictures and videos of verl's training, or an error that says why not."""

import base64
import copy
import io
import os
import pickle
import re
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import datasets
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from qwen_vl_utils.vision_process import get_video_reader_backend
from skimage import data
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_durian.entropy import media as media_module
from verl_durian.entropy.media import Media, MediaError, collect, decode

CAT = Image.fromarray(data.chelsea())
COFFEE = Image.fromarray(data.coffee()).resize((70, 120))
ASTRONAUT = Image.fromarray(data.astronaut()).resize((160, 128))
# The cat, fading from nothing on the left to full on the right.
FADING = Image.fromarray(np.dstack([data.chelsea(), np.tile(np.linspace(0, 255, 451, dtype=np.uint8), (300, 1))]))
ROTATED = 6
"""EXIF orientation of a picture that is to be turned by 90 degrees."""

VIDEO_READER = get_video_reader_backend() != "torchvision" or hasattr(torchvision.io, "read_video")


def encoded(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def frames(count: int) -> list[Image.Image]:
    """A camera that moves over the astronaut."""
    return [ASTRONAUT.crop((shift, shift, shift + 120, shift + 100)) for shift in range(0, 4 * count, 4)]


def of_verl(images: list, videos: list, patch_size: int) -> tuple[list[Image.Image], list]:
    """The pictures and videos that verl's RLHFDataset hands to the rollout."""
    rlhf = object.__new__(RLHFDataset)
    rlhf.processor, rlhf.image_key, rlhf.video_key, rlhf.audio_key = object(), "images", "videos", "audios"
    content = "<image>" * len(images) + "<video>" * len(videos)
    # verl changes the dicts it is given.
    example = copy.deepcopy({"prompt": [{"role": "user", "content": content}], "images": images, "videos": videos})
    messages = rlhf._build_messages(example, key="prompt")
    pictures, films, _ = RLHFDataset._process_multi_modal_info(messages, patch_size, None)
    return pictures or [], films or []


def same_pictures(ours: list[Image.Image], theirs: list[Image.Image]) -> bool:
    return len(ours) == len(theirs) and all(
        a.mode == b.mode == "RGB" and a.size == b.size and a.tobytes() == b.tobytes()
        for a, b in zip(ours, theirs, strict=True)
    )


def same_videos(ours: list, theirs: list) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) and of_a == of_b for (a, of_a), (b, of_b) in zip(ours, theirs, strict=True)
    )


def key(images=None, videos=None, by_datasets: bool = False) -> str:
    collected = collect(images, videos, by_datasets)
    assert collected is not None
    return collected.key


def decoded(images=None, videos=None, by_datasets: bool = False, patch_size: int = 14):
    collected = collect(images, videos, by_datasets)
    assert collected is not None
    return decode(collected, patch_size)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[str]:
    """URL of a web server of the files in tmp_path."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


class Endless(BaseHTTPRequestHandler):
    """Never finishes an answer: sends nothing, a byte of the head or of the body now and then, or all it can."""

    stop: threading.Event

    def do_GET(self) -> None:
        if self.path != "/silent":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        if self.path in ("/body", "/stream"):
            self.wfile.write(b"\r\n")
        while not self.stop.wait(0 if self.path == "/stream" else 0.05):
            try:
                self.wfile.write({"/silent": b"", "/stream": bytes(1 << 16)}.get(self.path, b"x"))
            except OSError:  # the client has gone
                break


@pytest.fixture
def endless(monkeypatch) -> Iterator[str]:
    """URL of a web server whose answers never end, with short limits of ours."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(media_module, "_URL_SECONDS", 0.5)
    monkeypatch.setattr(media_module, "_VIDEO_URL_SECONDS", 0.5)
    Endless.stop = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        Endless.stop.set()
        http.shutdown()
        thread.join()


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [14, 16])
def test_pictures_are_those_of_training(tmp_path, server, patch_size):
    file = tmp_path / "cat of mine.png"
    CAT.save(file)
    data_url = f"data:image/png;base64,{base64.b64encode(encoded(FADING)).decode()}"
    stored = [
        {"bytes": encoded(CAT)},
        {"bytes": encoded(CAT), "path": "elsewhere.png", "max_pixels": 100 * 100, "min_pixels": None},
        {"bytes": encoded(COFFEE), "min_pixels": 300 * 300},
        {"bytes": encoded(CAT), "resized_height": 56, "resized_width": 84},
        {"bytes": encoded(FADING)},
        {"image": str(file), "max_pixels": 100 * 100},
        {"image": f"file://{file}"},
        {"image_url": str(file)},
        {"image": FADING},
        str(file),
        file,
        f"file://{file}",
        f"{server}/{file.name}",
        {"image_url": f"{server}/{file.name}", "max_pixels": 100 * 100},
        data_url,
        {"image": data_url},
        FADING,
        Image.fromarray(data.camera()),
    ]
    for image in stored:
        assert same_pictures(decoded([image], patch_size=patch_size)[0], of_verl([image], [], patch_size)[0])
    everything = decoded(stored, patch_size=patch_size)[0]
    assert same_pictures(everything, of_verl(stored, [], patch_size)[0])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "PCX"])
@pytest.mark.parametrize("name", ["picture", "picture.png", None])
def test_the_bytes_of_a_file_give_the_picture_of_its_path(tmp_path, form, name):
    if form in ("WEBP", "JPEG2000") and not features.check({"WEBP": "webp", "JPEG2000": "jpg_2000"}[form]):
        pytest.skip(f"PIL was built without {form}")
    file = tmp_path / (name or f"picture.{form.lower()}")
    COFFEE.save(file, form)
    assert same_pictures(decoded([str(file)])[0], of_verl([str(file)], [], 14)[0])


def test_a_path_beside_absent_bytes_is_read(tmp_path):
    COFFEE.save(tmp_path / "coffee.png")
    by_path = decoded([{"bytes": None, "path": str(tmp_path / "coffee.png")}])
    assert same_pictures(by_path[0], of_verl([{"bytes": encoded(COFFEE)}], [], 14)[0])


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    return encoded(CAT, "JPEG", exif=exif)


@pytest.mark.parametrize("content", [turned(), encoded(FADING), encoded(CAT), encoded(FADING.convert("P"), "GIF")])
@pytest.mark.parametrize("by_path", [False, True])
def test_pictures_of_an_image_feature_are_those_of_training(tmp_path, content, by_path):
    (tmp_path / "picture").write_bytes(content)
    image = {"path": str(tmp_path / "picture")} if by_path else {"bytes": content}
    feature = datasets.Features({"images": datasets.List(datasets.Image())})
    rows = datasets.Dataset.from_dict({"images": [[image, image]]}, features=feature)
    (cell,) = rows.with_format("arrow")["images"].to_pylist()
    assert same_pictures(decoded(cell, by_datasets=True)[0], of_verl(rows[0]["images"], [], 14)[0])


def test_an_image_feature_is_another_picture():
    # Turned by its EXIF tag, and its alpha channel dropped; as bytes neither.
    image = {"bytes": turned(), "path": None}
    assert decoded([image], by_datasets=True)[0][0].size == decoded([image])[0][0].size[::-1]
    image = {"bytes": encoded(FADING), "path": None}
    assert decoded([image], by_datasets=True)[0][0].getpixel((0, 0)) != (255, 255, 255)
    assert decoded([image])[0][0].getpixel((0, 0)) == (255, 255, 255)
    assert key([image], by_datasets=True) != key([image])


def test_a_row_without_images_and_videos_is_none():
    for nothing in (None, []):
        assert collect(nothing, nothing) is None
        assert collect(nothing, None, by_datasets=True) is None


def test_media_go_to_another_machine(tmp_path):
    for name, picture in (("cat.png", CAT), ("coffee.png", COFFEE)):
        picture.save(tmp_path / name)
    cat, lazy, alike = str(tmp_path / "cat.png"), Image.open(tmp_path / "coffee.png"), COFFEE.resize(CAT.size)
    row = collect([cat, lazy], [[cat, alike]])
    pictures, videos = decode(row, 14)
    sent = pickle.dumps(row)
    shutil.rmtree(tmp_path)
    arrived = pickle.loads(sent)
    assert arrived == row and isinstance(arrived, Media) and len(arrived) == 3
    there, videos_there = decode(arrived, 14)
    assert same_pictures(pictures, there) and same_videos(videos, videos_there)


def test_decoding_twice_gives_the_same():
    row = collect([{"bytes": encoded(CAT)}, FADING], [[FADING, CAT.convert("L")]])
    first, second = decode(row, 14), decode(row, 14)
    assert same_pictures(first[0], second[0]) and same_videos(first[1], second[1])


# -- videos ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [14, 16])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_videos_of_frames_are_those_of_training(tmp_path, patch_size, count):
    paths = []
    for number, frame in enumerate(frames(count)):
        paths.append(tmp_path / f"{number}.png")
        frame.save(paths[-1])
    names = [str(path) for path in paths]
    videos = [
        names,
        paths,
        [f"file://{path}" for path in paths],
        frames(count),
        [FADING, CAT],
        {"video": names, "fps": 1.0, "min_pixels": 150 * 150, "max_pixels": 200 * 200},
        {"video": names, "sample_fps": 4.0, "raw_fps": 24.0, "total_pixels": 200 * 200, "min_pixels": 56 * 56},
        {"video": names, "resized_height": 56, "resized_width": 112},
        {"video": frames(count), "min_pixels": 200 * 200},
    ]
    for video in videos:
        assert same_videos(decoded(None, [video], patch_size=patch_size)[1], of_verl([], [video], patch_size)[1])
    # The two forms that verl cannot read: bytes, and settings that other rows of the column have.
    stored = {"video": [{"bytes": path.read_bytes(), "path": None} for path in paths], "fps": None, "nframes": None}
    assert same_videos(decoded(None, [stored], patch_size=patch_size)[1], of_verl([], [names], patch_size)[1])


def test_images_and_videos_of_a_row_come_together():
    images, videos = [{"bytes": encoded(CAT)}, {"bytes": encoded(FADING)}], [frames(2), {"video": frames(5)}]
    ours, theirs = decoded(images, videos), of_verl(images, videos, 14)
    assert same_pictures(ours[0], theirs[0]) and same_videos(ours[1], theirs[1])
    assert len(collect(images, videos)) == 4


def write_video(file: Path, count: int = 24) -> str:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 8, (120, 100))
    for frame in frames(count):
        writer.write(np.ascontiguousarray(np.asarray(frame)[..., ::-1]))
    writer.release()
    return str(file)


@pytest.mark.skipif(not VIDEO_READER, reason="no package here reads video files")
def test_video_files_are_those_of_training(tmp_path, monkeypatch):
    file = write_video(tmp_path / "film.mp4")
    for video in (file, {"video": file}, {"video": f"file://{file}", "nframes": 4}, {"video": file, "fps": 4.0}):
        (ours,), (theirs,) = decoded(None, [video])[1], of_verl([], [video], 14)[1]
        assert torch.equal(ours[0], theirs[0]) and ours[1] == theirs[1]
    monkeypatch.chdir(tmp_path)
    row = collect(None, ["film.mp4"])
    monkeypatch.chdir("/")
    assert same_videos(decode(row, 14)[1], of_verl([], [file], 14)[1])


@pytest.mark.skipif(not VIDEO_READER, reason="no package here reads video files")
def test_a_broken_video_file_has_the_reason_of_its_reader(tmp_path):
    file = tmp_path / "film.mp4"
    file.write_bytes(b"no video")
    with pytest.raises(MediaError, match="video 0: ") as problem:
        decoded(None, [str(file)])
    assert "read_video" not in str(problem.value)


@pytest.mark.skipif(VIDEO_READER, reason="a package here reads video files")
def test_a_video_file_that_nothing_reads_asks_for_a_package(tmp_path):
    with pytest.raises(MediaError, match="video 1: no package reads video files here: pip install decord"):
        decoded(None, [frames(2), write_video(tmp_path / "film.mp4")])


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_32_hexadecimal_digits_and_the_same_tomorrow():
    assert re.fullmatch("[0-9a-f]{32}", key([CAT]))
    assert key([{"bytes": b"one"}, "http://a/b"], [["http://a/c"]]) == "e38361e5d9b733095389b64cfa05b8ce"


def test_moving_a_file_keeps_the_key(tmp_path):
    (tmp_path / "there").mkdir()
    here, there = tmp_path / "cat.png", tmp_path / "there" / "tom.png"
    CAT.save(here)
    shutil.copy(here, there)
    content = here.read_bytes()
    same = [str(here), str(there), here, f"file://{there}", {"image": str(here)}, {"image_url": str(there)}]
    same += [{"path": str(here), "bytes": None}, {"bytes": content}, {"bytes": content, "path": "gone.png"}]
    same += [{"bytes": content, "max_pixels": None}, {"bytes": content, "video": "absent.mp4"}]
    assert len({key([image]) for image in same}) == 1
    assert len({key(None, [[image, str(here)]]) for image in same}) == 1
    assert key(None, [[str(here)]]) == key(None, [{"video": [str(there)], "fps": None}])

    assert key([{"min_pixels": 9, "max_pixels": 99, "bytes": b""}]) == key(
        [{"bytes": b"", "max_pixels": 99, "min_pixels": 9}]
    )

    film = write_video(tmp_path / "film.mp4")
    moved = shutil.copy(film, tmp_path / "there" / "movie.mp4")
    assert key(None, [film]) == key(None, [{"video": str(moved), "fps": None}]) == key(None, [f"file://{film}"])


def test_what_changes_the_picture_changes_the_key(tmp_path):
    cat, coffee = {"bytes": encoded(CAT)}, {"bytes": encoded(COFFEE)}
    film, longer = write_video(tmp_path / "film.mp4"), write_video(tmp_path / "longer.mp4", 25)
    rows = [
        ([cat], None),
        ([coffee], None),
        ([cat, coffee], None),
        ([coffee, cat], None),
        ([cat, cat], None),
        ([cat | {"max_pixels": 10000}], None),
        ([cat | {"min_pixels": 10000}], None),
        ([cat | {"max_pixels": 10000}, cat], None),
        ([cat, cat | {"max_pixels": 10000}], None),
        ([CAT], None),
        ([CAT.transpose(Image.Transpose.ROTATE_90)], None),
        ([COFFEE], None),
        ([Image.new("RGB", (2, 8))], None),
        ([Image.new("RGB", (4, 4))], None),
        (["https://example.org/cat.png"], None),
        (["https://example.org/coffee.png"], None),
        ([cat], [[cat]]),
        (None, [[cat]]),
        (None, [[cat, coffee]]),
        (None, [[coffee, cat]]),
        (None, [[cat], [coffee]]),
        (None, [[cat, coffee], []]),
        (None, [{"video": [cat, coffee], "fps": 1.0}]),
        (None, [{"video": [cat, coffee], "fps": 2.0}]),
        (None, [[CAT, COFFEE]]),
        (None, [["https://example.org/cat.png"]]),
        (None, ["https://example.org/cat.mp4"]),
        (None, [film]),
        (None, [longer]),
        (None, [{"video": film, "nframes": 4}]),
        ([film], None),
    ]
    keys = [key(*row, by_datasets) for row in rows for by_datasets in (False, True)]
    assert len(set(keys)) == 2 * len(rows)


def test_a_file_that_changes_changes_the_key(tmp_path):
    file = tmp_path / "picture.png"
    CAT.save(file)
    before = key([str(file)])
    COFFEE.save(file)
    assert key([str(file)]) != before


@given(st.lists(st.lists(st.binary(max_size=2), max_size=2), min_size=1, max_size=3), st.data())
@settings(derandomize=True, deadline=None)
def test_videos_have_one_key_if_they_have_the_same_frames(videos, draw):
    others = draw.draw(st.one_of(st.just(videos), st.permutations(videos), st.permutations([sum(videos, [])])))

    def stored(of: list[list[bytes]]) -> list[list[dict]]:
        return [[{"bytes": content} for content in contents] for contents in of]

    assert (key(None, stored(videos)) == key(None, stored(others))) == (videos == others)


# -- what is no image or video ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "videos", "problem"),
    [
        ({"bytes": b""}, None, r"verl expects a list of images in a row, not dict"),
        ("cat.png", None, r"verl expects a list of images in a row, not str"),
        (None, {"video": "a.mp4"}, r"verl expects a list of videos in a row, not dict"),
        ([CAT, None], None, r"image 1: an image is a path, .* not NoneType"),
        ([7], None, r"image 0: .* not int"),
        ([encoded(CAT)], None, r"image 0: .* not bytes"),
        ([[CAT]], None, r"image 0: .* not list"),
        ([{}], None, r"image 0: .* not dict"),
        ([{"bytes": None, "path": None}], None, r"image 0: .* the fields bytes \(NoneType\), path \(NoneType\)"),
        ([{"bytes": "iVBORw0KGgo="}], None, r"image 0: .* the fields bytes \(str\)"),
        ([{"image_url": {"url": "cat.png"}}], None, r"image 0: .* the fields image_url \(dict\)"),
        ([CAT, "/absent/cat.png"], None, r"image 1: FileNotFoundError: .*'/absent/cat.png'"),
        ([{"image": "file:///absent/cat.png"}], None, r"image 0: FileNotFoundError: .*'/absent/cat.png'"),
        (["/"], None, r"image 0: IsADirectoryError: .*'/'"),
        (["cat\0.png"], None, r"image 0: ValueError: embedded null"),
        ([""], None, r"image 0: IsADirectoryError"),
        ([CAT], [frames(2), None], r"video 1: a video is .* not NoneType"),
        (None, [CAT], r"video 0: a video is .* not Image"),
        (None, [{"bytes": b"film"}], r"video 0: .* the fields bytes \(bytes\)"),
        (None, [{"video": 3, "fps": 2}], r"video 0: .* the fields video \(int\), fps \(int\)"),
        (None, ["/absent/cat.mp4"], r"video 0: FileNotFoundError: .*'/absent/cat.mp4'"),
        (None, [{"video": ["/absent/1.png"]}], r"video 0: frame 0: FileNotFoundError: .*'/absent/1.png'"),
        (None, [[CAT, 5]], r"video 0: frame 1: an image is .* not int"),
    ],
)
def test_what_cannot_be_read_is_named(images, videos, problem):
    with pytest.raises(MediaError, match=f"^{problem}"):
        collect(images, videos)


def png(width: int, height: int, bits: int = 1) -> bytes:
    """A white PNG, made line by line."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer, line = zlib.compressobj(9), b"\0" + b"\xff" * (width * bits // 8)
    lines = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def animation() -> bytes:
    return encoded(frames(3)[0], "GIF", save_all=True, append_images=frames(3)[1:])


def clear_palette() -> bytes:
    return encoded(FADING.convert("RGB").quantize(16), transparency=3)


ODD = {
    "1 x 1": encoded(Image.new("RGB", (1, 1), "teal")),
    "1 x 150": encoded(Image.new("RGB", (1, 150), "teal")),
    "CMYK JPEG": encoded(CAT.convert("CMYK"), "JPEG"),
    "grey JPEG": encoded(CAT.convert("L"), "JPEG"),
    "16-bit grey PNG": encoded(Image.fromarray(data.camera().astype(np.uint16) * 3)),
    "black and white": encoded(CAT.convert("1")),
    "grey with alpha": encoded(FADING.convert("LA")),
    "palette": encoded(CAT.quantize(16)),
    "palette with transparency": clear_palette(),
    "animated GIF": animation(),
    "float TIFF": encoded(Image.fromarray(data.camera().astype(np.float32)), "TIFF"),
    "integer TIFF": encoded(Image.fromarray(data.camera().astype(np.int32)), "TIFF"),
    "Lab TIFF": encoded(Image.new("LAB", (40, 40), (90, 10, 20)), "TIFF"),
    "RGBA": encoded(FADING),
    "large": png(4000, 4000),
}


@pytest.mark.parametrize("by_datasets", [False, True])
@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_those_of_training(name, by_datasets):
    image = {"bytes": ODD[name], "path": None}
    seen_by_verl = datasets.Image().decode_example(image) if by_datasets else image
    assert same_pictures(decoded([image], by_datasets=by_datasets)[0], of_verl([seen_by_verl], [], 14)[0])


BROKEN = {
    "empty": (b"", "not a picture in any format"),
    "text": (b"What is in this picture?\n" * 100, "not a picture in any format"),
    "SVG": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>', "not a picture"),
    "PDF": (encoded(COFFEE, "PDF"), "not a picture in any format"),
    "video": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "not a picture in any format"),
    "truncated JPEG": (encoded(CAT, "JPEG")[:5000], "OSError: image file is truncated"),
    "truncated PNG": (encoded(CAT)[:5000], "OSError: image file is truncated"),
    "truncated header": (encoded(CAT)[:20], "."),
    "truncated GIF": (animation()[:500], "."),
    "corrupt PNG": (encoded(CAT)[:3000] + b"verl" + encoded(CAT)[3004:], "."),
    "1 x 300": (encoded(Image.new("RGB", (1, 300))), "ValueError: absolute aspect ratio must be smaller than 200"),
    "bomb": (png(20000, 20000), "DecompressionBombError: Image size .400000000 pixels."),
}


@pytest.mark.parametrize("by_datasets", [False, True])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_has_a_short_reason(name, by_datasets):
    content, reason = BROKEN[name]
    with pytest.raises(MediaError, match=f"^image 1: {reason}") as problem:
        decoded([{"bytes": encoded(CAT)}, {"bytes": content}], by_datasets=by_datasets)
    assert len(str(problem.value)) < 200 and "0x" not in str(problem.value)
    with pytest.raises(MediaError, match="^video 0: "):
        decoded(None, [[{"bytes": content}, {"bytes": content}]])


@pytest.mark.parametrize(
    ("images", "videos", "problem"),
    [
        (["http://127.0.0.1:9/cat.png"], None, "image 0: ConnectionError"),
        (["data:image/png;base64,AAAA"], None, "image 0: not a picture"),
        ([f"data:image/svg+xml,{'<svg/>' * 1000}"], None, "image 0: ValueError: Unrecognized image input"),
        (["s3://bucket/cat.png"], None, "image 0: FileNotFoundError: .*s3://bucket/cat.png"),
        ([{"bytes": encoded(CAT), "max_pixels": 3, "min_pixels": 9}], None, "image 0: AssertionError: The max_pixels"),
        ([{"bytes": encoded(CAT), "max_pixels": "many"}], None, "image 0: TypeError: "),
        ([Image.new("RGB", (0, 0))], None, "image 0: ZeroDivisionError"),
        (None, [[]], "video 0: ValueError"),
        (None, [[CAT, COFFEE]], "video 0: RuntimeError: stack expects each tensor to be equal size"),
        (None, [frames(2), [CAT, {"bytes": b"text"}]], "video 1: frame 1: not a picture in any format"),
    ],
)
def test_what_cannot_be_decoded_is_named(monkeypatch, images, videos, problem):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(MediaError, match=f"^{problem}") as raised:
        decoded(images, videos)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("by_datasets", [False, True])
@pytest.mark.parametrize(
    ("page", "limit", "problem"),
    [
        ("silent", None, "download took more than 0.5 s|Read timed out"),
        ("head", None, "download took more than 0.5 s"),
        ("body", None, "download took more than 0.5 s"),
        ("stream", None, "download stopped after .* bytes|download took more than 0.5 s"),
        ("stream", 1 << 20, "download stopped after 1,[0-9,]* bytes"),
    ],
)
def test_a_page_that_does_not_end_is_named(endless, monkeypatch, page, limit, problem, by_datasets):
    if limit:
        monkeypatch.setattr(media_module, "_URL_BYTES", limit)
        monkeypatch.setattr(media_module, "_URL_SECONDS", 60)
    with pytest.raises(MediaError, match=f"^image 1: .*({problem})"):
        decoded([{"bytes": encoded(CAT)}, f"{endless}/{page}"], by_datasets=by_datasets)
    with pytest.raises(MediaError, match=f"^video 0: frame 1: .*({problem})"):
        decoded(None, [[CAT, f"{endless}/{page}"]])


@pytest.mark.skipif(not VIDEO_READER, reason="no package here reads video files")
def test_a_video_that_does_not_arrive_is_named(endless):
    with pytest.raises(MediaError, match="^video 0: .*/silent: download took more than 0.5 s"):
        decoded(None, [f"{endless}/silent"])


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (str(tmp_path / "pipe.png"), "/dev/zero", f"file://{tmp_path}/pipe.png"):
        for row in ([CAT, path], None), ([CAT, {"bytes": None, "path": path}], None), ([], [[CAT, path]]), ([], [path]):
            with pytest.raises(MediaError, match="(image 1|frame 1|video 0): '.*' is not a regular file"):
                collect(*row)
    arrived = Media((), ({"video": str(tmp_path / "pipe.png")},), False, "0" * 32)  # where it was a file
    with pytest.raises(MediaError, match="video 0: .*is not a regular file|video 0: no package reads"):
        decode(arrived, 14)


def test_a_page_that_is_not_there_is_named(server):
    with pytest.raises(MediaError, match="image 0: HTTPError: 404 .*absent.png"):
        decoded([f"{server}/absent.png"])


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_damaged_pictures_are_decoded_or_refused_as_in_training(draw):
    form = draw.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"]))
    content = bytearray(encoded(COFFEE, form))
    if draw.draw(st.booleans()):
        del content[draw.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[draw.draw(st.integers(0, len(content) - 1))] ^= draw.draw(st.integers(1, 255))
    image = {"bytes": bytes(content)}
    try:
        ours = decoded([image])[0]
    except MediaError:
        with pytest.raises(Exception):  # noqa: B017
            of_verl([image], [], 14)
    else:
        assert same_pictures(ours, of_verl([image], [], 14)[0])


@pytest.mark.parametrize("signal", [MemoryError, KeyboardInterrupt])
def test_what_is_no_fault_of_the_picture_passes(monkeypatch, signal):
    def raising(*args, **kwargs):
        raise signal

    monkeypatch.setattr("qwen_vl_utils.vision_process.fetch_image", raising)
    with pytest.raises(signal):
        decoded([CAT])

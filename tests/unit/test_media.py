# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""What a row stores becomes the images and videos of verl's training, or an error that says why not."""

import base64
import copy
import pickle
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
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
from pictures import encoded
from PIL import Image
from qwen_vl_utils.vision_process import get_video_reader_backend
from skimage import data
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_durian.entropy import media as media_module
from verl_durian.entropy.media import MediaError, collect, decode

CAT = Image.fromarray(data.chelsea())
COFFEE = Image.fromarray(data.coffee()).resize((70, 120))
ASTRONAUT = Image.fromarray(data.astronaut()).resize((160, 128))
# The cat, fading from nothing on the left to full on the right.
FADING = Image.fromarray(np.dstack([data.chelsea(), np.tile(np.linspace(0, 255, 451, dtype=np.uint8), (300, 1))]))

VIDEO_READER = get_video_reader_backend() != "torchvision" or hasattr(torchvision.io, "read_video")


CAT_BYTES, FADING_BYTES = {"bytes": encoded(CAT)}, {"bytes": encoded(FADING)}


def frames(folder: Path, count: int) -> list[str]:
    """Files of a camera that moves over the astronaut."""
    files = [folder / f"frame{number}.png" for number in range(count)]
    for number, file in enumerate(files):
        ASTRONAUT.crop((4 * number, 4 * number, 4 * number + 120, 4 * number + 100)).save(file)
    return [str(file) for file in files]


def write_video(file: Path, count: int = 24) -> str:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 8, (120, 100))
    for number in range(count):
        frame = ASTRONAUT.crop((number, number, number + 120, number + 100))
        writer.write(np.ascontiguousarray(np.asarray(frame)[..., ::-1]))
    writer.release()
    return str(file)


def decoded(images=None, videos=None, by_datasets: bool = False, patch_size: int = 14) -> tuple[list, list]:
    return decode(collect(images, videos, by_datasets), patch_size)


def key(images=None, videos=None, by_datasets: bool = False) -> str:
    return collect(images, videos, by_datasets).key


def of_verl(images: list, videos: list, patch_size: int = 14) -> tuple[list, list]:
    """The images and videos that verl's RLHFDataset passes to the rollout."""
    rlhf = object.__new__(RLHFDataset)
    rlhf.processor, rlhf.image_key, rlhf.video_key, rlhf.audio_key = object(), "images", "videos", "audios"
    content = "<image>" * len(images) + "<video>" * len(videos)
    # verl changes the dicts it is given.
    example = copy.deepcopy({"prompt": [{"role": "user", "content": content}], "images": images, "videos": videos})
    messages = rlhf._build_messages(example, key="prompt")
    of_images, of_videos, _ = RLHFDataset._process_multi_modal_info(messages, patch_size, None)
    return of_images or [], of_videos or []


def assert_same(ours: tuple[list, list], theirs: tuple[list, list]) -> None:
    assert [(image.mode, image.size, image.tobytes()) for image in ours[0]] == [
        ("RGB", image.size, image.tobytes()) for image in theirs[0]
    ]
    assert [metadata for _, metadata in ours[1]] == [metadata for _, metadata in theirs[1]]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(ours[1], theirs[1], strict=True))


@pytest.fixture
def serve(monkeypatch) -> Iterator:
    """Starts web servers on request and returns their URLs."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(handler) -> str:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# -- as in training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [14, 16])
def test_images_are_those_of_training(tmp_path, serve, patch_size):
    file = tmp_path / "cat of mine.png"
    CAT.save(file)
    url = f"{serve(partial(SimpleHTTPRequestHandler, directory=tmp_path))}/{file.name}"
    data_url = f"data:image/png;base64,{base64.b64encode(encoded(FADING)).decode()}"
    images = [
        CAT_BYTES,
        {**CAT_BYTES, "path": "elsewhere.png", "max_pixels": 100 * 100, "min_pixels": None},
        {"bytes": encoded(COFFEE), "min_pixels": 300 * 300},
        {**CAT_BYTES, "resized_height": 56, "resized_width": 84},
        FADING_BYTES,
        {"image": str(file), "max_pixels": 100 * 100},
        {"image": f"file://{file}"},
        {"image_url": str(file)},
        str(file),
        f"file://{file}",
        url,
        {"image_url": url, "max_pixels": 100 * 100},
        data_url,
        {"image": data_url},
    ]
    assert_same(decoded(images, patch_size=patch_size), of_verl(images, [], patch_size))
    by_path = decoded([{"bytes": None, "path": str(file)}])  # verl cannot read it
    assert_same(by_path, of_verl([CAT_BYTES], []))


@pytest.mark.parametrize(("patch_size", "count"), [(14, 1), (16, 4), (14, 7)])
def test_videos_of_frames_are_those_of_training(tmp_path, patch_size, count):
    files = frames(tmp_path, count)
    videos = [
        files,
        [f"file://{file}" for file in files],
        {"video": files, "fps": 1.0, "min_pixels": 150 * 150, "max_pixels": 200 * 200},
        {"video": files, "sample_fps": 4.0, "raw_fps": 24.0, "total_pixels": 200 * 200, "min_pixels": 56 * 56},
        {"video": files, "resized_height": 56, "resized_width": 112},
    ]
    assert_same(decoded([CAT_BYTES], videos, patch_size=patch_size), of_verl([CAT_BYTES], videos, patch_size))
    # The two forms that verl cannot read: bytes, and settings that other rows of the column have.
    stored = {"video": [{"bytes": Path(file).read_bytes(), "path": None} for file in files], "fps": None}
    assert_same(decoded(None, [stored], patch_size=patch_size), of_verl([], [files], patch_size))


@pytest.mark.skipif(not VIDEO_READER, reason="no video reader is installed")
def test_video_files_are_those_of_training(tmp_path, monkeypatch):
    file = write_video(tmp_path / "film.mp4")
    for video in (file, {"video": file}, {"video": f"file://{file}", "nframes": 4}, {"video": file, "fps": 4.0}):
        assert_same(decoded(None, [video]), of_verl([], [video]))
    monkeypatch.chdir(tmp_path)
    row = collect(None, ["film.mp4"])
    monkeypatch.chdir("/")
    assert_same(decode(row, 14), of_verl([], [file]))

    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match="video 0: ") as problem:  # of the reader, not of its fallback
        decoded(None, [str(tmp_path / "broken.mp4")])
    assert "read_video" not in str(problem.value)
    monkeypatch.setattr("qwen_vl_utils.vision_process.get_video_reader_backend", lambda: "torchvision")
    if not hasattr(torchvision.io, "read_video"):
        with pytest.raises(MediaError, match="video 1: no video reader is installed: pip install decord"):
            decoded(None, [frames(tmp_path, 2), file])


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # by 90 degrees
    return encoded(CAT, "JPEG", exif=exif)


@pytest.mark.parametrize("by_path", [False, True])
def test_images_of_an_image_feature_are_those_of_training(tmp_path, by_path):
    contents = [turned(), encoded(FADING), encoded(CAT), encoded(FADING.convert("P"), "GIF")]
    images = [{"bytes": content} for content in contents]
    if by_path:
        images = [{"path": str(tmp_path / str(number))} for number in range(len(contents))]
        for image, content in zip(images, contents, strict=True):
            Path(image["path"]).write_bytes(content)
    rows = datasets.Dataset.from_dict(
        {"images": [images]}, features=datasets.Features({"images": datasets.List(datasets.Image())})
    )
    (cell,) = rows.with_format("arrow")["images"].to_pylist()
    ours, plain = decoded(cell, by_datasets=True), decoded(images)
    assert_same(ours, of_verl(rows[0]["images"], []))
    assert ours[0][0].size == plain[0][0].size[::-1]  # turned by its EXIF tag
    assert ours[0][1].getpixel((0, 0)) != plain[0][1].getpixel((0, 0)) == (255, 255, 255)  # alpha dropped, or blended
    assert key(cell, by_datasets=True) != key(cell)


ODD = {
    **{form: encoded(COFFEE, form) for form in ("JPEG", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX", "WEBP")},
    "1 x 1": encoded(Image.new("RGB", (1, 1), "teal")),
    "1 x 150": encoded(Image.new("RGB", (1, 150), "teal")),
    "CMYK": encoded(CAT.convert("CMYK"), "JPEG"),
    "grey": encoded(CAT.convert("L"), "JPEG"),
    "16-bit grey": encoded(Image.fromarray(data.camera().astype(np.uint16) * 3)),
    "black and white": encoded(CAT.convert("1")),
    "grey with alpha": encoded(FADING.convert("LA")),
    "palette": encoded(CAT.quantize(16)),
    "palette with transparency": encoded(CAT.quantize(16), transparency=3),
    "animated": encoded(CAT, "GIF", save_all=True, append_images=[CAT.rotate(90)]),
    "float": encoded(Image.fromarray(data.camera().astype(np.float32)), "TIFF"),
    "Lab": encoded(Image.new("LAB", (40, 40), (90, 10, 20)), "TIFF"),
}


@pytest.mark.parametrize("by_datasets", [False, True])
@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_those_of_training(name, by_datasets):
    image = {"bytes": ODD[name], "path": None}
    seen_by_verl = datasets.Image().decode_example(image) if by_datasets else image
    assert_same(decoded([image], by_datasets=by_datasets), of_verl([seen_by_verl], []))


@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"]), st.floats(0, 0.999), st.integers(0, 255))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_damaged_images_are_decoded_or_refused_as_in_training(form, where, change):
    content = bytearray(encoded(COFFEE, form))
    place = int(where * len(content))
    if change:
        content[place] ^= change
    else:
        del content[place:]
    image = {"bytes": bytes(content)}
    try:
        ours = decoded([image])
    except MediaError:
        with pytest.raises(Exception):  # noqa: B017
            of_verl([image], [])
    else:
        assert_same(ours, of_verl([image], []))


def test_media_need_no_image_files(tmp_path):
    CAT.save(tmp_path / "cat.png")
    row = collect([str(tmp_path / "cat.png"), FADING_BYTES], [frames(tmp_path, 2)])
    here, sent = decode(row, 14), pickle.dumps(row)
    shutil.rmtree(tmp_path)
    assert pickle.loads(sent) == row and len(row) == 3
    assert_same(decode(pickle.loads(sent), 14), here)


# -- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_the_same_in_later_releases():
    assert collect(None, []) is collect([], None, by_datasets=True) is None
    assert key([{"bytes": b"one"}, "http://a/b"], [["http://a/c"]]) == "e38361e5d9b733095389b64cfa05b8ce"


def test_moving_a_file_keeps_the_key(tmp_path):
    (tmp_path / "there").mkdir()
    here, there = str(tmp_path / "cat.png"), str(tmp_path / "there" / "tom.png")
    CAT.save(here)
    shutil.copy(here, there)
    content = {"bytes": Path(here).read_bytes()}
    same = [here, there, f"file://{there}", {"image": here}, {"image_url": there}, {"path": here, "bytes": None}]
    same += [content, content | {"path": "gone.png"}, content | {"max_pixels": None}, content | {"video": "absent.mp4"}]
    assert len({key([image]) for image in same}) == 1
    assert len({key(None, [[image, here]]) for image in same}) == 1
    assert key(None, [[here]]) == key(None, [{"video": [there], "fps": None}])
    assert key([{"min_pixels": 9, "max_pixels": 99} | content]) == key([content | {"max_pixels": 99, "min_pixels": 9}])
    film = write_video(tmp_path / "film.mp4")
    moved = str(shutil.copy(film, tmp_path / "there" / "movie.mp4"))
    assert key(None, [film]) == key(None, [{"video": moved, "fps": None}]) == key(None, [f"file://{film}"])
    before = key([here])
    COFFEE.save(here)
    assert key([here]) != before


def test_what_changes_the_image_changes_the_key(tmp_path):
    cat, coffee = CAT_BYTES, {"bytes": encoded(COFFEE)}
    film, longer = write_video(tmp_path / "film.mp4"), write_video(tmp_path / "longer.mp4", 25)
    small, urls = cat | {"max_pixels": 10000}, ["https://example.org/cat.png", "https://example.org/coffee.png"]
    images = [[cat], [coffee], [cat, coffee], [coffee, cat], [cat, cat], [small], [cat | {"min_pixels": 10000}]]
    images += [[small, cat], [cat, small], urls[:1], urls[1:], [film]]
    videos = [[[cat]], [[cat, coffee]], [[coffee, cat]], [[cat], [coffee]], [[cat, coffee], []], [urls[:1]], [film]]
    videos += [[{"video": [cat, coffee], "fps": fps}] for fps in (1.0, 2.0)]
    videos += [["https://example.org/cat.mp4"], [longer], [{"video": film, "nframes": 4}]]
    rows = [*((row, None) for row in images), *((None, row) for row in videos), ([cat], [[cat]])]
    assert len({key(*row, by_datasets) for row in rows for by_datasets in (False, True)}) == 2 * len(rows)


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "videos", "problem"),
    [
        ({"bytes": b""}, None, "verl expects a list of images in a row, not dict"),
        (None, "a.mp4", "verl expects a list of videos in a row, not str"),
        ([CAT_BYTES, None], None, "image 1: an image is a path, .* not None"),
        ([b"png"], None, "image 0: an image is .* not b'png'"),
        ([{"bytes": None, "path": None}], None, "image 0: .* not {'bytes': None, 'path': None}"),
        ([{"image_url": {"url": "cat.png"}}], None, "image 0: .* not {'image_url': {'url': 'cat.png'}}"),
        ([CAT_BYTES, "/absent/cat.png"], None, "image 1: FileNotFoundError: .*'/absent/cat.png'"),
        (["/"], None, "image 0: '/' is not a regular file"),
        ([CAT_BYTES, {"path": "/dev/zero"}], None, "image 1: '/dev/zero' is not a regular file"),
        (None, [[CAT_BYTES, "file:///dev/zero"]], "video 0: frame 1: '/dev/zero' is not a regular file"),
        (None, ["/dev/zero"], "video 0: '/dev/zero' is not a regular file"),
        (None, [{"bytes": b"film"}], "video 0: a video is .* not {'bytes': b'film'}"),
        (None, ["/absent/cat.mp4"], "video 0: FileNotFoundError: .*'/absent/cat.mp4'"),
        (None, [[CAT_BYTES, 5]], "video 0: frame 1: an image is .* not 5"),
        # found when decoding
        (["http://127.0.0.1:9/cat.png"], None, "image 0: ConnectionError"),
        (["data:image/png;base64,AAAA"], None, "image 0: not a picture"),
        ([f"data:image/svg+xml,{'<svg/>' * 1000}"], None, "image 0: ValueError: Unrecognized image input"),
        (["s3://bucket/cat.png"], None, "image 0: FileNotFoundError: .*s3://bucket/cat.png"),
        ([CAT_BYTES | {"max_pixels": "many"}], None, "image 0: TypeError: "),
        (None, [[]], "video 0: ValueError"),
        (None, [[CAT_BYTES, {"bytes": encoded(COFFEE)}]], "video 0: RuntimeError: stack expects each tensor"),
        (None, [[CAT_BYTES], [CAT_BYTES, {"bytes": b"text"}]], "video 1: frame 1: not a picture in any format"),
    ],
)
def test_what_cannot_be_read_or_decoded_is_named(monkeypatch, images, videos, problem):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(MediaError, match=f"^{problem}") as raised:
        decoded(images, videos)
    assert len(str(raised.value)) < 600


BROKEN = {
    "empty": (b"", "not a picture in any format"),
    "text": (b"What is in this picture?\n" * 100, "not a picture in any format"),
    "truncated JPEG": (encoded(CAT, "JPEG")[:5000], "OSError: image file is truncated"),
    "truncated PNG": (encoded(CAT)[:5000], "OSError: image file is truncated"),
    "truncated header": (encoded(CAT)[:20], "."),
    "corrupt PNG": (encoded(CAT)[:3000] + b"verl" + encoded(CAT)[3004:], "."),
    "1 x 300": (encoded(Image.new("RGB", (1, 300))), "ValueError: absolute aspect ratio must be smaller than 200"),
}


@pytest.mark.parametrize("by_datasets", [False, True])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_has_a_short_reason(name, by_datasets):
    content, reason = BROKEN[name]
    with pytest.raises(MediaError, match=f"^image 1: {reason}") as problem:
        decoded([CAT_BYTES, {"bytes": content}], by_datasets=by_datasets)
    assert len(str(problem.value)) < 200 and "0x" not in str(problem.value)
    with pytest.raises(MediaError, match="^video 0: "):
        decoded(None, [[{"bytes": content}, {"bytes": content}]])


class Endless(BaseHTTPRequestHandler):
    """Never finishes an answer: sends nothing, a byte of the head or of the body now and then, or all it can."""

    def do_GET(self) -> None:
        if self.path == "/absent":
            return self.send_error(404)
        start = {"/silent": b"", "/head": b"HTTP/1.0 200 OK\r\n"}
        self.wfile.write(start.get(self.path, b"HTTP/1.0 200 OK\r\n\r\n"))
        more = {"/silent": b"", "/stream": bytes(1 << 16)}.get(self.path, b"x")
        with suppress(OSError):  # the client has gone
            while not self.stop.wait(0 if self.path == "/stream" else 0.05):
                self.wfile.write(more)


@pytest.fixture
def endless(serve, monkeypatch) -> Iterator[str]:
    """URL of a web server whose answers never end, with short limits of ours."""
    monkeypatch.setattr(media_module, "_URL_SECONDS", 0.5)
    monkeypatch.setattr(media_module, "_VIDEO_URL_SECONDS", 0.5)
    Endless.stop = threading.Event()
    yield serve(Endless)
    Endless.stop.set()


@pytest.mark.parametrize("by_datasets", [False, True])
@pytest.mark.parametrize(
    ("page", "limit", "problem"),
    [
        ("silent", None, "reading took more than 0.5 s|Read timed out"),
        ("head", None, "reading took more than 0.5 s"),
        ("body", None, "reading took more than 0.5 s"),
        ("stream", 1 << 20, "download stopped after 1,[0-9,]* bytes"),
        ("absent", None, "HTTPError: 404 .*/absent"),
    ],
)
def test_a_download_that_does_not_end_is_named(endless, monkeypatch, page, limit, problem, by_datasets):
    if limit:
        monkeypatch.setattr(media_module, "_URL_BYTES", limit)
        monkeypatch.setattr(media_module, "_URL_SECONDS", 60)
    with pytest.raises(MediaError, match=f"^image 1: .*({problem})"):
        decoded([CAT_BYTES, f"{endless}/{page}"], by_datasets=by_datasets)
    with pytest.raises(MediaError, match=f"^video 0: frame 1: .*({problem})"):
        decoded(None, [[CAT_BYTES, f"{endless}/{page}"]])
    if page == "silent" and VIDEO_READER:
        with pytest.raises(MediaError, match="^video 0: .*/silent: reading took more than 0.5 s"):
            decoded(None, [f"{endless}/silent"])


@pytest.mark.parametrize("signal", [MemoryError, KeyboardInterrupt])
def test_errors_that_the_image_does_not_cause_propagate(monkeypatch, signal):
    def raising(*args, **kwargs):
        raise signal

    monkeypatch.setattr(media_module, "fetch_image", raising)
    with pytest.raises(signal):
        decoded([CAT_BYTES])

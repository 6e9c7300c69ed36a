"""Videos: frames, seconds, what is printed and written, and files that are damaged."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.commands.outcome import run
from ppcls_ext.commands.predict import main
from ppcls_ext.data.image_input import network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.answers import Choice
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.video import Video, classify_video, clock, ordinal
from tests.helpers import ROOT

cv2 = pytest.importorskip("cv2")
FRAMES, RATE = 45, 15


def write(path: Path, code: str = "MJPG", frames: int = FRAMES) -> Path:
    """A video of 64 × 48 px, the first third of whose frames is red and the rest blue, with a white upper left."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), RATE, (64, 48))
    for index in range(frames):
        image = np.zeros((48, 64, 3), np.uint8)
        image[..., 2 if index < FRAMES // 3 else 0] = 200  # OpenCV's blue, green, red
        image[:12, :16] = 255
        writer.write(image)
    writer.release()
    return path


@pytest.fixture
def clip(tmp_path) -> Path:
    return write(tmp_path / "clip.avi")


def predict(capsys, *arguments) -> tuple[int, str, str]:
    code = run(lambda: main([str(argument) for argument in arguments]))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_nth_frame_in_rgb(clip):
    frames = list(Video(clip, every=10))
    assert [frame.number for frame in frames] == [0, 10, 20, 30, 40]
    assert [frame.time for frame in frames] == pytest.approx([index / RATE for index in (0, 10, 20, 30, 40)], abs=1e-3)
    for frame in frames:
        assert (frame.image.shape, frame.image.dtype) == ((48, 64, 3), np.uint8)
        red, _, blue = frame.image[40, 60].astype(int)
        assert (red > 150, blue > 150) == ((True, False) if frame.number < FRAMES // 3 else (False, True))


def test_about_two_a_second(clip):
    video = Video(clip)
    assert (video.every, video.rate, len(list(video))) == (8, RATE, 6)
    assert str(video) == f"{clip}: 15 frames a second, of which every 8th is looked at, 1.9 a second"
    assert str(Video(clip, every=1)) == f"{clip}: 15 frames a second, all of which are looked at"


def test_a_second_is_the_mean_of_its_frames(clip, exported):
    classifier = Classifier(exported[1])
    choose = Choice(classifier.metadata)
    seconds = list(classify_video(classifier, Video(clip, every=4), choose))
    assert [second.start for second in seconds] == [0, 1, 2]
    images = {frame.number: frame.image for frame in Video(clip, every=4)}
    for second in seconds:
        numbers = [frame["frame"] for frame in second.frames]
        assert numbers == [number for number in images if number // RATE == second.start]
        inputs = np.stack([network_input(images[number], classifier.metadata.preprocessing) for number in numbers])
        scores = np.concatenate([classifier.scores(one[None]) for one in inputs])
        for frame, row in zip(second.frames, scores):
            assert {key: frame[key] for key in ("class_ids", "scores", "label_names")} == choose(row)
        assert second.result == choose(scores.mean(axis=0))


def test_a_line_a_second_and_a_file_of_the_frames(clip, exported, capsys, tmp_path):
    arguments = ["--video", clip, exported[1], "--every", 5, "--topk", 2, "--out", tmp_path / "r.jsonl"]
    code, out, err = predict(capsys, *arguments)
    assert code == 0
    assert [line.split("   ")[0] for line in out.splitlines()] == ["0:00:00", "0:00:01", "0:00:02"]
    assert err.splitlines() == [
        f"{clip}: 15 frames a second, of which every 5th is looked at, 3 a second",
        f"{tmp_path / 'r.jsonl'}: 9 frames",
    ]
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["frame"] for row in rows] == list(range(0, FRAMES, 5))
    assert all(list(row) == ["frame", "time", "class_ids", "scores", "label_names"] for row in rows)
    assert all(len(row["class_ids"]) == 2 for row in rows)


def turned(path: Path) -> Path:
    """The file with the matrix of a phone held upright: a quarter turn."""
    content = bytearray(path.read_bytes())
    begin = content.index(b"tkhd") + 4 + 4 + 16 + 4 + 8 + 8
    content[begin : begin + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def test_frames_are_turned_as_the_file_says(tmp_path):
    video = Video(turned(write(tmp_path / "phone.mp4", "mp4v")))
    assert video.rotation == 90
    assert str(video).endswith(", turned by 90° as the file says")
    frame = next(iter(video))
    assert frame.image.shape == (64, 48, 3)
    assert frame.image[4, -4].min() > 200, "the white corner is now the upper right one"
    assert frame.image[4, 4].min() < 100


def test_a_truncated_file_gives_what_it_holds_and_says_so(clip, exported, capsys, tmp_path):
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) * 2 // 3])
    code, out, err = predict(capsys, exported[1], "--video", clip, "--out", tmp_path / "r.jsonl")
    assert code == 1
    assert len(out.splitlines()) == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {clip}: ends after 1.")
    assert "of 3.0 s: it is truncated or damaged" in last
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["frame"] for row in rows] == [0, 8, 16, 24]


def of_no_frame(folder: Path) -> Path:
    return write(folder / "v.avi", frames=0)


def truncated_mp4(folder: Path) -> Path:
    path = write(folder / "v.mp4", "mp4v")
    path.write_bytes(path.read_bytes()[:-2000])  # its index is at the end
    return path


def text(folder: Path) -> Path:
    (folder / "v.avi").write_text("no video\n" * 1000)
    return folder / "v.avi"


def image(folder: Path) -> Path:
    cv2.imwrite(str(folder / "v1.png"), np.zeros((8, 8, 3), np.uint8))
    return folder / "v1.png"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "v.avi")
    return folder / "v.avi"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (of_no_frame, "the video has no frame"),
        (truncated_mp4, "OpenCV reads no video in it"),
        (text, "OpenCV reads no video in it"),
        (image, "is an image: give it without --video"),
        (fifo, "is a FIFO"),
        (lambda folder: folder, "is a folder|directory"),
        (lambda folder: folder / "v.avi", "No such file"),
    ],
)
def test_what_is_no_video_is_one_line_and_leaves_nothing(make, said, exported, tmp_path):
    """In a process of its own, as OpenCV and FFmpeg print what they find from C."""
    path = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    command = [
        sys.executable,
        "-m",
        "ppcls_ext",
        "predict",
        exported[1],
        "--video",
        path,
        "--out",
        tmp_path / "r.jsonl",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = [line for line in done.stderr.splitlines() if "frames a second" not in line]
    assert line.startswith(f"error: {path}")
    assert any(words in line for words in said.split("|")), line
    assert sorted(tmp_path.iterdir()) == before


def test_no_camera(exported, capsys):
    assert predict(capsys, exported[1], "--video", "63")[::2] == (
        1,
        "error: camera 63: there is no such camera, or it is in use\n",
    )


class Camera:
    """What cv2.VideoCapture is of a camera: 30 frames a second, of which a Ctrl-C interrupts the 41st."""

    def __init__(self, _: int) -> None:
        self.count = 0

    def isOpened(self) -> bool:
        return True

    def get(self, field: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 64, cv2.CAP_PROP_FRAME_HEIGHT: 48, cv2.CAP_PROP_FPS: 30}.get(field, 0)

    def set(self, *_: float) -> bool:
        return False

    def grab(self) -> bool:
        self.count += 1
        assert self.count < 1000, "Ctrl-C is not heard"
        if self.count == 41:
            signal.raise_signal(signal.SIGINT)
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((48, 64, 3), np.uint8)

    def release(self) -> None:
        pass


#: The command with that camera. SIGINT is ignored below a shell's background job and below pytest-xdist.
WITH_CAMERA = """
import faulthandler, signal, sys
faulthandler.enable()
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.predict.test_video import Camera, cv2, main, run
cv2.VideoCapture = Camera
sys.exit(run(lambda: main(sys.argv[1:])))
"""


def test_ctrl_c_is_the_end_of_a_camera(exported, tmp_path):
    """No machine for tests has a camera: that of OpenCV is replaced, and nothing else. In a process of its own."""
    frames = tmp_path / "r.jsonl"
    arguments = [str(exported[1]), "--video", "0", "--every", "10", "--out", str(frames)]
    command = [sys.executable, "-c", WITH_CAMERA, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith("0:00:00   ")
    assert done.stderr.splitlines()[-2:] == ["Ctrl-C ends it", f"{frames}: 4 frames"]
    rows = [json.loads(line) for line in frames.read_text(encoding="utf-8").splitlines()]
    assert [row["frame"] for row in rows] == [0, 10, 20, 30]


def test_an_interrupted_file_leaves_nothing(clip, exported, capsys, tmp_path, monkeypatch):
    def grab(video):
        raise KeyboardInterrupt

    monkeypatch.setattr(Video, "_time", lambda video, number, start: grab(video) if number > 20 else number / RATE)
    code, out, err = predict(capsys, exported[1], "--video", clip, "--out", tmp_path / "r.jsonl")
    assert code != 0
    assert len(out.splitlines()) == 1
    assert err.splitlines()[-1] == "error: interrupted"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.avi"]


def test_opencv_is_missing(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(PpclsExtError, match=r'the package cv2 is missing: pip install "ppcls-ext\[video\]"'):
        Video(clip)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.jpg"], "expected a video or images"),
        (["--out", "r.csv"], "expected a name that ends in .jsonl"),
        (["--json"], "--json is for images"),
        (["--csv"], "--csv is for images"),
        (["--save-image", "x"], "--save-image is for images"),
        (["--batch-size", "2"], "--batch-size is for images"),
    ],
)
def test_options_of_images(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["m.onnx", "--video", "clip.avi", *arguments])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--every", "2"], ["--out", "r.jsonl"]])
def test_options_of_videos(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["m.onnx", "a.jpg", *arguments])
    assert caught.value.code == 2
    assert "to --video" in capsys.readouterr().err


def test_words():
    assert [clock(seconds) for seconds in (0, 61, 3600 * 11 + 59)] == ["0:00:00", "0:01:01", "11:00:59"]
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 21, 112)] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "112th"]
    )

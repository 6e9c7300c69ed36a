"""The frames of a video file or a camera, read by OpenCV, and what a network says of them second by second."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ppcls_ext.data.image_bounds import require_size
from ppcls_ext.data.image_files import MAGIC, pixels
from ppcls_ext.data.image_rule import RGB, Preprocessing, channels_text
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import open_regular
from ppcls_ext.packages import import_extra
from ppcls_ext.predict.answers import Choice
from ppcls_ext.predict.classifier import BATCH, Classifier

#: Frames of a second that are looked at by default.
EACH_SECOND = 2
#: Frames a second where neither the file nor the camera tells them.
USUAL_RATE = 30.0
#: How much earlier than its length a video may end: as many frames, or such a share of it, but no more seconds.
FEWER_FRAMES, SHORTER_SHARE, SHORTER_SECONDS = 2, 0.1, 1.0


class Frame(NamedTuple):
    """One frame.

    Attributes:
        number: its place in the video, from 0.
        time: seconds since the first frame.
        image: (H, W, 3) uint8, RGB, turned as the file's metadata say.
    """

    number: int
    time: float
    image: np.ndarray


class Video:
    """A video file or a camera; iterating yields every n-th frame (`Frame`).

        for frame in Video("clip.mp4", every=10):
            print(frame.time, classifier(frame.image))

    Args:
        source: path of a file, or the number of a camera, also as a text.
        every: yields one frame of so many; by default as many as make `EACH_SECOND` a second.

    Attributes:
        name: what messages call it.
        is_camera: whether it has no end.
        rate: frames a second.
        every: see above.
        rotation: degrees by which OpenCV turns the frames, as the file's metadata say.

    Raises:
        PpclsExtError: OpenCV is missing, there is no such file or camera, or it is not a video that OpenCV reads. When
            iterating: there are no frames, or fewer than the file says; those that can be read come first.
    """

    def __init__(self, source: str | os.PathLike | int, every: int | None = None) -> None:
        self._cv2 = _opencv()
        self.is_camera = isinstance(source, int) or (isinstance(source, str) and source.isdecimal())
        self.name = f"camera {source}" if self.is_camera else str(source)
        if self.is_camera:
            self._capture = self._cv2.VideoCapture(int(source))  # type: ignore[arg-type]
        else:
            _require_no_image(Path(source))  # type: ignore[arg-type]
            # whole, as a name may look like a protocol of FFmpeg's or like a pattern of images
            self._capture = self._cv2.VideoCapture(str(Path(source).resolve()))  # type: ignore[arg-type]
        if not self._capture.isOpened():
            raise PpclsExtError(
                f"{self.name}: there is no such camera, or it is in use"
                if self.is_camera
                else f"{self.name}: OpenCV reads no video in it: it is damaged, truncated or of an unknown format"
            )
        try:
            require_size(int(self._value("FRAME_WIDTH")), int(self._value("FRAME_HEIGHT")))
        except PpclsExtError as error:
            raise PpclsExtError(f"{self.name}: {error}") from error
        told = self._value("FPS")
        self.rate = told if math.isfinite(told) and 0 < told <= 1000 else USUAL_RATE
        self.every = every or max(1, round(self.rate / EACH_SECOND))
        self._capture.set(self._cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        self.rotation = 0 if self.is_camera else int(max(0, self._value("ORIENTATION_META")))

    def __str__(self) -> str:
        turned = f", turned by {self.rotation}° as the file says" if self.rotation else ""
        rate = f"{self.name}: {self.rate:.3g} frames a second, "
        if self.every == 1:
            return f"{rate}all of which are looked at{turned}"
        each = self.rate / self.every
        return f"{rate}of which every {ordinal(self.every)} is looked at, {each:.2g} a second{turned}"

    def __iter__(self) -> Iterator[Frame]:
        index, start, now = 0, time.monotonic(), 0.0
        while self._capture.grab():
            now = self._time(index, start)
            if index % self.every == 0:
                is_read, image = self._capture.retrieve()
                if is_read and image is not None:
                    yield Frame(index, now, np.ascontiguousarray(image[..., ::-1]))
            index += 1
        self._require_whole(index, now)

    def _time(self, index: int, start: float) -> float:
        """Seconds of the frame that was grabbed last; by the clock for a camera."""
        if self.is_camera:
            return time.monotonic() - start
        told = self._value("POS_MSEC") / 1000
        return told if told > 0 else index / self.rate

    def _require_whole(self, count: int, last: float) -> None:
        if self.is_camera:
            raise PpclsExtError(f"{self.name} gives no {'further ' * bool(count)}image: it was unplugged, or is in use")
        if not count:
            raise PpclsExtError(f"{self.name}: the video has no frame that can be read")
        told = self._value("FRAME_COUNT") / self.rate
        ended = last + 1 / self.rate
        if told - ended > max(FEWER_FRAMES / self.rate, min(SHORTER_SHARE * told, SHORTER_SECONDS)):
            raise PpclsExtError(
                f"{self.name}: ends after {ended:.1f} s of {told:.1f} s: it is truncated or damaged; the results are "
                "those of the frames before"
            )

    def _value(self, name: str) -> float:
        return float(self._capture.get(getattr(self._cv2, f"CAP_PROP_{name}")))

    def close(self) -> None:
        """Closes the file or the camera."""
        self._capture.release()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Second(NamedTuple):
    """What a network says of a second of a video.

    Attributes:
        start: its beginning, in whole seconds.
        result: the classes by the mean of its frames' scores, as `Choice` gives them.
        frames: the result of each frame, which also has "frame", its number, and "time", in seconds.
    """

    start: int
    result: dict[str, list]
    frames: list[dict[str, Any]]


def classify_video(classifier: Classifier, video: Video, choose: Choice) -> Iterator[Second]:
    """Classifies the frames of a video.

    Args:
        classifier: the network.
        video: open.
        choose: which classes each result holds.

    Yields:
        Each second with frames, as soon as it is over. A camera's last one ends with an interruption (Ctrl-C).

    Raises:
        PpclsExtError: as iterating over `Video`; behind the last second that can be read.
    """
    frames: list[Frame] = []
    inputs: list[np.ndarray] = []
    try:
        for frame in video:
            if frames and int(frame.time) != int(frames[-1].time):
                yield _second(classifier, choose, frames, inputs)
                frames, inputs = [], []
            prepared = classifier.input(_of_channels(frame.image, classifier.metadata.preprocessing))
            frames.append(frame._replace(image=frame.image[:0]))  # the pixels of a second may take gigabytes
            inputs.append(prepared)
    except (PpclsExtError, KeyboardInterrupt) as error:
        ends_so = video.is_camera and isinstance(error, KeyboardInterrupt)
        if inputs and (ends_so or isinstance(error, PpclsExtError)):
            yield _second(classifier, choose, frames, inputs)
        if ends_so:
            return
        raise
    if inputs:
        yield _second(classifier, choose, frames, inputs)


def _of_channels(image: np.ndarray, rule: Preprocessing) -> np.ndarray:
    """Makes of a frame, (H, W, 3), what an image file of its colours would be: (H, W, channels)."""
    if rule.channels == RGB:
        return image
    try:
        return pixels(Image.fromarray(image), rule.decode, rule.channels)
    except PpclsExtError as error:
        raise PpclsExtError(
            f"a video's frames are RGB, and the network takes {channels_text(rule.channels)}: expected 1 to 4"
        ) from error


def _second(classifier: Classifier, choose: Choice, frames: list[Frame], inputs: list[np.ndarray]) -> Second:
    size = classifier.batch or BATCH
    batches = [classifier.scores(np.stack(inputs[i : i + size])) for i in range(0, len(inputs), size)]
    scores = np.concatenate(batches)
    of_frames = [
        {"frame": frame.number, "time": round(frame.time, 3), **choose(row)} for frame, row in zip(frames, scores)
    ]
    return Second(int(frames[0].time), choose(scores.mean(axis=0)), of_frames)


def clock(seconds: int) -> str:
    """Returns a time as 0:00:07."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def ordinal(number: int) -> str:
    """Returns 1st, 2nd, 3rd, 4th, …"""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _opencv() -> Any:
    # both are read when it is loaded; it prints what it finds in a damaged file, and what cameras there are not
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return import_extra("cv2", "video")


def _require_no_image(path: Path) -> None:
    """Raises PpclsExtError for what is no file, and for images, which OpenCV takes for videos of one frame."""
    try:
        with open(open_regular(path), "rb") as stream:
            begin = stream.read(16)
    except OSError as error:
        raise PpclsExtError(f"{path}: {error.strerror or error}; expected a video file or a camera's number") from error
    if any(begin.startswith(magic) for magic in MAGIC):
        raise PpclsExtError(f"{path} is an image: give it without --video")

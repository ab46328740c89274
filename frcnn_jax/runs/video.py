"""Reading and writing videos, frame by frame, with OpenCV."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

__all__ = ["VIDEO_SUFFIXES", "Frame", "VideoFacts", "read_frames", "video_facts", "writing_video"]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts")
"""Suffixes of video files."""
_CONVERT = "OpenCV cannot read it; convert it, as by: ffmpeg -i VIDEO -c:v libx264 -pix_fmt yuv420p OTHER.mp4"
_USUAL_RATE = 25.0  # for a file that states none


@dataclasses.dataclass(frozen=True)
class VideoFacts:
    """Size, frame rate and length of a video, from its header. Frames are turned as in viewers."""

    size: tuple[int, int]  # height and width of its first frame
    rate: float  # frames per second
    frames: int  # as stated, maybe not exact; 0 if not stated


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of a video."""

    index: int  # from 0, counting all frames
    seconds: float  # after the start
    image: UInt8[np.ndarray, "H W 3"]  # RGB


def video_facts(path: str | Path) -> VideoFacts:
    """The facts of a video; reads its first frame.

    Raises:
        ValueError: OpenCV cannot read it.
    """
    with _opened(path) as capture:
        found, image = capture.read()
        if not found:
            raise ValueError(f"{path}: {_CONVERT}")
        return VideoFacts(image.shape[:2], _rate(capture), max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0))


def read_frames(path: str | Path, every: int = 1) -> Iterator[Frame]:
    """Frames 0, `every`, 2 `every` ... of a video, up to its end or its first unreadable frame.

    Raises:
        ValueError: OpenCV cannot read it.
    """
    with _opened(path) as capture:
        rate, index = _rate(capture), 0
        while capture.grab():
            if index % every == 0:
                # Phones record at varying rates; the time is 0 if the file has none.
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                found, image = capture.retrieve()
                if not found:
                    return
                yield Frame(index, seconds if seconds > 0 else index / rate, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            index += 1


@contextlib.contextmanager
def writing_video(path: str | Path, rate: float) -> Iterator[Callable[[UInt8[np.ndarray, "H W 3"]], None]]:
    """Yields a function that adds an RGB frame to the MPEG-4 video `path`, which ends in .mp4.

    The file appears when the block is left, except after an exception or without frames. All frames are resized to the
    first one's size. As the format has even sizes only, the last row or column is doubled where their number is odd.

    Args:
        rate: frames per second.

    Raises:
        OSError: the video cannot be written, or frames are missing in it, for example because the disk is full.
    """
    writer = _Writer(Path(path), rate)
    try:
        yield writer.add
    except BaseException:
        writer.close(keep=False)
        raise
    writer.close(keep=True)


class _Writer:
    """A video that is written under a temporary name and renamed at the end."""

    def __init__(self, path: Path, rate: float):
        # OpenCV chooses the format by the suffix.
        self._path, self._partial = path, path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
        self._rate, self._size, self._count = rate, (0, 0), 0
        self._video: cv2.VideoWriter | None = None

    def add(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        if self._video is None:
            self._size = image.shape[1::-1]
            width, height = (side + side % 2 for side in self._size)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._video = cv2.VideoWriter(str(self._partial), codec, self._rate, (width, height))
            if not self._video.isOpened():
                raise OSError(f"{self._path}: OpenCV cannot write a video of {width} x {height} pixels there")
        if image.shape[1::-1] != self._size:
            image = cv2.resize(image, self._size)
        right, bottom = (side % 2 for side in self._size)
        bgr = cv2.copyMakeBorder(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        self._video.write(bgr)
        self._count += 1

    def close(self, *, keep: bool) -> None:
        if self._video is not None:
            self._video.release()
        try:
            if keep and self._count:
                self._check()
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _check(self) -> None:
        """Raises OSError if the file has fewer frames than were written: OpenCV does not report that itself."""
        capture = cv2.VideoCapture(str(self._partial))
        found = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        capture.release()
        if found < self._count:
            raise OSError(f"{self._path}: of {self._count} frames only {found} could be written; is the disk full?")


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise ValueError(f"{path}: {_CONVERT}")
        yield capture
    finally:
        capture.release()


def _rate(capture: cv2.VideoCapture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= 1000 else _USUAL_RATE

"""Detections in files: a picture and a JSON file per image, a video and a JSON lines file per video."""

from __future__ import annotations

import contextlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from frcnn_jax.atomic import replacing, write_bytes, write_text
from frcnn_jax.data.images import decode_image, encode_image
from frcnn_jax.data.proposals.selective_search import search_image
from frcnn_jax.evaluation.drawing import draw_detections
from frcnn_jax.evaluation.outputs.voc_xml import write_voc_xml
from frcnn_jax.evaluation.valid_records import at_least
from frcnn_jax.machine import cores
from frcnn_jax.progress import Progress, paused_clock
from frcnn_jax.runs.detect_inputs import ImageInput
from frcnn_jax.runs.detect_results import check_results, result_files
from frcnn_jax.runs.detector import Detector
from frcnn_jax.runs.video import Frame, read_frames, video_facts, writing_video
from frcnn_jax.types import Detections
from frcnn_jax.words import counted, listed

__all__ = ["PictureFormat", "check_results", "detect_images", "detect_video", "result_files"]

PictureFormat = Literal["input", "jpg", "png", "none"]
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_MOST_THREADS = 16  # each holds an image or a frame of a video
_NAMED = 12  # classes


def detect_images(
    detector: Detector,
    images: Sequence[ImageInput],
    out: Path,
    *,
    proposals: Sequence[Float[np.ndarray, "P 4"]] | None = None,
    score: float = 0.5,
    min_score: float = 0.0,
    pictures: PictureFormat = "input",
    voc_xml: Path | None = None,
    lines: bool = True,
) -> None:
    """Writes NAME.detections.json and a picture for each image, with a progress bar and a summary of several images.

    Images are decoded and their proposals computed on all cores, some images ahead.

    Args:
        proposals: boxes of each image; if None, computed with the run's settings.
        score: least score of detections to draw and count.
        min_score: least score of detections in the files, JSON and VOC XML.
        pictures: format of the pictures. "input" is PNG for lossless inputs and JPEG for others.
        voc_xml: folder for VOC XML of the drawn detections; None writes none.
        lines: also print a line for each image.
    """
    config, counts, best, compiled = detector.config.proposals, [], 0.0, set[bool]()

    def prepared(place: int) -> tuple[np.ndarray, np.ndarray]:
        image = _decoded(images[place])
        return image, search_image(image, config) if proposals is None else proposals[place]

    pairs = _ahead(prepared, range(len(images)))
    with (
        contextlib.closing(Progress(total=len(images), desc="Detecting", unit="image", leave=len(images) > 1)) as bar,
        contextlib.closing(pairs),  # here: one of its own threads might end it, and wait for itself
    ):
        try:
            for place, (image, boxes) in pairs:
                file = images[place]
                with _compiling(image, bar, compiled):
                    found = detector.detect(image, boxes)
                if pictures != "none":
                    _write_picture(out, file.path, pictures, _draw(detector, image, found, score))
                _write_json(detector, file, image.shape[:2], found, min_score, out)
                if voc_xml is not None:
                    about = file.path.stem, file.path.name, file.size, found, detector.classes
                    write_voc_xml(voc_xml, *about, min_score=max(score, min_score))
                counts.append(np.bincount(found.labels[found.scores >= score], minlength=len(detector.classes) + 1))
                highest = found.scores.max(initial=0.0)
                best = max(best, highest)
                if lines:
                    objects = _objects(int(counts[-1].sum()), score, highest)
                    bar.write(f"{file.path}: {counted(len(boxes), 'proposal')}, {objects}")
                bar.update()
        except KeyboardInterrupt:
            bar.write(f"{len(counts)} of {counted(len(images), 'image')} done")
            raise
    if len(counts) > 1:
        print(_summary(np.array(counts), detector.classes, score, best))


def detect_video(
    detector: Detector, path: Path, out: Path, *, every: int = 1, score: float = 0.5, min_score: float = 0.0
) -> None:
    """Writes NAME.detections.mp4 and NAME.detections.jsonl of a video, with a progress bar and a line.

    Each JSON line is a frame. The video shows these frames at the original speed. After an interruption both hold the
    frames up to that point.

    Args:
        every: detect in every n-th frame, from the first on.
        score: least score of detections to draw and count.
        min_score: least score of detections in the JSON lines.

    Raises:
        ValueError: the video cannot be read.
        OSError: a result cannot be written, for example because the disk is full.
    """
    facts, config, compiled = video_facts(path), detector.config.proposals, set[bool]()
    lines, video = result_files(out, path, video=True)
    count = objects = 0
    stopped: KeyboardInterrupt | None = None
    expected = math.ceil(facts.frames / every)
    pairs = _ahead(lambda frame: search_image(frame.image, config), read_frames(path, every))
    with (
        contextlib.closing(Progress(total=expected or None, desc=path.name, unit="frame")) as bar,
        contextlib.closing(pairs),  # here: one of its own threads might end it, and wait for itself
        replacing(lines) as temporary,
        temporary.open("w") as file,
        writing_video(video, facts.rate / every) as add,
    ):
        try:
            for frame, boxes in pairs:
                with _compiling(frame.image, bar, compiled):
                    found = detector.detect(frame.image, boxes)
                add(_draw(detector, frame.image, found, score))
                file.write(json.dumps(_frame_json(detector, path, frame, found, min_score)) + "\n")
                count, objects = count + 1, objects + _count(found, score)
                bar.update()
        except KeyboardInterrupt as error:
            if not count:
                raise
            stopped = error
    frames = _frames_text(count, every, expected)
    if stopped is not None:
        frames = f"interrupted after {count}{f' of {expected}' if expected else ''} frames"
    print(f"{path}: {frames}, {_objects(objects, score)}")
    if stopped is not None:
        raise stopped


@contextlib.contextmanager
def _compiling(image: np.ndarray, bar: Progress, compiled: set[bool]) -> Iterator[None]:
    """Shows on the bar that the detector compiles, for the first upright and the first wide image; that time does not
    count.
    """
    upright = image.shape[0] > image.shape[1]
    with contextlib.nullcontext() if upright in compiled else paused_clock(bar, "compiling the detector"):
        yield
    compiled.add(upright)


def _summary(counts: Int[np.ndarray, "N K1"], classes: Sequence[str], score: float, best: float) -> str:
    """A line about all images: objects by class, the most frequent first, and images without any."""
    by_class, empty = counts.sum(axis=0), int((counts.sum(axis=1) == 0).sum())
    order = [label for label in np.argsort(-by_class, kind="stable").tolist() if by_class[label]]
    names = listed([f"{classes[label - 1]} {by_class[label]}" for label in order], _NAMED)
    text = f"{counted(len(counts), 'image')}: {_objects(int(by_class.sum()), score, best)}"
    return text + (f" ({names})" if names else "") + (f", none in {counted(empty, 'image')}" if empty and names else "")


def _objects(count: int, score: float, best: float = 0.0) -> str:
    """Number of objects in words; without any, also the best score below the limit."""
    shown = f"{best:.2g}"
    if float(shown) >= score:  # rounded up
        shown = f"{math.floor(best * 1e4) / 1e4:g}"
    below = f" (the best has {shown})" if not count and best else ""
    return f"{counted(count, 'object')} with score >= {score:g}{below}"


def _ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Pairs of an item and `function(item)`, computed in threads a few items ahead."""
    workers = min(cores(), _MOST_THREADS)
    items, running = iter(items), deque[tuple[Any, Future]]()
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            while len(running) <= workers and (item := next(items, None)) is not None:
                running.append((item, pool.submit(function, item)))
            if not running:
                return
            item, future = running.popleft()
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decoded(image: ImageInput) -> UInt8[np.ndarray, "H W 3"]:
    return decode_image(image.path.read_bytes(), image.orientation)


def _count(found: Detections, score: float) -> int:
    return int((found.scores >= score).sum())


def _draw(detector: Detector, image: np.ndarray, found: Detections, score: float) -> UInt8[np.ndarray, "H W 3"]:
    return draw_detections(image, found, detector.classes, min_score=score)


def _write_picture(out: Path, path: Path, pictures: str, picture: np.ndarray) -> None:
    """Writes NAME.detections.jpg or .png, and removes the one with the other ending, from an earlier call."""
    ending = pictures if pictures != "input" else "png" if path.suffix.lower() in _LOSSLESS else "jpg"
    _, jpeg = result_files(out, path, video=False)
    files = {"jpg": jpeg, "png": jpeg.with_suffix(".png")}
    write_bytes(files[ending], encode_image(picture, f".{ending}", _JPEG if ending == "jpg" else ()))
    files["png" if ending == "jpg" else "jpg"].unlink(missing_ok=True)


def _rows(detector: Detector, found: Detections, min_score: float) -> list[dict[str, Any]]:
    kept = at_least(found.scores, min_score)
    return [
        {"class": detector.classes[label - 1], "score": float(score), "box": [float(x) for x in box]}
        for label, score, box in zip(found.labels[kept], found.scores[kept], found.boxes[kept], strict=True)
    ]


def _write_json(
    detector: Detector, file: ImageInput, size: tuple[int, int], found: Detections, min_score: float, out: Path
) -> None:
    text = {
        "image": str(file.path),  # as given; "path" identifies the image
        "path": str(file.path.resolve()),
        "height": size[0],
        "width": size[1],
        "orientation": file.orientation,  # EXIF orientation that was applied; 1: as stored
        "detections": _rows(detector, found, min_score),
    }
    write_text(result_files(out, file.path, video=False)[0], json.dumps(text, indent=1) + "\n")


def _frame_json(detector: Detector, path: Path, frame: Frame, found: Detections, min_score: float) -> dict[str, Any]:
    return {
        "video": str(path),
        "path": str(path.resolve()),
        "frame": frame.index,
        "seconds": round(frame.seconds, 3),
        "height": frame.image.shape[0],
        "width": frame.image.shape[1],
        "detections": _rows(detector, found, min_score),
    }


def _frames_text(count: int, every: int, expected: int) -> str:
    text = counted(count, "frame") + ("" if every == 1 else f", one in {every}")
    return f"{text} ({expected} by its header)" if count < expected - 1 else text

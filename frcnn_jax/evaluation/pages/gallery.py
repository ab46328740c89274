"""The pictures of a report: choice of images, files, and data for the page's script to sort and filter them."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from jaxtyping import Float, Int

from frcnn_jax.atomic import write_bytes
from frcnn_jax.data.dataset import Dataset
from frcnn_jax.data.files import map_in_threads
from frcnn_jax.data.images import encode_image
from frcnn_jax.evaluation.analysis.matches import HIT, KINDS, MEANINGS, Matches
from frcnn_jax.evaluation.drawing import draw_detections
from frcnn_jax.evaluation.valid_records import at_least
from frcnn_jax.progress import Progress
from frcnn_jax.types import Detections

__all__ = ["choose_images", "file_stem", "jpeg", "thumbnail", "write_gallery"]

_THUMBNAIL = 400  # pixels of the longer side
_DETECTIONS = 100  # best detections per image in the page's data
_LONGEST = 200  # bytes of a stem: file systems allow 255 of a name, with its suffix


def file_stem(image_id: str) -> str:
    """A file name for an image id, without suffix: forbidden characters are written as %XX, and a long name is cut and
    ends with a hash of the id.
    """
    stem = re.sub(r"[^\w. -]", lambda m: quote(m[0], safe=""), image_id)
    if len(stem.encode()) <= _LONGEST:
        return stem
    ending = f"-{hashlib.sha256(image_id.encode()).hexdigest()[:12]}"
    return stem.encode()[: _LONGEST - len(ending)].decode(errors="ignore") + ending


def write_gallery(
    directory: str | Path,
    dataset: Dataset,
    detections: Mapping[str, Detections],
    matches: Matches,
    *,
    pictures: int,
    min_score: float,
) -> dict[str, Any] | None:
    """Writes `images/ID.jpg`, with detections of at least `min_score` drawn, and plain `thumbnails/ID.jpg`.

    Args:
        matches: matches of the data set, in its order.
        pictures: most images, chosen by `choose_images`.

    Returns:
        Data for the page: `images` with their files, detections (the best 100 of each) and objects; None without
            pictures.
    """
    directory = Path(directory)
    chosen = choose_images(matches, len(dataset), pictures, min_score)

    def write(index: int) -> None:
        image_id = dataset.image_ids[index]
        image = dataset.read_image(index)
        drawn = draw_detections(
            image,
            detections[image_id],
            dataset.classes,
            ground_truth=dataset.annotations[index],
            min_score=min_score,
        )
        for folder, picture in (("images", drawn), ("thumbnails", thumbnail(image, _THUMBNAIL))):
            write_bytes(directory / folder / f"{file_stem(image_id)}.jpg", jpeg(picture))

    for _ in Progress(map_in_threads(write, chosen), "Drawing", len(chosen), unit="image", leave=False, delay=2):
        pass
    return _page_data(dataset, matches, chosen, min_score) if chosen else None


def thumbnail(image: np.ndarray, side: int) -> np.ndarray:
    """The image with its longer side reduced to `side` pixels; unchanged if it is smaller."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(round(length * scale), 1) for length in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def jpeg(image: np.ndarray, quality: int = 85) -> bytes:
    """An RGB image as a JPEG file; reduced to 65,500 pixels a side, as JPEG holds no more."""
    return encode_image(image, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, quality))


def choose_images(matches: Matches, count: int, pictures: int, min_score: float) -> list[int]:
    """Positions of at most `pictures` of `count` images, sorted.

    A quarter is spread over the data set. The others come in turn from the worst and the best images, and for each
    class from the images with the highest false alarms, missed objects and highest hits.
    """
    if pictures >= count:
        return list(range(count))
    places = np.linspace(0, count - 1, pictures // 4).astype(int).tolist()
    chosen = dict.fromkeys(places)
    lists = [_distinct(ranking) for ranking in _rankings(matches, count, min_score)]
    for image in itertools.chain.from_iterable(itertools.zip_longest(*lists)):
        if len(chosen) >= pictures:
            break
        if image is not None:
            chosen[image] = None
    rest = (image for image in range(count) if image not in chosen)
    return sorted([*chosen, *itertools.islice(rest, max(pictures - len(chosen), 0))])


def _distinct(images: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(images))


def _rankings(matches: Matches, count: int, min_score: float) -> list[list[int]]:
    """Images by rank: the worst, the best, and per class those with errors, missed objects and hits."""
    seen = at_least(matches.scores, min_score)
    hits, errors = seen & (matches.kinds == HIT), seen & (matches.kinds >= 0)
    by = matches.found_by
    found = by >= 0
    found[found] = at_least(matches.scores[by[found]], min_score)
    missed = matches.counted & ~found
    numbers = [
        np.bincount(images, minlength=count)
        for images in (matches.image[hits], matches.image[errors], matches.object_image[missed])
    ]
    wrong = numbers[1] + numbers[2]
    f1 = 2 * numbers[0] / np.maximum(2 * numbers[0] + wrong, 1)
    rankings = [
        _ranked(np.arange(count), wrong > 0, f1, -wrong),
        _ranked(np.arange(count), numbers[0] > 0, -f1, -numbers[0]),
    ]
    area = (matches.object_boxes[:, 2:] - matches.object_boxes[:, :2]).prod(axis=1)
    for label in np.union1d(matches.labels[seen], matches.object_labels).tolist():
        of_class = matches.labels == label
        rankings.append(_ranked(matches.image, errors & of_class, -matches.scores))
        rankings.append(_ranked(matches.object_image, missed & (matches.object_labels == label), -area))
        rankings.append(_ranked(matches.image, hits & of_class, -matches.scores))
    return rankings


def _ranked(images: Int[np.ndarray, " D"], chosen: np.ndarray, *keys: Float[np.ndarray, " D"]) -> list[int]:
    """The chosen images sorted by keys; the first key counts most."""
    order = np.lexsort([key[chosen] for key in keys[::-1]])
    return images[chosen][order].tolist()


def _page_data(dataset: Dataset, matches: Matches, chosen: Sequence[int], score: float) -> dict[str, Any]:
    first = np.searchsorted(matches.image, np.arange(len(dataset) + 1))
    first_object = np.searchsorted(matches.object_image, np.arange(len(dataset) + 1))
    images = []
    low = high = score
    for index in chosen:
        height, width = dataset.sizes[index].tolist()
        rows = np.arange(first[index], first[index + 1])
        rows = rows[np.argsort(-matches.scores[rows], kind="stable")][:_DETECTIONS]
        if len(rows):
            low, high = min(low, matches.scores[rows[-1]]), max(high, matches.scores[rows[0]])
        stem = quote(file_stem(dataset.image_ids[index]))
        images.append(
            {
                "name": dataset.image_ids[index],
                "file": f"images/{stem}.jpg",
                "thumbnail": f"thumbnails/{stem}.jpg",
                "size": [width, height],
                "detections": [
                    [label, round(value, 3), kind, *box]
                    for label, value, kind, box in zip(
                        *(matches.labels[rows].tolist(), matches.scores[rows].tolist(), matches.kinds[rows].tolist()),
                        matches.boxes[rows].round().astype(int).tolist(),
                        strict=True,
                    )
                ],
                "objects": _objects(matches, slice(first_object[index], first_object[index + 1])),
            }
        )
    return {
        "classes": list(dataset.classes),
        "kinds": list(KINDS[:-1]),
        "meanings": MEANINGS,
        "score": score,
        "scores": [math.floor(low * 100) / 100, math.ceil(high * 100) / 100],
        "images": images,
    }


def _objects(matches: Matches, rows: slice) -> list[list[Any]]:
    """Label, counted or not, score of the hit, and box of each object."""
    scores = [None if by < 0 else round(float(matches.scores[by]), 3) for by in matches.found_by[rows].tolist()]
    return [
        [label, int(counted), score, *box]
        for label, counted, score, box in zip(
            *(matches.object_labels[rows].tolist(), matches.counted[rows].tolist(), scores),
            matches.object_boxes[rows].round().astype(int).tolist(),
            strict=True,
        )
    ]

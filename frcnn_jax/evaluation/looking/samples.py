"""Pictures of a folder: objects of each class, the largest and smallest, the most crowded images."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from frcnn_jax.data.files import map_in_threads
from frcnn_jax.evaluation.drawing import PALETTE, box_pixels, draw_objects
from frcnn_jax.evaluation.looking.objects import all_objects
from frcnn_jax.evaluation.looking.survey import Survey
from frcnn_jax.evaluation.pages.gallery import jpeg, thumbnail
from frcnn_jax.words import counted

__all__ = ["Picture", "embedded", "sample_pictures"]

_OF_CLASS, _EXTREMES, _IMAGES = 6, 8, 6
_CLASSES = 60  # most classes to show
_TILE, _WIDE = 130, 280  # pixels of the longer side


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture embedded in the page."""

    source: str  # data URL
    caption: str
    width: int  # pixels
    plain: str | None = None  # data URL without the boxes, if the page can hide them


Draw = Callable[[UInt8[np.ndarray, "H W 3"]], UInt8[np.ndarray, "h w 3"]]


class _Wanted(NamedTuple):
    """A picture to draw, and its place on the page."""

    section: str
    group: str
    index: int  # of the image
    draw: Draw
    caption: str


def embedded(
    image: UInt8[np.ndarray, "H W 3"], caption: str, plain: UInt8[np.ndarray, "H W 3"] | None = None
) -> Picture:
    """An RGB image as a picture."""
    return Picture(_url(image), caption, image.shape[1], None if plain is None else _url(plain))


def _url(image: UInt8[np.ndarray, "H W 3"]) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(image, quality=80)).decode()


def sample_pictures(survey: Survey) -> dict[str, dict[str, list[Picture]]]:
    """Pictures by section and by class or kind. Each image is decoded once; undecodable ones are skipped."""
    view = survey.view
    objects = all_objects(view.annotations)
    owner, boxes, labels, crowd = objects.image, objects.boxes, objects.labels, objects.crowd
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    wanted: list[_Wanted] = []

    def add_objects(section: str, group: str, chosen: Iterable[int], context: float) -> None:
        for at in chosen:
            index = int(owner[at])
            width, height = boxes[at, 2:] - boxes[at, :2]
            caption = f"{view.image_ids[index]}: {width:.0f} x {height:.0f}"
            if section == "objects":
                caption = f"{view.classes[labels[at] - 1]}, {caption}"
            wanted.append(_Wanted(section, group, index, _crop(boxes[at], int(labels[at]), context), caption))

    by_class = np.bincount(labels.astype(int), minlength=len(view.classes) + 1)[1:]
    for label in np.sort(np.argsort(-by_class, kind="stable")[:_CLASSES]) + 1:
        of_class = np.flatnonzero((labels == label) & ~crowd)
        add_objects("classes", view.classes[label - 1], _spread(of_class, area, owner), 0.25)
    order = np.argsort(area, kind="stable")
    order = order[~crowd[order]]
    add_objects("objects", "largest", order[::-1][:_EXTREMES], 0.1)
    add_objects("objects", "smallest", order[:_EXTREMES], 2.0)

    counts = np.array([len(truth.labels) for truth in view.annotations], int)
    crowded = np.argsort(-counts, kind="stable")[:_IMAGES]
    empty = np.flatnonzero(counts == 0)
    empty = empty[np.unique(np.linspace(0, len(empty) - 1, _IMAGES).astype(int))] if len(empty) else empty
    place = {image_id: i for i, image_id in enumerate(view.image_ids)}
    equal = [place[name] for group in survey.equal for _, name in group if name in place][:_IMAGES]
    for group, chosen in (("most crowded", crowded), ("without objects", empty), ("equal images", equal)):
        for index in chosen:
            caption = f"{view.image_ids[index]} ({survey.split_of[index]}): {counted(int(counts[index]), 'object')}"
            wanted.append(_Wanted("images", group, int(index), _whole(view.annotations[index]), caption))
    return _draw(view.read_image, wanted)


def _draw(read: Callable[[int], Any], wanted: Sequence[_Wanted]) -> dict[str, dict[str, list[Picture]]]:
    """The pictures by section and group, in the requested order."""
    tasks: dict[int, list[int]] = {}
    for number, picture in enumerate(wanted):
        tasks.setdefault(picture.index, []).append(number)

    def pictures(index: int) -> list[tuple[int, Picture]]:
        try:
            image = read(index)
        except (ValueError, OSError):
            return []
        return [(number, embedded(wanted[number].draw(image), wanted[number].caption)) for number in tasks[index]]

    sources = dict(pair for pairs in map_in_threads(pictures, list(tasks)) for pair in pairs)
    sections: dict[str, dict[str, list[Picture]]] = {}
    for number, picture in enumerate(wanted):
        if number in sources:
            sections.setdefault(picture.section, {}).setdefault(picture.group, []).append(sources[number])
    return sections


def _spread(objects: Int[np.ndarray, " O"], area: Float[np.ndarray, " G"], owner: Int[np.ndarray, " G"]) -> list[int]:
    """Objects of all sizes, sorted by area, from different images if possible."""
    order = objects[np.argsort(area[objects], kind="stable")]
    first: dict[int, int] = {}
    for at in order[np.random.default_rng(0).permutation(len(order))]:
        first.setdefault(int(owner[at]), int(at))
    chosen = [at for at in order if first[int(owner[at])] == at] if len(first) >= _OF_CLASS else list(order)
    places = np.unique(np.linspace(0, len(chosen) - 1, _OF_CLASS).astype(int)) if chosen else []
    return [int(chosen[place]) for place in places]


def _crop(box: Float[np.ndarray, " 4"], label: int, context: float) -> Draw:
    def draw(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        height, width = image.shape[:2]
        margin = max(context * float((box[2:] - box[:2]).max()), 8)
        x1, y1 = (int(max(value - margin, 0)) for value in box[:2])
        x2, y2 = (
            int(min(np.ceil(value + margin), limit)) for value, limit in zip(box[2:], (width, height), strict=True)
        )
        part = image[y1:y2, x1:x2]
        scale = _TILE / max(part.shape[:2])
        size = [max(round(side * scale), 1) for side in part.shape[1::-1]]
        tile = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        corners = box_pixels((box - [x1, y1, x1, y1]) * scale, tile.shape)
        cv2.rectangle(tile, corners[:2], corners[2:], _color(label), 2)
        return tile

    return draw


def _whole(truth: Any) -> Draw:
    return lambda image: thumbnail(draw_objects(image, truth), _WIDE)


def _color(label: int) -> tuple[int, int, int]:
    return PALETTE[(label - 1) % len(PALETTE)]

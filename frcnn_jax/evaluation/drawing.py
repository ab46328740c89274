"""Detections drawn on an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from frcnn_jax.data.images import check_pixels
from frcnn_jax.evaluation.fonts import drawable_names, render_text
from frcnn_jax.evaluation.valid_records import at_least, check_class_names, valid_detections
from frcnn_jax.types import Detections, GroundTruth

__all__ = ["PALETTE", "box_pixels", "draw_detections", "draw_objects", "draw_rois"]

# By label, then from the start again; neighbours differ in hue and brightness.
PALETTE = (
    (230, 40, 50), (40, 110, 235), (50, 170, 60), (255, 150, 20), (150, 60, 200),
    (0, 190, 200), (240, 90, 180), (150, 100, 40), (170, 210, 20), (90, 90, 160),
    (255, 210, 40), (0, 120, 110), (255, 130, 110), (120, 180, 255), (110, 20, 60),
    (130, 230, 160), (200, 160, 255), (90, 100, 20), (20, 40, 120), (160, 160, 160),
)  # fmt: skip


def draw_detections(
    image: UInt8[np.ndarray, "H W 3"],
    detections: Detections,
    class_names: Sequence[str],
    *,
    ground_truth: GroundTruth | None = None,
    min_score: float = 0.5,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """A copy of an RGB image with the detections of score `min_score` or more; ground truth in dashed white.

    Lines and text grow with the image. An image with both sides below 480 pixels is enlarged by a whole number. A class
    name with characters that no installed font has is written as its label, `class 3`.

    Raises:
        ValueError: the image is not uint8 [H, W, 3], or the detections are malformed or of an unnamed class.
    """
    import cv2

    check_pixels(image)
    check_class_names(class_names, distinct=False)
    boxes, scores, labels = valid_detections(detections, "draw_detections", len(class_names))
    factor = max(1, math.ceil(480 / max(image.shape[:2])))
    canvas = np.ascontiguousarray(image)
    canvas = canvas.copy() if factor == 1 else cv2.resize(canvas, None, fx=factor, fy=factor)
    size = math.sqrt(canvas.shape[0] * canvas.shape[1])
    line = max(2, round(size / 300))

    best_first = np.argsort(-scores, kind="stable")
    best_first = best_first[at_least(scores[best_first], min_score)]
    corners = {i: box_pixels(boxes[i] * factor, canvas.shape) for i in best_first}
    colors = {i: PALETTE[(labels[i] - 1) % len(PALETTE)] for i in best_first}
    for i in best_first[::-1]:
        cv2.rectangle(canvas, corners[i][:2], corners[i][2:], colors[i], line)
    if ground_truth is not None:
        for box in np.asarray(ground_truth.boxes, np.float64):
            _draw_dashed(canvas, box_pixels(box * factor, canvas.shape), max(1, line // 2))
    names = drawable_names(class_names)
    plates: list[tuple[int, int, int, int]] = []
    for i in best_first:
        text = f"{names[labels[i] - 1]} {scores[i]:.2f}"
        _draw_label(canvas, text, corners[i], colors[i], max(11, round(size / 42)), plates)
    return canvas


def draw_objects(image: UInt8[np.ndarray, "H W 3"], ground_truth: GroundTruth) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of an RGB image with its objects in the colours of their classes, and crowds in dashed white."""
    import cv2

    check_pixels(image)
    canvas = np.ascontiguousarray(image).copy()
    line = max(2, round(math.sqrt(canvas.shape[0] * canvas.shape[1]) / 300))
    for box, label, crowd in zip(ground_truth.boxes, ground_truth.labels, ground_truth.crowd, strict=True):
        corners = box_pixels(box, canvas.shape)
        if crowd:
            _draw_dashed(canvas, corners, max(1, line // 2))
        else:
            cv2.rectangle(canvas, corners[:2], corners[2:], PALETTE[(int(label) - 1) % len(PALETTE)], line)
    return canvas


def draw_rois(
    image: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "R 4"], labels: Int[np.ndarray, " R"]
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of an RGB image with RoIs: background in gray, and foreground above it in the colour of its class."""
    import cv2

    check_pixels(image)
    canvas = np.ascontiguousarray(image).copy()
    line = max(round(max(canvas.shape[:2]) / 400), 1)
    rois = ((int(label), box_pixels(box, canvas.shape)) for label, box in zip(labels, boxes, strict=True))
    for label, corners in sorted(rois):
        color = PALETTE[(label - 1) % len(PALETTE)] if label else (170, 170, 170)
        cv2.rectangle(canvas, corners[:2], corners[2:], color, line)
    return canvas


def box_pixels(box: Float[np.ndarray, " 4"], shape: Sequence[int]) -> tuple[int, int, int, int]:
    """The first and last pixel of a half-open box, x1 y1 x2 y2, within an image of this shape (height, width ...)."""
    height, width = shape[:2]
    x1, y1, x2, y2 = np.floor(np.add(np.asarray(box, np.float64), (0.5, 0.5, -0.5, -0.5))).astype(int)
    x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return int(x1), int(y1), int(min(max(x2, x1), width - 1)), int(min(max(y2, y1), height - 1))


def _draw_dashed(canvas: np.ndarray, corners: tuple[int, int, int, int], line: int) -> None:
    """A white dashed rectangle with dark gaps, visible on white too."""
    import cv2

    x1, y1, x2, y2 = corners
    cv2.rectangle(canvas, (x1, y1), (x2, y2), (60, 60, 60), line)
    for start, stop in (((x1, y1), (x2, y1)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2)), ((x2, y1), (x2, y2))):
        length = max(stop[0] - start[0], stop[1] - start[1])
        step = (int(stop[0] > start[0]), int(stop[1] > start[1]))
        for first in range(0, length, 10 * line):
            last = min(first + 6 * line, length)
            ends = [(start[0] + step[0] * at, start[1] + step[1] * at) for at in (first, last)]
            cv2.line(canvas, *ends, (255, 255, 255), line)


def _draw_label(
    canvas: np.ndarray,
    text: str,
    corners: tuple[int, int, int, int],
    color: tuple[int, int, int],
    height: int,
    plates: list[tuple[int, int, int, int]],
) -> None:
    """Text with capitals of `height` pixels on a plate of `color`, at the first free place around the box's corner.

    `plates` holds the plates drawn so far; this one is appended.
    """
    import cv2

    ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
    pad = max(2, height // 5)
    if text.isascii():
        font, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(height / 10))
        scale = height / cv2.getTextSize("H", font, 1.0, thick)[0][1]
        (text_width, text_height), descent = cv2.getTextSize(text, font, scale, thick)
        x, y, _, _ = _place_plate(canvas, corners, (text_width, text_height + descent), pad, color, plates)
        cv2.putText(canvas, text, (x + pad, y + pad + text_height), font, scale, ink, thick, cv2.LINE_AA)
    else:  # OpenCV only has ASCII letters
        coverage = render_text(text, height)
        x, y, _, _ = _place_plate(canvas, corners, coverage.shape[::-1], pad, color, plates)
        region = canvas[y + pad :, x + pad :][: coverage.shape[0], : coverage.shape[1]]
        share = coverage[: region.shape[0], : region.shape[1], None] / 255
        region[:] = np.rint(region * (1 - share) + np.array(ink) * share)


def _place_plate(
    canvas: np.ndarray,
    corners: tuple[int, int, int, int],
    text_size: tuple[int, int],
    pad: int,
    color: tuple[int, int, int],
    plates: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Fills a plate for a text of `text_size` (width, height) where it first fits: above the box, in it or below."""
    import cv2

    width, height = text_size[0] + 2 * pad, text_size[1] + 2 * pad
    x1, y1, _, y2 = corners
    x = max(0, min(x1, canvas.shape[1] - width))
    bottom = max(0, canvas.shape[0] - height)
    places = [(x, y, x + width, y + height) for y in (y1 - height, y1, y2 - height, y2 + 1)]
    places = [place for place in places if 0 <= place[1] <= bottom] or [(x, 0, x + width, height)]
    free = [p for p in places if not any(p[0] < t[2] and t[0] < p[2] and p[1] < t[3] and t[1] < p[3] for t in plates)]
    place = (free or places)[0]
    plates.append(place)
    cv2.rectangle(canvas, place[:2], (place[2] - 1, place[3] - 1), color, cv2.FILLED)
    return place

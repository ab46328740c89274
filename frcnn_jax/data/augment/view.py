"""Crops and scale jitter of training images, and their effect on boxes."""

import dataclasses

import numpy as np
from jaxtyping import Float

from frcnn_jax.config import AugmentConfig
from frcnn_jax.data.batch_plan import resized_size
from frcnn_jax.data.records import float_boxes
from frcnn_jax.types import GroundTruth

__all__ = ["TRIES", "View", "changes_views", "choose_view", "crop_boxes", "crop_objects", "view_at", "visible_shares"]

TRIES = 10  # views drawn per image; the first one that keeps an object is used


@dataclasses.dataclass(frozen=True)
class View:
    """A window of an image and its scale."""

    window: tuple[int, int, int, int]  # x1 y1 x2 y2, in whole pixels of the image
    scale: float  # resized size / size of the window

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the window."""
        x1, y1, x2, y2 = self.window
        return y2 - y1, x2 - x1


def changes_views(settings: AugmentConfig) -> bool:
    """True if a setting crops or rescales images."""
    return settings.crop < 1 or settings.scale_jitter != (1, 1)


def view_at(chance: Float[np.ndarray, "5"], size: tuple[int, int], scale: float, settings: AugmentConfig) -> View:
    """The view given by five numbers; after resizing it is at most as large as the whole image at `scale`.

    Args:
        chance: numbers in [0, 1) for the factor on the scale, height, width, top and left of the window.
        size: height and width of the image.
        scale: scale of the image without augmentation.
    """
    low, high = settings.scale_jitter
    shares = settings.crop + chance[1:3] * (1 - settings.crop)
    height, width = (max(round(side * share), 1) for side, share in zip(size, shares, strict=True))
    shown = scale * min(size[0] / height, size[1] / width) * low * (high / low) ** float(chance[0])
    limit = resized_size(size, scale)
    if any(side > most for side, most in zip(resized_size((height, width), shown), limit, strict=True)):
        shown = min(shown, *limit)  # so that at least one pixel fits
        height, width = (
            min(side, max(int(most / shown), 1)) for side, most in zip((height, width), limit, strict=True)
        )
    y, x = int(chance[3] * (size[0] - height + 1)), int(chance[4] * (size[1] - width + 1))
    return View((x, y, x + width, y + height), float(shown))


def choose_view(
    chances: Float[np.ndarray, "T 5"], size: tuple[int, int], scale: float, truth: GroundTruth, settings: AugmentConfig
) -> View:
    """The first of T views that keeps an object, else the whole image; the first view if there are no objects."""
    objects = float_boxes(truth.boxes)[~np.asarray(truth.crowd)]
    for chance in chances:
        view = view_at(chance, size, scale, settings)
        shares = visible_shares(objects, view.window)
        if not len(objects) or ((shares > 0) & (shares >= settings.min_visible)).any():
            return view
    return View((0, 0, size[1], size[0]), scale)


def visible_shares(boxes: Float[np.ndarray, "B 4"], window: tuple[int, int, int, int]) -> Float[np.ndarray, " B"]:
    """Share of each box's area inside the window, 0 ... 1; 0 for an empty box."""
    boxes = float_boxes(boxes)
    area, inside = (np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1) for b in (boxes, _clip(boxes, window)))
    return inside / np.where(area > 0, area, 1)


def crop_boxes(boxes: Float[np.ndarray, "B 4"], window: tuple[int, int, int, int]) -> Float[np.ndarray, "b 4"]:
    """Proposals in the frame of the window, clipped; those that are less than a pixel high or wide are dropped."""
    clipped = _clip(float_boxes(boxes), window) - np.array(window[:2] * 2, np.float32)
    return clipped[(clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)]


def crop_objects(truth: GroundTruth, window: tuple[int, int, int, int], min_visible: float) -> GroundTruth:
    """Objects in the frame of the window, clipped. Objects outside are dropped.

    Objects with a visible share below `min_visible` become crowds: neither objects to learn nor background.
    """
    boxes = float_boxes(truth.boxes)
    shares = visible_shares(boxes, window)
    seen = shares > 0
    return GroundTruth(
        boxes=(_clip(boxes, window) - np.array(window[:2] * 2, np.float32))[seen],
        labels=np.asarray(truth.labels)[seen],
        difficult=np.asarray(truth.difficult)[seen],
        crowd=(np.asarray(truth.crowd) | (shares < min_visible))[seen],
    )


def _clip(boxes: Float[np.ndarray, "B 4"], window: tuple[int, int, int, int]) -> Float[np.ndarray, "B 4"]:
    """Boxes with corners clipped to the window, in the frame of the image."""
    low, high = np.array(window[:2] * 2, np.float32), np.array(window[2:] * 2, np.float32)
    return np.clip(boxes, low, high)

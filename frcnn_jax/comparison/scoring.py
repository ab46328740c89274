"""From SVM scores to detections, as in R-CNN: the best boxes per class and image and over the test set are suppressed,
then regressed, clipped and suppressed again.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from frcnn_jax.detection.detect import trim
from frcnn_jax.ops.boxes import clip_boxes, decode_boxes
from frcnn_jax.ops.nms import nms_by_class
from frcnn_jax.types import Detections, record

__all__ = ["CandidatePool", "Candidates", "select_candidates", "suppress_candidates"]


@jax.tree_util.register_dataclass
@record()
class Candidates:
    """The best B boxes of each class in one image, best first."""

    boxes: Float[Array, "K B 4"]  # proposals
    regressed: Float[Array, "K B 4"]  # regressed and clipped; without regression, the clipped proposals
    scores: Float[Array, "K B"]  # -inf for missing boxes


@partial(jax.jit, static_argnames="per_class")
def select_candidates(
    scores: Float[Array, "P K"],
    boxes: Float[Array, "P 4"],
    mask: Bool[Array, " P"],
    size: Int[Array, " 2"],
    deltas: Float[Array, "P K 4"] | None = None,
    *,
    per_class: int = 100,
) -> Candidates:
    """The candidates of one image, at most `per_class` per class; of equal scores the earlier box goes first.

    Args:
        scores: scores of each proposal for each class.
        mask: real proposals.
        size: height and width of the image in the boxes' frame.
        deltas: offsets of each proposal for each class (`BoxRegressors.predict`); None: boxes do not move.
    """
    scores = jnp.where(mask[:, None], scores, -jnp.inf).T
    best, chosen = jax.lax.top_k(scores, min(per_class, scores.shape[1]))
    proposals = boxes[chosen]
    moved = proposals
    if deltas is not None:
        moved = decode_boxes(proposals, deltas[chosen, jnp.arange(len(chosen))[:, None]])
    return Candidates(boxes=proposals, regressed=clip_boxes(moved, size), scores=best)


@partial(jax.jit, static_argnames="nms_iou")
def suppress_candidates(candidates: Candidates, thresholds: Float[Array, " K"], *, nms_iou: float = 0.3) -> Detections:
    """Detections of one image: K * B entries; only those in `mask` count.

    These are the candidates at or above their class's threshold, suppressed as proposals and again as regressed boxes.
    Scores are signed margins. Boxes that are empty after clipping do not count.
    """
    scores = candidates.scores
    first = nms_by_class(candidates.boxes, scores, (scores >= thresholds[:, None]) & (scores > -jnp.inf), nms_iou)
    boxes = candidates.regressed
    empty = (boxes[..., 2] <= boxes[..., 0]) | (boxes[..., 3] <= boxes[..., 1])
    kept = nms_by_class(boxes, scores, first & ~empty, nms_iou)
    labels = jnp.broadcast_to(jnp.arange(1, len(scores) + 1)[:, None], scores.shape)
    return Detections(
        boxes=boxes.reshape(-1, 4), scores=scores.reshape(-1), labels=labels.reshape(-1), mask=kept.reshape(-1)
    )


class CandidatePool:
    """Candidates of a test set, on the host: the best `average * num_images` of each class are kept.

    The threshold of a class rises while images are added, but never above its final value.
    """

    def __init__(self, num_images: int, num_classes: int, *, average: int = 40):
        self._limit = average * num_images
        self._thresholds = np.full(num_classes, -np.inf, np.float32)
        self._candidates: dict[Hashable, Candidates] = {}
        self._added = 0

    def add(self, image_id: Hashable, candidates: Candidates) -> None:
        """Adds the candidates of an image; those below their class's threshold are dropped."""
        candidates = jax.device_get(candidates)
        above = (candidates.scores >= self._thresholds[:, None]) & (candidates.scores > -np.inf)
        # Best first, so that the candidates to keep are the first ones of each class.
        width = int(above.sum(axis=1).max(initial=0))
        self._candidates[image_id] = Candidates(
            boxes=candidates.boxes[:, :width].copy(),
            regressed=candidates.regressed[:, :width].copy(),
            scores=np.where(above, candidates.scores, -np.inf)[:, :width],
        )
        self._added += width
        if self._added > self._limit:
            self._raise_thresholds()

    def _raise_thresholds(self) -> None:
        self._added = 0
        for k in range(len(self._thresholds)):
            scores = np.concatenate([candidates.scores[k] for candidates in self._candidates.values()])
            if len(scores) > self._limit:
                self._thresholds[k] = np.partition(scores, -self._limit)[-self._limit]

    def detections(self, nms_iou: float = 0.3) -> dict[Hashable, Detections]:
        """Detections of each image by id, in the order of adding; NumPy arrays sorted by score."""
        self._raise_thresholds()
        found = {}
        for image_id, candidates in self._candidates.items():
            # Rounded up, so that few distinct widths are compiled.
            padded = jax.tree.map(partial(_widen, multiple=20), candidates)
            found[image_id] = trim(suppress_candidates(padded, self._thresholds, nms_iou=nms_iou))
        return found


def _widen(values: np.ndarray, multiple: int) -> np.ndarray:
    """`values` padded along the second axis: boxes with 0, scores with -inf."""
    more = -values.shape[1] % multiple or (0 if values.shape[1] else multiple)
    widths = [(0, 0), (0, more)] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, widths, constant_values=-np.inf if values.ndim == 2 else 0)

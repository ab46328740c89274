"""The proposals to use of those in a file: large enough, and not too many."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from frcnn_jax.config import ProposalConfig

__all__ = ["select_each", "select_proposals"]

_log = logging.getLogger(__name__)


def select_proposals(
    arrays: Sequence[Float[np.ndarray, "P 4"]], config: ProposalConfig, source: str
) -> list[Float[np.ndarray, "P 4"]]:
    """At most `max_count` boxes of each image, without those below `min_side`; the number of skipped boxes is logged.

    The first ones are kept, as the best come first. But the original's files are sorted by position, from top to
    bottom: there every n-th box is kept, or the lower part of the image would have none.
    """
    return list(select_each(arrays, config, source))


def select_each(
    arrays: Iterable[Float[np.ndarray, "P 4"]], config: ProposalConfig, source: str
) -> Iterator[Float[np.ndarray, "P 4"]]:
    """An iterator of the same boxes as `select_proposals`."""
    total = small = surplus = 0
    for boxes in arrays:
        large = boxes[(boxes[:, 2:] - boxes[:, :2] >= config.min_side).all(axis=1)]
        kept = _limit(large, config.max_count)
        total, small = total + len(boxes), small + len(boxes) - len(large)
        surplus += len(large) - len(kept)
        yield kept
    if small or surplus:
        _log.info("%s: of %d boxes, left out %d below min_side, %d beyond max_count", source, total, small, surplus)


def _limit(boxes: Float[np.ndarray, "P 4"], count: int) -> Float[np.ndarray, "D 4"]:
    if len(boxes) <= count:
        return boxes
    x1, y1, x2, y2 = boxes.T
    in_order = np.arange(len(boxes))
    if any(np.array_equal(np.lexsort(keys), in_order) for keys in ((x2, y2, x1, y1), (y2, x2, y1, x1))):
        return boxes[np.arange(count) * len(boxes) // count]
    return boxes[:count]

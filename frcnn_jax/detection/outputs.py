"""The head's outputs for pooled RoIs, and the detections of one or two passes through it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from frcnn_jax.detection.mirror import Outputs, mean_of_views
from frcnn_jax.detection.pyramid import Pyramid
from frcnn_jax.detection.second_pass import moved_boxes
from frcnn_jax.detection.selection import select_detections
from frcnn_jax.detection.settings import DetectionSettings
from frcnn_jax.models.fast_rcnn import FastRCNN
from frcnn_jax.ops.precision import as_mask
from frcnn_jax.types import Batch, BoxStatistics, Detections


def head_outputs(params: Any, pooled: Float[Array, "N R PH PW C"], *, model: FastRCNN) -> Outputs:
    """The head on each pooled RoI."""
    images, count = pooled.shape[:2]
    rows = pooled.reshape(images * count, *pooled.shape[2:])
    outputs = model.apply({"params": params}, rows, method=lambda module, x: module.head(x))
    logits, deltas = (x.reshape(images, count, *x.shape[1:]) for x in outputs)
    return logits, deltas


def view_outputs(
    params: Any, statistics: BoxStatistics, pooled: Sequence[Float[Array, "N R PH PW C"]], *, model: FastRCNN
) -> Outputs:
    """The head on each pooled RoI of one view, or the mean of two views' outputs."""
    outputs = [head_outputs(params, part, model=model) for part in pooled]
    return outputs[0] if len(outputs) == 1 else mean_of_views(*outputs, statistics)


def second_boxes(
    statistics: BoxStatistics, logits: Array, deltas: Array, batch: Batch | Pyramid, settings: DetectionSettings
) -> tuple[Float[Array, "N M 4"], Bool[Array, "N M"]]:
    """The boxes of each image's second pass, and which of them exist."""
    mask = _real(batch)
    return jax.vmap(partial(moved_boxes, count=settings.second_pass), in_axes=(0, 0, 0, 0, 0, None))(
        logits, deltas, batch.proposals, mask, batch.original_sizes, statistics
    )


def select_both(
    statistics: BoxStatistics,
    first: Outputs,
    again: Outputs,
    boxes: Float[Array, "N M 4"],
    found: Bool[Array, "N M"],
    batch: Batch | Pyramid,
    settings: DetectionSettings,
) -> Detections:
    """The detections among the proposals and the boxes of the second pass."""
    logits, deltas = (jnp.concatenate(pair, axis=1) for pair in zip(first, again, strict=True))
    both = batch.replace(
        proposals=jnp.concatenate([batch.proposals.astype(boxes.dtype), boxes], axis=1),
        proposal_mask=jnp.concatenate([as_mask(batch.proposal_mask), found], axis=1),
    )
    return select(statistics, logits, deltas, both, settings)


def select(
    statistics: BoxStatistics, logits: Array, deltas: Array, batch: Batch | Pyramid, settings: DetectionSettings
) -> Detections:
    """`select_detections` for each image."""
    mask = _real(batch)
    return jax.vmap(partial(select_detections, **settings.selection), in_axes=(0, 0, 0, 0, 0, None))(
        logits, deltas, batch.proposals, mask, batch.original_sizes, statistics
    )


def _real(batch: Batch | Pyramid) -> Bool[Array, "N P"]:
    """The proposals that are not padding."""
    return as_mask(batch.proposal_mask) & as_mask(batch.image_mask)[:, None]
